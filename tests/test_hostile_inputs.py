"""Hostile catalogues through every command, and what must hold of each of them.

Names, labels and states of files are drawn at random. No command ends in a traceback; every photo
that is given is used or listed; check and training agree on each file; a second run changes
nothing. `pytest -m nightly tests/test_hostile_inputs.py` tries many more.
"""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from commands import call, done
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from odd_images import animated, encoded, picture, sixteen_bit, transparent, turned
from small_sets import write_jpeg
from test_index import make_run

from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.walk import find_photos, printable
from fir_tf.errors import FirError
from fir_tf.input.batches import ordered_batches
from fir_tf.search import encoder as encoder_module
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import open_engine

SMALL = (16, 12)
# What `check` finds wrong with a file that training cannot read.
BROKEN = {"missing", "empty", "truncated", "unreadable", "too_large", "format"}


@functools.cache
def all_contents():
    """Returns {state of a photo: its bytes}."""
    image = picture(7, SMALL)
    jpeg = encoded(image, "JPEG")
    return {
        "JPEG": jpeg,
        "PNG": encoded(image, "PNG"),
        "BMP": encoded(image, "BMP"),
        "GIF": animated(),
        "WEBP": encoded(image, "WEBP"),
        "animated WEBP": animated(form="WEBP"),
        "TIFF": encoded(image, "TIFF"),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "1 bit": encoded(image.convert("1"), "PNG"),
        "palette": encoded(image.convert("P"), "PNG"),
        "16 bit": sixteen_bit(),
        "transparent": transparent(size=SMALL),
        "turned": turned(size=SMALL),
        "1x1": encoded(picture(size=(1, 1)), "PNG"),
        "thin": encoded(picture(size=(1, 3000)), "JPEG"),
        "and more": jpeg + b"\0" * 100,
        "empty": b"",
        "text": b"no image\n",
        "html": b"<!DOCTYPE html><title>404</title>",
        **{f"cut {tenths}": jpeg[: len(jpeg) * tenths // 10] for tenths in range(1, 10)},
    }


STATES = [
    *("JPEG", "PNG", "BMP", "GIF", "WEBP", "animated WEBP", "TIFF", "CMYK", "1 bit", "palette"),
    *("16 bit", "transparent", "turned", "1x1", "thin", "and more", "empty", "text", "html"),
    *(f"cut {tenths}" for tenths in range(1, 10)),
    *("pipe", "folder", "link to nowhere", "link to itself", "link to /dev/zero"),
]


def put(path, state):
    """Puts a file, or something else of that name, where a catalogue says that a photo is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if state == "pipe":
        os.mkfifo(path)
    elif state == "folder":
        path.mkdir()
    elif state.startswith("link to "):
        targets = {"nowhere": "nowhere", "itself": path.name, "/dev/zero": "/dev/zero"}
        path.symlink_to(targets[state[8:]])
    else:
        path.write_bytes(all_contents()[state])


HOSTILE = [
    *("nan", "None", "-", "...", "''", "#REF!", "0", "1.0", "1e3", "TRUE", "2020-01-01"),
    *("it's", 'a "b"', "a,b", "a;b", "a\tb", "a\nb", "a\rb", "\\n", "\x1b[31mred", "\x07", "%41"),
    *("[a]*?", "$HOME", "~", "-rf", "--json", "{x}", "<b>&amp;", "=1+1", "shop:x", "a ", " a"),
    *("\U0001f457", "é", "e\u0301", "\u202egnp", "\ufeffa", "\u200b", "\u00a0", "İ", "ß", "SS"),
    *(".hidden", "#recycle", "CON", "Thumbs.db", "x" * 120, "ж" * 100),
]


def _fits(name):
    return name not in (".", "..") and 0 < len(name.encode()) < 200


LABELS = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), max_size=12),
)
NAMES = LABELS.filter(_fits)
ENDINGS = st.sampled_from(["", ".jpg", ".JPG", ".jpeg", ".png", ".webp", ".jfif", ".txt", ".jpg "])


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo of a hostile catalogue: where it lies, what is there, and its labels in a table."""

    folder: str
    below: str
    name: str
    state: str
    category: str
    item: str


PHOTOS = st.builds(
    Photo,
    NAMES,
    NAMES,
    st.builds(str.__add__, NAMES, ENDINGS),
    st.sampled_from(STATES),
    LABELS,
    LABELS,
)


def make_catalogue(root, photos, form):
    """Writes 20 ordinary items of 2 photos, and the hostile ones among them.

    Returns:
        (Path of the folder or table, its --dataset).
    """
    rows = []
    for item in range(20):
        for view in range(2):
            path = f"{('Coats', 'Tops')[item % 2]}/item{item}/{view}.jpg"
            write_jpeg(root / path, 10 * item + view, SMALL)
            rows.append((path, path.split("/")[0], path.split("/")[1]))
    for photo in photos:
        path = f"{photo.folder}/{photo.below}/{photo.name}"
        # Another of the same name may be there, or a file where a folder is needed.
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            put(root / path, photo.state)
            rows.append((path, photo.category, photo.item))
    if form == "folder":
        return root, "folder"
    table = root / f"table.{form}"
    if form == "parquet":
        frame = pd.DataFrame(list(dict.fromkeys(rows)), columns=["path", "category", "item"])
        frame.to_parquet(table, index=False)
    else:
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",", quoting=1)
            writer.writerows([("path", "category", "item"), *dict.fromkeys(rows)])
    return table, "table"


def datasets_command(*arguments):
    """Returns (status, stdout, stderr) of `python -m fir_tf.datasets`."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([*map(str, arguments)])
    return status, output.getvalue(), errors.getvalue()


def bytes_below(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "journal.jsonl"
    }


def everything_below(root):
    """Returns the paths of all that is no folder, by Python's own walk."""
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, folders, names in os.walk(root)
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]
    }


