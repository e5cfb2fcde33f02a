"""The contact sheet's rows with what the scores come from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.evaluation.pictures import SheetRow
from fir_tf.explain import Explainer, Heat
from fir_tf.images.decode import decode_and_fit
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.run import load_run
from fir_tf.search.generation import Generation
from fir_tf.search.photos import readable


class SheetExplainer:
    """Explains the scores of an index's model.

    Args:
        generation: Generation of an index.

    Raises:
        FirError: the scores are not those of a run's model on photos as they are.
    """

    def __init__(self, generation: Generation) -> None:
        folder = generation.encoder.model
        if not folder or not (Path(folder) / "config.json").is_file():
            raise FirError(
                "`explain` needs the run that the index was made with: --model=<the run's folder>. "
                f"Received: {folder or 'a model in hand'}"
            )
        how = generation.engine.info()["how"]
        plain = {"flip": False, "scales": "1", "whitening": "", "crop": "image"}
        changed = [name for name, value in plain.items() if how.get(name, value) != value]
        if changed:
            raise FirError(
                "`explain` needs an index of photos as they are. Received: one that was made with "
                f"--{', --'.join(changed)}"
            )
        model, config, _ = load_run(folder)
        self._explain = Explainer(model)
        self._size, self._resize = config.eval_size, config.resize

    @property
    def note(self) -> str:
        """What a person has to know of the maps, empty where they are exact."""
        if self._explain.exact:
            return ""
        return (
            "note: with this model's pooling or neck no place has a share of its own in the score; "
            "the heat is the gradient's"
        )

    def rows(self, row: SheetRow) -> list[SheetRow]:
        """Returns a row with heat over its matches, and the query as each of them sees it."""
        query = self._pixels(row.query)
        matches, seen = [], []
        for match in row.matches:
            pixels = self._pixels(match.path)
            if query is None or pixels is None:
                matches.append(match)
                seen.append(dataclasses.replace(match, path=row.query, correct=None, label=""))
                continue
            found = self._explain(query, pixels)
            matches.append(dataclasses.replace(match, heat=Heat(found.match, self._resize)))
            seen.append(
                dataclasses.replace(
                    match,
                    path=row.query,
                    correct=None,
                    label="",
                    heat=Heat(found.query, self._resize),
                )
            )
        return [
            dataclasses.replace(row, matches=matches),
            dataclasses.replace(row, label="as each match sees it", matches=seen),
        ]

    def _pixels(self, photo: str | Path) -> np.ndarray | None:
        try:
            contents = readable(read(photo))
            return decode_and_fit(tf.constant(contents), self._size, self._resize).numpy()
        except (UnreadableImageError, tf.errors.OpError):
            # Its tile says so.
            return None


def explained(rows: Sequence[SheetRow], explainer: SheetExplainer) -> list[SheetRow]:
    """Returns the rows of `SheetExplainer.rows` for all rows."""
    return [row for plain in rows for row in explainer.rows(plain)]
