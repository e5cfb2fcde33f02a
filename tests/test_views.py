"""Better answers from the same model: views of a photo, whitening, expansion, re-ranking."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from shallow import TWO_STAGES, shallow_backbones
from small_sets import inshop_rows, write_inshop, write_jpeg

from fir_tf import datasets
from fir_tf.config import Config, ModelSettings
from fir_tf.errors import FirError
from fir_tf.evaluation.embedder import as_network
from fir_tf.evaluation.evaluate import evaluate
from fir_tf.evaluation.rerank import (
    better_search,
    expand_query,
    k_reciprocal,
    read_whitening,
    whiten,
    write_whitening,
)
from fir_tf.evaluation.views import averaged, networks_at
from fir_tf.files import write_json
from fir_tf.keras_versions import KERAS_2
from fir_tf.models.fir import build_fir
from fir_tf.options import EvaluateOptions, Improvements, parse_scales
from fir_tf.run import load_run
from fir_tf.search.encoder import Encoder
from fir_tf.search.exported import with_mirror
from fir_tf.search.index import Index
from fir_tf.search.indexing import build
from fir_tf.search_options import IndexOptions

SETTINGS = ModelSettings(backbone="resnet50_v15", weights="none", relaxation_width=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run's folder, data's folder): random weights, so that a view's size matters."""
    base = tmp_path_factory.mktemp("views")
    rows = inshop_rows(train_items=8, test_items=6)
    data = write_inshop(base / "data", rows)
    # Items that look alike by chance only, so that any change shows in the metrics.
    for number, (path, _, _) in enumerate(rows):
        write_jpeg(data / "Img" / path, seed=number)
    folder = base / "run"
    keras.utils.set_random_seed(4)
    config = Config(
        run=str(folder),
        data_dir=str(data),
        backbone="resnet50_v15",
        weights="none",
        image_size=32,
        relaxation_width=8,
        resize="squash",
    )
    config.save(folder / "config.json")
    categories = list(datasets.load("inshop", data).categories)
    write_json(folder / "labels.json", {"categories": categories})
    # Networks of other sizes are built from the config, and have to be as deep.
    with shallow_backbones(TWO_STAGES):
        model = build_fir(SETTINGS, 32, len(categories))
        model.save(folder / "model.keras")
        yield folder, data


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def embedding_at(model, pixels, side):
    """The model's embedding of images [n, s, s, 3] at another size: weights matched by name."""
    twin = build_fir(SETTINGS, side, model.output["category"].shape[-1])
    values = {weight.path: weight.numpy() for weight in model.weights}
    for weight in twin.weights:
        weight.assign(values[weight.path])
    view = tf.image.resize(pixels, [side, side], antialias=True)
    return twin(view, training=False)["embedding"].numpy()


@pytest.mark.slow
@pytest.mark.skipif(KERAS_2, reason="a loaded model's weights have other names there")
def test_the_mean_of_all_views(run):
    model, config, _ = load_run(run[0])
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    mirrored = images[:, :, ::-1]
    views = [embedding_at(model, part, side) for side in (32, 64) for part in (images, mirrored)]
    assert np.abs(views[0] - views[2]).max() > 1e-3
    forward = tf.function(averaged(networks_at(model, config, (1.0, 2.0)), flip=True))
    found = forward(tf.constant(images))
    np.testing.assert_allclose(found["embedding"], unit(sum(views)), atol=1e-5)
    np.testing.assert_allclose(np.sum(found["category"], axis=1), 1, atol=1e-5)
    alone = averaged(networks_at(model, config, (2.0,)), flip=False)(tf.constant(images))
    np.testing.assert_allclose(alone["embedding"], views[2], atol=1e-5)


def test_an_exported_network_sees_the_same_mirror_image():
    rng = np.random.default_rng(1)
    weights, images = rng.normal(size=(192, 5)), rng.uniform(0, 255, (3, 8, 8, 3))

    def network(pixels):
        scores = np.asarray(pixels, np.float32).reshape(-1, 192) @ weights.astype(np.float32)
        return {"embedding": unit(scores), "category": scores[:, :2]}

    found = with_mirror(network)(images.astype(np.float32))
    expected = averaged({8: as_network(network)}, flip=True)(tf.constant(images, tf.float32))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