def nothing_is_missed(data, dataset):
    """Each file of a folder is a photo, or noted with a reason."""
    if dataset == "folder":
        found = find_photos(data)
        parts = [found.photos, found.others, *found.skipped.values(), found.unreachable]
        told = [path for part in parts for path in part]
        assert len(told) == len(set(told))
        for path in everything_below(data):
            # Of what hides a folder, that folder is told.
            assert {path, *map(str, Path(path).parents)} & set(told), path


def checked(data, dataset, out):
    """Runs check twice; returns {path: kinds of findings} of every photo, None if refused."""
    first, again = (
        datasets_command(
            "check", f"--dataset={dataset}", f"--data_dir={data}", f"--out={out}", "--workers=1"
        )
        for _ in range(2)
    )
    assert first[:2] == again[:2]
    if first[0] == 1:
        assert first[2].startswith("error: ") and not out.exists()
        return None
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["failed"] == (first[0] == 2)
    kinds = {}
    for finding in report["findings"]:
        if finding["name"] in BROKEN:
            assert finding["count"] == len(finding["cases"])
            for case in finding["cases"]:
                (path,) = case["paths"]
                kinds.setdefault(path, set()).add(finding["name"])
    return kinds


def training_agrees(data, dataset, kinds):
    """What check finds broken is what the batches call invalid."""
    try:
        catalogue = load(dataset, data)
    except FirError as error:
        # Nothing is trained on without what is missing.
        assert "missing" in set().union(*kinds.values()) and "do not exist" in str(error)
        return
    # As the encoder reads them: the function is built once.
    batches, _ = ordered_batches(catalogue.files(), 32, "squash", 64)
    valid = np.concatenate([batch["valid"].numpy() for batch in batches])[: len(catalogue)]
    for path, good in zip(catalogue.path, valid, strict=True):
        assert good == (path not in kinds), (path, kinds.get(path))


def prepared(data, dataset, out, kinds):
    """The copy and the list of what cannot be read hold every photo; a second run writes none."""
    arguments = ("prepare", f"--dataset={dataset}", f"--data_dir={data}", f"--out={out}")
    status, _, errors = datasets_command(*arguments, "--workers=1")
    tables = {}
    for name, column in (("catalogue", "source"), ("unreadable", "path")):
        if (out / f"{name}.csv").exists():
            text = (out / f"{name}.csv").read_bytes().decode()
            tables[name] = [row[column] for row in csv.DictReader(io.StringIO(text, newline=""))]
    lost = set(tables.get("unreadable", ()))
    # `prepare` converts what training cannot read.
    assert {path for path in kinds if kinds[path] - {"format", "too_large"}} <= lost <= set(kinds)
    # One is forgiven, and one in a hundred.
    most = max(1, 0.01 * (len(lost) + len(tables["catalogue"])))
    assert (status == 1) == (len(lost) > most), errors
    assert len(load("table", out / "catalogue.csv")) == len(tables["catalogue"])
    before = bytes_below(out)
    again, output, _ = datasets_command(*arguments, "--workers=1")
    assert again == status and bytes_below(out) == before
    assert status or "\n0 images written" in output
    return {*tables["catalogue"], *lost}


def indexed(data, run, address):
    """Runs `search.py index` twice; returns the paths that are in the index or listed."""
    arguments = ("index", f"--model={run}", f"--images={data}", f"--index={address}")
    counted = r"(\d+) images: (\d+) embedded, (\d+) kept, 0 relabelled, (\d+) removed"
    status, output, errors = call("search.py", *arguments)
    images, embedded, *_ = map(int, re.search(counted, output).groups())
    assert images == embedded
    again, output, _ = call("search.py", *arguments)
    assert [*map(int, re.search(counted, output).groups())] == [images, 0, images, 0]
    assert again == status and (status == 0 or "cannot be " in errors)
    with open_engine(str(address)) as engine:
        stored = {record.path for part, _ in engine.scan() for record in part}
    assert len(stored) == images
    return stored, output


