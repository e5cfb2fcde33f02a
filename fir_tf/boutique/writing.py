"""The boutique as a folder: photos, annotation files, manifest and contact picture."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fir_tf import files, parallel
from fir_tf.boutique.layouts import arrange
from fir_tf.boutique.planning import Item, Photo, check_integer, plan
from fir_tf.boutique.rendering import render
from fir_tf.boutique.scenes import Box, ScenePhoto, plan_scenes, render_scene
from fir_tf.datasets.published import BOUTIQUE
from fir_tf.errors import FirError

log = logging.getLogger(__package__)

CONTACT = "boutique.png"
SCENES = "scenes.json"
"""str, the file that says which garments are where in the scenes."""
_SCENE_FOLDER = "Scenes"
_ROWS, _COLUMNS, _TILE = 12, 10, 112

# Raised whenever the pixels or the plan change, so that an old folder is not taken for a new one.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Order:
    """Which boutique is wanted.

    Attributes:
        layout: str, one of `LAYOUTS`.
        items: int >= 4, how many items; see `plan`.
        views: int in [2, 40], photos an item.
        size: int in [32, 1024], pixels a side.
        seed: int >= 0.
        scenes: int >= 0, photos of one to three garments beside them, twice as large; not in the
            layout of Category, which has no items.
    """

    layout: str = "inshop"
    items: int = 180
    views: int = 6
    size: int = 160
    seed: int = 0
    scenes: int = 0


def _develop_file(task: tuple[Item, Photo, int, str]) -> None:
    """Renders one photo into a file. Top level, so that a spawned process finds it."""
    item, photo, size, path = task
    # The quality is the photo's: consumer photos went through a messenger.
    rng = np.random.default_rng([*photo.seed, 1])
    quality = int(rng.integers(50, 80)) if photo.domain == "consumer" else 92
    Image.fromarray(render(item, photo, size)).save(path, "JPEG", quality=quality)


def _develop_scene(task: tuple[ScenePhoto, Mapping[int, Item], int, str]) -> list[Box]:
    """Renders one scene into a file; returns the boxes of its garments."""
    scene, items, size, path = task
    pixels, boxes = render_scene(scene, items, size)
    quality = int(np.random.default_rng([*scene.seed, 1]).integers(60, 85))
    Image.fromarray(pixels).save(path, "JPEG", quality=quality)
    return boxes


def write(root: str | Path, order: Order | None = None, workers: int | None = None) -> Path:
    """Writes a boutique in the layout of one of DeepFashion's benchmarks.

    The folder then holds the annotation files of that benchmark, the photos below `Img/img/`, the
    manifest `boutique.json` and the contact picture `boutique.png` (rows are items, columns are
    photos, shop photos first).

    - `inshop`: `Eval/list_eval_partition.txt`, `Img/img/<category>/<item>/<photo>.jpg`. The
      consumer photos are those whose names end in "additional": training items have both kinds,
      queries are mostly consumer photos, the gallery is mostly shop photos.
    - `category`: `Anno/list_category_cloth.txt` with the benchmark's 50 names,
      `Anno/list_category_img.txt`, `Eval/list_eval_partition.txt`,
      `Img/img/<description>/img_00000001.jpg`. Some 16 of the names occur; no garment is in two
      splits, though a folder can be.
    - `consumer2shop`: `Eval/list_eval_partition.txt` of pairs, consumer photo first,
      `Img/img/<group>/<category>/<item>/comsumer_01.jpg` (spelt as in the release) and
      `shop_01.jpg`. Each consumer photo is paired with one shop photo of the same colour.

    With `order.scenes` there are photos of one to three garments in `Scenes/`, and `scenes.json`
    says in COCO's format (`images`, `annotations` with `bbox` in pixels, `categories`) where each
    garment is; an annotation has its `item` as well, an image its `split`, train or query, and
    its `domain`, consumer.

    The folder is written under a temporary name and renamed, so an interrupted call leaves
    nothing behind. With the same versions of Pillow and NumPy the files are the same byte for byte
    for the same arguments, whatever `workers` is.

    Args:
        root: str or Path, the folder to create. When it holds a boutique of the same arguments,
            nothing is done.
        order: Order, what is wanted; None for `Order()`.
        workers: int >= 1, processes to render with; by default as many as there are cores, and
            one for small boutiques. With more than one, a script has to call this under
            `if __name__ == "__main__":`.

    Returns:
        Path of the folder.

    Raises:
        FirError: if an argument is out of its range, if `root` exists and holds anything else,
            or if a rendering process dies.

    Reference:
        Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
        Annotations, CVPR 2016 (PAPER: the three benchmarks, as published).
    """
    order = order or Order()
    check_integer("size", order.size, 32, 1024)
    if workers is not None:
        check_integer("workers", workers, 1, 4096)
    if order.scenes and order.layout == "category":
        raise FirError(
            f"`scenes` must be 0 in the layout of Category, which has no items. "
            f"Received: {order.scenes}"
        )
    garments, photos = plan(order.items, order.views, order.seed, order.layout)
    scenes = plan_scenes(garments, photos, order.scenes, order.seed)
    root = Path(root)
    numbers = {name: int(getattr(order, name)) for name in ("items", "views", "size", "seed")}
    manifest = {"version": VERSION, "layout": order.layout, **numbers, "photos": len(photos)}
    if scenes:
        manifest["scenes"] = len(scenes)
    if root.exists():
        found = _read_manifest(root)
        if found == manifest:
            log.info(f"{root} already holds this boutique: nothing to do.")
            return root
        raise FirError(
            f"`root` must not exist, or hold the boutique asked for. Received: {root}, which holds "
            f"{_what_else(found, manifest)}. Remove it or choose another folder."
        )
    arrangement = arrange(order.layout, garments, photos)
    by_number = {item.number: item for item in garments}
    with files.replacing(root) as folder:
        tasks = []
        for photo, name in zip(photos, arrangement.paths, strict=True):
            path = folder / "Img" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks.append((by_number[photo.item], photo, order.size, str(path)))
        for _ in parallel.run(_develop_file, tasks, workers or 0, "boutique"):
            pass
        texts = {**arrangement.annotations, BOUTIQUE: json.dumps(manifest, indent=2) + "\n"}
        if scenes:
            named = {
                photo.item: Path(name).parent
                for photo, name in zip(photos, arrangement.paths, strict=True)
            }
            boxes = _write_scenes(folder, scenes, by_number, 2 * order.size, workers)
            texts[SCENES] = json.dumps(_annotated(scenes, boxes, named, 2 * order.size)) + "\n"
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        _contact(garments, photos, [Path(path) for *_, path in tasks]).save(folder / CONTACT)
    return root


def _write_scenes(
    folder: Path,
    scenes: Sequence[ScenePhoto],
    items: Mapping[int, Item],
    size: int,
    workers: int | None,
) -> list[list[Box]]:
    """Draws the scenes below a folder; returns the boxes of each."""
    (folder / _SCENE_FOLDER).mkdir()
    tasks = [
        (
            scene,
            {piece.item: items[piece.item] for piece in scene.pieces},
            size,
            str(folder / _scene_path(number)),
        )
        for number, scene in enumerate(scenes)
    ]
    return list(parallel.run(_develop_scene, tasks, workers or 0, "scenes"))


def _scene_path(number: int) -> str:
    return f"{_SCENE_FOLDER}/{number + 1:06d}.jpg"


def _annotated(
    scenes: Sequence[ScenePhoto],
    boxes: Sequence[Sequence[Box]],
    named: Mapping[int, Path],
    size: int,
) -> dict[str, Any]:
    """Returns where the garments are as COCO has it; an item's folder `named` tells its names."""
    categories = sorted({_category_of(folder) for folder in named.values()})
    annotations: list[dict[str, Any]] = []
    for number, (scene, around) in enumerate(zip(scenes, boxes, strict=True)):
        for piece, (left, top, right, bottom) in zip(scene.pieces, around, strict=True):
            sides = [round(size * value, 1) for value in (right - left, bottom - top)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": categories.index(_category_of(named[piece.item])) + 1,
                    "bbox": [round(size * left, 1), round(size * top, 1), *sides],
                    "area": round(sides[0] * sides[1], 1),
                    "iscrowd": 0,
                    "item": named[piece.item].name,
                }
            )
    images = [
        {
            "id": number + 1,
            "file_name": _scene_path(number),
            "width": size,
            "height": size,
            "split": scene.split,
            "domain": "consumer",
        }
        for number, scene in enumerate(scenes)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": place, "name": name} for place, name in enumerate(categories, 1)],
    }


