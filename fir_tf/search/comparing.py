"""Old and new model of an index side by side: numbers, and a page of what changed most."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.files import write_text
from fir_tf.images.thumbnail import small_jpeg
from fir_tf.pages import render
from fir_tf.search import encoder as encoders
from fir_tf.search.answers import Answered, answered, compared, most_changed
from fir_tf.search.asking import asked_of_index, asked_of_photos, items_of
from fir_tf.search.coming import Filling, fits, migrating, open_coming
from fir_tf.search.engines import Engine, Generations, Hit
from fir_tf.search.engines.base import shown
from fir_tf.search.generation import Generation, encoder_of
from fir_tf.search.indexing import embedding_options
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.telling import tell
from fir_tf.search_options import CompareOptions, NewModelOptions, least_values

_SIDE = 120
_FLOAT = 4
# With fewer queries one more or less that changes is over three hundredths of what is told.
_FEW = 30


class BelowError(FirError):
    """A comparison that ended below what --fail_below asks for."""

    status = 2


def compare(options: CompareOptions) -> dict[str, Any]:
    """Compares the answers of an index with those of another model; the index answers as before.

    The new model's vectors stay in the index, for `migrate` or a second comparison.

    Args:
        options: CompareOptions.

    Returns:
        dict: see `compare_generations`, and `changed`, a list of dicts of the queries whose answers
        changed most: `query`, `item`, `overlap`, `rank_biased_overlap`, and `old` and `new`, lists
        of dicts of `path`, `item` and `score`.

    Raises:
        FirError: there is no index, a migration to another model is under way, or there are no
            queries.
        BelowError: at the end, when a value is below that of --fail_below.
    """
    encoder = encoders.Encoder(options.model, **embedding_options(options))
    with migrating(options.index) as generations, contextlib.ExitStack() as opened:
        engines = _sides(generations, encoder, options, opened)
        values, found = compare_generations(engines, encoder, options)
        changed = most_changed(found, options.changed)
        values["changed"] = [_told_of(one) for one in changed]
        _write(values, changed, _root(engines[0], options), options)
    check_least(values, options.fail_below)
    return values


def _sides(
    generations: Generations,
    encoder: encoders.Encoder,
    options: CompareOptions,
    opened: contextlib.ExitStack,
) -> tuple[Engine, Engine]:
    """Opens the old and the new generation, filled with all photos."""
    current = opened.enter_context(generations.open())
    if not fits(encoder, current.info(), options.index):
        coming = opened.enter_context(open_coming(generations, encoder, options))
        Filling(current, coming, encoder, options).fill()
        return current, coming
    previous = generations.state().previous
    if previous is None:
        raise FirError(
            f"`model` must be another one than that which made {options.index}. Received: "
            f"{options.model}, which embeds photos as that does. Vectors of an earlier model, to "
            "compare with, are not kept there either"
        )
    return opened.enter_context(generations.open(previous)), current


def _root(engine: Engine, options: NewModelOptions) -> Path:
    return Path(options.images or engine.info()["root"])


def compare_generations(
    engines: tuple[Engine, Engine], encoder: encoders.Encoder, options: NewModelOptions
) -> tuple[dict[str, Any], list[Answered]]:
    """Asks two generations of an index the same.

    Args:
        engines: (Engine, Engine), old and new.
        encoder: Encoder, the new one's.
        options: NewModelOptions.

    Returns:
        (dict, list of Answered). The dict is ready for JSON: `index`, `queries` (int), `k`, what
        `compared` returns, and `old` and `new`, dicts of `model`, `dimension`, `images`,
        `vector_bytes`, `search_seconds` (median of one query) and `embed_seconds` (of one photo,
        None where the queries are photos of the index, whose vectors are there).
    """
    root = _root(engines[0], options)
    embedding: tuple[float | None, float | None] = None, None
    if options.queries:
        old = encoder_of(engines[0].info(), "", options.index)
        sides = (
            Generation(engines[0], options.index, root, old),
            Generation(engines[1], options.index, root, encoder),
        )
        asked, embedding = asked_of_photos(options.queries, sides)
    else:
        asked = asked_of_index(engines, root, options.drawn)
    found, seconds = answered(engines, asked, options.k, options.group)
    values = {
        "index": shown(options.index),
        "queries": len(found),
        "k": options.k,
        **compared(found, items_of(engines[1]), options.k),
        "old": _side(engines[0], seconds[0], embedding[0]),
        "new": _side(engines[1], seconds[1], embedding[1]),
    }
    return values, found


def _side(engine: Engine, searching: float, embedding: float | None) -> dict[str, Any]:
    info, count = engine.info(), len(engine)
    return {
        "model": info["model"]["model"],
        "dimension": info["dimension"],
        "images": count,
        "vector_bytes": _FLOAT * count * info["dimension"],
        "search_seconds": searching,
        "embed_seconds": embedding,
    }


def check_least(values: dict[str, Any], text: str) -> None:
    """Compares what was measured with --fail_below.

    Raises:
        BelowError: a value is below, or recall is asked for and unknown.
    """
    k = values["k"]
    recall = values[f"recall@{k}"]
    measured = {
        "overlap": (f"overlap@{k}", values[f"overlap@{k}"]),
        "rbo": ("rank-biased overlap", values["rank_biased_overlap"]),
        "recall": (f"the new model's recall@{k}", recall and recall["new"]),
    }
    problems = []
    for name, least in least_values(text).items():
        what, value = measured[name]
        if value is None:
            problems.append(f"{what} is unknown, for no query's item is known")
        elif value < least:
            problems.append(f"{what} is {value:.4f}, below {least:g}")
    if problems:
        raise BelowError(f"{'; '.join(problems)} (--fail_below={text})")


def told(values: dict[str, Any]) -> str:
    """Returns what was compared as text."""
    lines = [f"{name:40s} {value}" for name, value in _rows(values)]
    if few := _few(values):
        lines.append(f"note: {few}")
    return "\n".join(lines)


def _few(values: dict[str, Any]) -> str:
    """Returns what is to be known of few queries; empty where they are enough."""
    count = values["queries"]
    if count >= _FEW:
        return ""
    return (
        f"{count} {'query tells' if count == 1 else 'queries tell'} little: others may say "
        f"something else. Ask with {_FEW} or more before you decide."
    )


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    k, old, new = values["k"], values["old"], values["new"]
    rows = [
        ("queries", f"{values['queries']:,}"),
        (f"overlap@{k}", f"{values[f'overlap@{k}']:.4f}"),
        ("rank-biased overlap", f"{values['rank_biased_overlap']:.4f}"),
    ]
    if recall := values[f"recall@{k}"]:
        rows += [
            (f"recall@{k}, old -> new", f"{recall['old']:.4f} -> {recall['new']:.4f}"),
            (
                "difference of recall, 95 % interval",
                "{difference:+.4f}, {low:+.4f} to {high:+.4f}".format(**recall),
            ),
            ("queries whose item is known", f"{recall['queries']:,}"),
        ]
    rows.append(("numbers of a vector, old -> new", f"{old['dimension']} -> {new['dimension']}"))
    rows.append(("megabytes of vectors", _both(old, new, "vector_bytes", 1e-6)))
    rows.append(("milliseconds of a search", _both(old, new, "search_seconds", 1e3)))
    if new["embed_seconds"] is not None:
        rows.append(("milliseconds to embed a photo", _both(old, new, "embed_seconds", 1e3)))
    return rows


def _both(old: dict[str, Any], new: dict[str, Any], name: str, scale: float) -> str:
    return f"{old[name] * scale:.1f} -> {new[name] * scale:.1f}"


def _told_of(one: Answered) -> dict[str, Any]:
    def side(hits: Sequence[Hit]) -> list[dict[str, Any]]:
        return [
            {"path": hit.record.path, "item": hit.record.item, "score": hit.score} for hit in hits
        ]

    return {
        "query": one.asked.name,
        "item": one.asked.item,
        "overlap": one.overlap,
        "rank_biased_overlap": one.biased,
        "old": side(one.old),
        "new": side(one.new),
    }


def _write(
    values: dict[str, Any], changed: Sequence[Answered], root: Path, options: CompareOptions
) -> None:
    if options.page:
        write_text(options.page, _page(values, changed, root, options))
    tell(values, told(values), options.json, [options.page] if options.page else [])


def _page(
    values: dict[str, Any], changed: Sequence[Answered], root: Path, options: CompareOptions
) -> str:
    paths = {hit.record.path for one in changed for hit in [*one.old, *one.new]}
    with PhotoFiles(root, options) as files, files.pictures(paths) as found:
        pictures = {
            path: small_jpeg(found[path], _SIDE) if path in found else b"" for path in paths
        }
    return render(
        "comparison.html",
        title=f"Old and new answers of {shown(options.index)}",
        models=(values["old"]["model"], values["new"]["model"]),
        rows=_rows(values),
        few=_few(values),
        k=options.k,
        changed=changed,
        own={
            one.asked.name: small_jpeg(one.asked.file, _SIDE) if one.asked.file else b""
            for one in changed
        },
        pictures=pictures,
    )
