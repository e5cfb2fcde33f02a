"""The HTML report: its numbers against loops, and nothing loaded from elsewhere."""

import configparser
import dataclasses
import itertools
from pathlib import Path

import html5lib
import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector import projector_config_pb2
from valid_html import page, text_of

import fir_tf
from fir_tf.datasets import load
from fir_tf.errors import FirError
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.evaluation.paper import PaperResult
from fir_tf.evaluation.report import Comparison, distance_pairs, write_projector, write_report
from fir_tf.hygiene.findings import Example, Finding
from fir_tf.hygiene.report import Report


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


def write(case, path, measured, title="a run", comparison=None):
    metrics = {**measured.values, "protocol": measured.protocol}
    write_report(path, title, metrics, case[0], measured, comparison or Comparison())
    return page(path.read_text())


def test_a_report_stands_alone_and_tells_the_truth(case, tmp_path):
    catalogue, vectors, query, gallery = case
    measured = measure(case)
    found = measured.result
    paper = [PaperResult("inshop", "someone's", {"recall@5": 0.7}, "Table 1")]
    comparison = Comparison(paper, "of other <images>")
    tree = write(case, tmp_path / "report.html", measured, "a <run>", comparison)
    assert text_of(tree.find("head/title")) == "a <run>" == text_of(next(tree.iter("h1")))
    assert "of other <images>" in [text_of(node) for node in tree.iter("p")]
    assert len(list(tree.iter("img"))) == 6
    metrics = dict(cells(tree, "Metrics"))
    assert metrics == {name: f"{value:.4f}" for name, value in found.values.items()}
    told = dict(itertools.pairwise(text_of(node) for node in next(tree.iter("dl"))))
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
    by_category = cells(tree, "By category")
    for name, hit_rows in zip(catalogue.categories, (0, 1), strict=True):
        mine = np.array(hits)[catalogue.category[query] == hit_rows]
        row = next(row for row in by_category if row[0] == name)
        assert row[1:4] == ["4", "4", "4"] and row[-1] == f"{mine.mean():.3f}"
    first, second = catalogue.categories
    assert sorted(cells(tree, "Most often confused")) == sorted(
        [[first, second, "8", "8"], [second, first, "8", "8"]]
    )
    headings = [text_of(node) for node in tree.iter("h2")]
    for heading in ("Best queries", "Worst queries", "Random queries", "Distances", "Recall"):
        assert heading in headings


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
    assert "<script>" in next(
        node.get("alt") for node in tree.iter("img") if "Best" in node.get("alt")
    )


def test_what_was_not_measured_is_left_out(case, tmp_path):
    catalogue, vectors, query, gallery = case
    none = np.array([], np.int64)
    whole = measure(case)
    only_classified = dataclasses.replace(
        whole, values={"category_top1": 0.0}, protocol={}, result=None, query=none, gallery=none
    )
    tree = write(case, tmp_path / "classified.html", only_classified)
    assert [text_of(node) for node in tree.iter("h2")] == ["Metrics", "Categories"]
    # Queries of which none has a match, and no category that was trained.
    alone = gallery[catalogue.item[gallery] != catalogue.item[query[0]]]
    found = retrieval_metrics(
        vectors[query[:1]], vectors[alone], catalogue.item[query[:1]], catalogue.item[alone]
    )
    sides = (query[:1], alone, vectors[query[:1]], vectors[alone])
    unmatched = Measured({}, found.protocol, {}, found, *sides, none, None, [])
    tree = write(case, tmp_path / "unmatched.html", unmatched)
    (row,) = cells(tree, "By category")
    assert row[1] == "1" and row[3] == "0" and row[4:7] == ["", "", ""]
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
