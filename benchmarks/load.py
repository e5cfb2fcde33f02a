"""Loads `search.py web` while its index is being written and its writer killed.

  nice python benchmarks/load.py --clients=8 --seconds=60
  nice python benchmarks/load.py --clients=8 --seconds=120 --compare_batches=8

Clients upload photos and search with them, send bad files, break off uploads. Meanwhile photos are
added to the catalogue, replaced and removed, and `search.py index` follows, every other time killed
with kill -9 in the middle of its writing. Checked are every answer against exact search among
vectors computed beforehand, the index against the same vectors at the end, the server's log and its
memory. Writes benchmarks/results/load.json; ends with status 1 if anything was wrong.

--compare_batches measures what embedding photos together gains instead, see load_batches.py.
"""

import argparse
import collections
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fir_tf  # noqa: F401, before TensorFlow, whose environment it sets

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
import requests
import tensorflow as tf
from load_batches import Server, compare
from PIL import Image
from tqdm import tqdm
from untrained import write_run

from fir_tf.files import write_json
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import open_engine

ROOT = Path(__file__).parent.parent
CATEGORIES = ("Dresses", "Tops")
# Scores come rounded to four digits.
TOLERANCE = 1e-4
# The server refuses larger files; each photo here has a few kilobytes.
MAX_UPLOAD_MB = 1
# Photos to add, more than the writer gets to.
ADDED = 200
# In this share of the time memory may settle: TensorFlow's and malloc's own caches.
WARM_UP = 1 / 3
# Seconds that clients go on for a writer that takes long to start on a busy machine.
PATIENCE = 60
# `search.py index`, storing every few photos instead of every few hundred, so that a kill finds it
# between two pieces.
WRITER = """
import sys
from fir_tf.search import indexing
from fir_tf.search_options import IndexOptions
indexing.PIECE = 4
indexing.build(IndexOptions(*sys.argv[1:], batch_size=4))
"""


def untrained(folder):
    """Writes a run of ImageNet's EfficientNet-Lite0 at 64 pixels; returns its folder."""
    return write_run(folder, list(CATEGORIES), backbone="efficientnet_lite0", image_size=64)


def photo(seed):
    """Returns a JPEG of smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((300, 400), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


class Catalogue:
    """The photos on the disk, those to come, and the vectors of all of them.

    Some photos stay from the first to the last moment, some are added, some of them replaced or
    removed in between. `versions` has the contents that a path may have: more than one for those
    that are replaced.
    """

    def __init__(self, root, count):
        self.root = root
        self.stays, self.added, self.changing = [], [], []
        self.versions = {}
        for number in range(count):
            category = CATEGORIES[number // 2 % 2]
            self._plan(self.stays, f"{category}/item{number // 2}/{number % 2}.jpg", 1)
        for number in range(ADDED):
            self._plan(self.added, f"New/new{number}/0.jpg", 1)
        for number in range(count):
            self._plan(self.changing, f"Changing/changing{number}/0.jpg", 2)
        self.queries = [self.versions[path][0] for path in self.stays]
        self.queries += [photo((n, 2)) for n in range(count)]

    def _plan(self, paths, path, versions):
        paths.append(path)
        self.versions[path] = [photo((len(self.versions), n)) for n in range(versions)]

    def embed(self, encoder):
        """Embeds all versions and queries, one photo at a time."""
        paths = tqdm(self.versions, desc="exact answers", disable=None, leave=False)
        self.vectors = {
            path: np.concatenate([embed(encoder, one) for one in self.versions[path]])
            for path in paths
        }
        self.query_vectors = np.concatenate([embed(encoder, one) for one in self.queries])

    def write(self, path, version=0):
        """Puts a photo in its place, whole."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(".part")
        temporary.write_bytes(self.versions[path][version])
        temporary.rename(target)

    def paths(self):
        """Returns the set of photos that are there."""
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*.jpg")}


def embed(encoder, contents):
    """Returns the vector of a photo, float64 [1, d]."""
    return encoder.encode([contents]).embedding.astype(np.float64)


