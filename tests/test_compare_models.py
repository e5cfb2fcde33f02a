"""search.py compare: the answers of an index by its model and by another one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import write_jpeg
from two_models import TwoModels, build, contents, expected, make_models, migration, two_models
from valid_html import page as parsed

from fir_tf.errors import FirError
from fir_tf.evaluation.bootstrap import paired_bootstrap
from fir_tf.search.answers import overlap, rank_biased_overlap
from fir_tf.search.comparing import BelowError, compare, told
from fir_tf.search.engines import generations_of
from fir_tf.search.migrating import migrate
from fir_tf.search_options import CompareOptions, least_values

K = 2


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(photos, old and new model, index): four items of four photos, two of no known item."""
    folder = tmp_path_factory.mktemp("shop")
    for number in range(16):
        write_jpeg(folder / "photos" / "Tops" / f"i{number // 4}" / f"{number}.jpg", number)
    with two_models():
        old, new = make_models(folder)
        build(folder / "photos", folder / "index", old)
        yield folder / "photos", old, new, folder / "index"


def options(shop, **changes):
    return CompareOptions(index=str(shop[3]), model=str(shop[2]), k=K, **changes)


def nearest(shop, model, photo):
    """The oracle: an exact search by a plain loop; paths in order, the query's own left out."""
    encoder = TwoModels(model)
    files = {file.relative_to(shop[0]).as_posix(): file for file in shop[0].rglob("*.jpg")}
    found = encoder.encode([file.read_bytes() for file in files.values()]).embedding
    vectors = dict(zip(files, found, strict=True))
    query = encoder.encode([photo.read_bytes()]).embedding[0]
    own = photo.relative_to(shop[0]).as_posix() if photo.is_relative_to(shop[0]) else ""
    return sorted((p for p in vectors if p != own), key=lambda path: -(vectors[path] @ query))


def items_of(paths):
    return list(dict.fromkeys(path.rpartition("/")[0] for path in paths))


@given(st.permutations(range(8)), st.permutations(range(8)), st.integers(1, 8))
def test_rank_biased_overlap_is_its_infinite_sum(first, second, depth):
    """Beyond the ranks that are there the agreement stays: the definition of the extrapolation."""
    first, second = first[:depth], second[:depth]
    agreed = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, depth + 1)]
    agreed += [agreed[-1]] * 500
    expected = 0.1 * sum(0.9**d * value for d, value in enumerate(agreed))
    assert rank_biased_overlap(first, second) == pytest.approx(expected, abs=1e-9)


def test_lists_that_are_empty_or_of_different_lengths():
    assert overlap([], []) == rank_biased_overlap([], []) == 1
    assert overlap([], ["a"]) == rank_biased_overlap([], ["a"]) == 0
    assert overlap(["a"], ["a", "b"]) == 0.5 and rank_biased_overlap(["a"], ["a", "b"]) == 1


@pytest.mark.parametrize("group", [True, False])
def test_the_numbers_are_those_of_a_plain_loop(shop, group):
    photos, old, new, _ = shop
    values = compare(options(shop, group=group))
    overlaps, biased, hits = [], [], ([], [])
    files = sorted(photos.rglob("*.jpg"))
    for photo in files:
        rows = [nearest(shop, model, photo) for model in (old, new)]
        rows = [(items_of(row) if group else row)[:K] for row in rows]
        overlaps.append(len(set(rows[0]) & set(rows[1])) / K)
        biased.append(rank_biased_overlap(*rows))
        own = photo.parent.relative_to(photos).as_posix()
        for found, row in zip(hits, rows, strict=True):
            found.append(any(path == own or path.startswith(f"{own}/") for path in row))
    assert values["queries"] == 16
    assert values[f"overlap@{K}"] == pytest.approx(np.mean(overlaps))
    assert values["rank_biased_overlap"] == pytest.approx(np.mean(biased))
    luck = paired_bootstrap(hits[1], hits[0], [photo.parent.name for photo in files])
    assert values[f"recall@{K}"] == {
        "queries": 16,
        "old": np.mean(hits[0]),
        "new": np.mean(hits[1]),
        "difference": luck.mean,
        "low": luck.low,
        "high": luck.high,
    }
    assert (values["old"]["dimension"], values["new"]["dimension"]) == (4, 6)
    assert values["new"]["vector_bytes"] == 16 * 6 * 4 and values["new"]["images"] == 16
    # The index answers as before.
    assert contents(shop[3]) == expected(photos, old)