def test_expanded_and_reranked_results():
    """Against loops; an image never answers, expands or ranks itself."""
    rng = np.random.default_rng(3)
    gallery = unit(rng.normal(size=(30, 6))).astype(np.float32)
    ids = np.arange(30)
    for expand, rerank in ((2, 0), (0, 8), (2, 8)):
        find = better_search(Improvements(expand=expand, rerank=rerank))
        scores, rows = find(gallery[:5], gallery, 12, query_ids=ids[:5], gallery_ids=ids)
        for place in range(5):
            query = gallery[place]

            def ranked(vector, place=place):
                order = np.argsort(-(gallery @ vector), kind="stable")
                return [row for row in order if row != place]

            if expand:
                query = expand_query(query, gallery[ranked(query)[:expand]])
            order = ranked(query)[:12]
            if rerank:
                head = order[:rerank]
                order[:rerank] = [head[n] for n in k_reciprocal(query, gallery[head])]
            assert rows[place].tolist() == order
            np.testing.assert_allclose(scores[place], gallery[order] @ query, atol=1e-6)
    # Fewer results than are ranked anew.
    _, rows = better_search(Improvements(rerank=50))(gallery[:1], gallery[:3], 5)
    assert sorted(rows[0, :3]) == [0, 1, 2] and rows[0, 3:].tolist() == [-1, -1]


def recall_at_1(query, gallery, query_items, gallery_items):
    best = (query @ gallery.T).argmax(axis=1)
    return np.mean(
        [gallery_items[row] == item for row, item in zip(best, query_items, strict=True)]
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_evaluate_and_index_embed_alike(run, tmp_path):
    folder, data = run
    options = {"flip": True, "scales": "1,2"}
    metrics = evaluate(
        EvaluateOptions(run=str(folder), output=str(tmp_path / "out"), whiten=6, **options)
    )
    assert {"flip", "scales", "whiten"} <= metrics["protocol"].keys()
    whitening = tmp_path / "out" / "whitening.npz"
    encoder = Encoder(folder, whitening=whitening, **options)
    assert encoder.dimension == 6
    catalogue = datasets.load("inshop", data)
    sides = {}
    for split in ("train", "query", "gallery"):
        part = catalogue.part(split)
        found = np.concatenate([batch.embedding for batch in encoder.encode_files(part.files())])
        sides[split] = found, part.item
    (query, asked), (gallery, items) = sides["query"], sides["gallery"]
    assert metrics["recall@1"] == pytest.approx(recall_at_1(query, gallery, asked, items))
    # What it was learned on has no direction left.
    mean, matrix = read_whitening(whitening)
    plain = np.concatenate(
        [
            batch.embedding
            for batch in Encoder(folder, **options).encode_files(catalogue.part("train").files())
        ]
    )
    np.testing.assert_allclose(np.cov(((plain - mean) @ matrix).T), np.eye(6), atol=1e-2)
    np.testing.assert_allclose(whiten(plain, mean, matrix), sides["train"][0], atol=1e-3)

    index = {"model": str(folder), "images": str(data), "dataset": "inshop", **options}
    index = {**index, "index": str(tmp_path / "index"), "whitening": str(whitening)}
    build(IndexOptions(**index))
    with Index(tmp_path / "index") as opened:
        photo = Path(catalogue.part("query").files()[0])
        hits = opened.search(opened.encoder.encode([photo.read_bytes()]).embedding, 1)[0]
        assert photo.as_posix().endswith(hits[0].record.path) and hits[0].score > 0.999
    with pytest.raises(FirError, match="embeds the same pictures differently"):
        build(IndexOptions(**{**index, "scales": "1"}))
    with pytest.raises(FirError, match="instead of 6"):
        build(IndexOptions(**{**index, "whitening": ""}))


@pytest.mark.slow
def test_evaluate_with_a_better_search(run, tmp_path):
    folder, _ = run
    settings = {"expand": 2, "rerank": 6}
    metrics = evaluate(EvaluateOptions(run=str(folder), output=str(tmp_path), **settings))
    plain = evaluate(EvaluateOptions(run=str(folder), output=str(tmp_path / "plain")))
    assert metrics["protocol"]["expand"].startswith("alpha query expansion by 2 images")
    assert "re-ranking of 6" in metrics["protocol"]["rerank"]
    assert not {"expand", "rerank", "flip"} & plain["protocol"].keys()
    assert metrics["mAP@R"] != plain["mAP@R"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


@pytest.mark.slow
def test_whitening_of_something_else_is_told(run, tmp_path):
    write_whitening(tmp_path / "other.npz", np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    with pytest.raises(FirError, match="numbers each. Received: one of 3"):
        Encoder(run[0], whitening=tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("none")
    np.savez(tmp_path / "objects.npz", mean=np.array([None]), matrix=np.array([None]))
    for name in ("text.npz", "objects.npz", "missing.npz"):
        with pytest.raises(FirError, match="must be a file that evaluate.py --whiten wrote"):
            read_whitening(tmp_path / name)
    with pytest.raises(FirError, match="`size` must be between 1 and"):
        evaluate(EvaluateOptions(run=str(run[0]), output=str(tmp_path), whiten=500))


@pytest.mark.parametrize("text", ["", "1,,2", "big", "0", "-1", "1,nan", "10"])
def test_scales_that_make_no_sense(text):
    with pytest.raises(FirError, match="`scales` must be numbers above 0"):
        parse_scales(text)
