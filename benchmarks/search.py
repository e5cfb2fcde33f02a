"""Speed of exact search against FAISS, in one run: interleaved, medians and ratios.

  python benchmarks/search.py                      both sizes below, about 10 minutes on 2 cores
  python benchmarks/search.py --only=inshop        14,218 queries x 12,612 rows x 2,048
  python benchmarks/search.py --only=peak          memory of a process that does In-Shop with top_k
  python benchmarks/search.py --only=million       256 queries and one x 1,000,000 rows x 512
  python benchmarks/search.py --only=approximate   FAISS IVF-PQ and HNSW at recall@50 >= 0.95

Rows are clustered as embeddings are: 10 rows around each centre. --only=approximate takes real
embeddings with --index=<folder that search.py index wrote>.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import faiss
import numpy as np

from fir_tf.files import write_json
from fir_tf.neighbours import top_k
from fir_tf.search.engines import Record, open_engine

K = 50


def clustered(rows, size, queries, path=None):
    """Returns (gallery [rows, size], queries [queries, size]) of unit length."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 10), size), dtype=np.float32)
    if path is None:
        gallery = np.empty((rows, size), np.float32)
    else:
        gallery = np.memmap(path, np.float32, "w+", shape=(rows, size))
    for part in (gallery, asked := np.empty((queries, size), np.float32)):
        for start in range(0, len(part), 10_000):
            block = part[start : start + 10_000]
            block[:] = centres[rng.integers(0, len(centres), len(block))]
            block += 0.7 * rng.standard_normal(block.shape, dtype=np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
    if path is None:
        return gallery, asked
    gallery.flush()
    return np.memmap(path, np.float32, "c", shape=(rows, size)), asked


def compare(name, calls, repeats):
    """Times {label: function} in turns; returns {label: median seconds} and prints ratios."""
    times = {label: [] for label in calls}
    for _ in range(repeats):
        for label, call in calls.items():
            start = time.perf_counter()
            call()
            times[label].append(time.perf_counter() - start)
    medians = {label: statistics.median(values) for label, values in times.items()}
    reference = medians["FAISS Flat"]
    for label, value in medians.items():
        spread = f"{min(times[label]):.3f} to {max(times[label]):.3f}"
        print(
            f"{name:26s} {label:12s} {value:8.3f} s ({spread})  {reference / value:5.2f} x Flat",
            flush=True,
        )
    return {"median_seconds": medians, "all_seconds": times}


def flat(gallery):
    """Returns FAISS' exact index of a gallery."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    for start in range(0, len(gallery), 50_000):
        index.add(np.ascontiguousarray(gallery[start : start + 50_000]))
    return index


def check(gallery, queries, index):
    """Both must find the same before their speed is worth a look."""
    ours = top_k(queries, gallery, K)[0]
    theirs = index.search(queries, K)[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def inshop(repeats):
    """The paper's largest retrieval test."""
    gallery, queries = clustered(12_612, 2048, 14_218)
    index = flat(gallery)
    check(gallery, queries[:200], index)
    calls = {
        "FAISS Flat": lambda: index.search(queries, K),
        "top_k": lambda: top_k(queries, gallery, K),
    }
    return {"14218 x 12612 x 2048": compare("14,218 x 12,612 x 2,048", calls, repeats)}


def peak():
    """The memory of In-Shop's search and nothing else: inputs, TensorFlow and results included."""
    gallery, queries = clustered(12_612, 2048, 14_218)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    top_k(queries, gallery, K)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak with top_k: {after / 1e6:.0f} MB, {before / 1e6:.0f} MB of it before the search")
    return {"peak bytes of In-Shop": after, "peak bytes before the search": before}


def million(repeats, folder):
    """A large shop: many queries at a time, few, and one."""
    gallery, queries = clustered(1_000_000, 512, 256, folder / "gallery")
    index = flat(gallery)
    check(gallery, queries[:4], index)
    results = {}
    for count in (256, 16, 1):
        part = queries[:count]
        calls = {
            "FAISS Flat": lambda part=part: index.search(part, K),
            "top_k": lambda part=part: top_k(part, gallery, K),
        }
        results[f"{count} x 1000000 x 512"] = compare(f"{count} x 1,000,000 x 512", calls, repeats)
    return results


def embedded(index, queries):
    """Returns (gallery, queries) from a local index: `queries` of its rows are left out of it."""
    with open_engine(index) as engine:
        vectors = np.concatenate([read for _, read in engine.scan(vectors=True)])
    order = np.random.default_rng(0).permutation(len(vectors))
    return vectors[np.sort(order[queries:])], vectors[order[:queries]]


def approximate(repeats, folder, rows, index):
    """FAISS' approximate indexes through fir_tf's engine, each at recall@50 >= 0.95."""
    asked = 128
    if index:
        gallery, queries = embedded(index, asked)
    else:
        gallery, queries = clustered(rows, 512, asked, folder / "small")
    rows, size = gallery.shape
    exact = top_k(queries, gallery, K)[0]
    records = [Record(f"{number}", "", "", "", "") for number in range(rows)]
    with open_engine(folder / "index", create=True) as engine:
        engine.set_info({"dimension": size})
        for start in range(0, rows, 10_000):
            part = slice(start, start + 10_000)
            engine.upsert(records[part], gallery[part])
    results = {}
    for kind in ("flat", "ivfpq", "hnsw"):
        start = time.perf_counter()
        with open_engine(f"faiss+{kind}:{folder / 'index'}") as engine:
            engine.flush()
        build = time.perf_counter() - start
        for effort in (1, 2, 4, 8, 16):
            with open_engine(f"faiss+{kind}:{folder / 'index'}", effort=effort) as engine:
                times = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    found = engine.search(queries, K)
                    times.append(time.perf_counter() - start)
            recall = np.mean(
                [
                    sum(hit.score >= best[-1] - 1e-5 for hit in hits) / K
                    for hits, best in zip(found, exact, strict=True)
                ]
            )
            if recall >= 0.95:
                break
        speed = len(queries) / statistics.median(times)
        written = (folder / "index" / f"faiss-{kind}.index").stat().st_size
        print(
            f"{rows} x {size} {kind:6s} build {build:7.1f} s  {written / 1e6:7.0f} MB  "
            f"effort {effort:2d}  recall@50 {recall:.3f}  {speed:7.1f} queries/s",
            flush=True,
        )
        results[kind] = {
            "build_seconds": build,
            "bytes": written,
            "effort": effort,
            "recall@50": float(recall),
            "queries_per_second": speed,
        }
    return {f"approximate, {rows} x {size}": results}


def main():
    """Runs what --only says and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("inshop", "peak", "million", "approximate"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of --only=approximate")
    parser.add_argument("--index", default="", help="embeddings of --only=approximate")
    parser.add_argument("--json", default="", help="file for the numbers")
    given = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # First: the peak of memory is the process's and never falls again.
        if given.only in (None, "peak"):
            results |= peak()
        if given.only in (None, "inshop"):
            results |= inshop(given.repeats)
        if given.only in (None, "million"):
            results |= million(given.repeats, folder)
        if given.only in (None, "approximate"):
            results |= approximate(given.repeats, folder, given.rows, given.index)
    if given.json:
        write_json(given.json, results)


if __name__ == "__main__":
    main()