@pytest.mark.slow
def test_queries_are_a_folder_a_table_or_a_log(shop, tmp_path):
    photos = shop[0]
    for number in range(6):
        write_jpeg(tmp_path / "asked" / "Tops" / f"i{number % 3}" / f"{number}.jpg", 100 + number)
    files = sorted((tmp_path / "asked").rglob("*.jpg"))
    # Of a photo that cannot be read nothing is known, also of its item.
    (tmp_path / "asked" / "Tops" / "i0" / "broken.jpg").write_bytes(b"no photo")
    folder = compare(options(shop, queries=str(tmp_path / "asked")))
    assert folder["queries"] == folder[f"recall@{K}"]["queries"] == 6
    assert folder["new"]["embed_seconds"] > 0

    table = tmp_path / "table.csv"
    rows = [
        f"{file.relative_to(tmp_path)},{'Tops/i1' if number else 'unheard of'}"
        for number, file in enumerate(files)
    ]
    table.write_text("\n".join(["path,item", *rows]))
    assert compare(options(shop, queries=str(table)))[f"recall@{K}"]["queries"] == 5

    log = tmp_path / "log.json"
    log.write_text(json.dumps([{"photos": [str(file)], "results": []} for file in files]))
    text = tmp_path / "log.txt"
    text.write_text("\n".join(map(str, [*files, files[0], ""])))
    for source in (log, text):
        values = compare(options(shop, queries=str(source)))
        assert values[f"recall@{K}"] is None and values["queries"] == 6
        assert values[f"overlap@{K}"] == folder[f"overlap@{K}"]

    # A photo of the index is not its own answer, whichever way it is asked with.
    text.write_text(str(next(photos.rglob("*.jpg"))))
    (changed,) = compare(options(shop, queries=str(text)))["changed"]
    assert changed["query"] not in [str(photos / hit["path"]) for hit in changed["old"]]
    for path, wrong in ((log, "[1]"), (text, ""), (log, "{")):
        path.write_text(wrong)
        with pytest.raises(FirError, match="must be what search.py query|must name photos"):
            compare(options(shop, queries=str(path)))


@pytest.mark.parametrize(
    ("count", "warned"), [(1, "1 query tells"), (29, "29 queries tell"), (30, "")]
)
def test_few_queries_are_said_to_tell_little(count, warned):
    side = dict.fromkeys(("dimension", "vector_bytes", "search_seconds"), 1) | {
        "embed_seconds": None
    }
    values = {"queries": count, "k": K, f"recall@{K}": None, "old": side, "new": side}
    text = told({**values, f"overlap@{K}": 1.0, "rank_biased_overlap": 1.0})
    assert ("little" in text) == bool(warned) and f"note: {warned}" * bool(warned) in text


@pytest.mark.slow
def test_the_page_has_the_most_changed_queries_old_beside_new(shop, tmp_path):
    page, numbers = tmp_path / "p.html", tmp_path / "n.json"
    compare(options(shop, changed=3, page=str(page), json=str(numbers), group=False))
    values, text = json.loads(numbers.read_text()), page.read_text()
    parsed(text)
    every = {
        str(photo): rank_biased_overlap(
            *(nearest(shop, model, photo)[:K] for model in (shop[1], shop[2]))
        )
        for photo in shop[0].rglob("*.jpg")
    }
    biased = [changed["rank_biased_overlap"] for changed in values["changed"]]
    assert biased == pytest.approx(sorted(every.values())[:3])
    for changed in values["changed"]:
        for side, model in (("old", shop[1]), ("new", shop[2])):
            paths = [hit["path"] for hit in changed[side]]
            assert paths == nearest(shop, model, shop[0] / changed["query"])[:K]
        assert f"<h2>{changed['query']}</h2>" in text
    assert "16 queries tell little" in text
    assert text.count('<section class="changed" id="query-') == 3 and text.count(
        "data:image/jpeg"
    ) == 3 * (1 + 2 * K)


