"""What the scores of an index come from, and the contact sheet's rows with it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fir_tf.errors import FirError
from fir_tf.evaluation.pictures import SheetRow
from fir_tf.explain import PhotoExplainer
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.run import load_run
from fir_tf.search.generation import Generation
from fir_tf.search.photos import readable


def explainer_of(generation: Generation) -> PhotoExplainer:
    """Returns what explains the scores of an index's model.

    Args:
        generation: Generation of an index.

    Raises:
        FirError: the scores are not those of a run's model on photos as they are.
    """
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
    model, config, _ = load_run(folder, shared=True)
    return PhotoExplainer(model, config.eval_size, config.resize)


def explained(rows: Sequence[SheetRow], explain: PhotoExplainer) -> list[SheetRow]:
    """Returns each row with heat over its matches, followed by the query as each of them sees it.

    Args:
        rows: sequence of SheetRow.
        explain: PhotoExplainer.
    """
    return [row for plain in rows for row in _explained(plain, explain)]


def _explained(row: SheetRow, explain: PhotoExplainer) -> list[SheetRow]:
    query = _contents(row.query)
    matches, seen = [], []
    for match in row.matches:
        found = explain(query, _contents(match.path))
        # Of what cannot be read its tile says so.
        heats = (found.query, found.match) if found else (None, None)
        as_seen = dataclasses.replace(match, path=row.query, correct=None, label="", heat=heats[0])
        seen.append(as_seen)
        matches.append(dataclasses.replace(match, heat=heats[1]))
    return [
        dataclasses.replace(row, matches=matches),
        dataclasses.replace(row, label="as each match sees it", matches=seen),
    ]


def _contents(photo: str | Path) -> bytes:
    """Returns a photo as the model reads it; no bytes of one that cannot be read."""
    try:
        return readable(read(photo))
    except UnreadableImageError:
        return b""