def wrong_in(hits, query, catalogue, required, where, group, k):
    """Compares an answer with exact search.

    Args:
        hits: list of dict, the server's.
        query: int, number of the query.
        catalogue: Catalogue.
        required: iterable of the paths that were in the index before the question was asked.
        where: str, the category asked for; empty for all.
        group: bool, whether an item counts once.
        k: int, hits that were asked for.

    Returns:
        str, what is wrong; empty if nothing is.
    """
    vector = catalogue.query_vectors[query]
    key = os.path.dirname if group else str
    scores = [hit["score"] for hit in hits]
    keys = {key(hit["path"]) for hit in hits}
    if scores != sorted(scores, reverse=True) or len(keys) != len(hits) or len(hits) > k:
        return "not in order, or twice the same"
    for hit in hits:
        exact = catalogue.vectors[hit["path"]] @ vector
        if np.abs(exact - hit["score"]).min() > TOLERANCE:
            return f"{hit['path']} scores {exact}, not {hit['score']}"
        if where and hit["category"] != where:
            return f"{hit['path']} is not in {where}"
    last = scores[-1] if len(hits) == k else -np.inf
    for path in required:
        if where and not path.startswith(where + "/"):
            continue
        if catalogue.vectors[path][0] @ vector > last + TOLERANCE and key(path) not in keys:
            return f"{path} is missing"
    return ""


