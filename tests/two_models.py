"""Two models without a network, told apart by the names of their folders: "old" and "new"."""

import contextlib
import dataclasses
import io
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from stub_encoder import StubEncoder, index_options

from fir_tf.errors import FirError
from fir_tf.search import encoder as encoders
from fir_tf.search import indexing
from fir_tf.search.engines import open_engine
from fir_tf.search.opened import Encoded
from fir_tf.search_options import MigrateOptions


class TwoModels(StubEncoder):
    """Embeds a photo as its mean colour, or as its colours' spread; in place of Encoder."""

    def __init__(self, model, crop="", crop_margin=-1.0, **_):
        self.crop, self.margin = crop or "image", max(crop_margin, 0.0)
        self.model = str(model)
        self._new = Path(model).name == "new"
        self.dimension = 6 if self._new else 4

    def fingerprint(self):
        place = str(Path(self.model).resolve())
        return {"model": place, "name": Path(self.model).name, "probes": ""}

    def check(self, fingerprint, where):
        if fingerprint["name"] != Path(self.model).name:
            raise FirError(f"`model` must be the one that {where} was made with")

    def encode(self, photos, guess=False, boxes=None):
        boxes = _each(boxes, len(photos))
        rows = [self._vector(photo, box) for photo, box in zip(photos, boxes, strict=True)]
        return Encoded(
            np.array(rows, np.float32),
            [""] * len(photos),
            np.ones(len(photos), bool),
        )

    def encode_files(self, files, batch_size=64, guess=False, boxes=None):
        for start in range(0, len(files), batch_size):
            part = [Path(file) for file in files[start : start + batch_size]]
            valid = np.array([file.is_file() for file in part])
            own = _each(boxes, len(files))[start : start + batch_size]
            rows = [
                self._vector(file.read_bytes(), box) if there else np.zeros(self.dimension)
                for file, there, box in zip(part, valid, own, strict=True)
            ]
            yield Encoded(np.array(rows, np.float32), [""] * len(part), valid)

    def _vector(self, photo, box=None):
        # Without TensorFlow, whose threads do not survive a fork.
        with Image.open(io.BytesIO(photo)) as image:
            pixels = np.asarray(self._cropped(image.convert("RGB"), box), float)
        values = [*pixels.mean(axis=(0, 1)), 1.0]
        if self._new:
            values = [*(pixels.std(axis=(0, 1)) - 40), *(pixels[::3].mean(axis=(0, 1)) - 128)]
        return np.array(values) / np.linalg.norm(values)

    def _cropped(self, image, box):
        if box is None:
            return image
        (left, top, width, height), in_shares = box
        columns, rows = image.size if in_shares else (1, 1)
        more = self.margin * width, self.margin * height
        return image.crop(
            (
                max(round((left - more[0]) * columns), 0),
                max(round((top - more[1]) * rows), 0),
                min(round((left + width + more[0]) * columns), image.width),
                min(round((top + height + more[1]) * rows), image.height),
            )
        )


def _each(boxes, count):
    """Returns (box, whether in shares) of each photo, None for a whole one."""
    if boxes is None:
        return [None] * count
    return [
        None if np.isnan(box).any() else (box, shares) for box, shares in zip(*boxes, strict=True)
    ]


@contextlib.contextmanager
def two_models(piece=4):
    """Puts them in place; photos are stored in pieces of a few."""
    with (
        mock.patch.object(encoders, "Encoder", TwoModels),
        mock.patch.object(indexing, "PIECE", piece),
    ):
        yield


def make_models(folder):
    """Returns (old, new), the models' folders."""
    places = folder / "old", folder / "new"
    for place in places:
        place.mkdir(parents=True)
    return places


def build(photos, address, model, **changes):
    """Runs `search.py index`."""
    options = dataclasses.replace(index_options(photos, address, **changes), model=str(model))
    return indexing.build(options)


def migration(address, model="", **changes):
    return MigrateOptions(index=str(address), model=str(model), batch_size=4, k=3, **changes)


def contents(address, generation=None):
    """Returns {path: vector rounded} of what answers, or of a generation."""
    with open_engine(address, generation=generation) as engine:
        return {
            record.path: tuple(np.round(vector.astype(float), 4).tolist())
            for part, read in engine.scan(vectors=True)
            for record, vector in zip(part, read, strict=True)
        }


def expected(photos, model, boxes=None, **views):
    """Returns what an index of a folder of photos must contain, by a plain loop.

    `boxes` are those that some photos are cropped to, in pixels, by path.
    """
    encoder = TwoModels(model, **views)

    def vector(file):
        box = (boxes or {}).get(file.relative_to(photos).as_posix())
        return encoder._vector(file.read_bytes(), box and (box, False)).astype(np.float32)

    return {
        file.relative_to(photos).as_posix(): tuple(np.round(vector(file).astype(float), 4).tolist())
        for file in sorted(photos.rglob("*.jpg"))
    }
