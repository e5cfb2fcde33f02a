"""An index made and asked in Python: of arrays, of a model in hand, with any kind of photo."""

import io
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_sets import write_jpeg
from stub_encoder import StubEncoder, index_options

from fir_tf.errors import FirError
from fir_tf.search import encoder as encoder_module
from fir_tf.search.engines import Filter
from fir_tf.search.engines.local import LocalEngine
from fir_tf.search.index import Index
from fir_tf.search.indexing import build

SIDE = 16
HALVES = np.repeat(np.uint8([[[255, 0, 0]], [[0, 0, 0]]]), 20, axis=0).repeat(60, axis=1)


def unit(rows, size, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def thumbnail_model():
    """A keras.Model that embeds an image as its 4 x 4 colours."""
    pixels = keras.Input([SIDE, SIDE, 3])
    small = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 128, -1)(pixels))
    return keras.Model(pixels, keras.layers.Flatten()(small))


def mean_colours(images):
    """An ImageFunction."""
    assert all(image.mode == "RGB" for image in images)
    return np.array([[*np.asarray(image, float).mean(axis=(0, 1)), 99] for image in images])


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        write_jpeg(tmp_path / "photos" / "Tops" / f"i{number // 2}" / f"{number}.jpg", number)
    return tmp_path / "photos"


def test_an_index_of_arrays_finds_what_a_sort_finds():
    vectors = unit(50, 8)
    items = [f"i{number // 5}" if number % 7 else None for number in range(50)]
    table = pd.DataFrame({"item": items, "category": ["a", "b"] * 25, "domain": "shop"})
    with Index.from_arrays(vectors, table) as index:
        order = np.argsort(-(vectors @ vectors[3]), kind="stable")
        found = index.search(vectors[3], 10, group=False)
        assert [int(hit.record.path) for hit in found] == order[:10].tolist()
        assert [hit.score for hit in found] == pytest.approx((vectors @ vectors[3])[order[:10]])
        assert {
            hit.record.category for hit in index.search(vectors[3], 5, where=Filter(("b",)))
        } == {"b"}
        several = index.search(vectors[:4], 3)
        assert [hits[0].record.path for hits in several] == ["0", "1", "2", "3"]
        grouped = [hit.record.item for hit in several[3] if hit.record.item]
        assert len(grouped) == len(set(grouped))
        with pytest.raises(FirError, match="does not say where its model is.*with vectors"):
            index.search(b"a photo")


@pytest.mark.parametrize("model", [thumbnail_model, lambda: mean_colours])
@pytest.mark.slow
def test_every_form_of_a_photo_is_the_same_photo(photos, model):
    paths = sorted(photos.rglob("*.jpg"))
    with Index.from_model(model(), photos) as index:
        with Image.open(paths[4]) as image:
            image.load()
        forms = [str(paths[4]), paths[4], paths[4].read_bytes()]
        found = [index.search(form, 1)[0] for form in forms]
        assert {hit.record.path for hit in found} == {"Tops/i2/4.jpg"}
        assert [hit.score for hit in found] == pytest.approx([1] * 3, abs=1e-5)
        pixels = [index.search(form, 1)[0] for form in (image, np.asarray(image))]
        assert [hit.score for hit in pixels] == pytest.approx([1] * 2, abs=1e-5)
        assert pixels[0].score == pytest.approx(pixels[1].score, abs=1e-6)
        assert [hits[0].record.path for hits in index.search(paths, 1)] == [
            path.relative_to(photos).as_posix() for path in paths
        ]
        assert index.search(paths[0], 1)[0].record.item == "Tops/i0"


def test_a_turned_photo_is_seen_upright():
    halves = HALVES
    turned = Image.fromarray(np.rot90(halves).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    with Index.from_model(thumbnail_model(), [halves]) as index:
        for photo in (file.getvalue(), Image.open(io.BytesIO(file.getvalue()))):
            assert index.search(photo, 1)[0].score == pytest.approx(1, abs=1e-5)
        assert index.search(np.rot90(halves).copy(), 1)[0].score < 0.9


def test_a_saved_index_is_opened_and_asked(photos, tmp_path):
    model, paths = thumbnail_model(), sorted(photos.rglob("*.jpg"))
    labels = {"item": list("aabbcc"), "category": ["Tops"] * 6}
    with Index.from_model(model, paths, labels) as index:
        before = index.search(paths, 3)
        index.save(tmp_path / "kept")
    with Index(tmp_path / "kept", model=model) as opened:
        assert opened.search(paths, 3) == before
    with Index(tmp_path / "kept") as opened:
        assert [hit.record.item for hit in opened.search(before_vector(model, paths[2]), 1)] == [
            "b"
        ]
        with pytest.raises(FirError, match="does not say where its model is"):
            opened.search(paths[0])
    other = thumbnail_model()
    upside_down = keras.Model(other.input, -other.output)
    with pytest.raises(FirError, match="must be the one that the index.*embeds the same pictures"):
        Index(tmp_path / "kept", model=upside_down)
    with Index(tmp_path / "kept") as opened:
        for place in (tmp_path / "kept", f"faiss:{tmp_path / 'kept'}"):
            with pytest.raises(FirError, match="`address` must be a new one.*holds an index"):
                opened.save(place)
        assert len(opened.engine) == 6


def test_a_copy_that_was_interrupted_is_refused(photos, tmp_path, monkeypatch):
    with Index.from_arrays(unit(9, 4)) as index:
        whole = LocalEngine.flush

        def killed(engine):
            raise KeyboardInterrupt

        monkeypatch.setattr(LocalEngine, "flush", killed)
        with pytest.raises(KeyboardInterrupt):
            index.save(tmp_path / "half")
        monkeypatch.setattr(LocalEngine, "flush", whole)
        with pytest.raises(FirError, match="was not written to its end"):
            Index(tmp_path / "half")
        index.save(tmp_path / "whole")
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    with pytest.raises(FirError, match="was made of vectors, not of photos"):
        build(index_options(photos, tmp_path / "whole"))


def test_labels_keep_their_rows_and_their_digits():
    vectors = unit(4, 3)
    table = {
        "item": [101, 102, None, 104],
        "category": pd.Series(list("abcd"), index=[3, 2, 1, 0]),
    }
    mixed = pd.DataFrame({"item": [101, 102, float("nan"), 104]})
    for metadata in (table, mixed):
        with Index.from_arrays(vectors, metadata) as index:
            found = [index.search(vector, 1)[0].record for vector in vectors]
            assert [record.item for record in found] == ["101", "102", "", "104"]
            if metadata is table:
                assert [record.category for record in found] == list("abcd")


def test_relative_paths_are_found_from_another_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Index.from_model(thumbnail_model(), ["photos/Tops/i0/0.jpg"]) as index:
        index.save("kept")
    monkeypatch.chdir("/")
    with Index(tmp_path / "kept") as opened:
        record = opened.search(unit(1, 48)[0], 1)[0].record
        assert (opened.root / record.path).is_file()


def test_no_queries_have_no_answers():
    with Index.from_arrays(unit(4, 3)) as index:
        assert index.search([]) == index.search(np.zeros([0, 3])) == []


def before_vector(model, path):
    with Image.open(path) as image:
        side = min(image.size)
        left, upper = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, upper, left + side, upper + side)).resize((SIDE, SIDE))
        vector = np.asarray(model(np.asarray(image, np.float32)[None]))[0]
    return vector / np.linalg.norm(vector)


