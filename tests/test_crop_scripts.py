"""A run on boxes, through all scripts, against the same run on files cropped beforehand."""

import json
from unittest import mock

import numpy as np
import pytest
from commands import done
from PIL import Image, ImageOps
from shallow import build_two_layers
from small_sets import inshop_rows
from stub_encoder import stored

from fir_tf.config import Config
from fir_tf.datasets import load_training
from fir_tf.input.batches import training_batches
from fir_tf.models import fir
from fir_tf.samplers.choose import make_sampler
from fir_tf.training import from_config

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
    with (
        mock.patch.object(fir, "build_backbone", build_two_layers),
        mock.patch.object(from_config, "build_backbone", build_two_layers),
    ):
        done(
            "train.py",
            *FLAGS,
            f"--data_dir={sets[0]}",
            "--crop=box",
            f"--crop_margin={MARGIN}",
            f"--run={folder}",
        )
    return folder


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