def _category_of(folder: Path) -> str:
    """Returns the category of an item's folder, "WOMEN/Dresses" of img/WOMEN/Dresses/id_1."""
    return folder.parent.relative_to("img").as_posix()


def _read_manifest(root: Path) -> dict | None:
    """Returns the manifest in a folder, None if there is none that can be read."""
    try:
        found = json.loads((root / BOUTIQUE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A manifest without a layout is that of an In-Shop boutique.
    return {"layout": "inshop", **found} if isinstance(found, dict) else None


def _what_else(found: Mapping | None, manifest: Mapping) -> str:
    """Says what a folder holds instead of the boutique asked for."""
    if found is None:
        return "something else than a boutique"
    different = [
        f"{name} {found.get(name)} instead of {value}"
        for name, value in manifest.items()
        if found.get(name) != value
    ]
    return f"another boutique: {', '.join(different)}"


def _contact(
    garments: Sequence[Item], photos: Sequence[Photo], paths: Sequence[Path]
) -> Image.Image:
    """Returns a picture of the first items (rows) and their photos (columns), shop first."""
    album: dict[int, list[tuple[bool, str, Path]]] = {}
    for photo, path in zip(photos, paths, strict=True):
        album.setdefault(photo.item, []).append((photo.domain != "shop", path.name, path))
    chosen = [sorted(album[item.number])[:_COLUMNS] for item in garments[:_ROWS]]
    columns = max(len(shots) for shots in chosen)
    sheet = Image.new("RGB", (columns * _TILE, len(chosen) * _TILE), "white")
    for row, shots in enumerate(chosen):
        for column, (*_, path) in enumerate(shots):
            with Image.open(path) as picture:
                small = picture.resize((_TILE - 4, _TILE - 4), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * _TILE + 2, row * _TILE + 2))
    return sheet
