"""Speed of exact search against FAISS, in one run: interleaved, medians and ratios.

  python benchmarks/search.py                      both sizes below, about 10 minutes on 2 cores
  python benchmarks/search.py --only=inshop        14,218 queries x 12,612 rows x 2,048
  python benchmarks/search.py --only=peak          memory of a process that does In-Shop with top_k
  python benchmarks/search.py --only=million       256, 16 queries and one x 1,000,000 rows x 512,
                                                   clustered rows and rows like embeddings
  python benchmarks/search.py --only=approximate   FAISS IVF-PQ and HNSW at recall@50 >= 0.95

Rows are clustered: 10 around each centre, in all directions alike. Those like embeddings are of
10 photos of each garment, and their second moment has eigenvalues that fall as those of photos do:
i^-1.1 behind a first one of .33, measured on 3,856 photos of clothes by EfficientNet-Lite0 with
ImageNet's weights. --only=approximate takes real embeddings with --index=<folder that search.py
index wrote>. usearch and turbovec are measured where they are installed.
"""

import argparse
import functools
import importlib.util
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import faiss
import numpy as np

from fir_tf import bounds
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


def alike(rows, size, queries, path):
    """As `clustered`, of a million garments' photos rather than of directions."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, size, dtype=np.float32) ** -0.55
    spread *= np.sqrt(0.67 / (spread**2).sum())
    garments = rng.standard_normal((max(1, rows // 10), size - 1), dtype=np.float32)
    gallery = np.memmap(path, np.float32, "w+", shape=(rows, size))
    for part in (gallery, asked := np.empty((queries, size), np.float32)):
        for start in range(0, len(part), 10_000):
            block = part[start : start + 10_000]
            photos = np.sqrt(0.7) * garments[rng.integers(0, len(garments), len(block))]
            photos += np.sqrt(0.3) * rng.standard_normal(photos.shape, dtype=np.float32)
            block[:, 0], block[:, 1:] = np.sqrt(0.33), photos * spread
            block /= np.linalg.norm(block, axis=1, keepdims=True)
    gallery.flush()
    return np.memmap(path, np.float32, "c", shape=(rows, size)), asked


def compare(name, calls, repeats):
    """Times {label: function} in turns; returns their medians and prints ratios."""
    times = {label: [] for label in calls}
    for _ in range(repeats):
        for label, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            times[label].append((time.perf_counter() - start, time.process_time() - used))
    medians = {label: np.median(values, axis=0).tolist() for label, values in times.items()}
    reference = medians["FAISS Flat"]
    for label, (seconds, processor) in medians.items():
        spread = f"{min(times[label])[0]:.3f} to {max(times[label])[0]:.3f}"
        print(
            f"{name:26s} {label:16s} {seconds:8.3f} s ({spread}), processor {processor:7.3f} s  "
            f"{reference[0] / seconds:5.2f}, {reference[1] / processor:5.2f} x Flat",
            flush=True,
        )
    return {"median_seconds, processor_seconds": medians, "all_seconds": times}


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


def rescored(candidates, gallery, queries):
    """Returns the best K by exact scores of candidates, int [q, c], -1 where there are fewer."""
    found = []
    for rows, query in zip(candidates, queries, strict=True):
        rows = np.sort(rows[rows >= 0]).astype(np.int64)
        found.append(rows[np.argsort(-(gallery[rows] @ query), kind="stable")[:K]])
    return found


def enough(search, gallery, queries, exact):
    """Returns a search that rescores enough candidates for a recall@K of .995, and the recall."""
    for count in (K, 2 * K, 4 * K, 8 * K, 16 * K, 32 * K):
        found = rescored(search(queries, count), gallery, queries)
        pairs = zip(found, exact, strict=True)
        recall = np.mean([len(set(ours) & set(rows)) / K for ours, rows in pairs])
        if recall >= 0.995:
            break
    return lambda part: rescored(search(part, count), gallery, part), f"{recall:.3f} of {count}"


def others(gallery, queries, exact):
    """Returns {label: function of queries} of other libraries, and prints their recall."""
    found = {}
    small = faiss.index_factory(gallery.shape[1], "PCA128,SQ8")
    small.train(np.ascontiguousarray(gallery[::20]))
    for start in range(0, len(gallery), 50_000):
        small.add(np.ascontiguousarray(gallery[start : start + 50_000]))
    searches = {"PCA128,SQ8,RFlat": lambda part, count: small.search(part, count)[1]}
    if importlib.util.find_spec("turbovec"):
        import turbovec

        codes = turbovec.TurboQuantIndex(dim=gallery.shape[1], bit_width=4)
        for start in range(0, len(gallery), 50_000):
            codes.add(np.ascontiguousarray(gallery[start : start + 50_000]))
        searches["turbovec 4 bits"] = lambda part, count: codes.search(part, k=count)[1]
    for label, search in searches.items():
        found[label], recall = enough(search, gallery, queries, exact)
        print(f"{label}: recall@{K} {recall} candidates", flush=True)
    if importlib.util.find_spec("usearch"):
        from usearch.index import MetricKind
        from usearch.index import search as scan

        found["usearch exact"] = lambda part: scan(
            gallery, part, K, MetricKind.IP, exact=True, threads=os.cpu_count()
        )
    return found


def million(repeats, folder, rows):
    """A large shop: many queries at a time, few, and one."""
    results = {}
    for kind, make in (("alike", alike), ("clustered", clustered)):
        gallery, queries = make(rows, 512, 256, folder / kind)
        index = flat(gallery)
        check(gallery, queries[:4], index)
        start = time.perf_counter()
        bounds.write(folder / "bounds", gallery)
        known = bounds.read(folder / "bounds", gallery)
        widths = [stage.shape[1] for stage in known.stages]
        print(f"{kind}: bounds of {widths} numbers in {time.perf_counter() - start:.1f} s")

        def bounded(part, known=known, gallery=gallery):
            kept = known.narrow(part[0], gallery, K).rows if len(part) == 1 else None
            return top_k(part, gallery, K, gallery_rows=kept)

        narrowed = [known.narrow(query, gallery, K) for query in queries[:64]]
        kept = [len(gallery if each.rows is None else each.rows) for each in narrowed]
        touched = [
            each.read + count * gallery[0].nbytes
            for each, count in zip(narrowed, kept, strict=True)
        ]
        print(
            f"{kind}: of 64 queries one scores {np.median(kept):.0f} rows in the median, "
            f"{np.mean(kept):.0f} in the mean, {max(kept)} at most; it reads "
            f"{np.median(touched) / 1e6:.0f}, {np.mean(touched) / 1e6:.0f}, "
            f"{max(touched) / 1e6:.0f} MB of {gallery.nbytes / 1e6:.0f}"
        )
        exact = index.search(queries[:16], K)[1]
        further = others(gallery, queries[:16], exact)
        for count in (256, 16, 4, 1):
            part = queries[:count]
            for mine, theirs in zip(bounded(part), top_k(part, gallery, K), strict=True):
                np.testing.assert_array_equal(mine, theirs)
            calls = {
                "FAISS Flat": functools.partial(index.search, k=K),
                "top_k": functools.partial(top_k, gallery=gallery, k=K),
                "bounded": bounded,
                **(further if count <= 16 else {}),
            }
            # One query after another, so that easy and hard ones are asked.
            turns = {
                label: functools.partial(in_turns, call, part if count > 1 else queries[:16], count)
                for label, call in calls.items()
            }
            name = f"{kind} {count} x {rows}"
            results[name] = compare(name, turns, repeats)
    return results


def in_turns(call, queries, count):
    """Asks `count` queries at a time."""
    for start in range(0, len(queries), count):
        call(queries[start : start + count])


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
    parser.add_argument("--large_rows", type=int, default=1_000_000, help="rows of --only=million")
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
            results |= million(given.repeats, folder, given.large_rows)
        if given.only in (None, "approximate"):
            results |= approximate(given.repeats, folder, given.rows, given.index)
    if given.json:
        write_json(given.json, results)


if __name__ == "__main__":
    main()
