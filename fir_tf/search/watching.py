"""Whether an index is asked today what it was asked when all was well."""

import logging
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.evaluation.pictures import shares_by_score
from fir_tf.search.asked_log import Asked, read_log
from fir_tf.search.calibrated import calibration_of
from fir_tf.search.drift import drift
from fir_tf.search.engines import open_engine, writing_to
from fir_tf.search.engines.base import shown
from fir_tf.search.reference import LEAST, Reference, check_enough, referenced
from fir_tf.search.telling import tell
from fir_tf.search_options import WatchOptions, largest_values
from fir_tf.shell import draw_or_note

log = logging.getLogger(__package__)

# A catalogue that has grown or shrunk by more has other scores for that alone.
_GROWN = 1.5


class DriftError(FirError):
    """Questions that are further from the reference than --fail_above allows."""

    status = 2


def watch(options: WatchOptions) -> dict[str, Any]:
    """Compares the photos that an index was asked with with its reference.

    Args:
        options: WatchOptions.

    Returns:
        dict: `index`, `log`, `photos` and `scored` (ints, those that were asked with, and with all
        of the catalogue), `of_others` and `unread` (ints, see `read_log`), `images`, `reference` (a
        dict of its `source`, `made` and `images`) and what `fir_tf.search.drift.drift` returns.
        With --learn the questions are the reference from then on, and the dict is empty.

    Raises:
        FirError: there is no index, it has no model, or too little was asked.
        DriftError: at the end, when a value is above that of --fail_above.
    """
    with open_engine(options.index) as engine:
        info, images = engine.info(), len(engine)
    if not info.get("model") or "root" not in info:
        raise FirError(
            f"`index` must be one of photos and a model, filled by search.py index. Received: "
            f"{shown(options.index)}"
        )
    asked = read_log(options.log, info["model"]["name"], options.days)
    check_enough(asked.questions, _told_of(asked, options.log))
    if options.learn:
        _learn(asked, options)
        return {}
    where = f"the reference in the index {shown(options.index)}"
    reference = Reference.of(info.get("reference") or _made(options.index), where)
    calibration = calibration_of(info, shown(options.index))
    values = {
        "index": shown(options.index),
        "log": options.log,
        "photos": len(asked.questions.sketches),
        "scored": len(asked.questions.scores),
        "of_others": asked.of_others,
        "unread": asked.unread,
        "images": images,
        "reference": {
            name: getattr(reference, name) for name in ("source", "made", "images", "model")
        },
        **drift(reference, asked.questions, calibration, options.precision),
    }
    _write(values, options)
    check_largest(values, options.fail_above)
    return values


def _told_of(asked: Asked, path: str) -> str:
    others = f", which has {asked.of_others:,} of another model" if asked.of_others else ""
    return f"{path}{others}"


def _learn(asked: Asked, options: WatchOptions) -> None:
    with writing_to(options.index) as engine:
        info = engine.info()
        model = info["model"]["name"]
        source = f"{len(asked.questions.sketches):,} photos of {options.log}"
        reference = Reference.learn(asked.questions, source, model, len(engine))
        engine.set_info({**info, "reference": reference.to_json()})
    log.info(f"{shown(options.index)}: the reference is {source} from now on")


def _made(address: str) -> dict[str, Any]:
    """Makes and keeps the reference of an index that has none yet."""
    with writing_to(address) as engine:
        info = engine.info()
        found = referenced(engine, info)
        if not found:
            raise FirError(
                f"`index` must have {LEAST} photos to tell what is usual. Received: "
                f"{shown(address)}, which has {len(engine)}. Take what was asked in a good week "
                "for that: --learn"
            )
        engine.set_info({**info, **found})
    return found["reference"]


def check_largest(values: dict[str, Any], text: str) -> None:
    """Compares what was measured with --fail_above.

    Raises:
        DriftError: a value is above, or unknown.
    """
    problems = []
    for name, most in largest_values(text).items():
        found = values[name]
        if found is None:
            problems.append(f"{name} is unknown: the index does not know what its scores are worth")
        elif found["value"] > most:
            problems.append(f"{name} is {found['value']:.4f}, above {most:g}")
    if problems:
        raise DriftError(f"{'; '.join(problems)} (--fail_above={text})")


def told(values: dict[str, Any]) -> str:
    """Returns what was compared as text."""
    reference, rows = values["reference"], []
    rows.append(("photos asked with", f"{values['photos']:,}"))
    rows.append(("of them with all of the catalogue", f"{values['scored']:,}"))
    rows.append(("reference", f"{reference['source']}, {reference['made'][:10]}"))
    rows.append(("population stability index", _measured(values["psi"])))
    rows.append(("shift of embeddings, deviations", _measured(values["shift"])))
    below = values["below"]
    if below:
        what = f"right in fewer than {below['precision']:g}"
        rows.append((what, f"{_measured(below)}, reference {below['reference']:.4f}"))
    else:
        how = "evaluate.py tells, given enough to validate on (--val_fraction=0.3)"
        rows.append(("right in fewer than ...", f"unknown: {how}"))
    lines = [f"{name:40s} {value}" for name, value in rows]
    return "\n".join([*lines, *_notes(values)])


def _measured(found: dict[str, Any]) -> str:
    changed = "CHANGED" if found["changed"] else "as before"
    return f"{found['value']:.4f}, by luck up to {found['luck']:.4f}: {changed}"


def _notes(values: dict[str, Any]) -> list[str]:
    notes, before, now = [], values["reference"]["images"], values["images"]
    if not before / _GROWN <= now <= before * _GROWN:
        notes.append(
            f"note: the reference is of {before:,} photos in the index, which has {now:,} by now; "
            "--learn makes another one"
        )
    for name, what in (("of_others", "are of another model"), ("unread", "cannot be read")):
        if values[name]:
            notes.append(f"note: {values[name]:,} lines of the log {what} and were left out")
    return notes


def _write(values: dict[str, Any], options: WatchOptions) -> None:
    written: list[Path] = []
    if options.sheet:
        bins, below = values["bins"], values["below"] or {}
        shares = {"reference": bins["reference"], "asked": bins["asked"]}
        title = f"First answers' scores: population stability index {values['psi']['value']:.3f}"
        edges, least = bins["edges"], below.get("score")
        written = draw_or_note(
            options.sheet, lambda: shares_by_score(edges, shares, options.sheet, title, least)
        )
    tell(values, told(values), options.json, written)
