"""A new generation of an index, filled beside the one that answers.

The photos to embed are those that the current generation has, and they are looked through again
until nothing is new: so an `index` run in the meantime writes to one generation alone, and what it
changed is taken in.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.search import encoder as encoders
from fir_tf.search.calibrated import kept
from fir_tf.search.columns import told_of
from fir_tf.search.cropped import cropped_alike, cropping_of, unread, without_box
from fir_tf.search.engines import Engine, Generations, Record, generations_of
from fir_tf.search.engines.base import shown
from fir_tf.search.indexing import Update, how_embedded
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.reference import referenced
from fir_tf.search_options import NewModelOptions

log = logging.getLogger(__package__)


@contextlib.contextmanager
def migrating(address: str) -> Iterator[Generations]:
    """Yields the generations of an index that no other process migrates.

    Raises:
        FirError: there is no index, its engine has no generations, or another process migrates it.
    """
    generations = generations_of(address)
    if generations is None:
        raise FirError(
            f"the engine of {shown(address)} keeps one generation of vectors alone. Index the "
            "photos with the new model at another address, and ask that one"
        )
    with generations:
        generations.open().close()
        with generations.holding("migrating", alone=True):
            clear_away(generations)
            yield generations


def clear_away(generations: Generations) -> None:
    """Removes the generation that is leaving, also where that was interrupted before."""
    leaving = generations.state().leaving
    if leaving is not None:
        generations.drop(leaving)
        generations.change(leaving=None)


def fits(encoder: encoders.Encoder, info: dict[str, Any], address: str) -> bool:
    """Whether a model, with what it looks at of a photo, is the one that vectors are of.

    Raises:
        FirError: they were made without one, or it looks at boxes that the index does not have.
    """
    if not info.get("model") or "root" not in info:
        raise FirError(
            f"`index` must be one of photos and a model, filled by search.py index. Received: "
            f"{shown(address)}"
        )
    if _is_of(encoder, info):
        return True
    if encoder.crop == "box" and cropping_of(info["how"])["crop"] != "box":
        raise FirError(
            f"the index {shown(address)} is of whole photos and has no boxes, which `model` looks "
            f"at. Received: {encoder.model}. Give --crop=image, or index the photos with it at "
            "another address"
        )
    return False


def _is_of(encoder: encoders.Encoder, info: dict[str, Any]) -> bool:
    try:
        encoder.check(info["model"], "the index")
    except FirError:
        return False
    return cropped_alike(info["how"], {"crop": encoder.crop, "crop_margin": encoder.margin})


def open_coming(
    generations: Generations, encoder: encoders.Encoder, options: NewModelOptions
) -> Engine:
    """Opens the generation that is to be filled, a new one where there is none.

    Raises:
        FirError: the last migration was not finished, or another one is under way.
    """
    state = generations.state()
    name = state.coming
    if name is None:
        if state.previous is not None:
            raise FirError(
                "the index has the vectors of the model before still. Remove them with migrate "
                "--finish, or go back to them with migrate --rollback"
            )
        # Named before it is made: what a killed process leaves is known.
        name = f"gen{state.named + 1}"
        generations.change(coming=name, named=state.named + 1)
    engine = generations.open(name, create=True)
    try:
        _claim(engine, encoder, options)
    except BaseException:
        engine.close()
        raise
    return engine


def _claim(engine: Engine, encoder: encoders.Encoder, options: NewModelOptions) -> None:
    """Says in a new generation which model it is of, or compares what it says."""
    info = engine.info()
    if not info:
        how = how_embedded(encoder, options)
        info = {"model": encoder.fingerprint(), "dimension": encoder.dimension, "how": how}
        engine.set_info({**info, **kept(encoder, how)})
        return
    if not _is_of(encoder, info):
        crop = cropping_of(info["how"])
        raise FirError(
            f"a migration to {info['model']['model']} is under way, with --crop={crop['crop']} "
            f"--crop_margin={crop['crop_margin']:g}. Give that, or remove what it embedded with "
            f"migrate --rollback. Received: {options.model}, --crop={encoder.crop} "
            f"--crop_margin={encoder.margin:g}"
        )


@dataclasses.dataclass
class Filling:
    """A new generation that comes to have the photos of the current one.

    Attributes:
        before: Engine, the current generation.
        after: Engine, the new one.
        encoder: Encoder, the new model.
        options: NewModelOptions.
        lost: list of str, photos that cannot be read now; the new generation is without them.
    """

    before: Engine
    after: Engine
    encoder: encoders.Encoder
    options: NewModelOptions
    lost: list[str] = dataclasses.field(default_factory=list)

    @property
    def root(self) -> Path:
        """The photos' folder."""
        return Path(self.options.images or self.before.info()["root"])

    def fill(self) -> None:
        """Looks through the photos until nothing is new, and says that the generation is whole."""
        changed = False
        while self._look():
            changed = True
        info = self.after.info()
        told = told_of(part for part, _ in self.after.scan())
        before = self.before.info()
        same: dict[str, Any] = {name: before[name] for name in ("root", "walked") if name in before}
        whole = {**info, **same, **told}
        if changed or whole != info:
            self.after.flush()
            self.after.set_info({**whole, **referenced(self.after, whole)})

    def _look(self) -> int:
        """Takes over what the current generation has and the new one has not; returns how much."""
        wanted = records_by_path(self.before)
        if self.encoder.crop != "box":
            wanted = {path: without_box(record) for path, record in wanted.items()}
        there = records_by_path(self.after)
        gone = [path for path in there if path not in wanted]
        if gone:
            self.after.delete(gone)
        new = [unread(record) for path, record in wanted.items() if record != there.get(path)]
        with PhotoFiles(self.root, self.options) as files:
            update = Update(self.after, self.encoder, files, there, self.options.batch_size)
            for part in files.look(new, there, float("inf"), False):
                update.add(part)
            done = update.finish()
        self.lost = [fault.path for fault in done.failures if fault.path not in there]
        counts = {
            "embedded": done.embedded,
            "relabelled": done.relabelled,
            "removed": len(gone),
        }
        if any(counts.values()):
            log.info(", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
        return sum(counts.values())


def records_by_path(engine: Engine) -> dict[str, Record]:
    """Returns all records of an engine by their paths."""
    return {record.path: record for part, _ in engine.scan() for record in part}
