"""The pictures of a run: the recall curve, the contact sheet of Figure 2, the training curves.

All are drawn without a display and without matplotlib's global state, so they can be made from
any thread of a training run or a server.
"""

import dataclasses
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError
from fir_tf.evaluation.paper import PaperResult
from fir_tf.explain.heat import AGAINST, FOR, Heat, draw_heat
from fir_tf.files import replacing
from fir_tf.images.file import UnreadableImageError
from fir_tf.images.thumbnail import thumbnail

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK, _MUTED, _GRID = "#1a1a1a", "#6b6b6b", "#dedede"
_PAPER_MARKERS = "sD^vPX*ph<>d"

Colour = tuple[int, int, int]
Face = tuple[str, int]
Size = tuple[int, int]
Recalls = Mapping[Any, float]
# What is drawn over a photo.
Over = Callable[[Image.Image], Image.Image]
Published = Mapping[str, Recalls] | Iterable[PaperResult]

QUERY_COLOUR = (0, 90, 181)
RIGHT_COLOUR = (20, 140, 60)
WRONG_COLOUR = (205, 32, 44)
UNREADABLE_COLOUR = (176, 176, 176)
# By whether a match is of the query's item.
_MARKS = {True: (RIGHT_COLOUR, "✔"), False: (WRONG_COLOUR, "✖"), None: (UNREADABLE_COLOUR, "")}
_FRAME = 5
_PLAIN, _SMALL = ("DejaVuSans.ttf", 13), ("DejaVuSans.ttf", 12)
_BOLD, _TITLE = ("DejaVuSans-Bold.ttf", 13), ("DejaVuSans-Bold.ttf", 17)


def recall_curve(
    curves: Mapping[str, Recalls], path: str | Path, title: str, paper: Published | None = None
) -> None:
    """Draws recall@k over k, with published numbers as single points beside it.

    Args:
        curves: {name: {k: recall}}, recall as fractions; one line each.
        path: str or Path ending in .png, .pdf or .svg.
        title: str.
        paper: {name: {k or "recall@k": fraction}} or an iterable of
            `fir_tf.evaluation.paper.PaperResult`, which is shown as markers only. Metrics other
            than recall@k are passed over. Give it only numbers measured on the same data.

    Raises:
        FirError: `path` has another ending, or a curve has no point.
    """
    _save(recall_figure(curves, title, paper), path)


def recall_figure(
    curves: Mapping[str, Recalls], title: str, paper: Published | None = None
) -> Figure:
    """Returns what `recall_curve` writes."""
    own = [(name, _recall_points(values)) for name, values in curves.items()]
    for name, points in own:
        if not points:
            raise FirError(f"`curves` must have a point for each name. Received: none for {name!r}")
    rows = (
        paper.items()
        if isinstance(paper, Mapping)
        else ((row.name, row.values) for row in paper or ())
    )
    published = [(name, points) for name, values in rows if (points := _recall_points(values))]

    figure = empty_figure(9 if published else 7.5, 5)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(own):
        _draw_curve(axes, number, name, points)
    ticks = sorted({k for _, points in own for k in points})
    axes.set_xticks(ticks)
    axes.margins(x=0.06)
    # Points of one k stand on top of each other: each is moved a little to the side.
    step = 0.007 * (ticks[-1] - ticks[0]) if ticks else 0
    for number, (name, points) in enumerate(published):
        _draw_published(axes, number, name, points, step * (number - (len(published) - 1) / 2))
    axes.set_xlabel("k, nearest gallery images looked at")
    axes.set_ylabel("recall@k (the paper's top-k accuracy)")
    axes.set_ylim(max(0, math.floor(10 * axes.get_ylim()[0]) / 10), 1.03)
    # Over the whole width, legend and all: a title can be a sentence.
    words = printable(" ".join(title.split()))
    heading = "\n".join(textwrap.wrap(words, 95 if published else 80))
    figure.suptitle(heading, x=0.02, ha="left", fontsize=12, color=_INK, parse_math=False)
    _plain(axes)
    _add_legend(axes, bool(published))
    return figure


