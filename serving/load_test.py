#!/usr/bin/env python
"""Is the model server ready, and how much does it bear?

python serving/load_test.py --server=grpc://localhost:8500 --images=photos --seconds=30
python serving/load_test.py --server=http://localhost:8501 --health
python serving/load_test.py --images=photos --search=10 --label=stable --also=canary
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from fir_tf.errors import FirError
from fir_tf.files import write_json
from fir_tf.serving.both import Differences
from fir_tf.serving.client import Client

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


def _arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="grpc://localhost:8500", help="default: %(default)s")
    parser.add_argument("--model", default="fir", help="name on the server (default: fir)")
    parser.add_argument("--label", default="", help="version by its label, such as stable")
    parser.add_argument("--also", default="", help="label that is asked the same and compared")
    parser.add_argument("--health", action="store_true", help="only ask whether it is ready")
    parser.add_argument("--images", help="folder of photos that are sent in turn")
    parser.add_argument("--seconds", type=float, default=30, help="length (default: 30)")
    parser.add_argument("--clients", type=int, default=4, help="at the same time (default: 4)")
    parser.add_argument("--batch_size", type=int, default=1, help="images a request (default: 1)")
    parser.add_argument("--search", type=int, default=0, help="k of `search`; 0 sends to `embed`")
    parser.add_argument("--output", default="load_test.json", help="results (default: %(default)s)")
    return parser.parse_args()


def _client(arguments):
    return Client(arguments.server, arguments.model, label=arguments.label, also=arguments.also)


def _photos(folder):
    if not folder or not Path(folder).is_dir():
        raise FirError(f"`images` must be a folder of photos. Received: {folder!r}")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FirError(f"`images` has no photo ({', '.join(SUFFIXES)}). Received: {folder!r}")
    return [path.read_bytes() for path in paths[:500]]


def load_test(arguments):
    """Sends photos from several clients at once.

    Args:
        arguments: namespace of the flags.

    Returns:
        dict: requests and images a second, latencies in milliseconds, invalid images, and with
        `also` how far its answers differ.

    Raises:
        FirError: the first that a client met.
    """
    photos = _photos(arguments.images)
    stop = time.monotonic() + arguments.seconds
    latencies, invalid, errors, differences = [], [], [], []

    def work(number):
        rng = np.random.default_rng(number)
        try:
            client = _client(arguments)
            with client:
                while time.monotonic() < stop and not errors:
                    chosen = rng.integers(0, len(photos), arguments.batch_size)
                    batch = [photos[place] for place in chosen]
                    start = time.monotonic()
                    if arguments.search:
                        results = client.search(batch, k=arguments.search)
                    else:
                        results = client.embed(batch)
                    latencies.append(1000 * (time.monotonic() - start))
                    invalid.append(sum(not result.valid for result in results))
            differences.append(client.differences())
        except FirError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(arguments.clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    seconds = time.monotonic() - start
    return {
        "requests": len(latencies),
        "requests_per_second": len(latencies) / seconds,
        "images_per_second": len(latencies) * arguments.batch_size / seconds,
        "invalid_images": int(sum(invalid)),
        **{f"latency_p{p}_ms": float(np.percentile(latencies, p)) for p in (50, 90, 99)},
        **({arguments.also: sum(differences, Differences()).told()} if arguments.also else {}),
    }


def main():
    """Runs the script; returns its exit status."""
    arguments = _arguments()
    try:
        with _client(arguments) as client:
            if not client.ready():
                raise FirError(f"{arguments.server} has no version of {arguments.model} ready")
        print(f"{arguments.server}: {arguments.model} is ready")
        if not arguments.health:
            found = load_test(arguments)
            print(json.dumps(found, indent=2))
            write_json(arguments.output, found)
            print(f"wrote {arguments.output}")
    except FirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
