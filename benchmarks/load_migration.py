"""Asks `search.py web` while `search.py migrate` gives its index another model.

  nice python benchmarks/load_migration.py --clients=8 --quiet=60

Clients upload photos and search with them without a pause: first for a while alone, then as long as
the migration takes, then for a while with the new model. Every answer is compared with exact search
by the old and by the new model: it must be one of the two, whole. Writes
benchmarks/results/load_migration.json; ends with status 1 if a request failed or an answer was
wrong. Latencies are compared, not judged: the migration embeds on the same cores.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import requests
from load import ROOT, TOLERANCE, photo, serve
from untrained import write_run

import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
import tensorflow as tf

from fir_tf.files import write_json
from fir_tf.search import indexing
from fir_tf.search.encoder import Encoder
from fir_tf.search_options import IndexOptions

K = 10
QUERIES = 40
# Seconds before anything is measured.
WARM_UP = 10


@dataclasses.dataclass(frozen=True)
class Request:
    """One that was made.

    Attributes:
        begun: float, when, in seconds of `time.perf_counter`.
        kind: str, "upload" or "search".
        seconds: float.
        fault: str, what was wrong; empty if nothing was.
        model: str, "old" or "new", whose answer it was; empty for an upload.
    """

    begun: float
    kind: str
    seconds: float
    fault: str = ""
    model: str = ""


class Models:
    """Old and new model, and what exact search finds by either.

    Args:
        folder: Path, gets the runs and the photos.
        count: int, photos in the catalogue.
    """

    def __init__(self, folder, count):
        self.root = folder / "photos"
        self.queries = [photo((n, 1)) for n in range(QUERIES)]
        files = []
        for number in range(count):
            files.append(self.root / "Tops" / f"item{number}" / "0.jpg")
            files[-1].parent.mkdir(parents=True)
            files[-1].write_bytes(photo((number, 0)))
        self.paths = [file.relative_to(self.root).as_posix() for file in files]
        self.runs, self._scores = {}, {}
        for name, size in (("old", 64), ("new", 80)):
            self.runs[name] = write_run(
                folder / name, ["Tops"], backbone="efficientnet_lite0", image_size=size
            )
            encoder = Encoder(self.runs[name])
            vectors = np.concatenate(
                [e.embedding for e in encoder.encode_files(list(map(str, files)))]
            )
            self._scores[name] = encoder.encode(self.queries).embedding @ vectors.T

    def whose(self, query, hits):
        """Returns whose answer this is, "" where it is of neither."""
        for name, scores in self._scores.items():
            found = [scores[query][self.paths.index(hit["path"])] for hit in hits]
            told = [hit["score"] for hit in hits]
            best = np.sort(scores[query])[::-1][:K]
            if np.allclose(found, told, atol=TOLERANCE) and np.allclose(told, best, atol=TOLERANCE):
                return name
        return ""


class Client(threading.Thread):
    """Asks without a pause until it is told to stop."""

    def __init__(self, number, server, models, stop, made):
        super().__init__()
        self._random = np.random.default_rng(number)
        self._server, self._models, self._stopped, self._made = server, models, stop, made

    def run(self):
        """Uploads and searches."""
        with requests.Session() as session:
            while not self._stopped.is_set():
                query = int(self._random.integers(QUERIES))
                answer = self._ask(
                    "upload",
                    lambda: session.post(
                        self._server + "api/photo",
                        data=self._models.queries[query],  # noqa: B023, called at once
                        timeout=60,
                    ),
                )
                if answer is None:
                    continue
                values = {"photo": answer["photo"], "k": K, "group": 0}
                self._ask(
                    "search",
                    lambda: session.get(
                        self._server + "api/search",
                        params=values,  # noqa: B023
                        timeout=60,
                    ),
                    query,
                )

    def _ask(self, kind, call, query=None):
        """Makes a request; returns its JSON, None where it failed."""
        begun = time.perf_counter()
        fault, model, told = "", "", None
        try:
            answer = call()
            seconds = time.perf_counter() - begun
            if answer.status_code != 200:
                fault = f"{kind}: {answer.status_code} {answer.text[:200]}"
            else:
                told = answer.json()
        except requests.RequestException as error:
            seconds, fault = time.perf_counter() - begun, f"{kind}: {error!r}"
        if told and query is not None:
            model = self._models.whose(query, told["results"])
            fault = "" if model else "an answer that is of neither model"
        self._made.append(Request(begun, kind, seconds, fault, model))
        return told


def summary(made, first, last):
    """Returns what was seen between two moments, ready for JSON."""
    within = [request for request in made if first <= request.begun < last]
    kinds = {}
    for kind in ("upload", "search"):
        milliseconds = [1e3 * each.seconds for each in within if each.kind == kind]
        if milliseconds:
            p50, p99 = np.percentile(milliseconds, (50, 99))
            kinds[kind] = {
                "requests": len(milliseconds),
                "p50_ms": p50,
                "p99_ms": p99,
                # A switch for which all wait once is too short for a percentile.
                "longest_ms": max(milliseconds),
            }
    return {
        "seconds": last - first,
        "requests_per_second": len(within) / (last - first),
        "failed": sum(bool(request.fault) for request in within),
        "answers": {
            name: sum(request.model == name for request in within) for name in ("old", "new")
        },
        **kinds,
    }


def migrated(models, address):
    """Runs `search.py migrate` to its end.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "search.py"), "migrate"),
            *(f"--index={address}", f"--model={models.runs['new']}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"search.py migrate failed: {done.stdout}{done.stderr}")


def measure(options, folder):
    """Runs server, clients and migration; returns what goes into the results."""
    models, address = Models(folder, options.photos), folder / "index"
    indexing.build(
        IndexOptions(model=str(models.runs["old"]), images=str(models.root), index=str(address))
    )
    stop, made = threading.Event(), []
    with open(folder / "log", "w") as log:
        process, server = serve(address, log)
        clients = [Client(n, server, models, stop, made) for n in range(options.clients)]
        try:
            for client in clients:
                client.start()
            time.sleep(WARM_UP)
            times = [time.perf_counter()]
            time.sleep(options.quiet)
            times.append(time.perf_counter())
            migrated(models, address)
            times.append(time.perf_counter())
            time.sleep(options.quiet)
            times.append(time.perf_counter())
        finally:
            stop.set()
            for client in clients:
                client.join()
            process.terminate()
            process.wait(60)
    phases = {
        name: summary(made, times[place], times[place + 1])
        for place, name in enumerate(("quiet", "migration", "after"))
    }
    return {
        **phases,
        "p99_ratio": {
            kind: phases["migration"][kind]["p99_ms"] / phases["quiet"][kind]["p99_ms"]
            for kind in ("upload", "search")
        },
        "wrong": sorted({request.fault for request in made if request.fault}),
        "conditions": {
            "clients": options.clients,
            "photos": options.photos,
            "model": "efficientnet_lite0 (ImageNet), 64 px to 80 px",
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "tensorflow": tf.__version__,
        },
    }


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8, help="People who ask at a time.")
    parser.add_argument("--quiet", type=int, default=60, help="Seconds before, and after.")
    parser.add_argument("--photos", type=int, default=500, help="Photos in the catalogue.")
    parser.add_argument("--results", type=Path, help="File for the results.")
    options = parser.parse_args()
    results = options.results or Path(__file__).parent / "results" / "load_migration.json"
    folder = Path(tempfile.mkdtemp(prefix="load-"))
    try:
        values = measure(options, folder)
    finally:
        shutil.rmtree(folder)
    write_json(results, values)
    print(json.dumps(values, indent=2))
    print(f"wrote {results}")
    sys.exit(1 if values["wrong"] else 0)


if __name__ == "__main__":
    main()
