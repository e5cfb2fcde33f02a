"""A run on boxes, through all scripts, against the same run on files cropped beforehand."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import done
from PIL import Image, ImageOps
from shallow import two_layer_backbones
from small_sets import inshop_rows
from stub_encoder import stored

from fir_tf.config import Config
from fir_tf.datasets import load_training
from fir_tf.input.batches import training_batches
from fir_tf.samplers.choose import make_sampler
from fir_tf.search.index import Index

MARGIN = 0.1
TURN = 6


def partition(root, rows):
    (root / "Eval").mkdir(parents=True)
    lines = [str(len(rows)), "image_name item_id evaluation_status"]
    lines += [f"{path}   {item}   {status}" for path, item, status in rows]
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def scene(item, view, box):
    """A photo of noise with the item's pattern in a box, (left, top, right, bottom)."""
    rng = np.random.default_rng(100 * item + view)
    photo = Image.fromarray(rng.integers(0, 256, (80, 72, 3), dtype=np.uint8))
    pattern = np.random.default_rng(item).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    size = (box[2] - box[0], box[3] - box[1])
    photo.paste(Image.fromarray(pattern).resize(size, Image.Resampling.NEAREST), box[:2])
    return photo


def save(photo, path, turn=1):
    """Writes a PNG that is turned upright by its EXIF: 6 is a quarter turn clockwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = photo.transpose(Image.Transpose.ROTATE_90) if turn == TURN else photo
    stored.save(path, exif=exif)
    with Image.open(path) as again:
        assert ImageOps.exif_transpose(again).size == photo.size


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(In-Shop's layout with boxes, the same photos cropped by Pillow): folders.

    The gallery's photos are stored turned.
    """
    root = tmp_path_factory.mktemp("crop")
    rows = [(path.replace(".jpg", ".png"), *rest) for path, *rest in inshop_rows(6, 3)]
    whole, cut = root / "whole", root / "cut"
    lines = [str(len(rows)), "image_name clothes_type pose_type x_1 y_1 x_2 y_2"]
    for number, (path, item, status) in enumerate(rows):
        left, top = 5 + 3 * (number % 5), 8 + 2 * (number % 7)
        box = (left, top, left + 30 + number % 4, top + 40)
        photo = scene(int(item[3:]), number % 4, box)
        save(photo, whole / "Img" / path, TURN if status == "gallery" else 1)
        width, height = (MARGIN * (box[2] - box[0]), MARGIN * (box[3] - box[1]))
        edges = (box[0] - width, box[1] - height, box[2] + width, box[3] + height)
        save(photo.crop([round(edge) for edge in edges]), cut / "Img" / path)
        lines.append(f"{path}    1   1   {' '.join(f'{edge:03d}' for edge in box)}")
    for folder in (whole, cut):
        partition(folder, rows)
    (whole / "Anno").mkdir()
    (whole / "Anno" / "list_bbox_inshop.txt").write_text("\n".join(lines) + "\n")
    return whole, cut


FLAGS = [
    "--backbone=resnet50_v15",
    "--weights=none",
    "--image_size=32",
    "--resize=squash",
    "--relaxation_width=8",
    "--batch_size=8",
    "--images_per_item=2",
    "--epochs=1",
    "--val_fraction=0.2",
]


@pytest.fixture(scope="module")
def run(sets):
    folder = sets[0].parent / "run"
    with two_layer_backbones():
        done(
            "train.py",
            *FLAGS,
            f"--data_dir={sets[0]}",
            "--crop=box",
            f"--crop_margin={MARGIN}",
            f"--run={folder}",
        )
    return folder


@pytest.mark.nightly
@pytest.mark.slow
def test_training_sees_what_the_cropped_files_show(sets):
    base = {"backbone": "resnet50_v15", "image_size": 32, "batch_size": 8}
    base |= {"images_per_item": 2, "val_fraction": 0.2}
    seen = []
    for folder, crop in zip(sets, ("box", "image"), strict=True):
        config = Config(data_dir=str(folder), crop=crop, crop_margin=MARGIN, **base)
        catalogue = load_training(config)
        batches = training_batches(catalogue, make_sampler(catalogue, config), config)
        seen.append(next(iter(batches)))
    assert seen[0]["valid"].numpy().all()
    for name in ("row", "item", "category"):
        np.testing.assert_array_equal(seen[0][name], seen[1][name])
    np.testing.assert_allclose(seen[0]["images"], seen[1]["images"], atol=1e-3)


