"""The reports of evaluate.py and of a check in a real browser: a phone's width, both schemes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from small_sets import inshop_rows, write_inshop

from fir_tf.datasets import load
from fir_tf.evaluation.compared import Other, compare
from fir_tf.evaluation.headline import headline
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.evaluation.report import Beside, write_report
from fir_tf.hygiene.findings import SEVERITIES, Example, Finding
from fir_tf.hygiene.report import Report, write_check
from fir_tf.pages import render

# A browser.
pytestmark = pytest.mark.slow

NAMES = ["evaluation", "check", "comparison"]
LONG = "A_category/with_a_very_long_name_as_it_stands_in_some_feed"
SENTENCE = "a rule that takes a sentence: " + "word " * 40


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Twelve items; names that are longer than a phone is wide."""
    catalogue = load("inshop", write_inshop(tmp_path_factory.mktemp("data"), inshop_rows()))
    categories = (LONG, f"Other {LONG}", *(f"{LONG} {number}" for number in range(20)))
    return dataclasses.replace(catalogue, categories=categories)


def write_evaluation(catalogue, path):
    """Writes a report with everything in it: failures, confusions, another run."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((len(catalogue.items), 6))[catalogue.item]
    vectors = vectors + 1.5 * rng.standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = [np.flatnonzero(catalogue.split == side) for side in ("query", "gallery")]
    pairs = [(vectors[side], catalogue.item[side]) for side in rows]
    found = retrieval_metrics(pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1])
    everything = np.arange(len(catalogue))
    catalogue = dataclasses.replace(catalogue, category=(everything % 22).astype(np.int32))
    scores = rng.random((len(everything), 22))
    measured = Measured(
        found.values,
        found.protocol,
        {},
        found,
        *rows,
        pairs[0][0],
        pairs[1][0],
        everything,
        scores,
        [],
    )
    queries = measured.queries(catalogue)
    there = dataclasses.replace(queries, rank=np.roll(queries.rank, 1))
    metrics = {**found.values, "protocol": {**found.protocol, "note": SENTENCE}}
    other = Other("runs/another_run_with_a_long_name", there, {"protocol": {}})
    top = headline(measured, catalogue, {"val/recall@1": [(0, 0.4)], "val/recall@5": [(0, 0.6)]})
    links = [("config", "config.json"), ("model card", "")]
    beside = Beside(top, links, (), compare(queries, metrics, other))
    write_report(path, "a run", metrics, catalogue, measured, beside)
    return path


def write_checked(catalogue, path):
    """Writes a check's report with all severities and more cases than are shown."""
    rows = [Example((0, 1, 2), SENTENCE), *[Example((3,))] * 20]
    findings = [
        Finding(f"one_{name}", name, f"{SENTENCE} {LONG}", SENTENCE, rows) for name in SEVERITIES
    ]
    return write_check(Report(catalogue, "inshop", findings), path)


def write_compared(path):
    """Writes a comparison of two models, of few queries with long names."""
    hits = [
        SimpleNamespace(record=SimpleNamespace(path=f"{LONG}/{n}.jpg", item=LONG), score=0.5)
        for n in range(8)
    ]
    names = [f"{LONG}{n}" for n in range(8)]
    changed = [
        SimpleNamespace(
            asked=SimpleNamespace(name=f"{LONG}/{n}.jpg", item=LONG),
            overlap=0.5,
            biased=0.25,
            old=hits,
            new=hits[:3],
            names=(names, names[:3]),
        )
        for n in range(12)
    ]
    page = render(
        "comparison.html",
        title="Old and new answers",
        models=(f"runs/{LONG}", f"runs/{LONG}"),
        rows=[(LONG, f"{LONG} -> {LONG}")],
        few=SENTENCE,
        k=8,
        changed=changed,
        own={one.asked.name: b"" for one in changed},
        pictures={hit.record.path: b"" for hit in hits},
    )
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pages(catalogue, tmp_path_factory):
    """{name: address}."""
    folder = tmp_path_factory.mktemp("pages")
    paths = (
        write_evaluation(catalogue, folder / "evaluation.html"),
        write_checked(catalogue, folder),
        write_compared(folder / "comparison.html"),
    )
    return {name: path.as_uri() for name, path in zip(NAMES, paths, strict=True)}


@pytest.fixture
def opened(browser, pages):
    contexts = []

    def open_page(name, width, scheme="light"):
        size = {"width": width, "height": 844}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.goto(pages[name])
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_page_fits(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing is cut away at its edge: what is wider scrolls by itself.
    outside = page.evaluate(
        """width => [...document.querySelectorAll("main *")].filter(node =>
            !node.closest(".scroll, .unseen") && node.getBoundingClientRect().right > width + 1
        ).map(node => node.outerHTML.slice(0, 200))""",
        width,
    )
    assert outside == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(opened, name, scheme, width):
    """At WCAG 2.2 AA, with the protocol open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.run(page, options={"runOnly": {"type": "tag", "values": tags}})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("name", NAMES)
def test_a_long_page_can_be_jumped_through(opened, name):
    page = opened(name, 390)
    links = page.locator("nav[aria-label='On this page'] a").all()
    assert len(links) >= 2
    for link in links:
        link.click()
        target = page.locator(link.get_attribute("href"))
        assert target.evaluate("node => node.tagName") == "H2"
        assert target.text_content() == link.text_content()
        assert -1 <= target.bounding_box()["y"] < 844


def test_a_wide_table_scrolls_in_its_own_box(opened):
    page = opened("evaluation", 390)
    wide = [
        box
        for box in page.locator(".scroll").all()
        if box.evaluate("node => node.scrollWidth > node.clientWidth")
    ]
    assert len(wide) >= 2
    for box in wide:
        box.evaluate("node => node.scrollLeft = 9999")
        edge = box.locator("thead th").last.bounding_box()
        assert edge["x"] + edge["width"] <= 390 and page.evaluate("scrollX") == 0


def test_photos_are_shown_in_their_shape(opened):
    page = opened("evaluation", 390)
    shapes = page.evaluate(
        """() => [...document.querySelectorAll(".photos img")].map(
            image => image.clientWidth / image.clientHeight
                / (image.naturalWidth / image.naturalHeight))"""
    )
    assert len(shapes) > 30 and all(abs(shape - 1) < 0.05 for shape in shapes)


def test_the_bar_is_as_long_as_the_share(opened):
    page = opened("evaluation", 1280)
    text = page.locator("#strip .main").text_content()
    first, near = (int(part.split()[-1]) for part in text.split(" %")[:2])
    whole = page.locator("#strip .bar").bounding_box()["width"]
    parts = [part.bounding_box()["width"] for part in page.locator("#strip .bar i").all()]
    assert abs(100 * parts[0] / whole - first) < 1
    assert abs(100 * sum(parts) / whole - near) < 1