def asked(root, photos, run, address):
    """A photo finds itself, whatever else is asked for; each one that cannot be read is named."""
    good = root / "Coats/item0/0.jpg"
    files = [root / photo.folder / photo.below / photo.name for photo in photos]
    files = [str(path) for path in files if path.is_file() and "\0" not in str(path)]
    arguments = ("query", f"--index={address}", "--json", "--nosheet", "--", good, *files)
    status, output, errors = call("search.py", *arguments)
    answers = json.loads(output)
    assert len(answers) == 1 + len(files)
    failed = [answer for answer in answers if "error" in answer]
    assert (status == 1) == bool(failed) == ("cannot be read" in errors)
    (own,) = [answer for answer in answers if answer["photos"] == [str(good)]]
    assert own["results"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with an untrained model that tells photos apart."""
    return make_run(tmp_path_factory.mktemp("[a]*") / "run")


@pytest.fixture(scope="module")
def one_encoder(run):
    """The encoder takes seconds to load: all indexes share it."""
    encoder = Encoder(run)
    with mock.patch.object(encoder_module, "Encoder", lambda *args, **options: encoder):
        yield


def drive(photos, form, run):
    """Puts a catalogue through check, training's reader, prepare, index and query."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        root = place / "photos"
        data, dataset = make_catalogue(root, photos, form)
        nothing_is_missed(data, dataset)
        kinds = checked(data, dataset, place / "check")
        event("refused" if kinds is None else f"{len(kinds)} broken")
        listed = None
        if kinds is None:
            with pytest.raises(FirError):
                load(dataset, data)
            status, _, errors = datasets_command(
                "prepare", f"--dataset={dataset}", f"--data_dir={data}", f"--out={place / 'copy'}"
            )
            assert status == 1 and errors.startswith("error: ")
            if form != "folder":
                return
        else:
            training_agrees(data, dataset, kinds)
            listed = prepared(data, dataset, place / "copy", kinds)
        stored, output = indexed(data, run, place / "index")
        if listed is not None:
            others = set(find_photos(data).others) if dataset == "folder" else set()
            for path in listed - stored - others:
                assert path in kinds and printable(path) in output
        asked(root, photos, run, place / "index")


ALL_STATES = [
    Photo("Coats", "odd", f"{number}.jpg", state, "Coats", "odd")
    for number, state in enumerate(STATES)
]
ALL_NAMES = [Photo(name, "n", f"{name}.jpg", "JPEG", name, name) for name in HOSTILE]
FORMS = ["folder", "csv", "tsv", *(["parquet"] if importlib.util.find_spec("pyarrow") else [])]
CALM = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@example(ALL_STATES + ALL_NAMES, "folder")
@example(ALL_STATES + ALL_NAMES, "csv")
@given(st.lists(PHOTOS, max_size=6), st.sampled_from(FORMS))
@settings(CALM, max_examples=2)
def test_a_hostile_catalogue_loses_nothing(run, one_encoder, photos, form):
    drive(photos, form, run)


@pytest.mark.nightly
@given(st.lists(PHOTOS, max_size=12), st.sampled_from(FORMS))
@settings(CALM, max_examples=400, derandomize=False)
def test_many_hostile_catalogues_lose_nothing(run, one_encoder, photos, form):
    drive(photos, form, run)


READABLE = [
    *("JPEG", "PNG", "BMP", "GIF", "CMYK", "1 bit", "palette", "16 bit", "transparent", "turned"),
    *("1x1", "thin", "and more"),
]


@pytest.mark.nightly
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_catalogue_is_trained_on_measured_and_exported(tmp_path, shallow, form):
    photos = [
        Photo(name, "n", f"{view}{name}.jpg", READABLE[number % len(READABLE)], name, name)
        for number, name in enumerate(HOSTILE)
        for view in range(2)
    ]
    data, dataset = make_catalogue(tmp_path / "photos", photos, form)
    catalogue = load(dataset, data)
    run = tmp_path / "[a]*, ~ \U0001f457"
    arguments = (f"--dataset={dataset}", f"--data_dir={data}", f"--run={run}", "--weights=none")
    arguments += ("--backbone=efficientnet_lite0", "--image_size=32", "--batch_size=32")
    arguments += ("--epochs=1", "--eval_every=1")
    done("train.py", *arguments)
    labels = json.loads((run / "labels.json").read_text(encoding="utf-8"))
    assert labels["categories"] == list(catalogue.categories)
    before = bytes_below(run)
    output, _ = done("train.py", *arguments)
    assert "is finished already" in output and bytes_below(run) == before
    done("evaluate.py", f"--run={run}")
    protocol = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["protocol"]
    for name, split in (("queries", "query"), ("gallery_images", "gallery")):
        assert protocol[name] == (catalogue.split == split).sum()
    done("export.py", f"--run={run}", f"--gallery={dataset}:{data}")
    assert (run / "export/fir/1/saved_model.pb").is_file()
