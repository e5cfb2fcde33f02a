"""What a run is worth in a few sentences, and the bar that shows it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.evaluation.bootstrap import mean_interval
from fir_tf.evaluation.confusion import confusion_counts, most_confused
from fir_tf.evaluation.measured import Measured
from fir_tf.evaluation.metrics import category_ranks

# A category of fewer is the weakest by luck.
_FEW = 5

History = Mapping[str, Sequence[tuple[int, float]]]


@dataclasses.dataclass(frozen=True)
class Headline:
    """What stands on top of a report.

    Attributes:
        sentences: list of str, the main one first.
        shares: (float, float), the share of queries that find the item first, and among the first
            5; of images whose category is scored best, and among the best 3, where there are no
            queries.
        low, high: float, the ends of the first share's interval.
        labels: (str, str, str), what the parts of the bar stand for: the two shares, and the rest.
    """

    sentences: list[str]
    shares: tuple[float, float]
    low: float
    high: float
    labels: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What is counted: each a query, or an image to be classified."""

    first: np.ndarray
    near: np.ndarray
    group: np.ndarray
    category: np.ndarray


def headline(
    measured: Measured, catalogue: Catalogue, history: History, same_part: bool = False
) -> Headline | None:
    """Puts a run's results into words.

    Args:
        measured: Measured.
        catalogue: Catalogue of all images.
        history: {name: [(step, value), ...]}, the run's log; what its validation found before the
            first step is told where it stands there.
        same_part: bool, whether `measured` is of the images that the log's validation looked at.

    Returns:
        Headline, None where no query and no category counts.
    """
    asked, named = _asked(measured, catalogue), _named(measured, catalogue)
    main = asked or named
    if main is None:
        return None
    first, near = main.first.mean(), main.near.mean()
    (low, high), ends = (mean_interval(part, main.group) for part in (main.first, main.near))
    before = _before(history) if asked else {}
    sentences = [_main(main, bool(asked), before if same_part else {})]
    if low < high:
        sentences.append(
            f"On other {'items' if asked else 'photos'} of this kind expect "
            f"{_range(low, high)} and {_range(*ends)}: 95 % bootstrap intervals."
        )
    if before and not same_part:
        sentences.append(_progress(before, history))
    if asked and named:
        sentences.append(
            f"{percent(named.first.mean())} of {len(named.first):,} photos get their category."
        )
    sentences += [text for text in (_weakest(main, catalogue, bool(asked)),) if text]
    sentences += [text for text in (_confused(measured, catalogue),) if text]
    labels = ("found first", "among the first 5", "later")
    if not asked:
        labels = ("category right", "among the best 3", "neither")
    return Headline(sentences, (float(first), float(near)), low, high, labels)


def percent(share: float) -> str:
    """Returns a share as whole per cent; 100 and 0 stand for all and none alone."""
    number = 100 * share
    if 0 < number < 1:
        return "under 1 %"
    return "over 99 %" if 99 < number < 100 else f"{number:.0f} %"


def _range(low: float, high: float) -> str:
    ends = dict.fromkeys((f"{100 * low:.0f}", f"{100 * high:.0f}"))
    return f"{' to '.join(ends)} %"


def _asked(measured: Measured, catalogue: Catalogue) -> _Answers | None:
    """What the queries that count find."""
    queries, result = measured.queries(catalogue), measured.result
    if queries is None or result is None or not len(queries.path):
        return None
    rows = measured.query[result.evaluated]
    return _Answers(
        queries.values("recall@1"),
        queries.values("recall@5"),
        catalogue.item[rows],
        catalogue.category[rows],
    )


def _named(measured: Measured, catalogue: Catalogue) -> _Answers | None:
    """Which categories the images get whose category is known."""
    if measured.category_scores is None:
        return None
    rows = measured.classified
    ranks = category_ranks(measured.category_scores, catalogue.category[rows])
    rows, ranks = rows[ranks > 0], ranks[ranks > 0]
    if not len(rows):
        return None
    item = catalogue.item[rows]
    # A photo of unknown item is one of its own.
    group = np.where(item >= 0, item, -1 - np.arange(len(rows)))
    return _Answers((ranks <= 1) * 1.0, (ranks <= 3) * 1.0, group, catalogue.category[rows])


def _main(main: _Answers, asked: bool, before: Mapping[int, float]) -> str:
    first, near, count = percent(main.first.mean()), percent(main.near.mean()), len(main.first)
    if not asked:
        return f"{first} of {count:,} photos get their category, {near} among the best 3."
    text = f"{first} of {count:,} queries find the item first, {near} among the first 5"
    if before:
        text += f" (before training: {percent(before[1])}, {percent(before[5])})"
    return f"{text}."


def _before(history: History) -> dict[int, float]:
    """{k: recall@k} of the validation before the first step; {} where there was none."""
    found = {k: dict(history.get(f"val/recall@{k}", ())).get(0) for k in (1, 5)}
    known = {k: value for k, value in found.items() if value is not None}
    return known if len(known) == len(found) else {}


def _progress(before: Mapping[int, float], history: History) -> str:
    chosen = {name: dict(history[f"val/{name}"]) for name in ("recall@1", "recall@5")}
    # The model that is kept is that of the best validation in training, the last of equal ones.
    scores = dict(history.get("val/mAP@R", ())) or chosen["recall@1"]
    best = max(filter(None, scores), key=lambda step: (scores[step], step), default=0)
    after = [percent(values[best]) for values in chosen.values() if best in values]
    return (
        f"On the validation part of the training items: {percent(before[1])} and "
        f"{percent(before[5])} before training, {' and '.join(after)} after it."
    )


def _weakest(main: _Answers, catalogue: Catalogue, asked: bool) -> str:
    """The category that is answered worst, "" where there are not two to choose from."""
    known = main.category >= 0
    count = len(catalogue.categories)
    counts = np.bincount(main.category[known], minlength=count)
    enough = np.flatnonzero(counts >= _FEW)
    if len(enough) < 2:
        return ""
    sums = np.bincount(main.category[known], main.first[known], count)
    worst = min(enough, key=lambda number: (sums[number] / counts[number], -counts[number]))
    what = "queries find the item first" if asked else "photos get their category"
    return (
        f"Weakest category: {catalogue.categories[worst]}, where "
        f"{percent(sums[worst] / counts[worst])} of {counts[worst]:,} {what}."
    )


def _confused(measured: Measured, catalogue: Catalogue) -> str:
    counts = confusion_counts(measured, catalogue)
    worst = [] if counts is None else most_confused(counts, 1)
    if counts is None or not worst:
        return ""
    true, guessed = worst[0]
    names, part, whole = catalogue.categories, counts[true, guessed], counts[true].sum()
    return (
        f"Most often confused: {part:,} of {whole:,} photos of {names[true]} "
        f"({percent(part / whole)}) are taken for {names[guessed]}."
    )
