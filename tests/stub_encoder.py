"""An encoder without a network, for tests of what an index keeps and not of what it is made from."""

import io
import os

import numpy as np
from PIL import Image

from fir_tf.search.engines import open_engine
from fir_tf.search.opened import Encoded
from fir_tf.search_options import IndexOptions


class StubEncoder:
    """Embeds a photo as its mean colour; takes the place of `fir_tf.search.encoder.Encoder`."""

    dimension = 4
    crop, margin = "image", 0.0

    def __init__(self, model, **_):
        self.model = model

    def fingerprint(self):
        return {"model": self.model, "name": "stub", "probes": ""}

    def check(self, fingerprint, where):
        assert fingerprint["name"] == "stub", where

    def encode_files(self, files, batch_size, guess=False):
        for start in range(0, len(files), batch_size):
            yield self.encode([_contents(path) for path in files[start : start + batch_size]])

    def encode(self, photos, guess=False, boxes=None):
        vectors = [_mean_colour(contents) for contents in photos]
        valid = np.array([vector is not None for vector in vectors])
        rows = [np.zeros(4) if vector is None else vector for vector in vectors]
        return Encoded(np.array(rows, np.float32), [""] * len(rows), valid)


def _contents(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _mean_colour(contents):
    try:
        with Image.open(io.BytesIO(contents)) as image:
            colour = np.asarray(image.convert("RGB"), float).mean(axis=(0, 1))
    except OSError:
        return None
    vector = np.append(colour, 1.0)
    return vector / np.linalg.norm(vector)


def index_options(images, address, **changes):
    return IndexOptions(
        model="stub", images=os.fspath(images), index=str(address), batch_size=4, **changes
    )


def stored(address):
    """Returns {path: (Record, list of the vector's numbers)} of an index."""
    with open_engine(address) as engine:
        return {
            record.path: (record, vector.tolist())
            for part, read in engine.scan(vectors=True)
            for record, vector in zip(part, read, strict=True)
        }