def _draw_curve(axes: Axes, number: int, name: str, points: Mapping[int, float]) -> None:
    """Draws the recalls of the `number`th run as a line, with the values of the first two."""
    colour = _COLOURS[number % len(_COLOURS)]
    style: dict[str, Any] = {"color": colour, "linewidth": 2, "markersize": 5, "zorder": 3}
    axes.plot(list(points), list(points.values()), "o-", label=printable(name), **style)
    # Recall rises ever more slowly, so above to the left and below to the right are free.
    # Only two curves can be labelled that way.
    for k, value in points.items() if number < 2 else ():
        axes.annotate(
            _short(value),
            (k, value),
            (9, -14) if number else (-7, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
            zorder=4,
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        )


def _draw_published(
    axes: Axes, number: int, name: str, points: Mapping[int, float], shift: float
) -> None:
    """Draws the `number`th published row as open markers, `shift` beside their k."""
    numbers = ", ".join(f"@{k} {_short(value)}" for k, value in points.items())
    axes.scatter(
        [k + shift for k in points],
        list(points.values()),
        s=34,
        marker=_PAPER_MARKERS[number % len(_PAPER_MARKERS)],
        facecolor="white",
        edgecolor=_COLOURS[1 + number % (len(_COLOURS) - 1)],
        linewidth=1.5,
        zorder=2,
        label=printable(f"{name}: {numbers}"),
    )


def _add_legend(axes: Axes, outside: bool) -> None:
    """Adds the legend: in a free corner, or beside the axes where published rows are many."""
    if outside:
        legend = axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.02, 1),
            frameon=False,
            fontsize=8.5,
            title="open markers: published numbers",
            title_fontsize=8.5,
            alignment="left",
            labelspacing=0.8,
        )
    else:
        legend = axes.legend(loc="lower right", frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def difference_intervals(
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]], path: str | Path
) -> None:
    """Draws differences with their intervals, a panel for each metric, a line for each pair.

    An interval that leaves out 0 is blue to the right of it, orange to the left, others grey.

    Args:
        rows: {pair: {metric: (difference, low, high)}}, the same metrics for each pair.
        path: str or Path ending in .png, .pdf or .svg.

    Raises:
        FirError: `path` has another ending.
    """
    metrics = list(next(iter(rows.values())))
    figure = empty_figure(3 + 2.6 * len(metrics), 1.5 + 0.3 * len(rows))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, found in enumerate(rows.values()):
            mean, low, high = found[metric]
            colour = _COLOURS[0] if low > 0 else _COLOURS[1] if high < 0 else _MUTED
            axes.plot([low, high], [place, place], color=colour, linewidth=2, zorder=3)
            axes.plot([mean], [place], "o", color=colour, markersize=6, zorder=4)
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_title(metric, loc="left", fontsize=10, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _plain(axes)
    panels[0].set_yticks(range(len(rows)), [printable(name) for name in rows], parse_math=False)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("difference and its interval", fontsize=9)
    _save(figure, path)


def shares_by_score(
    edges: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    path: str | Path,
    title: str,
    bound: float | None = None,
) -> None:
    """Draws histograms beside each other, bins of any width as bars of the same one.

    Args:
        edges: float [b + 1], the scores that part the bins; beyond them are the first and the last.
        shares: {name: float [b]}.
        path: str or Path ending in .png, .pdf or .svg.
        title: str.
        bound: float, a score that is marked; None for none.

    Raises:
        FirError: `path` has another ending.
    """
    figure = empty_figure(8, 4.5)
    axes = figure.add_subplot()
    bins, width = np.arange(len(edges) - 1), 0.8 / len(shares)
    for number, (name, values) in enumerate(shares.items()):
        places = bins + (number - (len(shares) - 1) / 2) * width
        axes.bar(places, values, width, color=_COLOURS[number % len(_COLOURS)], label=name)
    names = [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)]
    axes.set_xticks(bins, names, rotation=30, ha="right")
    if bound is not None:
        place = float(np.interp(bound, edges, np.arange(len(edges)) - 0.5))
        axes.axvline(place, color=_INK, linestyle="--", linewidth=1, label=f"{bound:.3f}")
    axes.set_xlabel("score of the first answer")
    axes.set_ylabel("share of the photos asked with")
    axes.set_title(printable(title), loc="left", fontsize=12, color=_INK, parse_math=False)
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    _save(figure, path)


