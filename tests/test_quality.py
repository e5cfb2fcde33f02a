"""What a cheaper form of the network costs, with networks that are a line of arithmetic."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from small_sets import write_jpeg

from fir_tf.config import Config
from fir_tf.options import ExportOptions
from fir_tf.serving.formats import Export
from fir_tf.serving.quality import compare_networks

SIDE = 32


def thumbnails(pixels):
    """Embeds an image as its 4 x 4 colours."""
    small = tf.reshape(tf.image.resize(pixels - 128.0, [4, 4], antialias=True), [-1, 48])
    return {"embedding": tf.math.l2_normalize(small, axis=1), "category": tf.ones([len(small), 1])}


def upside_down(pixels):
    """Embeds no image as `thumbnails` does, but finds the same neighbours."""
    return {**thumbnails(pixels), "embedding": -thumbnails(pixels)["embedding"]}


def shorter(pixels):
    """Embeds an image as `thumbnails` does, nine tenths as long."""
    return {**thumbnails(pixels), "embedding": 0.9 * thumbnails(pixels)["embedding"]}


def brightness(pixels):
    """Embeds images so that hardly any is told apart."""
    found = tf.reduce_mean(pixels, axis=[1, 2, 3])[:, None]
    vectors = tf.concat([found, tf.fill([len(found), 47], 1e4)], axis=1)
    return {**thumbnails(pixels), "embedding": tf.math.l2_normalize(vectors, axis=1)}


def write_photos(folder, rows):
    """Writes a table; rows of (seed, item, split, domain), a photo of seed None is no image."""
    folder.mkdir()
    with open(folder / "photos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "item", "split", "domain"])
        for number, (seed, item, split, domain) in enumerate(rows):
            path = folder / f"{number}.jpg"
            if seed is None:
                path.write_bytes(b"no image")
            else:
                write_jpeg(path, seed, size=(30 + number, 40))
            writer.writerow([path.name, item, split, domain])
    return folder / "photos.csv"


def compared(table, networks, gallery_scope="test"):
    config = Config(
        dataset="table",
        data_dir=str(table),
        gallery_scope=gallery_scope,
        image_size=SIDE,
        resize="squash",
    )
    export = Export(ExportOptions(), config, [], thumbnails, thumbnails, "fir", {})
    return compare_networks(export, networks)


QUERIES = [(item, f"i{item}", "query", "consumer") for item in range(6)]
GALLERY = [(item, f"i{item}", "gallery", "shop") for item in range(6)]


def test_the_same_network_costs_nothing_and_a_bad_one_its_recall(tmp_path):
    table = write_photos(tmp_path / "data", QUERIES + GALLERY)
    networks = {"same": thumbnails, "turned": upside_down, "dim": brightness, "short": shorter}
    found = compared(table, networks)
    same, turned, dim = (found[name] for name in ("same", "turned", "dim"))
    assert found["short"]["cosine_min"] == pytest.approx(1, abs=1e-5)
    assert same["queries"] == same["gallery"] == 6
    assert same["recall@1"] == turned["recall@1"] == [1, 1]
    assert same["cosine_mean"] == pytest.approx(1, abs=1e-5)
    assert turned["cosine_mean"] == pytest.approx(-1, abs=1e-5)
    assert dim["recall@1"][0] == 1 and dim["recall@20"] == [1, 1]
    assert (
        "recall@1 1.000 -> " in dim["text"]
        and "6 queries of the test set in a gallery of 6" in dim["text"]
    )


def test_the_gallery_is_the_one_the_run_is_evaluated_on(tmp_path):
    others = [(20 + number, f"v{number}", "val", "shop") for number in range(3)]
    table = write_photos(tmp_path / "data", [*QUERIES, *GALLERY, *others])
    sizes = {
        scope: compared(table, {"same": thumbnails}, scope)["same"]["gallery"]
        for scope in ("test", "val+test")
    }
    assert sizes == {"test": 6, "val+test": 9}


def test_an_image_that_cannot_be_read_is_on_neither_side(tmp_path):
    more = [(30 + number, f"g{number}", "gallery", "shop") for number in range(100)]
    table = write_photos(
        tmp_path / "data", [*QUERIES, *GALLERY, *more, (None, "i0", "gallery", "")]
    )
    found = compared(table, {"same": thumbnails})["same"]
    assert found["gallery"] == 106 and np.isclose(found["cosine_min"], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (GALLERY, "has no queries"),
        ([*QUERIES, *GALLERY, *[(None, "i0", "gallery", "shop")] * 9], "could not be read"),
        ([*QUERIES, *[(9, "other", "gallery", "shop")] * 3], "no query has an image of its item"),
    ],
)
def test_what_cannot_be_measured_says_why(tmp_path, rows, text):
    found = compared(write_photos(tmp_path / "data", rows), {"same": thumbnails})
    assert text in next(iter(found.values()))["text"]
    assert not any(name.startswith("recall@") for name in next(iter(found.values())))


def test_data_that_is_gone_is_a_note(tmp_path, capsys):
    found = compared(tmp_path / "nowhere.csv", {"same": thumbnails})
    assert found == {"recall": {"text": "not measured: the run's data could not be read"}}
    assert "the loss of recall was not measured" in capsys.readouterr().out