def test_what_is_not_saved_leaves_nothing(photos):
    index = Index.from_model(thumbnail_model(), photos)
    folder = Path(index._temporary.name)
    assert folder.is_dir()
    index.close()
    assert not folder.exists()


def test_photos_that_cannot_be_read_are_named(photos, capsys):
    paths = sorted(photos.rglob("*.jpg"))
    paths[1].write_bytes(b"no image")
    with Index.from_model(thumbnail_model(), [*paths, photos / "gone.jpg"]) as index:
        assert len(index.engine) == 5
        out = "".join(capsys.readouterr())
        assert "2 images cannot be read" in out and "gone.jpg" in out and str(paths[1]) in out
        with pytest.raises(FirError, match="1 of 2 photos cannot be decoded.*number 1"):
            index.search([paths[0].read_bytes(), b"no image"])
        with pytest.raises(FirError, match="gone.jpg is no photo.*no such file"):
            index.search(photos / "gone.jpg")
    with Index.from_model(mean_colours, [paths[0], photos / "gone.jpg", HALVES]) as index:
        assert len(index.engine) == 2 and "gone.jpg" in "".join(capsys.readouterr())
    with pytest.raises(FirError, match="must have a photo that can be read. Received: 1"):
        Index.from_model(mean_colours, [b"no image"])


@pytest.mark.parametrize(
    ("vectors", "metadata", "message"),
    [
        (np.eye(3), {"item": ["a"]}, "`metadata` must have 3 rows.*Received: 1"),
        (np.eye(3), {"path": ["a", "b", "a"]}, "`path` must name each row once.*'a' twice"),
        (
            np.eye(3),
            {"domain": ["shop", "street", ""]},
            "`domain` must be shop or consumer.*street",
        ),
        (np.eye(3, dtype=int), None, r"`vectors` must be a float array.*int64 \(3, 3\)"),
        (np.ones(3), None, r"`vectors` must be a float array.*\(3,\)"),
        (np.full([2, 2], np.nan), None, "must be finite"),
        (np.eye(3), {"item": "a"}, "`metadata` must have 3 rows.*Received: 1 in `item`"),
        (np.eye(3), {"item": list("abc"), "category": ["x"]}, "Received: 1 in `category`"),
        ([[1.0, 0.0], [0.0]], None, "`vectors` must be a float array"),
    ],
)
def test_arrays_that_do_not_fit_are_told(vectors, metadata, message):
    with pytest.raises(FirError, match=message):
        Index.from_arrays(vectors, metadata)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros([2, 7], np.float32), "length 4. Received: shape"),
        (np.zeros([1, 2, 4], np.float32), "must be vectors, float"),
        ([3, 4], "must be vectors, float.*Received: list of int64"),
        (None, "must be vectors, float.*Received: NoneType"),
        (np.zeros([3, 8, 8], np.uint8), "must be vectors, float"),
        (np.zeros([0, 8, 3], np.uint8), "must be vectors, float"),
    ],
)
def test_queries_that_do_not_fit_are_told(queries, message):
    with Index.from_arrays(np.eye(4)) as index, pytest.raises(FirError, match=message):
        index.search(queries)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "`model` must be a folder, a keras.Model or a function.*Received: int"),
        (lambda images: np.zeros(3), r"`model` must return finite vectors.*shape \(3,\) for 1"),
        (
            keras.Sequential([keras.Input([7]), keras.layers.Dense(2)]),
            r"square images.*\(None, 7\)",
        ),
        (
            keras.Sequential([keras.Input([8, 8, 1]), keras.layers.ReLU()]),
            r"square images.*\(None, 8, 8, 1\)",
        ),
        (
            keras.Sequential([keras.Input([8, 8, 3]), keras.layers.ReLU()]),
            r"must give an embedding \[n, d\]",
        ),
        (lambda images: np.ones([len(images), images[0].width]), "always of the same d"),
    ],
)
def test_a_model_that_does_not_fit_is_told(photos, model, message):
    with pytest.raises(FirError, match=message):
        Index.from_model(model, photos)
