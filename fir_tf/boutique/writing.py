"""The boutique as a folder: photos, annotation files, manifest and contact picture."""

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from fir_tf import files
from fir_tf.boutique.layouts import arrange
from fir_tf.boutique.planning import check_integer, plan
from fir_tf.boutique.rendering import render
from fir_tf.datasets import parallel
from fir_tf.datasets.published import BOUTIQUE
from fir_tf.errors import FirError

log = logging.getLogger(__package__)

CONTACT = "boutique.png"

# Raised whenever the pixels or the plan change, so that an old folder is not taken for a new one.
VERSION = 1


def _develop_file(task):
    """Renders one photo into a file. Top level, so that a spawned process finds it."""
    item, photo, size, path = task
    # The quality is the photo's: consumer photos went through a messenger.
    rng = np.random.default_rng([*photo.seed, 1])
    quality = int(rng.integers(50, 80)) if photo.domain == "consumer" else 92
    Image.fromarray(render(item, photo, size)).save(path, "JPEG", quality=quality)


def write(root, *, items=180, views=6, size=160, seed=0, workers=None, layout="inshop"):
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

    The folder is written under a temporary name and renamed, so an interrupted call leaves
    nothing behind. With the same versions of Pillow and NumPy the files are the same byte for byte
    for the same arguments, whatever `workers` is.

    Args:
        root: str or Path, the folder to create. When it holds a boutique of the same arguments,
            nothing is done.
        items: int >= 4, how many items; see `plan`.
        views: int in [2, 40], photos an item.
        size: int in [32, 1024], pixels a side.
        seed: int >= 0.
        workers: int >= 1, processes to render with; by default as many as there are cores, and
            one for small boutiques. With more than one, a script has to call this under
            `if __name__ == "__main__":`.
        layout: str, one of `LAYOUTS`.

    Returns:
        Path of the folder.

    Raises:
        FirError: if an argument is out of its range, if `root` exists and holds anything else,
            or if a rendering process dies.

    Reference:
        Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
        Annotations, CVPR 2016 (PAPER: the three benchmarks, as published).
    """
    check_integer("size", size, 32, 1024)
    if workers is not None:
        check_integer("workers", workers, 1, 4096)
    garments, photos = plan(items, views, seed, layout)
    root = Path(root)
    manifest = {
        "version": VERSION,
        "layout": layout,
        "items": int(items),
        "views": int(views),
        "size": int(size),
        "seed": int(seed),
        "photos": len(photos),
    }
    if root.exists():
        found = _read_manifest(root)
        if found == manifest:
            log.info(f"{root} already holds this boutique: nothing to do.")
            return root
        raise FirError(
            f"`root` must not exist, or hold the boutique asked for. Received: {root}, which holds "
            f"{_what_else(found, manifest)}. Remove it or choose another folder."
        )
    arrangement = arrange(layout, garments, photos)
    by_number = {item.number: item for item in garments}
    with files.replacing(root) as folder:
        tasks = []
        for photo, name in zip(photos, arrangement.paths, strict=True):
            path = folder / "Img" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks.append((by_number[photo.item], photo, size, str(path)))
        for _ in parallel.run(_develop_file, tasks, workers or 0, "boutique"):
            pass
        for name, text in arrangement.annotations.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        _contact(garments, photos, [Path(path) for *_, path in tasks]).save(folder / CONTACT)
        text = json.dumps(manifest, indent=2) + "\n"
        (folder / BOUTIQUE).write_text(text, encoding="utf-8")
    return root


def _read_manifest(root):
    """Returns the manifest in a folder, None if there is none that can be read."""
    try:
        found = json.loads((root / BOUTIQUE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A manifest without a layout is that of an In-Shop boutique.
    return {"layout": "inshop", **found} if isinstance(found, dict) else None


def _what_else(found, manifest):
    """Says what a folder holds instead of the boutique asked for."""
    if found is None:
        return "something else than a boutique"
    different = [
        f"{name} {found.get(name)} instead of {value}"
        for name, value in manifest.items()
        if found.get(name) != value
    ]
    return f"another boutique: {', '.join(different)}"


def _contact(garments, photos, paths, rows=12, columns=10, tile=112):
    """Returns a picture of the first items (rows) and their photos (columns), shop first."""
    album = {}
    for photo, path in zip(photos, paths, strict=True):
        album.setdefault(photo.item, []).append((photo.domain != "shop", path.name, path))
    chosen = [sorted(album[item.number])[:columns] for item in garments[:rows]]
    columns = max(len(shots) for shots in chosen)
    sheet = Image.new("RGB", (columns * tile, len(chosen) * tile), "white")
    for row, shots in enumerate(chosen):
        for column, (*_, path) in enumerate(shots):
            with Image.open(path) as picture:
                small = picture.resize((tile - 4, tile - 4), Image.LANCZOS)
            sheet.paste(small, (column * tile + 2, row * tile + 2))
    return sheet
