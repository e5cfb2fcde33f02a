"""search.py index, query and measure on small photo folders."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import done
from PIL import Image
from small_sets import write_jpeg

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.evaluation.rerank import expand_query, k_reciprocal, whiten, whitening
from fir_tf.files import write_json
from fir_tf.search import accuracy, indexing
from fir_tf.search import query as query_module
from fir_tf.search.early import check_photos
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Filter, Hit, Record, open_engine
from fir_tf.search.engines.base import best_views
from fir_tf.search.index import Index
from fir_tf.search.indexing import build
from fir_tf.search.listing import read_catalogue
from fir_tf.search.query import mean_embedding
from fir_tf.search_options import IndexOptions, MeasureOptions, QueryOptions, WebOptions

ROOT = Path(__file__).parent.parent
CATEGORIES = ("Dresses", "Tops")


def make_run(folder, seed=0, losses="OC+IS", pooling="Max"):
    """A run's folder with an untrained model: any model tells equal photos from others.

    With pooling "Average" it has the layers that a score is explained by.
    """
    import keras

    keras.utils.set_random_seed(seed)
    Config(
        run=str(folder),
        backbone="efficientnet_lite0",
        weights="none",
        image_size=32,
        losses=losses,
        resize="squash",
    ).save(folder / "config.json")
    write_json(folder / "labels.json", {"categories": list(CATEGORIES)})
    images = keras.Input((32, 32, 3), name="images")
    features = keras.layers.Rescaling(1 / 64, -2)(images)
    features = keras.layers.Conv2D(24, 7, strides=4, activation="tanh")(features)
    category = keras.layers.GlobalMaxPooling2D()(features)
    if pooling == "Average":
        hidden = keras.layers.Conv2D(8, 1, name="relaxation")(features)
        category = keras.layers.GlobalAveragePooling2D()(hidden)
    features = getattr(keras.layers, f"Global{pooling}Pooling2D")()(features)
    unit = keras.layers.UnitNormalization(name="embedding")
    outputs = {
        "embedding": unit(keras.layers.Dense(32)(features)),
        "category": keras.layers.Dense(len(CATEGORIES), activation="softmax")(category),
    }
    model = keras.Model(images, outputs)
    model.save(folder / "model.keras")
    return folder


def make_photos(root, items=5, views=2):
    """Photos in <category>/<item>/<view>.jpg, each of other colours."""
    for item in range(items):
        for view in range(views):
            path = root / CATEGORIES[item % 2] / f"item{item}" / f"{view}.jpg"
            write_jpeg(path, seed=10 * item + view)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def options(run, photos, address, **changes):
    return IndexOptions(
        model=str(run), images=str(photos), index=str(address), batch_size=4, **changes
    )


def stored(address):
    with open_engine(address) as engine:
        return {
            record.path: (record, vector)
            for part, read in engine.scan(vectors=True)
            for record, vector in zip(part, read, strict=True)
        }


def script(*arguments, ok=True):
    done = subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_a_folder_of_any_depth(tmp_path):
    for path in ("a.jpg", "Tops/b.jpg", "WOMEN/Dresses/id_1/c.JPG", ".hidden/d.jpg"):
        write_jpeg(tmp_path / path)
    (tmp_path / "notes.txt").write_text("no photo")
    found = read_catalogue(tmp_path)
    assert found.root == tmp_path
    assert [(r.path, r.item, r.category) for r in found.records] == [
        ("a.jpg", "", ""),
        ("Tops/b.jpg", "", "Tops"),
        ("WOMEN/Dresses/id_1/c.JPG", "WOMEN/Dresses/id_1", "WOMEN/Dresses"),
    ]


def test_a_table_and_a_benchmark(tmp_path, inshop):
    (tmp_path / "shop.csv").write_text(
        "path,item,category,domain,split\nx/1.jpg,A,Tops,shop,gallery\n2.jpg,,,consumer,query\n"
    )
    found = read_catalogue(tmp_path / "shop.csv")
    assert found.root == tmp_path
    assert sorted(found.records, key=lambda record: record.path) == [
        Record("2.jpg", "", "", "consumer", ""),
        Record("x/1.jpg", "A", "Tops", "shop", ""),
    ]
    gallery = read_catalogue(inshop, "inshop", "gallery").records
    assert len(gallery) == 8 and {record.item for record in gallery} == {
        f"id_{number:08d}" for number in range(8, 12)
    }
    with pytest.raises(FirError, match="`split` must be among.*Received: 'galery'"):
        read_catalogue(inshop, "inshop", "galery")
    with pytest.raises(FirError, match="no photo was found"):
        (tmp_path / "empty").mkdir()
        read_catalogue(tmp_path / "empty")


@pytest.mark.slow
def test_the_index_holds_what_the_model_gives(run, photos, tmp_path):
    counts = build(options(run, photos, tmp_path / "index"))
    assert (counts["embedded"], counts["kept"], counts["images"]) == (10, 0, 10)
    rows = stored(tmp_path / "index")
    encoder = Encoder(run)
    for path, (record, vector) in rows.items():
        # One photo at a time, from its bytes: not the pipeline that filled the index.
        alone = encoder.encode([(photos / path).read_bytes()])
        np.testing.assert_allclose(vector, alone.embedding[0], atol=1e-5)
        assert record.category == path.split("/")[0]
        assert record.item == path.rsplit("/", 1)[0] and record.checksum


def test_only_what_has_changed_is_embedded(run, photos, tmp_path, capsys):
    address = tmp_path / "index"
    build(options(run, photos, address))
    before = stored(address)
    counts = build(options(run, photos, address))
    assert (counts["embedded"], counts["kept"]) == (0, 10)
    shutil.copy(photos / "Tops/item1/0.jpg", photos / "Dresses/item0/0.jpg")
    (photos / "Tops/item3/1.jpg").unlink()
    (photos / "Tops/item3/0.jpg").rename(photos / "Tops/item3/9.jpg")
    (photos / "Dresses/item2/0.jpg").write_bytes(b"no image")
    (photos / "Tops/item1/1.jpg").write_bytes(b"")
    counts = build(options(run, photos, address, remove=True))
    assert (counts["embedded"], counts["kept"], counts["removed"]) == (2, 5, 2)
    assert sorted(counts["unreadable"]) == ["Dresses/item2/0.jpg", "Tops/item1/1.jpg"]
    out = capsys.readouterr().out
    assert "2 images (Dresses/item2/0.jpg, Tops/item1/1.jpg) cannot be read now and stay" in out
    after = stored(address)
    gone = {"Tops/item3/0.jpg", "Tops/item3/1.jpg"}
    assert set(after) == set(before) - gone | {"Tops/item3/9.jpg"}
    for path in counts["unreadable"]:
        np.testing.assert_array_equal(after[path][1], before[path][1])
    np.testing.assert_allclose(
        after["Dresses/item0/0.jpg"][1], before["Tops/item1/0.jpg"][1], atol=1e-5
    )


def test_a_new_label_needs_no_embedding(run, photos, tmp_path):
    table = photos / "shop.csv"
    table.write_text(
        "path,item,category,split\nTops/item1/0.jpg,A,Tops,gallery\nTops/item1/1.jpg,B,,gallery\n"
    )
    build(options(run, table, tmp_path / "index"))
    before = stored(tmp_path / "index")
    assert before["Tops/item1/1.jpg"][0].category in CATEGORIES
    table.write_text(
        "path,item,category,split\nTops/item1/0.jpg,C,Skirts,gallery\nTops/item1/1.jpg,B,,gallery\n"
    )
    counts = build(options(run, table, tmp_path / "index"))
    assert (counts["embedded"], counts["relabelled"], counts["kept"]) == (0, 1, 1)
    record, vector = stored(tmp_path / "index")["Tops/item1/0.jpg"]
    assert (record.item, record.category) == ("C", "Skirts")
    np.testing.assert_array_equal(vector, before["Tops/item1/0.jpg"][1])


def test_an_interrupted_run_goes_on(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "PIECE", 4)
    whole = Encoder.encode_files

    def stops(self, *arguments, **named):
        for number, batch in enumerate(whole(self, *arguments, **named)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Encoder, "encode_files", stops)
    with pytest.raises(KeyboardInterrupt):
        build(options(run, photos, tmp_path / "index"))
    monkeypatch.setattr(Encoder, "encode_files", whole)
    counts = build(options(run, photos, tmp_path / "index"))
    assert (counts["embedded"], counts["kept"], counts["images"]) == (2, 8, 10)


@pytest.mark.slow
def test_another_model_is_refused(run, photos, tmp_path):
    build(options(run, photos, tmp_path / "index"))
    other = make_run(tmp_path / "other", seed=1)
    with pytest.raises(FirError, match="must be the one that .* was made with.*cosine"):
        build(options(other, photos, tmp_path / "index"))
    with pytest.raises(FirError, match="embeds the same pictures differently"):
        Index(tmp_path / "index", model=other)
    # The same model elsewhere is the same.
    moved = shutil.copytree(run, tmp_path / "moved")
    Index(tmp_path / "index", model=moved).close()
    # The same network that fits its images in another way is not.
    config = json.loads((moved / "config.json").read_text())
    write_json(moved / "config.json", {**config, "resize": "crop"})
    with pytest.raises(FirError, match="differently"):
        Index(tmp_path / "index", model=moved)
    with pytest.raises(FirError, match="is not the folder of a run"):
        Index(tmp_path / "index", model=tmp_path / "nowhere")


@pytest.mark.slow
def test_a_run_and_its_export_are_the_same_model(run, photos, tmp_path):
    from fir_tf.options import ExportOptions
    from fir_tf.serving.export import export

    target = Path(export(ExportOptions(run=str(run), output=str(tmp_path / "fir"))))
    build(options(run, photos, tmp_path / "a"))
    with Index(tmp_path / "a", model=target.parent) as index:
        contents = [(photos / "Tops/item1/0.jpg").read_bytes(), b"no image"]
        encoded = index.encoder.encode(contents)
        assert encoded.valid.tolist() == [True, False]
        assert index.search(encoded.embedding[:1], 1)[0][0].record.path == "Tops/item1/0.jpg"
    counts = build(options(target, photos, tmp_path / "b"))
    assert counts["embedded"] == 10
    ours, theirs = stored(tmp_path / "a"), stored(tmp_path / "b")
    for path, (record, vector) in ours.items():
        assert theirs[path][0] == record
        np.testing.assert_allclose(theirs[path][1], vector, atol=1e-4)


def test_flip_is_the_mean_of_both(run, photos, tmp_path):
    with Image.open(photos / "Tops/item1/0.jpg") as image:
        image.save(tmp_path / "photo.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    contents = (tmp_path / "photo.png").read_bytes()
    both = Encoder(run).encode([contents, (tmp_path / "mirrored.png").read_bytes()]).embedding
    flipped = Encoder(run, flip=True).encode([contents]).embedding[0]
    np.testing.assert_allclose(flipped, mean_embedding(both), atol=1e-4)
    assert np.abs(flipped - both[0]).max() > 1e-3


def test_items_are_grouped_by_their_best_view():
    hits = [
        Hit(0.9, Record("1", "A", "", "", "")),
        Hit(0.8, Record("2", "", "", "", "")),
        Hit(0.7, Record("3", "A", "", "", "")),
        Hit(0.6, Record("4", "", "", "", "")),
        Hit(0.5, Record("5", "B", "", "", "")),
    ]
    assert [hit.record.path for hit in best_views(hits)] == ["1", "2", "4", "5"]


def test_grouping_looks_as_far_as_it_must(run, tmp_path):
    """One item with many views must not hide the others."""
    photos = make_photos(tmp_path / "photos", items=3, views=1)
    for view in range(40):
        shutil.copy(photos / "Dresses/item0/0.jpg", photos / f"Dresses/item0/copy{view}.jpg")
    build(options(run, photos, tmp_path / "index"))
    with Index(tmp_path / "index") as index:
        vector = index.engine.vector("Dresses/item0/0.jpg")[np.newaxis]
        hits = index.search(vector, 3)[0]
        assert {hit.record.item for hit in hits} == {"Dresses/item0", "Tops/item1", "Dresses/item2"}
        images = index.search(vector, 3, group=False)[0]
        assert [hit.record.item for hit in images] == ["Dresses/item0"] * 3
        only = index.search(vector, 9, where=Filter(("Tops",)))[0]
        assert [hit.record.item for hit in only] == ["Tops/item1"]


def test_several_photos_are_one_query():
    vectors = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    np.testing.assert_allclose(mean_embedding(vectors), [0.5**0.5, 0.5**0.5, 0], atol=1e-6)
    with pytest.raises(FirError, match="cancel out"):
        mean_embedding(np.array([[1, 0], [-1, 0]], np.float32))


@pytest.mark.addons
@pytest.mark.slow
def test_the_commands(run, photos, tmp_path, monkeypatch):
    """index, query and measure as a user runs them."""
    address = tmp_path / "index"
    out, _ = done(
        "search.py", "index", f"--model={run}", f"--images={photos}", f"--index={address}"
    )
    assert "10 embedded" in out and "images/s" in out
    photo, other = photos / "Tops/item3/1.jpg", photos / "Dresses/item4/0.jpg"
    sheet, answer = tmp_path / "out.png", tmp_path / "out.json"
    flags = (f"--sheet={sheet}", f"--json={answer}", "--k=3")
    out, _ = done("search.py", "query", photo, "--index", address, other, *flags)
    first, second = json.loads(answer.read_text())
    assert first["photos"] == [str(photo)] and len(first["results"]) == 3
    assert first["results"][0]["path"] == "Tops/item3/1.jpg"
    assert first["results"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert second["results"][0]["item"] == "Dresses/item4"
    assert "Tops/item3/1.jpg" in out and "1.0000" in out
    with Image.open(sheet) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    # A picture is drawn where one is asked for.
    flags = (f"--index={address}", "--json=-")
    monkeypatch.chdir(tmp_path)
    # The formats of phones and browsers are converted.
    for ending in ("tif", "webp"):
        with Image.open(photo) as picture:
            picture.save(tmp_path / f"photo.{ending}", lossless=True)
        out, _ = done("search.py", "query", f"photo.{ending}", *flags)
        assert json.loads(out)[0]["results"][0]["score"] == pytest.approx(1, abs=1e-4)
    out, _ = done("search.py", "query", photo, *flags, "--category=Dresses", "--nogroup", "--k=99")
    (only,) = json.loads(out)
    assert len(only["results"]) == 6
    assert {row["category"] for row in only["results"]} == {"Dresses"}
    out, _ = done("search.py", "query", photo, other, "--together", *flags, "--k=2")
    (one,) = json.loads(out)
    assert {row["item"] for row in one["results"]} == {"Tops/item3", "Dresses/item4"}
    assert not Path("query.png").exists()
    out, _ = done(
        "search.py", "measure", f"--index={address}", "--k=5", f"--json={tmp_path / 'm.json'}"
    )
    values = json.loads((tmp_path / "m.json").read_text())
    assert values["recall@5"] == 1 and values["vectors"] == 10 and "queries_per_second" in out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"category": "Dress"}, "must name categories of the index: 'Dresses', 'Tops'"),
        ({"where": "colour = 'red'"}, "the index has no column 'colour'"),
        ({"min_confidence": 0.5}, "needs an index that knows what its scores are worth"),
    ],
)
def test_what_the_index_refuses_needs_no_model(run, photos, tmp_path, monkeypatch, asked, message):
    build(options(run, photos, tmp_path / "index"))
    monkeypatch.setattr(query_module, "Index", lambda *arguments: pytest.fail("opened"))
    photo = str(next(photos.rglob("*.jpg")))
    with pytest.raises(FirError, match=message):
        query_module.query(QueryOptions(index=str(tmp_path / "index"), **asked), [photo])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "no/such.jpg", "--index=x"], "has no records.sqlite|no/such.jpg is no file"),
        (["query", "--index=x"], "no photo was given"),
        (["query", "http://10.0.0.1/x.jpg", "--index=x"], "10.0.0.1 is not a public address"),
        (["query", "a.jpg"], "`index` must be given"),
        (["query", "--sheet", "o.png", "a.jpg", "--index=x"], "no photo o.png.*--sheet=o.png"),
        (["query", "a.jpg", "--json", "o.json", "--index=x"], "no photo o.json.*--json=o.json"),
        (["index", "--images=no/such", "--index=x"], "must be an existing folder"),
        (
            ["index", "--images=.", "--index=x", "--model=no/such"],
            "a run or of an export. Received",
        ),
        (["measure", "stray", "--index=x"], "unexpected argument 'stray'"),
        (["find"], "'find' is no command"),
    ],
)
def test_wrong_use_is_a_message(arguments, message):
    _, err = done("search.py", *arguments, ok=False)
    assert re.search(message, err), err


def test_a_private_address_is_refused_before_anything_is_loaded():
    for host in ("10.0.0.1", "[::1]:80", "169.254.1.1", "localhost:8000", "u:p@192.168.0.1"):
        with pytest.raises(FirError, match="not a public address. --allow_private fetches"):
            check_photos([f"http://{host}/x.jpg"], allow_private=False)
        check_photos([f"http://{host}/x.jpg"], allow_private=True)
    # What a name leads to is seen when it is asked.
    for photo in (
        "https://shop.example/x.jpg",
        "http://8.8.8.8/x.jpg",
        "s3://10.0.0.1/x",
        "http://[/",
    ):
        check_photos([photo], allow_private=False)
    code = (
        "import sys; from fir_tf.search.early import check_photos\n"
        "try: check_photos(['http://10.0.0.1/x.jpg'], False)\n"
        "except ValueError: sys.exit('tensorflow' in sys.modules)\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_is_quick_and_explains():
    out, _ = script("--help")
    assert all(name in out for name in ("index", "query", "measure", "web", "milvus+http"))
    code = "import sys, fir_tf.cli.search; assert 'tensorflow' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_options_are_checked():
    with pytest.raises(FirError, match="`images` must be given"):
        IndexOptions(index="x")
    with pytest.raises(FirError, match="`k` must be >= 1. Received: 0"):
        QueryOptions(index="x", k=0)
    with pytest.raises(FirError, match="`rerank` must be >= 0. Received: -1"):
        QueryOptions(index="x", rerank=-1)
    with pytest.raises(FirError, match="`queries` must be >= 1"):
        MeasureOptions(index="x", queries=0)
    with pytest.raises(FirError, match="`port` must be between"):
        WebOptions(index="x", port=99999)


def test_measure_counts_what_is_missed(tmp_path, monkeypatch):
    """An engine that loses every other result has half the recall."""
    from fir_tf.search.engines.local import LocalEngine

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_engine(tmp_path / "index", create=True) as engine:
        engine.set_info({"dimension": 8})
        engine.upsert([Record(f"{n:03d}", "", "", "", "") for n in range(300)], vectors)
    choice = MeasureOptions(index=str(tmp_path / "index"), k=10, queries=20)
    values = accuracy.measure_engine(choice)
    assert values["recall@10"] == 1
    # Half, a twentieth, and so on of 300; what leaves nothing is left out.
    left = [
        (row["records"], row[f"recall@{min(10, row['records'])}"]) for row in values["filtered"]
    ]
    assert left == [(150, 1), (15, 1), (2, 1)]
    whole = LocalEngine.search
    monkeypatch.setattr(
        LocalEngine,
        "search",
        lambda self, q, k, where=None: [hits[::2] for hits in whole(self, q, 2 * k, where)],
    )
    values = accuracy.measure_engine(choice)
    assert values["recall@10"] == pytest.approx(0.5)
    assert values["filtered"][0]["recall@10"] == pytest.approx(0.5)


def test_query_expansion_by_hand():
    query = np.array([1, 0], np.float32)
    near = np.array([[0.6, 0.8], [-1, 0]], np.float32)
    weight = 0.6**3
    total = np.array([1 + weight * 0.6, weight * 0.8])
    np.testing.assert_allclose(expand_query(query, near), total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_array_equal(expand_query(query, near[:0]), query)
    with pytest.raises(FirError, match="`expand_alpha` must be >= 0"):
        expand_query(query, near, -1)


def reciprocal_by_loops(query, candidates, k1, k2, weight):
    """Zhong et al.'s equations 2 to 12 in sets and loops."""
    vectors = [query, *candidates]
    count = len(vectors)
    distance = [[max(0, float(np.sum((a - b) ** 2))) for b in vectors] for a in vectors]
    largest = [max(distance[i][j] for i in range(count)) for j in range(count)]
    distance = [[distance[i][j] / largest[j] for j in range(count)] for i in range(count)]
    nearest = [sorted(range(count), key=lambda j: (distance[i][j], j)) for i in range(count)]

    def reciprocal(i, k):
        return {j for j in nearest[i][: k + 1] if i in nearest[j][: k + 1]}

    weights = []
    for i in range(count):
        members = reciprocal(i, k1)
        grown = set(members)
        for j in members:
            near = reciprocal(j, round(k1 / 2))
            if len(near & members) > 2 / 3 * len(near):
                grown |= near
        row = {j: np.exp(-distance[i][j]) for j in grown}
        total = sum(row.values())
        weights.append([row.get(j, 0) / total for j in range(count)])
    mean = [
        [sum(weights[m][j] for m in nearest[i][:k2]) / k2 for j in range(count)]
        for i in range(count)
    ]
    final = []
    for j in range(1, count):
        low = sum(min(mean[0][g], mean[j][g]) for g in range(count))
        high = sum(max(mean[0][g], mean[j][g]) for g in range(count))
        final.append((1 - weight) * (1 - low / high) + weight * distance[0][j])
    return sorted(range(count - 1), key=lambda j: final[j])


def test_k_reciprocal_by_loops():
    rng = np.random.default_rng(1)
    changed = 0
    for _ in range(10):
        vectors = rng.standard_normal((26, 6))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        order = k_reciprocal(vectors[0], vectors[1:], 6, 3, 0.3)
        assert order.tolist() == reciprocal_by_loops(vectors[0], vectors[1:], 6, 3, 0.3)
        changed += order.tolist() != np.argsort(-vectors[1:] @ vectors[0]).tolist()
    assert changed == 10


def test_whitening_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)
    mean, matrix = whitening(vectors, 5)
    ours = (vectors - mean) @ matrix
    theirs = PCA(5, whiten=True).fit_transform(vectors.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(whiten(vectors, mean, matrix), axis=1), 1, atol=1e-5)
    with pytest.raises(FirError, match="`size` must be between 1 and 12. Received: 13"):
        whitening(vectors, 13)


def test_dask_that_is_not_installed_is_told(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    flags = (f"--images={photos}", "--index=x", "--dask=tcp://127.0.0.1:1")
    _, err = done("search.py", "index", *flags, ok=False)
    assert "pip install 'fir_tf[dask]'" in err
