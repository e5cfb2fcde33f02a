"""What embedding together gains: two servers of one index, asked in turns by the same clients.

`python benchmarks/load.py --compare_batches=8` runs it: one server embeds photos one by one
(`--max_batch=1`), the other as many as wait. Each photo is sent once to each of them, and both must
find the same with the same scores.
"""

import concurrent.futures
import os
import statistics
import time

import numpy as np
import psutil
import requests
from tqdm import tqdm

import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
import tensorflow as tf

# Scores come rounded to four digits.
TOLERANCE = 2e-4


class Server:
    """One of the two, and what it was seen to do.

    Args:
        process: subprocess.Popen.
        url: str.
        clients: int, photos on their way at a time.
    """

    def __init__(self, process, url, clients):
        self.url, self._clients, self._process = url, clients, psutil.Process(process.pid)
        self._session = requests.Session()
        self._session.mount(url, requests.adapters.HTTPAdapter(pool_maxsize=clients))
        self.latencies, self.rates = [], []

    def processor_seconds(self):
        """Returns what the process has used so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def batches(self):
        """Returns how many there were so far."""
        lines = self._session.get(self.url + "metrics", timeout=60).text.splitlines()
        return next(float(line.split()[1]) for line in lines if "fir_batch_photos_count " in line)

    def begin(self):
        """Forgets what was: from here it is measured."""
        self.latencies, self.rates = [], []
        self._before = self.processor_seconds(), self.batches()

    def round(self, photos):
        """Uploads photos; returns the names that they can be asked for by."""
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(self._clients) as pool:
            names = list(pool.map(self._upload, photos))
        self.rates.append(len(photos) / (time.perf_counter() - begin))
        return names

    def _upload(self, contents):
        begin = time.perf_counter()
        answer = self._session.post(self.url + "api/photo", data=contents, timeout=120)
        self.latencies.append(time.perf_counter() - begin)
        answer.raise_for_status()
        return answer.json()["photo"]

    def found(self, name):
        """Returns {path: score} of the ten nearest to an uploaded photo."""
        values = {"photo": name, "k": 10, "group": 0}
        answer = self._session.get(self.url + "api/search", params=values, timeout=60)
        return {hit["path"]: hit["score"] for hit in answer.json()["results"]}

    def told(self):
        """Returns what goes into the results."""
        used, batches = self._before
        return {
            # Rounds are equally long: their rates' harmonic mean is that of all.
            "images_per_second": statistics.harmonic_mean(self.rates),
            "p50_ms": 1e3 * statistics.median(self.latencies),
            "p99_ms": 1e3 * float(np.percentile(self.latencies, 99)),
            "processor_ms_per_image": 1e3 * (self.processor_seconds() - used) / len(self.latencies),
            "images_per_batch": len(self.latencies) / (self.batches() - batches),
        }


def compare(alone, together, photo, seconds, each):
    """Asks both servers in turns.

    Args:
        alone: Server that embeds photos one by one.
        together: Server that embeds them in batches.
        photo: callable of a seed, returns a photo's contents.
        seconds: float, for both together.
        each: int, photos in a round.

    Returns:
        dict for the results; `wrong` lists what the two do not agree in.
    """
    servers = (alone, together)
    for server in servers:
        server.round([photo((9, n)) for n in range(each)])
        server.begin()
    names = []
    with tqdm(total=seconds, desc="rounds", unit="s", disable=None) as bar:
        begin = time.perf_counter()
        while (passed := time.perf_counter() - begin) < seconds:
            turn = len(alone.rates)
            photos = [photo((10, turn, n)) for n in range(each)]
            # Who begins takes turns as well.
            asked = {server: server.round(photos) for server in servers[:: 1 - 2 * (turn % 2)]}
            names += zip(asked[alone][::16], asked[together][::16], strict=True)
            bar.update(time.perf_counter() - begin - passed)
    one_by_one, batched = (server.told() for server in servers)
    ratios = [b / a for a, b in zip(alone.rates, together.rates, strict=True)]
    return {
        "one_by_one": one_by_one,
        "together": batched,
        "ratio": batched["images_per_second"] / one_by_one["images_per_second"],
        "ratio_of_rounds": {"least": min(ratios), "median": statistics.median(ratios)},
        "rounds": len(ratios),
        "compared": len(names),
        "wrong": [
            w for one, other in names if (w := differing(alone.found(one), together.found(other)))
        ],
        "conditions": {
            "photos_in_a_round": each,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "tensorflow": tf.__version__,
        },
    }


def differing(left, right):
    """Returns what two answers, {path: score}, do not agree in; empty if they do.

    The last place may be another one, where scores are all but equal.
    """
    both = left.keys() & right.keys()
    apart = max((abs(left[path] - right[path]) for path in both), default=1.0)
    same = len(both) >= max(len(left), len(right)) - 1 and apart <= TOLERANCE
    return "" if same else f"one by one {left}, together {right}"