@pytest.mark.nightly
@pytest.mark.slow
def test_evaluation_follows_the_run(sets, run):
    config = Config.load(run / "config.json")
    assert (config.crop, config.crop_margin) == ("box", MARGIN)
    done("evaluate.py", f"--run={run}")
    out = run.parent / "evaluated"
    done("evaluate.py", f"--run={run}", f"--data_dir={sets[1]}", "--crop=image", f"--output={out}")
    own, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, out))
    names = [name for name, value in own.items() if isinstance(value, float)]
    assert "recall@1" in names
    assert [own[name] for name in names] == pytest.approx([other[name] for name in names])
    assert own["protocol"]["crop"] == "box" and own["protocol"]["crop_margin"] == MARGIN
    assert "crop" not in other["protocol"]


@pytest.fixture(scope="module")
def indexes(sets, run):
    """Indexes of the photos with their boxes, and of the cropped files: addresses."""
    addresses = [run.parent / "index_whole", run.parent / "index_cut"]
    for folder, address, crop in zip(sets, addresses, ([], ["--crop=image"]), strict=True):
        done(
            "search.py",
            "index",
            f"--model={run}",
            f"--images={folder}",
            "--dataset=inshop",
            f"--index={address}",
            *crop,
        )
    return addresses


@pytest.mark.slow
def test_an_index_of_boxes_is_one_of_cropped_files(indexes, sets):
    own, other = map(stored, indexes)
    assert own.keys() == other.keys() and len(own) == 36
    for path in own:
        np.testing.assert_allclose(own[path][1], other[path][1], atol=1e-4)


@pytest.mark.slow
def test_a_query_has_a_box(indexes, sets, run, tmp_path):
    name = "img/WOMEN/Dresses/id_00000006/01_1_front.png"
    lines = (sets[0] / "Anno" / "list_bbox_inshop.txt").read_text().splitlines()
    left, top, right, bottom = next(
        map(int, line.split()[3:]) for line in lines if line.startswith(name)
    )
    box = f"--box={left},{top},{right - left},{bottom - top}"
    answers = []
    for photo, flags in ((sets[0] / "Img" / name, [box]), (sets[1] / "Img" / name, [])):
        out = tmp_path / "answer.json"
        done("search.py", "query", photo, f"--index={indexes[0]}", f"--json={out}", *flags)
        (answer,) = json.loads(out.read_text())
        answers.append([(one["path"], one["score"]) for one in answer["results"]])
    (paths, scores), (others, expected) = (zip(*answer, strict=True) for answer in answers)
    assert paths == others and paths[0] == name and scores[0] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.nightly
@pytest.mark.slow
def test_an_export_takes_boxes(indexes, sets, run):
    done("export.py", f"--run={run}", f"--gallery=inshop:{sets[0]}")
    folder = run / "export" / "fir" / "1"
    facts = json.loads((folder / "assets.extra" / "export.json").read_text())
    assert (facts["crop"], facts["crop_margin"]) == ("box", MARGIN)
    signatures = tf.saved_model.load(str(folder)).signatures
    own = stored(indexes[0])
    lines = (sets[0] / "Anno" / "list_bbox_inshop.txt").read_text().splitlines()[2:]
    names = [line.split()[0] for line in lines][::5]
    corners = np.array([[int(part) for part in line.split()[3:]] for line in lines][::5])
    box = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]) / [72, 80, 72, 80]
    photos = [(sets[0] / "Img" / name).read_bytes() for name in names]
    found = signatures["embed_boxes"](
        image_bytes=tf.constant(photos), box=tf.constant(box, tf.float32)
    )
    for name, vector in zip(names, found["embedding"].numpy(), strict=True):
        np.testing.assert_allclose(vector, own[name][1], atol=1e-4)
    # The gallery inside is cropped too: a photo of it finds itself with its box.
    row = next(row for row, line in enumerate(lines) if "id_00000007/01" in line)
    left, top, right, bottom = map(int, lines[row].split()[3:])
    answer = signatures["search_boxes"](
        image_bytes=tf.constant([(sets[0] / "Img" / lines[row].split()[0]).read_bytes()]),
        box=tf.constant([[left / 72, top / 80, (right - left) / 72, (bottom - top) / 80]]),
        k=tf.constant([1]),
        category=tf.constant([""]),
    )
    assert answer["image_path"].numpy()[0, 0].decode() == lines[row].split()[0]
    assert answer["score"].numpy()[0, 0] == pytest.approx(1, abs=1e-4)
    # As an index's model it takes boxes in pixels.
    address = run.parent / "index_export"
    done(
        "search.py",
        "index",
        f"--model={folder}",
        f"--images={sets[0]}",
        "--dataset=inshop",
        f"--index={address}",
    )
    for path, (_, vector) in stored(address).items():
        np.testing.assert_allclose(vector, own[path][1], atol=1e-4)