def training_curves(history: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> None:
    """Draws a training log, a panel for every series.

    Series that differ in k only (`val/recall@1`, `val/recall@5`; `val/category_top1`, ...) share
    a panel. A noisy series of more than 200 points is drawn pale, with its running mean over a
    fiftieth of its length on top. A series that falls in few steps to a tenth or less, as a
    decayed learning rate does, gets a logarithmic axis. Values that are NaN or infinite leave a
    gap and are marked by an upright orange line. The number above a panel is the last value.

    Args:
        history: {name: [(step, value), ...]}, in any order of steps.
        path: str or Path ending in .png, .pdf or .svg.

    Raises:
        FirError: `path` has another ending.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, points in history.items():
        if len(points):
            family = re.fullmatch(r"(.+(?:@|_top))\d+", name)
            panels.setdefault(f"{family[1]}k" if family else name, {})[name] = sorted(points)
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = empty_figure(4.2 * columns, 2.6 * rows)
    last_step = max((p[-1][0] for panel in panels.values() for p in panel.values()), default=1)
    for number, (heading, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        for place, (name, points) in enumerate(panel.items()):
            label = re.sub(r".*\D", "", name) if len(panel) > 1 else None
            shown = _draw_series(axes, points, _COLOURS[place % len(_COLOURS)], label)
        if len(panel) == 1:
            axes.set_title(shown, loc="right", fontsize=9, color=_MUTED)
        else:
            axes.legend(
                title="k",
                ncols=math.ceil(len(panel) / 4),
                fontsize=7,
                title_fontsize=7,
                frameon=False,
                loc="lower right",
            )
        axes.set_title(heading, loc="left", fontsize=10, color=_INK, parse_math=False)
        axes.set_xlim(0, max(last_step, 1) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if number >= len(panels) - columns:
            axes.set_xlabel("step", fontsize=9)
        _plain(axes)
    if not panels:
        figure.text(0.5, 0.5, "the log is empty", ha="center", color=_MUTED)
    _save(figure, path)


def _draw_series(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str | None
) -> str:
    """Draws one series of (step, value); returns its last value as text."""
    steps, values = np.array(points, np.float64).T
    finite = np.isfinite(values)
    drawn = np.where(finite, values, np.nan)
    window = max(1, len(values) // 50)
    # Of up to `window` values around each, without those that are NaN.
    mean = pd.Series(drawn).rolling(window, center=True, min_periods=1).mean().to_numpy()
    shown = ""
    noise = np.abs(drawn - mean)[finite]
    if len(values) > 200 and finite.any() and noise.mean() > 0.01 * np.ptp(values[finite]):
        axes.plot(steps, drawn, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=label)
        shown = f"mean of {window}, last "
    else:
        marker = "o" if len(values) <= 60 else ""
        axes.plot(
            steps, drawn, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label
        )
    for step in steps[~finite]:
        axes.axvline(step, color=_COLOURS[1], linewidth=1)
    if finite.any():
        last = np.flatnonzero(finite)[-1]
        levels = np.unique(values[finite])
        falls = levels[0] > 0 and values[last] <= 0.1 * values[finite][0]
        if falls and len(levels) <= 20:
            axes.set_yscale("log")
        return f"{shown}{values[last]:.4g}"
    return "no finite value"


MOST_PIXELS = 2**28
"""int, of a contact sheet: as many take 768 MB."""


@dataclasses.dataclass(frozen=True)
class SheetMatch:
    """A gallery image in a contact sheet.

    Attributes:
        path: str or Path of the photo.
        score: float, its inner product with the query.
        correct: bool, whether it is of the query's item; None where that is not known.
        label: str, the item.
        heat: Heat that is drawn over the photo, if any.
    """

    path: str | Path
    score: float
    correct: bool | None
    label: str
    heat: Heat | None = None


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A query in a contact sheet, and its nearest gallery images in order.

    Attributes:
        query: str or Path of the photo.
        label: str, the item.
        matches: list of SheetMatch, best first.
        box: the garment of the photo that was asked with, left, top, width and height in shares of
            the photo; None for the whole photo.
    """

    query: str | Path
    label: str
    matches: Sequence[SheetMatch]
    box: Sequence[float] | None = None


def contact_sheet(
    rows: Sequence[SheetRow], path: str | Path, title: str = "", tile: Size = (168, 224)
) -> None:
    """Draws queries with their nearest gallery images, as in the paper's Figure 2.

    Each row is a query (blue frame) and its matches in order. A match of the query's item has a
    green frame and a badge with a check mark, another one a red frame and a badge with a cross,
    so that it can be read without colours; one of which nothing is known has a grey frame. Below
    stand score and item, and under all what those frames mean that there are. Photos keep their
    shape and are otherwise as the model sees them (`fir_tf.images.picture.see`). One that cannot
    be read becomes a grey tile with its name.

    Args:
        rows: list of SheetRow.
        path: str or Path ending in .png, .jpg or .webp.
        title: str above the sheet.
        tile: (width, height) of a photo in pixels.

    Raises:
        FirError: `path` has another ending, there are no rows, or so many that the picture would
            be larger than its format or `MOST_PIXELS` allow.
    """
    _check_suffix(path, (".png", ".jpg", ".jpeg", ".webp"))
    image = sheet_image(rows, title, tile)
    with replacing(path) as temporary:
        try:
            image.save(temporary)
        except (ValueError, OSError) as error:
            # A full disk has a number, what a format cannot hold has none.
            if getattr(error, "errno", None):
                raise
            raise FirError(
                f"{Path(path).suffix} cannot hold {image.width} x {image.height} pixels ({error}). "
                "Take .png, or show fewer rows or matches"
            ) from error


def sheet_image(rows: Sequence[SheetRow], title: str = "", tile: Size = (168, 224)) -> Image.Image:
    """Returns what `contact_sheet` writes."""
    if not rows:
        raise FirError("`rows` must hold at least one SheetRow. Received: none")
    sheet = SheetLayout(tile, len(rows), max(len(row.matches) for row in rows))
    lines = _wrapped(title, sheet.size[0] - 2 * sheet.margin)
    sheet = dataclasses.replace(sheet, title_lines=len(lines))
    width, height = sheet.size
    if width * height > MOST_PIXELS:
        raise FirError(
            f"a picture of {width} x {height} pixels is too large. Show fewer rows or matches"
        )
    canvas = Image.new("RGB", sheet.size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        corner = (sheet.margin, sheet.margin + number * sheet.title_line)
        _text(draw, corner, line, width - 2 * sheet.margin, _TITLE)
    for column in range(sheet.matches + 1):
        left, top = sheet.corner(0, column)
        heading = f"{column}" if column else "query"
        _text(draw, (left, top - sheet.heading), heading, tile[0], colour=_MUTED)
    for number, row in enumerate(rows):
        left, top = sheet.corner(number, 0)
        canvas.paste(_tile(row.query, tile, QUERY_COLOUR, over=_outlined(row.box)), (left, top))
        _text(draw, (left, top + tile[1] + 4), row.label, tile[0])
        for rank, match in enumerate(row.matches, 1):
            left, top = sheet.corner(number, rank)
            colour, symbol = _MARKS[match.correct]
            heated = _heated(match.heat)
            canvas.paste(_tile(match.path, tile, colour, symbol, heated), (left, top))
            _text(draw, (left, top + tile[1] + 4), f"{match.score:.3f}", 46, _BOLD)
            _text(draw, (left + 46, top + tile[1] + 4), match.label, tile[0] - 46, colour=_MUTED)
    kinds = {match.correct for row in rows for match in row.matches}
    hot = any(match.heat for row in rows for match in row.matches)
    _legend(canvas, sheet.corner(sheet.rows, 0)[1] - sheet.heading + 14, kinds, hot)
    return canvas


@dataclasses.dataclass(frozen=True)
class SheetLayout:
    """Where the parts of a contact sheet stand, in pixels.

    Attributes:
        tile: (width, height) of a photo with its frame.
        rows: int, number of queries.
        matches: int, number of matches beside a query.
        title_lines: int, lines of the title above.
    """

    tile: Size
    rows: int
    matches: int
    title_lines: int = 0
    title_line = 24
    margin = 16
    gap = 10
    # Between the query and its first match.
    query_gap = 26
    heading = 20
    caption = 42
    legend = 26

    @property
    def size(self) -> Size:
        """(width, height) of the whole sheet."""
        right = self.corner(0, self.matches)[0] + self.tile[0] + self.margin
        bottom = self.corner(self.rows, 0)[1] + self.legend + self.margin
        # Room for the legend where there are few columns.
        return max(right, 400), bottom

    def corner(self, row: int, column: int) -> Size:
        """Left and top of a tile; column 0 is the query."""
        left = self.margin + column * (self.tile[0] + self.gap)
        left += self.query_gap - self.gap if column else 0
        top = self.margin + self.heading + self.title_lines * self.title_line
        top += 10 if self.title_lines else 0
        return left, top + row * (self.tile[1] + self.caption)


def _as_it_is(photo: Image.Image) -> Image.Image:
    return photo


def _heated(heat: Heat | None) -> Over:
    return lambda photo: draw_heat(photo, heat) if heat else photo


def _outlined(box: Sequence[float] | None) -> Over:
    """Draws the outline of a garment over a photo, in the query's colour on white."""

    def draw(photo: Image.Image) -> Image.Image:
        if box is None:
            return photo
        photo = photo.copy()
        left, top = box[0] * photo.width, box[1] * photo.height
        edges = (left, top, left + box[2] * photo.width - 1, top + box[3] * photo.height - 1)
        line = max(2, round(max(photo.size) / 80))
        for colour, width in (("white", 2 * line), (QUERY_COLOUR, line)):
            ImageDraw.Draw(photo).rectangle(edges, outline=colour, width=width)
        return photo

    return draw


def _tile(
    path: str | Path, size: Size, colour: Colour, symbol: str = "", over: Over = _as_it_is
) -> Image.Image:
    """A photo in a frame of `colour`, with a badge of the same if there is a symbol for it."""
    inner = (size[0] - 2 * _FRAME, size[1] - 2 * _FRAME)
    tile = ImageOps.expand(_photo(path, inner, over), _FRAME, colour)
    if symbol:
        badge = _badge(colour, symbol, 26)
        tile.paste(badge, (size[0] - _FRAME - 29, _FRAME + 3), badge)
    return tile


def _photo(path: str | Path, size: Size, over: Over = _as_it_is) -> Image.Image:
    """What the model sees, letterboxed on white, or a grey tile with the photo's name.

    A query may be of a format that the model is given converted.
    """
    try:
        image = thumbnail(path, 2 * max(size), convert=True).image
        return ImageOps.pad(over(image), size, Image.Resampling.LANCZOS, "white")
    except UnreadableImageError:
        tile = Image.new("RGB", size, UNREADABLE_COLOUR)
        draw = ImageDraw.Draw(tile)
        for top, text in ((-18, "cannot be read:"), (0, Path(path).name)):
            _text(draw, (8, size[1] // 2 + top), text, size[0] - 16, _SMALL)
        return tile


def _badge(colour: Colour, symbol: str, size: int) -> Image.Image:
    """A disc of `colour` with a white rim and a white symbol, RGBA [size, size]."""
    # Drawn four times as large: Pillow's discs have no antialiasing of their own.
    side = 4 * size
    badge = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(badge)
    draw.ellipse((0, 0, side - 1, side - 1), fill="white")
    draw.ellipse((0.06 * side, 0.06 * side, 0.94 * side, 0.94 * side), fill=colour)
    font = _font(("DejaVuSans-Bold.ttf", round(0.75 * side)))
    left, top, right, bottom = draw.textbbox((0, 0), symbol, font)
    draw.text(((side - left - right) / 2, (side - top - bottom) / 2), symbol, "white", font)
    return badge.resize((size, size), Image.Resampling.LANCZOS)


def _framed(colour: Colour) -> Image.Image:
    return ImageOps.expand(Image.new("RGBA", (10, 10), "white"), 4, colour)


def _legend(canvas: Image.Image, top: int, kinds: Collection[bool | None], hot: bool) -> None:
    """Says what the frames mean of the query and of these kinds of matches, and the heat."""
    marks = [(_framed(QUERY_COLOUR), "query")]
    for correct, text in ((True, "same item"), (False, "another item")):
        if correct in kinds:
            marks.append((_badge(*_MARKS[correct], 18), text))
    if None in kinds:
        marks.append((_framed(UNREADABLE_COLOUR), "found"))
    if hot:
        marks.append((_badge(FOR, "+", 18), "speaks for the score"))
        marks.append((_badge(AGAINST, "−", 18), "against"))
    left = SheetLayout.margin
    for mark, text in marks:
        canvas.paste(mark, (left, top), mark)
        _text(ImageDraw.Draw(canvas), (left + 24, top + 1), text, 150)
        left += 44 + round(_font(_PLAIN).getlength(text))


def _font(face: Face) -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib: the same on every machine, with accents, Greek and
    # Cyrillic letters.
    name, size = face
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, width: int) -> list[str]:
    """A title as lines of whole words that fit into `width` pixels."""
    font = _font(_TITLE)
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(
    draw: ImageDraw.ImageDraw,
    corner: Size,
    text: str,
    width: int,
    face: Face = _PLAIN,
    colour: str = _INK,
) -> None:
    """Draws one line; what is wider than `width` loses its middle, which tells least."""
    font = _font(face)
    text = printable(" ".join(str(text).split()))
    kept = len(text)
    shown = text
    while kept > 1 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    draw.text(corner, shown, fill=colour, font=font)


def _recall_points(values: Recalls) -> dict[int, float]:
    """Returns {k: value} in order of k, from keys k or "recall@k"; other keys are left out."""
    points = {}
    for key, value in values.items():
        name, _, number = str(key).rpartition("@")
        if name in ("", "recall") and number.isdecimal():
            points[int(number)] = float(value)
    return dict(sorted(points.items()))


def _short(value: float) -> str:
    """.826 rather than 0.826, as the paper prints it."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def _plain(axes: Axes) -> None:
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)


def _check_suffix(path: str | Path, suffixes: Sequence[str]) -> None:
    if Path(path).suffix.lower() not in suffixes:
        raise FirError(f"`path` must end in {', '.join(suffixes)}. Received: {path}")


def _save(figure: Figure, path: str | Path) -> None:
    _check_suffix(path, (".png", ".pdf", ".svg"))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def empty_figure(width: float, height: float) -> Figure:
    """Returns a figure of so many inches, whose parts keep out of each other's way."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure((width, height), facecolor="white", layout=layout)
