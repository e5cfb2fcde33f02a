"""The HTML report: its numbers against loops, and nothing loaded from elsewhere."""

import configparser
import dataclasses
import io
import itertools
from pathlib import Path
from unittest import mock

import html5lib
import keras
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2
from valid_html import page, text_of

import fir_tf
from fir_tf.config import Config
from fir_tf.datasets import load
from fir_tf.errors import FirError
from fir_tf.evaluation.cases import Cases
from fir_tf.evaluation.compared import Other, compare
from fir_tf.evaluation.confusion import by_similarity, most_confused
from fir_tf.evaluation.evaluate import _explainer
from fir_tf.evaluation.headline import headline, percent
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.evaluation.paper import PaperResult
from fir_tf.evaluation.projector import write_projector
from fir_tf.evaluation.queries import Queries
from fir_tf.evaluation.report import Beside, distance_pairs, write_report
from fir_tf.explain import Explained, Heat
from fir_tf.hygiene.findings import Example, Finding
from fir_tf.hygiene.report import Report
from fir_tf.images.file import UnreadableImageError
from fir_tf.options import EvaluateOptions


@pytest.fixture
def case(inshop):
    """A catalogue with made-up embeddings: an item's images lie near each other."""
    catalogue = load("inshop", inshop)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((len(catalogue.items), 6))
    vectors = centres[catalogue.item] + 1.2 * rng.standard_normal((len(catalogue), 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    query = np.flatnonzero(catalogue.split == "query")
    gallery = np.flatnonzero(catalogue.split == "gallery")
    return catalogue, vectors, query, gallery


def measure(case):
    """What evaluation measures of a case: its categories are guessed wrong throughout."""
    catalogue, vectors, query, gallery = case
    found = retrieval_metrics(
        vectors[query], vectors[gallery], catalogue.item[query], catalogue.item[gallery]
    )
    rows = np.concatenate([query, gallery])
    scores = np.eye(2)[1 - catalogue.category[rows]]
    sides = (query, gallery, vectors[query], vectors[gallery])
    return Measured(found.values, found.protocol, {}, found, *sides, rows, scores, [])


def cells(tree, heading):
    """The body's rows of the first table behind a heading, as lists of text."""
    nodes = list(tree.iter())
    start = next(
        n for n, node in enumerate(nodes) if node.tag in ("h2", "h3") and text_of(node) == heading
    )
    table = next(node for node in nodes[start:] if node.tag == "tbody")
    return [[text_of(cell) for cell in row] for row in table]


def write(case, path, measured, title="a run", beside=None):
    metrics = {**measured.values, "protocol": measured.protocol}
    write_report(path, title, metrics, case[0], measured, beside or Beside())
    beside_it = [address for _, address in beside.links] if beside else ()
    return page(path.read_text(), beside_it)


def ranks(case):
    """{query: rank of its item}, by a loop."""
    catalogue, vectors, query, gallery = case
    found = {}
    for number in query:
        order = sorted(gallery, key=lambda row: -float(vectors[row] @ vectors[number]))
        same = [catalogue.item[row] == catalogue.item[number] for row in order]
        found[number] = 1 + same.index(True)
    return found


def test_a_report_stands_alone_and_tells_the_truth(case, tmp_path):
    catalogue, vectors, query, gallery = case
    measured = measure(case)
    found = measured.result
    links = [("config", "../a%20run/config.json"), ("model card", "")]
    paper = [PaperResult("inshop", "someone's", {"recall@5": 0.7}, "Table 1")]
    top = headline(measured, catalogue, {})
    beside = Beside(top, links, paper)
    tree = write(case, tmp_path / "report.html", measured, "a <run>", beside)
    assert text_of(tree.find("head/title")) == "a <run>" == text_of(next(tree.iter("h1")))
    *jumps, link = sorted(tree.iter("a"), key=lambda one: not one.get("href").startswith("#"))
    headings = [(f"#{one.get('id')}", text_of(one)) for one in tree.iter("h2")]
    assert [(one.get("href"), text_of(one)) for one in jumps] == headings
    assert link.get("href") == "../a%20run/config.json" and text_of(link) == "config"
    assert "model card (beside an export, which writes it)" in text_of(tree)
    metrics = dict(cells(tree, "Metrics"))
    assert metrics == {name: f"{value:.4f}" for name, value in found.values.items()}
    # The protocol is the last, and closed.
    (details,) = tree.iter("details")
    assert details is list(tree.find("body/main"))[-1] and details.get("open") is None
    told = dict(itertools.pairwise(text_of(node) for node in next(details.iter("dl"))))
    for name, rule in found.protocol.items():
        assert told[name] == " ".join(str(rule).split())

    # Recall within the query's own category, by a loop.
    hits = []
    for number in query:
        inside = [row for row in gallery if catalogue.category[row] == catalogue.category[number]]
        best = max(inside, key=lambda row: vectors[row] @ vectors[number])
        hits.append(catalogue.item[best] == catalogue.item[number])
    scopes = cells(tree, "Whole gallery, and the query's own category")
    assert scopes[0] == ["recall@1", f"{found.values['recall@1']:.4f}", f"{np.mean(hits):.4f}"]
    rank = ranks(case)
    by_category = cells(tree, "By category")
    for name, number in zip(catalogue.categories, (0, 1), strict=True):
        mine = catalogue.category[query] == number
        first = np.mean([rank[row] == 1 for row in query[mine]])
        row = next(row for row in by_category if row[0] == name)
        assert row[2] == f"{100 * first:.0f} %" and row[5:8] == ["4", "4", "4"]
        assert row[8] == f"{100 * np.array(hits)[mine].mean():.0f} %"
    shares = [int(row[2].removesuffix(" %")) for row in by_category]
    assert shares == sorted(shares)
    first, second = catalogue.categories
    assert sorted(cells(tree, "Most often confused")) == sorted(
        [[first, second, "8", "8"], [second, first, "8", "8"]]
    )
    # Row per cent: nothing on the diagonal.
    assert sorted(cells(tree, "Categories taken for others")) == sorted(
        [[f"{first} (8)", "", "100"], [f"{second} (8)", "100", ""]]
        if shown_first(tree) == first
        else [[f"{first} (8)", "100", ""], [f"{second} (8)", "", "100"]]
    )
    headings = [text_of(node) for node in tree.iter("h2")]
    assert headings[:3] == ["Worst queries", "By category", "Categories taken for others"]
    assert {"Random queries", "Distances", "Recall", "Metrics"} <= set(headings)


def shown_first(tree):
    """The category of the confusion's first column."""
    section = next(node for node in tree.iter("section") if node.get("id") == "confusion")
    return text_of(list(next(section.iter("thead")).iter("th"))[1])


def test_the_worst_queries_come_first_with_the_rank_of_their_item(case, tmp_path):
    catalogue, _, query, _ = case
    tree = write(case, tmp_path / "report.html", measure(case))
    rank = ranks(case)
    section = next(node for node in tree.iter("section") if node.get("id") == "failures")
    failing = {row: place for row, place in rank.items() if place > 1}
    assert f"{len(failing)} of {len(query)} queries" in text_of(section)
    worst = {}
    for row, place in failing.items():
        item = catalogue.items[catalogue.item[row]]
        worst[item] = max(place, worst.get(item, 0))
    shown = {}
    for entry in section.iter("li"):
        figures = list(entry.iter("figure"))
        item = text_of(figures[0]).split()[-1]
        marked = [text_of(figure) for figure in figures[1:] if "right" in figure.get("class")]
        shown[item] = int(marked[0].removeprefix("rank ").split()[0])
        # What is found in order, the item's own photo once more only if it is further behind.
        assert len(figures) == (5 if shown[item] <= 4 else 6)
    assert shown == worst and list(shown.values()) == sorted(worst.values(), reverse=True)
    assert len(shown) > 1 and max(shown.values()) > 4


def test_the_worst_queries_say_why(case, tmp_path):
    """Query and first answer once more, with the heat that the explainer was asked for."""
    catalogue, measured = case[0], measure(case)
    asked = []

    def explain(query, match):
        asked.append((query, match))
        values = np.zeros((2, 2), np.float32)
        values[0, 0] = 0.25
        return Explained(0.25, Heat(values, "squash"), Heat(values[::-1, ::-1], "squash"))

    tree = write(case, tmp_path / "report.html", measured, beside=Beside(explain=explain))
    cases = Cases(measured, catalogue, explain=explain).worst(12)
    sections = [
        (section.get("id"), [n for n in section.iter("div") if "reasons" in n.get("class", "")])
        for section in tree.iter("section")
    ]
    assert {name for name, rows in sections if rows} == {"failures"}
    rows = next(rows for name, rows in sections if name == "failures")
    assert len(rows) == len(cases) > 1 and all(len(list(row.iter("img"))) == 2 for row in rows)
    for case_shown, (query, match) in zip(cases, asked, strict=False):
        one, other = case_shown.reasons
        root = catalogue.root
        paths = {catalogue.items[item]: [] for item in catalogue.item}
        for path, item in zip(catalogue.path, catalogue.item, strict=True):
            paths[catalogue.items[item]].append((root / path).read_bytes())
        assert query in paths[one.item] and match in paths[other.item]
        assert one.item == case_shown.query.item and other.item == case_shown.found[0].item
        assert other.score == 0.25 and not other.right
        light = [
            np.asarray(Image.open(io.BytesIO(shown.picture)).convert("L"), float)
            for shown in (one, other)
        ]
        halves = [(each[: len(each) // 3].mean(), each[-len(each) // 3 :].mean()) for each in light]
        assert halves[0][0] > halves[0][1] and halves[1][0] < halves[1][1]
    assert Cases(measured, catalogue).worst(12)[0].reasons is None
    gone = Cases(measured, catalogue, explain=lambda *photos: None).worst(1)
    assert gone[0].reasons is None
    # The network's decoder has read what the page's cannot.
    with mock.patch(
        "fir_tf.evaluation.cases.thumbnail", side_effect=UnreadableImageError("truncated", "no")
    ):
        assert Cases(measured, catalogue, explain=explain).worst(1)[0].reasons is None


@pytest.mark.parametrize(
    "changes", [{"flip": True}, {"scales": "1,2"}, {"whiten": 8}, {"expand": 3}, {"rerank": 5}]
)
def test_scores_of_more_than_two_photos_are_not_explained(changes):
    config = Config(backbone="resnet50_v15")
    assert _explainer(None, config, EvaluateOptions(run="x", **changes)) is None


def test_what_is_no_model_of_ours_is_not_explained():
    images = keras.Input((8, 8, 3))
    other = keras.Model(images, keras.layers.GlobalMaxPooling2D()(images))
    config = Config(backbone="resnet50_v15")
    assert _explainer(other, config, EvaluateOptions(run="x")) is None
    boxes = dataclasses.replace(config, crop="box")
    assert _explainer(None, boxes, EvaluateOptions(run="x")) is None


@pytest.mark.parametrize("reordered", [False, True])
def test_an_item_behind_all_that_was_looked_at(case, reordered):
    """Its rank by a loop; unknown where results are in another order than their similarity."""
    catalogue, vectors, query, gallery = case
    found = retrieval_metrics(
        vectors[query],
        vectors[gallery],
        catalogue.item[query],
        catalogue.item[gallery],
        ks=(1,),
    )
    measured = dataclasses.replace(measure(case), result=found, reordered=reordered)
    rank = ranks(case)
    cases = Cases(measured, catalogue)
    for number, row in enumerate(query):
        shown = cases.show(number)
        assert shown.looked == 1 and len(shown.found) == 1
        if rank[row] == 1:
            assert shown.match is None
            continue
        assert shown.match.rank == (0 if reordered else rank[row])
        assert shown.match.item == shown.query.item
    assert max(rank.values()) > 4


def test_the_headline_against_loops(case):
    catalogue, _, query, _ = case
    measured, rank = measure(case), ranks(case)
    top = headline(measured, catalogue, {})
    first = np.array([rank[row] == 1 for row in query], float)
    near = np.array([rank[row] <= 5 for row in query], float)
    assert top.shares == (first.mean(), near.mean())
    assert top.sentences[0] == (
        f"{100 * first.mean():.0f} % of {len(query)} queries find the item first, "
        f"{100 * near.mean():.0f} % among the first 5."
    )
    # Items drawn anew, by a loop.
    rng, items, means = np.random.default_rng(7), catalogue.item[query], []
    for _ in range(4000):
        rows = np.concatenate(
            [np.flatnonzero(items == item) for item in rng.choice(np.unique(items), 4)]
        )
        means.append(first[rows].mean())
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([top.low, top.high], expected, atol=0.03)
    assert f"{100 * top.low:.0f} to {100 * top.high:.0f} %" in top.sentences[1]
    assert "0 % of 16 photos get their category." in top.sentences
    # All wrong, eight of each; of 4 queries a category says nothing.
    one, other = catalogue.categories
    assert top.sentences[-1] == (
        f"Most often confused: 8 of 8 photos of {one} (100 %) are taken for {other}."
    )
    assert not any("Weakest" in sentence for sentence in top.sentences)


def test_the_headline_knows_what_was_before(case):
    catalogue = case[0]
    history = {
        "val/recall@1": [(0, 0.41), (9, 0.6), (18, 0.66), (27, 0.7)],
        "val/recall@5": [(0, 0.62), (9, 0.7), (18, 0.82), (27, 0.8)],
        "val/mAP@R": [(0, 0.1), (9, 0.3), (18, 0.5), (27, 0.4)],
    }
    measured = measure(case)
    same = headline(measured, catalogue, history, same_part=True).sentences
    assert "(before training: 41 %, 62 %)" in same[0]
    other = headline(measured, catalogue, history).sentences
    assert "before training" not in other[0]
    assert (
        "On the validation part of the training items: 41 % and 62 % before training, 66 % and "
        "82 % after it." in other
    )
    late = {name: values[1:] for name, values in history.items()}
    assert not any(
        "before training" in text for text in headline(measured, catalogue, late, True).sentences
    )


def test_the_weakest_category_is_named(case):
    """Five queries a category are enough; the worse one is told."""
    catalogue, vectors, query, gallery = case
    rows = np.concatenate([query, gallery])
    scores = np.eye(2)[
        np.where(catalogue.category[rows] == 0, 0, (np.arange(len(rows)) % 4 > 0) * 1)
    ]
    none = np.array([], np.int64)
    sides = (none, none, vectors[none], vectors[none])
    measured = Measured({}, {}, {}, None, *sides, rows, scores, [])
    right = scores.argmax(axis=1) == catalogue.category[rows]
    top = headline(measured, catalogue, {})
    assert top.labels[0] == "category right" and top.shares[0] == right.mean()
    mine = right[catalogue.category[rows] == 1]
    assert (
        f"Weakest category: {catalogue.categories[1]}, where {100 * mine.mean():.0f} % of "
        f"{len(mine)} photos get their category." in top.sentences
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.001, "under 1 %"), (0.416, "42 %"), (0.999, "over 99 %"), (1, "100 %")],
)
def test_whole_per_cent(share, text):
    assert percent(share) == text


def test_categories_that_are_confused_stand_together():
    """Three groups, whose categories are far apart in the table and taken for each other."""
    group = np.arange(9) % 3
    counts = np.where(group[:, np.newaxis] == group, 10, 0) + 30 * np.eye(9, dtype=int)
    order = by_similarity(counts, 25)
    assert sorted(order) == list(range(9))
    assert (np.diff(group[order]) != 0).sum() == 2
    # Those that are confused most often, and none that does not occur.
    counts[0, 3] = counts[3, 0] = 25
    counts[8], counts[:, 8] = 0, 0
    assert set(by_similarity(counts, 2)) == {0, 3} and 8 not in by_similarity(counts, 25)
    assert most_confused(counts, 2) == [(0, 3), (3, 0)]


@pytest.mark.filterwarnings("error:Glyph")
def test_names_cannot_change_the_page(case, tmp_path):
    catalogue, *rest = case
    evil = '"><script>alert(1)</script>&amp;\r\x1b[2J$x$'
    items = tuple(f"{evil}{name}" for name in catalogue.items)
    categories = tuple(f"{evil}{name}" for name in catalogue.categories)
    catalogue = dataclasses.replace(catalogue, items=items, categories=categories)
    case = (catalogue, *rest)
    tree = write(case, tmp_path / "report.html", measure(case), title=evil)
    assert not list(tree.iter("script"))
    assert cells(tree, "By category")[0][0].startswith('"><script>alert(1)</script>&amp;')
    assert '"><script>alert(1)</script>&amp;' in text_of(next(tree.iter("figcaption")))


def test_what_was_not_measured_is_left_out(case, tmp_path):
    catalogue, vectors, query, gallery = case
    none = np.array([], np.int64)
    whole = measure(case)
    only_classified = dataclasses.replace(
        whole, values={"category_top1": 0.0}, protocol={}, result=None, query=none, gallery=none
    )
    tree = write(case, tmp_path / "classified.html", only_classified)
    assert [text_of(node) for node in tree.iter("h2")] == [
        "Categories taken for others",
        "Metrics",
    ]
    # Queries of which none has a match, and no category that was trained.
    alone = gallery[catalogue.item[gallery] != catalogue.item[query[0]]]
    found = retrieval_metrics(
        vectors[query[:1]], vectors[alone], catalogue.item[query[:1]], catalogue.item[alone]
    )
    sides = (query[:1], alone, vectors[query[:1]], vectors[alone])
    unmatched = Measured({}, found.protocol, {}, found, *sides, none, None, [])
    tree = write(case, tmp_path / "unmatched.html", unmatched)
    (row,) = cells(tree, "By category")
    assert row[5:7] == ["1", "0"] and row[1:5] == ["", "", "", ""]
    assert not list(tree.iter("img"))


def test_a_broken_page_is_refused(case, tmp_path):
    """What the templates could get wrong, one by one, in a page that is right."""
    write(case, tmp_path / "report.html", measure(case))
    text = (tmp_path / "report.html").read_text()
    for right, wrong in (
        ("</table>", ""),
        ("</h2>", "</h3>"),
        ("</details>", ""),
        ("<tbody>", "<tbody><p>a</p>"),
        ("<h1>", '<h1 class="a" class="b">'),
        ("<h1>", "<h1>a < b"),
        ("<h1>", "<h1>&nothing;"),
        ("<h1>", "<h1>\x1b"),
        ("<!doctype html>", ""),
        ("</body>", "<div></body>"),
    ):
        assert right in text
        with pytest.raises(html5lib.html5parser.ParseError):
            page(text.replace(right, wrong, 1))
    for wrong in (
        '<img src="data:,">',
        '<img src="https://x/" alt="">',
        '<b id="a"></b><b id="a"></b>',
    ):
        with pytest.raises(AssertionError):
            page(text.replace("</body>", f"{wrong}</body>"))


def test_the_other_pages_are_valid(case):
    catalogue = case[0]
    rows = [Example((0, 1), "a <b>"), *[Example((2,))] * 1999]
    findings = [
        Finding("one", "error", "a finding & more", "", rows),
        Finding("two", "note", "another", "Do <this>.", []),
    ]
    tree = page(Report(catalogue, "inshop", findings).html())
    sections = {node.get("id"): text_of(node) for node in tree.iter("section")}
    assert "a finding & more" in sections["one"] and "1,988 more" in sections["one"]
    assert len(list(tree.iter("figure"))) == 12 and "Do <this>." in sections["two"]
    own = Path(fir_tf.__file__).parent / "search" / "web" / "page.html"
    page(own.read_text(), ("page.css", "page.js"))


def test_two_runs_query_by_query(case, tmp_path):
    """Another run, whose queries stand in another order, one better and two worse."""
    catalogue, _, query, _ = case
    measured = measure(case)
    own = measured.queries(catalogue)
    place = {row: rank for row, rank in enumerate(own.rank)}
    other_rank = own.rank.copy()
    won = np.flatnonzero(own.rank == 1)[:2]
    (lost,) = np.flatnonzero(own.rank > 1)[:1]
    other_rank[won], other_rank[lost] = (0, 7), 1
    order = np.random.default_rng(0).permutation(len(query))
    there = Queries(
        own.path[order],
        own.item[order],
        other_rank[order],
        own.average_precision[order],
        own.r_precision[order],
    )
    rules = {**measured.protocol, "flip": "yes"}
    other = Other("runs/other", there, {"category_top1": 0.25, "protocol": rules})
    metrics = {**measured.values, "category_top1": 0.5, "protocol": measured.protocol}
    found = compare(own, metrics, other)
    mine, theirs, difference = found.values["recall@1"]
    assert mine == np.mean(own.rank == 1) and theirs == pytest.approx(mine - 1 / len(query))
    assert difference.mean == pytest.approx(1 / len(query))
    assert found.gained.tolist() == won.tolist() and found.lost.tolist() == [lost]
    assert found.alone == {"category_top1": (0.5, 0.25)} and found.rules == {"flip": ("-", "yes")}
    low, high = (f"{100 * end:+.1f}" for end in (difference.low, difference.high))
    assert f"above that of runs/other (95 % interval {low} to {high})" in found.sentence()
    assert f"{difference.low:+.4f} to {difference.high:+.4f}" in found.text()

    tree = write(case, tmp_path / "report.html", measured, beside=Beside(compared=found))
    table = {row[0]: row[1:] for row in cells(tree, "Beside runs/other")}
    assert table["recall@1"][:2] == [f"{mine:.4f}", f"{theirs:.4f}"]
    assert table["category_top1"] == ["0.5000", "0.2500", "", ""]
    section = next(node for node in tree.iter("section") if node.get("id") == "compared")
    text = text_of(section)
    assert "Found first in runs/other alone: 1" in text and "Found first here alone: 2" in text
    assert "rank 1 here, beyond rank 50 in runs/other" in text
    assert f"rank {place[lost]} here, rank 1 in runs/other" in text
    assert cells(tree, "Measured differently") == [["flip", "-", "yes"]]


def test_runs_of_other_queries_are_not_compared(case):
    catalogue = case[0]
    own = measure(case).queries(catalogue)
    columns = [getattr(own, field.name)[1:] for field in dataclasses.fields(own)]
    other = Other("runs/other", Queries(*columns), {})
    expected = r"runs/other was measured on other queries: 7 there and 8 here, 0 only there and 1"
    with pytest.raises(FirError, match=expected):
        compare(own, {}, other)
    with pytest.raises(FirError, match="7 there and 0 here"):
        compare(None, {}, other)


def test_distances_of_all_pairs(case):
    catalogue, vectors, query, gallery = case
    positive, negative = distance_pairs(measure(case), catalogue.item)
    expected, other = [], []
    for number in query:
        for row in gallery:
            same = catalogue.item[number] == catalogue.item[row]
            (expected if same else other).append(((vectors[number] - vectors[row]) ** 2).sum())
    np.testing.assert_allclose(sorted(positive), sorted(expected), atol=1e-5)
    assert abs(np.mean(negative) - np.mean(other)) < 0.05
    assert min(other) - 1e-5 <= negative.min() and negative.max() <= max(other) + 1e-5


def test_projector_files(case, tmp_path):
    catalogue, vectors, query, _ = case
    write_projector(tmp_path, catalogue, query, vectors[query])
    read = np.loadtxt(tmp_path / "vectors.tsv", delimiter="\t")
    np.testing.assert_allclose(read, vectors[query], atol=1e-5)
    lines = (tmp_path / "metadata.tsv").read_text().splitlines()
    assert lines[0] == "item\tcategory\tpath" and len(lines) == 1 + len(query)
    assert lines[1].split("\t")[2] == catalogue.path[query[0]]
    text = (tmp_path / "projector_config.pbtxt").read_text()
    (told,) = text_format.Parse(text, projector_config_pb2.ProjectorConfig()).embeddings
    assert (told.tensor_path, told.metadata_path) == ("vectors.tsv", "metadata.tsv")


def test_templates_are_installed_with_the_package():
    """Whatever is no Python in the package stands in setup.cfg; a checkout would not miss it."""
    root = Path(fir_tf.__file__).parent
    config = configparser.ConfigParser()
    config.read(root.parent / "setup.cfg")
    listed = {
        path
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.split()
        for path in root.parent.joinpath(*package.split(".")).glob(pattern)
    }
    files = {
        path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert len(files) > 8 and files == listed


def test_an_image_is_no_pair_with_itself_and_unknown_items_make_none(case):
    catalogue, vectors, query, _ = case
    items = catalogue.item.copy()
    items[query[1:]] = -1
    rows = query[:3]
    one = dataclasses.replace(
        measure(case),
        query=rows,
        gallery=rows,
        query_embedding=vectors[rows],
        gallery_embedding=vectors[rows],
    )
    positive, negative = distance_pairs(one, items)
    assert not len(positive) and not len(negative)


def test_nothing_to_report_is_told(case, tmp_path):
    catalogue, vectors, _, _ = case
    none = np.array([], np.int64)
    sides = (none, none, vectors[none], vectors[none])
    empty = Measured({}, {}, {}, None, *sides, none, None, [])
    with pytest.raises(FirError, match="there is nothing to report"):
        write_report(tmp_path / "report.html", "", {}, catalogue, empty)
    with pytest.raises(FirError, match="must end in .html"):
        write_report(tmp_path / "report.txt", "", {}, catalogue, empty)