@pytest.mark.slow
def test_an_index_follows_its_boxes(sets, run, tmp_path):
    """A box that changes is another vector; what is cropped otherwise is refused."""
    photos = tmp_path / "photos"
    photos.mkdir()
    names = ["a.png", "b.png"]
    for number, name in enumerate(names):
        save(scene(number, 0, (10, 10, 40, 50)), photos / name)
    table = photos / "photos.csv"

    def index(*rows, ok=True, flags=()):
        with open(table, "w", newline="") as file:
            csv.writer(file).writerows([["path", "box"], *rows])
        address = f"--index={tmp_path / 'index'}"
        out, errors = done(
            "search.py", "index", f"--model={run}", f"--images={table}", address, *flags, ok=ok
        )
        return out + errors

    assert "2 embedded" in index(["a.png", "10,10,30,40"], ["b.png", ""])
    first = stored(tmp_path / "index")
    assert "0 embedded, 2 kept" in index(["a.png", "10,10,30,40"], ["b.png", ""])
    assert "1 embedded, 1 kept" in index(["a.png", "10,10,30,30"], ["b.png", ""])
    second = stored(tmp_path / "index")
    assert np.abs(np.subtract(first["a.png"][1], second["a.png"][1])).max() > 1e-3
    assert first["b.png"][1] == second["b.png"][1]
    with Index(tmp_path / "index") as opened:
        assert (opened.encoder.crop, opened.encoder.margin) == ("box", MARGIN)
    said = index(["a.png", "10,10,30,40"], ok=False, flags=["--crop=image"])
    assert "--crop=box --crop_margin=0.1. Received: --crop=image" in said
    assert stored(tmp_path / "index") == second
    # Outside of its photo: named with its line, and the other one is there.
    text = index(["a.png", "10,10,30,30"], ["b.png", "500,1,2,2"])
    assert "1 cannot be cropped to its box" in text
    rows = list(csv.reader((tmp_path / "index" / "errors.csv").open()))
    assert rows[1][:2] == ["3", "b.png"] and "72 x 80 pixels" in rows[1][2]


def test_training_needs_boxes(sets, tmp_path):
    _, errors = done(
        "train.py",
        *FLAGS,
        f"--data_dir={sets[1]}",
        "--crop=box",
        f"--run={tmp_path / 'run'}",
        ok=False,
    )
    assert "`crop` box needs boxes" in errors and str(sets[1]) in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_box_outside_of_its_photo_is_named_with_its_line(sets, run, tmp_path, indexes):
    copy = tmp_path / "copy"
    shutil.copytree(sets[0], copy)
    path = Path(copy / "Anno" / "list_bbox_inshop.txt")
    lines = path.read_text().splitlines()
    place = next(row for row, line in enumerate(lines) if "id_00000006/00" in line)
    name, *types, _, _, _, _ = lines[place].split()
    lines[place] = " ".join([name, *types, "300", "300", "310", "320"])
    path.write_text("\n".join(lines) + "\n")
    out, _ = done("evaluate.py", f"--run={run}", f"--data_dir={copy}", f"--output={tmp_path}")
    assert "list_eval_partition.txt:" in out and "photo of 72 x 80 pixels" in out
    assert "300, 300, 10, 20" in out
    photo = sets[0] / "Img" / name
    address = f"--index={indexes[0]}"
    _, errors = done("search.py", "query", photo, address, "--box=72,1,5,5", ok=False)
    assert "must have an area in the photo of 72 x 80 pixels" in errors
    _, errors = done("search.py", "query", photo, address, "--box=1,1,0,5", ok=False)
    assert "--box: a box must be left,top,width,height" in errors
    _, errors = done("search.py", "query", photo, photo, address, "--box=1,1,5,5", ok=False)
    assert "`box` is that of one photo" in errors