class Writer(threading.Thread):
    """Changes the photos and runs the indexer, every other time killing it."""

    def __init__(self, catalogue, run, address, stop):
        super().__init__()
        self.catalogue, self.address, self.stopped = catalogue, address, stop
        self.command = [sys.executable, "-c", WRITER, run, catalogue.root, address]
        self.left = list(catalogue.added)
        self.there, self.known = [], ()
        self.killed = self.finished = 0
        self.error = ""
        self._random = random.Random(0)

    def run(self):
        """Writes until it is told to stop, then once more to the end."""
        try:
            while not self.stopped.is_set() and self.left:
                self._change()
                self._index(kill=self.finished >= self.killed)
            self._index(kill=False)
        # Told by the main thread.
        except Exception as error:
            self.error = repr(error)

    def _change(self):
        for _ in range(min(20, len(self.left))):
            path = self.left.pop()
            self.catalogue.write(path)
            self.there.append(path)
        for path in self.catalogue.changing:
            if self._random.random() < 0.3:
                (self.catalogue.root / path).unlink(missing_ok=True)
            else:
                self.catalogue.write(path, self._random.randrange(2))

    def _index(self, kill):
        before = tuple(self.there)
        process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if kill:
            with open_engine(self.address) as engine:
                stored = engine.labels()["category"].get("New")
                while process.poll() is None and engine.labels()["category"].get("New") == stored:
                    time.sleep(0.002)
            time.sleep(self._random.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        error = process.communicate()[1]
        if process.returncode == -signal.SIGKILL:
            self.killed += 1
        elif process.returncode:
            raise RuntimeError(f"search.py index failed: {error}")
        else:
            self.finished += 1
            self.known = before


@dataclasses.dataclass
class Tally:
    """What the clients have seen."""

    seconds: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    wrong: list = dataclasses.field(default_factory=list)

    def timed(self, kind, call):
        """Returns what `call` returns, keeping its time."""
        begin = time.perf_counter()
        answer = call()
        self.seconds[kind].append(time.perf_counter() - begin)
        return answer


def bad_files():
    """Returns [(contents, statuses)] of what is no photo."""
    wide = io.BytesIO()
    Image.new("1", (10_000, 7_000)).save(wide, "PNG")
    return [
        (b"no image at all", (415,)),
        (b"", (400,)),
        (photo(1)[:200], (415,)),
        (wide.getvalue(), (413,)),
        (bytes(MAX_UPLOAD_MB * 1_000_000 + 1), (413,)),
    ]


class Client(threading.Thread):
    """A person who searches, now and then with a bad file or breaking off."""

    def __init__(self, number, server, catalogue, writer, tally, stop):
        super().__init__()
        self.server, self.catalogue, self.writer = server, catalogue, writer
        self.tally, self.stopped = tally, stop
        self._random, self._bad = random.Random(number), bad_files()

    def run(self):
        """Asks until it is told to stop."""
        with requests.Session() as session:
            while not self.stopped.is_set():
                chosen = self._random.random()
                try:
                    if chosen < 0.75:
                        self._search(session)
                    elif chosen < 0.9:
                        self._send_bad(session)
                    else:
                        self._break_off()
                # Told by the main thread; a client that stopped would leave the load too light.
                except Exception as error:
                    self.tally.wrong.append(repr(error))

    def _search(self, session):
        query = self._random.randrange(len(self.catalogue.queries))
        contents = self.catalogue.queries[query]
        answer = self.tally.timed(
            "upload", lambda: session.post(self.server + "api/photo", data=contents, timeout=60)
        )
        if answer.status_code != 200:
            self.tally.wrong.append(f"upload: {answer.status_code} {answer.text}")
            return
        where, group = self._random.choice(["", *CATEGORIES]), self._random.random() < 0.5
        values = {"photo": answer.json()["photo"], "k": 10, "group": int(group)}
        if where:
            values["category"] = where
        required = (*self.catalogue.stays, *self.writer.known)
        answer = self.tally.timed(
            "search", lambda: session.get(self.server + "api/search", params=values, timeout=60)
        )
        if answer.status_code != 200:
            self.tally.wrong.append(f"search: {answer.status_code} {answer.text}")
            return
        hits = answer.json()["results"]
        if wrong := wrong_in(hits, query, self.catalogue, required, where, group, 10):
            self.tally.wrong.append(f"search: {wrong}")
            return
        path = self._random.choice(self.catalogue.stays)
        answer = self.tally.timed(
            "image",
            lambda: session.get(self.server + "image", params={"path": path}, timeout=60),
        )
        if answer.status_code != 200:
            self.tally.wrong.append(f"image: {answer.status_code} {answer.text}")

    def _send_bad(self, session):
        contents, statuses = self._random.choice(self._bad)
        try:
            answer = self.tally.timed(
                "bad file",
                lambda: session.post(self.server + "api/photo", data=contents, timeout=60),
            )
        except requests.ConnectionError:
            # The server has answered and closed before all was sent.
            if len(contents) <= MAX_UPLOAD_MB * 1_000_000:
                raise
            return
        if answer.status_code not in statuses:
            self.tally.wrong.append(f"bad file: {answer.status_code}, not {statuses}")

    def _break_off(self):
        host, port = self.server.removeprefix("http://").rstrip("/").split(":")
        contents = self._random.choice(self.catalogue.queries)
        # In the middle, or with all sent and the answer not waited for.
        part = self._random.choice([len(contents) // 2, len(contents)])
        head = f"POST /api/photo HTTP/1.1\r\nHost: x\r\nContent-Length: {len(contents)}\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + contents[:part])
        self.tally.seconds["broken off"].append(0.0)


def serve(address, log, *flags):
    """Starts `search.py web` with more flags; returns (process, its URL)."""
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "search.py"),
            "web",
            f"--index={address}",
            "--port=0",
            f"--max_upload_mb={MAX_UPLOAD_MB}",
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    line = process.stdout.readline()
    if not line.startswith("http://"):
        raise RuntimeError(f"the server did not start: {line}")
    return process, line.split()[0]


def lost_in(address, catalogue):
    """Returns the photos whose vectors are not in the index, or are not theirs."""
    with open_engine(address) as engine:
        found = {
            record.path: vector
            for part, read in engine.scan(vectors=True)
            for record, vector in zip(part, read, strict=True)
        }
    there = catalogue.paths()
    lost = [f"{path} is not in the index" for path in there - set(found)]
    lost += [f"{path} is gone, but in the index" for path in set(found) - there]
    for path in there & set(found):
        contents = (catalogue.root / path).read_bytes()
        exact = catalogue.vectors[path][catalogue.versions[path].index(contents)]
        if np.abs(found[path] - exact).max() > TOLERANCE:
            lost.append(f"{path} has another vector")
    return lost


def measure(options, folder):
    """Runs clients, writer and server; returns what goes into the results."""
    run = Path(options.run) if options.run else untrained(folder / "run")
    catalogue, address = Catalogue(folder / "photos", options.photos), folder / "index"
    catalogue.embed(Encoder(run))
    for path in (*catalogue.stays, *catalogue.changing):
        catalogue.write(path)
    stop, tally = threading.Event(), Tally()
    writer = Writer(catalogue, run, address, stop)
    writer._index(kill=False)
    writer.finished = 0
    memory = []
    with open(folder / "log", "w+") as log:
        process, server = serve(address, log)
        watched = psutil.Process(process.pid)
        clients = [
            Client(number, server, catalogue, writer, tally, stop)
            for number in range(options.clients)
        ]
        try:
            begin = time.perf_counter()
            for thread in (*clients, writer):
                thread.start()
            with tqdm(total=options.seconds, desc="load", unit="s", disable=None) as bar:
                while (passed := time.perf_counter() - begin) < options.seconds or (
                    passed < options.seconds + PATIENCE
                    and writer.is_alive()
                    and not (writer.killed and writer.finished)
                ):
                    time.sleep(0.5)
                    memory.append(watched.memory_info().rss / 2**20)
                    bar.update(0.5)
            stop.set()
            for client in clients:
                client.join()
            seconds = time.perf_counter() - begin
            writer.join()
        finally:
            stop.set()
            process.terminate()
            process.wait(60)
        log.seek(0)
        said = log.read()
    settled = memory[: max(1, round(WARM_UP * len(memory)))]
    growth = max(memory) - max(settled)
    requests_made = sum(len(times) for times in tally.seconds.values())
    wrong = tally.wrong + lost_in(address, catalogue)
    if writer.error:
        wrong.append(writer.error)
    if "Traceback" in said:
        wrong.append("the server's log has a traceback:\n" + said[-2000:])
    if growth > options.growth_mb:
        wrong.append(f"the server grew by {growth:.0f} MiB, more than {options.growth_mb}")
    return {
        "clients": options.clients,
        "seconds": seconds,
        "requests": {kind: len(times) for kind, times in tally.seconds.items()},
        "requests_per_second": requests_made / seconds,
        "milliseconds": {
            kind: {
                "p50": 1e3 * statistics.median(times),
                "p99": 1e3 * float(np.percentile(times, 99)),
            }
            for kind, times in tally.seconds.items()
            if any(times)
        },
        "memory_mib": {
            "warm": max(settled),
            "peak": max(memory),
            "growth": growth,
            "bound": options.growth_mb,
        },
        "photos": {"at_first": 2 * options.photos, "at_last": len(catalogue.paths())},
        "writer": {"finished": writer.finished, "killed": writer.killed},
        "wrong": wrong,
        "conditions": {
            "model": options.run or "efficientnet_lite0 (ImageNet) at 64 px",
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "tensorflow": tf.__version__,
        },
    }


def measure_batches(options, folder):
    """Runs two servers in turns; returns what goes into the results."""
    run = Path(options.run) if options.run else untrained(folder / "run")
    catalogue, address = Catalogue(folder / "photos", options.photos), folder / "index"
    for path in catalogue.stays:
        catalogue.write(path)
    Writer(catalogue, run, address, threading.Event())._index(kill=False)
    with open(folder / "log", "w") as log:
        started = [
            serve(address, log, f"--max_batch={most}", f"--batch_wait_ms={options.batch_wait_ms}")
            for most in (1, options.compare_batches)
        ]
        try:
            servers = [Server(process, url, options.clients) for process, url in started]
            values = compare(*servers, photo, options.seconds, 8 * options.clients)
        finally:
            for process, _ in started:
                process.terminate()
                process.wait(60)
    values["conditions"]["model"] = options.run or "efficientnet_lite0 (ImageNet) at 64 px"
    for name in ("clients", "compare_batches", "batch_wait_ms"):
        values["conditions"][name] = getattr(options, name)
    return values


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8, help="People who ask at a time.")
    parser.add_argument(
        "--seconds",
        type=int,
        default=60,
        help="How long they ask; up to a minute longer for the writer to be killed and to finish.",
    )
    parser.add_argument("--photos", type=int, default=40, help="Photos that are there all along.")
    parser.add_argument("--run", default="", help="A run's folder instead of ImageNet's features.")
    parser.add_argument(
        "--growth_mb", type=float, default=64, help="MiB the server may grow by after warm-up."
    )
    parser.add_argument(
        "--compare_batches",
        type=int,
        default=0,
        help="Compare batches of this many photos with embedding one by one instead.",
    )
    parser.add_argument(
        "--batch_wait_ms", type=float, default=0.0, help="The servers' flag, for that."
    )
    parser.add_argument("--results", type=Path, help="File for the results.")
    options = parser.parse_args()
    name = "load_batches.json" if options.compare_batches else "load.json"
    results = options.results or Path(__file__).parent / "results" / name
    folder = Path(tempfile.mkdtemp(prefix="load-"))
    try:
        values = (measure_batches if options.compare_batches else measure)(options, folder)
    finally:
        shutil.rmtree(folder)
    write_json(results, values)
    print(json.dumps(values, indent=2))
    print(f"wrote {results}")
    sys.exit(1 if values["wrong"] else 0)


if __name__ == "__main__":
    main()
