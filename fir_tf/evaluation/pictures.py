"""The pictures of a run: the recall curve, the contact sheet of Figure 2, the training curves.

All are drawn without a display and without matplotlib's global state, so they can be made from
any thread of a training run or a server.
"""

import dataclasses
import math
import re
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fir_tf.errors import FirError
from fir_tf.files import replacing
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import see

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK, _MUTED, _GRID = "#1a1a1a", "#6b6b6b", "#dedede"
_PAPER_MARKERS = "sD^vPX*ph<>d"

QUERY_COLOUR = (0, 90, 181)
RIGHT_COLOUR = (20, 140, 60)
WRONG_COLOUR = (205, 32, 44)
UNREADABLE_COLOUR = (176, 176, 176)


def recall_curve(curves, path, title, paper=None):
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
    curves = {name: _recall_points(points) for name, points in curves.items()}
    published = (
        paper.items()
        if hasattr(paper, "items")
        else ((row.name, row.values) for row in paper or ())
    )
    published = [(name, _recall_points(values)) for name, values in published]
    published = [(name, points) for name, points in published if points]
    for name, points in curves.items():
        if not points:
            raise FirError(f"`curves` must have a point for each name. Received: none for {name!r}")

    figure = Figure(figsize=(9 if published else 7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    handles, labels = [], []
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        (line,) = axes.plot(
            list(points),
            list(points.values()),
            "o-",
            color=colour,
            linewidth=2,
            markersize=5,
            zorder=3,
        )
        handles.append(line)
        labels.append(name)
        # Recall rises ever more slowly, so above to the left and below to the right are free.
        # Only two curves can be labelled that way.
        if number < 2:
            for k, value in points.items():
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
    # Points of one k stand on top of each other: each is moved a little to the side.
    ticks = sorted({k for points in curves.values() for k in points})
    span = max(ticks, default=1) - min(ticks, default=0)
    spread = 0.007 * span
    for number, (name, points) in enumerate(published):
        shift = spread * (number - (len(published) - 1) / 2)
        handle = axes.scatter(
            [k + shift for k in points],
            list(points.values()),
            s=34,
            marker=_PAPER_MARKERS[number % len(_PAPER_MARKERS)],
            facecolor="white",
            edgecolor=_COLOURS[1 + number % (len(_COLOURS) - 1)],
            linewidth=1.5,
            zorder=2,
        )
        handles.append(handle)
        numbers = ", ".join(f"@{k} {_short(value)}" for k, value in points.items())
        labels.append(f"{name}: {numbers}")

    axes.set_xticks(ticks)
    axes.set_xlim(
        min(ticks, default=0) - 0.06 * span - 0.1, max(ticks, default=1) + 0.04 * span + 0.1
    )
    axes.set_xlabel("k, nearest gallery images looked at")
    axes.set_ylabel("recall@k (the paper's top-k accuracy)")
    drawn = [*curves.values(), *(points for _, points in published)]
    low = min((value for points in drawn for value in points.values()), default=0)
    axes.set_ylim(max(0, math.floor((low - 0.06) * 10) / 10), 1.03)
    # Over the whole width, legend and all: a title can be a sentence.
    heading = "\n".join(textwrap.wrap(title, 95 if published else 80))
    figure.suptitle(heading, x=0.02, ha="left", fontsize=12, color=_INK, parse_math=False)
    _plain(axes)
    if published:
        legend = axes.legend(
            handles,
            labels,
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
        legend = axes.legend(handles, labels, loc="lower right", frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def training_curves(history, path):
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
    panels = {}
    for name, points in history.items():
        if len(points):
            family = re.fullmatch(r"(.+(?:@|_top))\d+", name)
            panels.setdefault(f"{family[1]}k" if family else name, {})[name] = sorted(points)
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    last_step = max((p[-1][0] for panel in panels.values() for p in panel.values()), default=1)
    for number, (heading, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        for place, (name, points) in enumerate(panel.items()):
            label = re.search(r"\d*$", name)[0] if len(panel) > 1 else None
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


def _draw_series(axes, points, colour, label):
    """Draws one series of (step, value); returns its last value as text."""
    steps, values = np.array(points, np.float64).T
    finite = np.isfinite(values)
    drawn = np.where(finite, values, np.nan)
    window = max(1, len(values) // 50)
    mean = _running_mean(drawn, window)
    shown = ""
    if len(values) > 200 and _is_noisy(drawn, mean):
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
class Match:
    """A gallery image in a contact sheet.

    Attributes:
        path: str or Path of the photo.
        score: float, its inner product with the query.
        correct: bool, whether it is of the query's item; None where that is not known.
        label: str, the item.
    """

    path: Path
    score: float
    correct: bool | None
    label: str


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A query in a contact sheet, and its nearest gallery images in order.

    Attributes:
        query: str or Path of the photo.
        label: str, the item.
        matches: list of Match, best first.
    """

    query: Path
    label: str
    matches: list


def contact_sheet(rows, path, title="", tile=(168, 224)):
    """Draws queries with their nearest gallery images, as in the paper's Figure 2.

    Each row is a query (blue frame) and its matches in order. A match of the query's item has a
    green frame and a badge with a check mark, another one a red frame and a badge with a cross,
    so that it can be read without colours; one of which nothing is known has a grey frame. Below
    stand score and item. Photos keep their shape and are otherwise as the model sees them
    (`fir_tf.images.picture.see`). One that cannot be read becomes a grey tile with its name.

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
    if not rows:
        raise FirError("`rows` must hold at least one SheetRow. Received: none")
    sheet = SheetLayout(tile, len(rows), max(len(row.matches) for row in rows))
    width = sheet.size[0] - 2 * sheet.margin
    lines = _wrapped(title, 17, width)
    sheet = dataclasses.replace(sheet, title_lines=len(lines))
    if sheet.size[0] * sheet.size[1] > MOST_PIXELS:
        raise FirError(
            f"a picture of {sheet.size[0]} x {sheet.size[1]} pixels is too large. Show fewer rows "
            "or matches"
        )
    canvas = Image.new("RGB", sheet.size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        corner = (sheet.margin, sheet.margin + number * sheet.title_line)
        _text(draw, corner, line, 17, width, bold=True)
    for column in range(sheet.matches + 1):
        left, top = sheet.corner(0, column)
        heading = f"{column}" if column else "query"
        _text(draw, (left, top - sheet.heading), heading, 13, tile[0], _MUTED)
    for number, row in enumerate(rows):
        corner = sheet.corner(number, 0)
        _framed(canvas, corner, tile, row.query, QUERY_COLOUR)
        _below(draw, sheet, corner, "", row.label)
        for rank, match in enumerate(row.matches, 1):
            corner = sheet.corner(number, rank)
            if match.correct is None:
                _framed(canvas, corner, tile, match.path, UNREADABLE_COLOUR)
            else:
                colour = RIGHT_COLOUR if match.correct else WRONG_COLOUR
                _framed(canvas, corner, tile, match.path, colour)
                badge = _badge(match.correct, sheet.badge)
                canvas.paste(badge, sheet.badge_corner(number, rank), badge)
            _below(draw, sheet, corner, f"{match.score:.3f}", match.label)
    _legend(canvas, draw, sheet)
    with replacing(path) as temporary:
        try:
            canvas.save(temporary)
        except (ValueError, OSError) as error:
            # A full disk has a number, what a format cannot hold has none.
            if getattr(error, "errno", None):
                raise
            width, height = canvas.size
            raise FirError(
                f"{Path(path).suffix} cannot hold {width} x {height} pixels ({error}). Take .png, "
                "or show fewer rows or matches"
            ) from error


@dataclasses.dataclass(frozen=True)
class SheetLayout:
    """Where the parts of a contact sheet stand, in pixels.

    Attributes:
        tile: (width, height) of a photo with its frame.
        rows: int, number of queries.
        matches: int, number of matches beside a query.
        title_lines: int, lines of the title above.
    """

    tile: tuple
    rows: int
    matches: int
    title_lines: int = 0
    title_line = 24
    margin = 16
    frame = 5
    gap = 10
    # Between the query and its first match.
    query_gap = 26
    heading = 20
    caption = 42
    badge = 26
    legend = 26

    @property
    def size(self):
        """(width, height) of the whole sheet."""
        right = self.corner(0, self.matches)[0] + self.tile[0] + self.margin
        bottom = self.corner(self.rows, 0)[1] + self.legend + self.margin
        # Room for the legend where there are few columns.
        return max(right, 400), bottom

    def corner(self, row, column):
        """Left and top of a tile; column 0 is the query."""
        left = self.margin + column * (self.tile[0] + self.gap)
        left += self.query_gap - self.gap if column else 0
        top = self.margin + self.heading + self.title_lines * self.title_line
        top += 10 if self.title_lines else 0
        return left, top + row * (self.tile[1] + self.caption)

    def badge_corner(self, row, column):
        """Left and top of the badge in a match's upper right corner."""
        left, top = self.corner(row, column)
        return left + self.tile[0] - self.badge - self.frame - 3, top + self.frame + 3


def _framed(canvas, corner, tile, path, colour):
    left, top = corner
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + tile[0] - 1, top + tile[1] - 1), fill=colour)
    inset = SheetLayout.frame
    inner = (tile[0] - 2 * inset, tile[1] - 2 * inset)
    canvas.paste(_photo(path, inner), (left + inset, top + inset))


def _photo(path, size):
    """Returns what the model sees, letterboxed on white, or a grey tile with the photo's name."""
    try:
        image = see(read(path), 2 * max(size)).image
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, "white")
    except UnreadableImageError:
        tile = Image.new("RGB", size, UNREADABLE_COLOUR)
        draw = ImageDraw.Draw(tile)
        middle = size[1] // 2
        _text(draw, (8, middle - 18), "cannot be read:", 12, size[0] - 16)
        _text(draw, (8, middle), Path(path).name, 12, size[0] - 16)
        return tile


def _badge(correct, size):
    """Returns a disc with a check mark or a cross, RGBA [size, size]."""
    # Drawn four times as large: Pillow's lines have no antialiasing of their own.
    scale = 4 * size / 26
    badge = Image.new("RGBA", (4 * size, 4 * size))
    draw = ImageDraw.Draw(badge)
    colour = RIGHT_COLOUR if correct else WRONG_COLOUR
    draw.ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill="white")
    draw.ellipse((1.5 * scale, 1.5 * scale, 24.5 * scale, 24.5 * scale), fill=colour)
    strokes = (
        [[(7.5, 13.5), (11.5, 17.5), (18.5, 9.5)]]
        if correct
        else [[(8.5, 8.5), (17.5, 17.5)], [(17.5, 8.5), (8.5, 17.5)]]
    )
    for stroke in strokes:
        points = [(x * scale, y * scale) for x, y in stroke]
        draw.line(points, fill="white", width=round(2.8 * scale), joint="curve")
        for x, y in (points[0], points[-1]):
            radius = 1.4 * scale
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white")
    return badge.resize((size, size), Image.Resampling.LANCZOS)


def _below(draw, sheet, corner, score, label):
    left, top = corner[0], corner[1] + sheet.tile[1] + 4
    width = sheet.tile[0]
    if score:
        _text(draw, (left, top), score, 13, width, bold=True)
        left, width = left + 46, width - 46
    _text(draw, (left, top), label, 13, width, _MUTED if score else _INK)


def _legend(canvas, draw, sheet):
    left, top = sheet.margin, sheet.corner(sheet.rows, 0)[1] - sheet.heading + 14
    size = 18
    draw.rectangle((left, top, left + size - 1, top + size - 1), outline=QUERY_COLOUR, width=4)
    left += size + 6
    for text, correct in (("query", True), ("same item", False), ("another item", None)):
        _text(draw, (left, top + 1), text, 13, 110)
        left += round(_font(13).getlength(text)) + 20
        if correct is not None:
            badge = _badge(correct, size)
            canvas.paste(badge, (left, top), badge)
            left += size + 6


def _font(size, bold=False):
    # The font that comes with matplotlib: the same on every machine, with accents, Greek and
    # Cyrillic letters.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text, size, width):
    """Returns bold text as lines of whole words that fit into `width` pixels."""
    font, lines = _font(size, bold=True), []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(draw, corner, text, size, width, colour=_INK, bold=False):
    """Draws one line; what is wider than `width` loses its middle, which tells least."""
    font = _font(size, bold)
    text = " ".join(str(text).split())
    kept = len(text)
    shown = text
    while kept > 1 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    draw.text(corner, shown, fill=colour, font=font)


def _recall_points(values):
    """Returns {k: value} in order of k, from keys k or "recall@k"; other keys are left out."""
    points = {}
    for key, value in values.items():
        name, _, number = str(key).rpartition("@")
        if name in ("", "recall") and number.isdecimal():
            points[int(number)] = float(value)
    return dict(sorted(points.items()))


def _short(value):
    """.826 rather than 0.826, as the paper prints it."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def _running_mean(values, window):
    """Means of up to `window` values around each, without those that are NaN."""
    finite = np.isfinite(values)
    total = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    positions = np.arange(len(values))
    low = np.maximum(positions - window // 2, 0)
    high = np.minimum(low + window, len(values))
    count = count[high] - count[low]
    mean = (total[high] - total[low]) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _is_noisy(values, mean):
    finite = np.isfinite(values)
    if not finite.any():
        return False
    height = np.ptp(values[finite])
    return bool(np.abs(values - mean)[finite].mean() > 0.01 * height)


def _plain(axes):
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)


def _check_suffix(path, suffixes):
    if Path(path).suffix.lower() not in suffixes:
        raise FirError(f"`path` must end in {', '.join(suffixes)}. Received: {path}")


def _save(figure, path):
    _check_suffix(path, (".png", ".pdf", ".svg"))
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, facecolor="white")
