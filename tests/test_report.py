"""The HTML report: its numbers against loops, and nothing loaded from elsewhere."""

import html.parser
import re

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector import projector_config_pb2

from fir_tf.datasets import load
from fir_tf.errors import FirError
from fir_tf.evaluation.metrics import retrieval_metrics
from fir_tf.evaluation.report import distance_pairs, write_projector, write_report


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


def cells(text, heading):
    """The rows of the first table below a heading, as lists of text."""
    part = text[text.index(f"<h2>{heading}</h2>") :].partition("</table>")[0]
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", part)][1:]


def test_a_report_stands_alone_and_tells_the_truth(case, tmp_path):
    catalogue, vectors, query, gallery = case
    found = retrieval_metrics(
        vectors[query], vectors[gallery], catalogue.item[query], catalogue.item[gallery]
    )
    rows = np.concatenate([query, gallery])
    scores = np.eye(2)[1 - catalogue.category[rows]]
    path = tmp_path / "report.html"
    write_report(
        path,
        title="a <run>",
        metrics={**found.values, "protocol": found.protocol},
        catalogue=catalogue,
        query=query,
        gallery=gallery,
        query_embedding=vectors[query],
        gallery_embedding=vectors[gallery],
        result=found,
        classified=rows,
        category_scores=scores,
    )
    text = path.read_text()
    html.parser.HTMLParser().feed(text)
    assert "<title>a &lt;run&gt;</title>" in text
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 6 and all(source.startswith("data:image/") for source in sources)
    assert ["recall@1", f"{found.values['recall@1']:.4f}"] in cells(text, "Metrics")

    # Recall within the query's own category, by a loop.
    hits = []
    for number in query:
        inside = [row for row in gallery if catalogue.category[row] == catalogue.category[number]]
        best = max(inside, key=lambda row: vectors[row] @ vectors[number])
        hits.append(catalogue.item[best] == catalogue.item[number])
    scopes = cells(text, "Whole gallery, and the query&#x27;s own category".replace("&#x27;", "'"))
    assert scopes[0] == ["recall@1", f"{found.values['recall@1']:.4f}", f"{np.mean(hits):.4f}"]
    by_category = cells(text, "By category")
    for name, hit_rows in zip(catalogue.categories, (0, 1), strict=True):
        mine = np.array(hits)[catalogue.category[query] == hit_rows]
        row = next(row for row in by_category if row[0] == name)
        assert row[1:4] == ["4", "4", "4"] and row[-1] == f"{mine.mean():.3f}"
    confused = text[text.index("Most often confused") :]
    counted = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(\d+)</td><td>(\d+)</td>", confused)
    first, second = catalogue.categories
    assert sorted(counted) == sorted([(first, second, "8", "8"), (second, first, "8", "8")])
    for heading in ("Best queries", "Worst queries", "Random queries", "Distances", "Recall"):
        assert f"<h2>{heading}</h2>" in text


def test_distances_of_all_pairs(case):
    catalogue, vectors, query, gallery = case
    positive, negative = distance_pairs(
        catalogue.item[query],
        catalogue.item[gallery],
        query,
        gallery,
        vectors[query],
        vectors[gallery],
    )
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


def test_nothing_to_report_is_told(case, tmp_path):
    catalogue, vectors, _, _ = case
    none = np.array([], np.int64)
    empty = {
        "title": "",
        "metrics": {},
        "catalogue": catalogue,
        "query": none,
        "gallery": none,
        "query_embedding": vectors[none],
        "gallery_embedding": vectors[none],
    }
    with pytest.raises(FirError, match="there is nothing to report"):
        write_report(tmp_path / "report.html", **empty)
    with pytest.raises(FirError, match="must end in .html"):
        write_report(tmp_path / "report.txt", **empty)