def test_queries_are_cropped_where_a_model_looks_at_boxes(shop, tmp_path):
    """Each model asks with what it looks at; a photo without an area in its box asks nothing."""
    photos, old, new, _ = shop
    files = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    table = photos / "boxes.csv"
    table.write_text("path,item,box\n" + "".join(f'{f},{f[-5]},"4,6,20,24"\n' for f in files))
    build(table, tmp_path / "index", old, crop="box")
    asked = tmp_path / "asked"
    asked.mkdir()
    with Image.open(photos / files[0]) as image:
        image.save(asked / "same.png")
        image.save(asked / "outside.png")
    rows = ['same.png,x,"4,6,20,24"', 'outside.png,y,"900,900,9,9"']
    (asked / "asked.csv").write_text("\n".join(["path,item,box", *rows]))
    changes = {"crop": "box", "queries": str(asked / "asked.csv"), "group": False}
    values = compare(CompareOptions(index=str(tmp_path / "index"), model=str(new), k=1, **changes))
    (changed,) = values["changed"]
    for side in ("old", "new"):
        assert changed[side][0]["path"] == files[0]
        assert changed[side][0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_script_is_told_what_is_below(shop):
    values = compare(options(shop))
    just = values[f"overlap@{K}"]
    assert compare(options(shop, fail_below=f"overlap={just}, recall=0"))["queries"] == 16
    with pytest.raises(BelowError, match=r"overlap@2 is 0\.\d+, below 1; .*recall@2 is") as caught:
        compare(options(shop, fail_below="overlap=1,recall=1,rbo=0", group=False))
    assert caught.value.status == 2
    for wrong in ("overlap", "precision=.5", "recall=2", "rbo=x"):
        with pytest.raises(FirError, match="`fail_below` must be overlap=, rbo= or recall="):
            least_values(wrong)


def test_a_query_whose_item_is_unknown_has_no_recall_to_fall_below(shop, tmp_path):
    text = tmp_path / "log.txt"
    text.write_text(str(next(shop[0].rglob("*.jpg"))))
    with pytest.raises(BelowError, match="unknown"):
        compare(options(shop, queries=str(text), fail_below="recall=0"))


def test_migrate_takes_over_what_compare_embedded(shop, tmp_path, monkeypatch):
    photos, old, new, _ = shop
    build(photos, tmp_path / "index", old)
    asked = CompareOptions(index=str(tmp_path / "index"), model=str(new), k=K)
    before = compare(asked)
    embedded = []
    whole = TwoModels.encode_files
    monkeypatch.setattr(
        TwoModels,
        "encode_files",
        lambda self, f, *a, **k: embedded.extend(f) or whole(self, f, *a, **k),
    )
    migrate(migration(tmp_path / "index", new))
    # Those of the sample that is checked, and no other.
    assert len(embedded) == 16 and contents(tmp_path / "index") == expected(photos, new)
    # After the switch the same command compares the same two.
    after = compare(asked)
    for name in ("queries", f"overlap@{K}", f"recall@{K}", "changed"):
        assert after[name] == before[name], name
    migrate(migration(tmp_path / "index", finish=True))
    with pytest.raises(FirError, match="not kept there either"):
        compare(asked)
    with generations_of(tmp_path / "index") as generations:
        assert generations.state().coming is None


def test_drawn_queries_are_some_of_the_index(shop):
    names = {one["query"] for one in compare(options(shop, drawn=5))["changed"]}
    assert len(names) == 5 and all((shop[0] / name).is_file() for name in names)
