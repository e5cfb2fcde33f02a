"""Seconds and bytes of a query as an index grows, for each search engine.

  python benchmarks/engines_growth.py
  python benchmarks/engines_growth.py --rows 10000 100000 --only=faiss+hnsw

Rows like embeddings of garments (`alike` in benchmarks/search.py) of 128 numbers, top 50, one query
at a time. An engine stops growing where storing the next size would take more than --limit seconds,
told from the size before; engines of an earlier run stay in the results. What one query reads is
known of exact search: all vectors, or the bounds and what they leave. Prints a table, writes
benchmarks/results/engines_growth.json and .png.
"""

import argparse
import json
import tempfile
from pathlib import Path

import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from engines import ENGINES, RESULTS, disk, fill, one_by_one, server

from fir_tf.files import write_json
from fir_tf.search.engines import open_engine
from search import alike

NUMBERS, QUERIES, K = 128, 50, 50
# Those that score every vector.
EXACT = ("{}", "faiss+flat:{}", "milvus:{}.db", "postgresql")


def bytes_read(form, address, vectors, queries):
    """Returns the bytes of vectors that a query reads, the median; None where that is not known."""
    if form not in EXACT:
        return None
    if form == "{}":
        with open_engine(address) as engine:
            known = engine._known_bounds()
            if known:
                found = [known.narrow(query, vectors, K) for query in queries]
                rows = [len(vectors) if one.rows is None else len(one.rows) for one in found]
                read = [one.read + 4 * NUMBERS * row for one, row in zip(found, rows, strict=True)]
                return int(np.median(read))
    return vectors.nbytes


def measured(form, folder, url, vectors, queries):
    """Builds an engine's index and asks it; returns its numbers."""
    address = form.format(folder / "index")
    if form.startswith("postgresql"):
        mark = "&" if "?" in url else "?"
        name = f"{form.partition('+')[2] or 'exact'}_{len(vectors)}"
        address = url.replace("postgresql", form, 1) + f"{mark}table={name}"
    stored, flushed = fill(address, vectors)
    p50, p99 = one_by_one(address, queries)
    return {
        "fill": stored + flushed,
        "p50": p50,
        "p99": p99,
        "read": bytes_read(form, address, vectors, queries),
        "disk": disk(folder, address),
    }


def name_of(form):
    """Returns what an engine is called in the table."""
    return form.split(":")[0].strip("{}") or "folder"


def row_of(name, rows, values):
    """Returns a row of the table."""
    read = "" if values["read"] is None else f"{values['read'] / 1e6:,.1f} MB"
    return (
        f"| `{name}` | {rows:,} | {values['fill']:.0f} s | {values['p50'] * 1000:.1f} / "
        f"{values['p99'] * 1000:.1f} ms | {read} | {values['disk'] / 1e6:,.0f} MB |"
    )


def draw(results):
    """Draws engines_growth.png."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    panels = (("p50", 1e3, "ms a query"), ("read", 1e-6, "MB that a query reads (exact search)"))
    for axis, (key, factor, title) in zip(axes, panels, strict=True):
        for name, sizes in results.items():
            points = [(int(rows), row[key]) for rows, row in sizes.items() if row[key]]
            if points:
                x, y = np.array(points, float).T
                axis.plot(x, y * factor, "o-", label=name)
        axis.set(xscale="log", yscale="log", xlabel="vectors of 128 numbers", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(RESULTS / "engines_growth.png", dpi=110)


def main():
    """Measures and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [10**4, 10**5, 10**6, 10**7]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="sizes (10^4 ... 10^7)")
    parser.add_argument("--only", nargs="+", default=ENGINES, choices=ENGINES, help="engines")
    parser.add_argument("--limit", type=float, default=300, help="seconds to store (%(default)g)")
    parser.add_argument("--postgresql", default="", help="URL of a server with pgvector")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    print("| engine | vectors | to store | one query, p50 / p99 | a query reads | on disk |")
    print("|---|---|---|---|---|---|")
    place = RESULTS / "engines_growth.json"
    results = json.loads(place.read_text()) if place.is_file() else {}
    with server(args.postgresql) as (url, _):
        for form in args.only:
            found = results[name_of(form)] = {}
            seconds = 0.0
            for rows in sorted(args.rows):
                if seconds * rows > args.limit:
                    break
                with tempfile.TemporaryDirectory() as apart, tempfile.TemporaryDirectory() as own:
                    generated = alike(rows, NUMBERS, QUERIES, Path(apart) / "vectors.f32")
                    found[str(rows)] = values = measured(form, Path(own), url, *generated)
                seconds = values["fill"] / rows
                print(row_of(name_of(form), rows, values), flush=True)
                write_json(place, results)
    draw(results)
    print(f"written: {place}, {place.with_suffix('.png')}")


if __name__ == "__main__":
    main()
