"""DeepFashion's lists of bounding boxes: a garment's place in each image, and its type."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from fir_tf.datasets.annotations import (
    check_listed_once,
    check_values,
    find_file,
    has_file,
    read_lines,
    read_table,
)
from fir_tf.datasets.catalogue import CONSUMER, SHOP, UNKNOWN, Catalogue, no_boxes
from fir_tf.datasets.metadata import Column, texts_of
from fir_tf.datasets.published import PUBLISHED
from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError

_FOLDERS = ("Anno", "Anno_coarse", "Anno_fine", "Eval", ".")
_CORNERS = ("x_1", "y_1", "x_2", "y_2")
_TYPES = {"1": "upper", "2": "lower", "3": "full"}
_SOURCES = {"1": SHOP, "2": CONSUMER}


@dataclasses.dataclass(frozen=True)
class _List:
    """A benchmark's list: its name, and the columns before the corners."""

    name: str
    columns: tuple[str, ...]


_LISTS = {
    "inshop": _List("list_bbox_inshop.txt", ("image_name", "clothes_type", "pose_type")),
    "consumer2shop": _List(
        "list_bbox_consumer2shop.txt", ("image_name", "clothes_type", "source_type")
    ),
    "category": _List("list_bbox.txt", ("image_name",)),
}


def with_boxes(benchmark: str, catalogue: Catalogue, data_dir: str | Path) -> Catalogue:
    """Adds the boxes of a benchmark's list, where there is one.

    Corners are the upper left and the lower right point of the garment in pixels; the image ends
    before the latter. With a list that has it, `columns` gets `clothes_type`: upper, lower or full.
    The boxes are those of the images that the list names: not of `img_highres`, whose images have
    another size and another margin.

    Args:
        benchmark: str, "inshop", "consumer2shop", or one that begins with "category".
        catalogue: Catalogue.
        data_dir: str or Path, see `find_file`.

    Returns:
        Catalogue. Notes count images without a box, and boxes that are none in the list as
        published, whose images then count whole.

    Raises:
        FirError: naming file and line, for a malformed row, an image that is listed twice, or a
            box that is none in a list other than the published one.
    """
    if catalogue.has_box().any():
        # Their own list has been read.
        return catalogue
    form = _LISTS[benchmark.partition("_")[0]]
    if not has_file(data_dir, form.name, _FOLDERS):
        return catalogue
    path, _ = find_file(data_dir, form.name, _FOLDERS)
    table = read_table(path, (*form.columns, *_CORNERS))
    check_listed_once(path, table, "image_name")
    for column, allowed in (("clothes_type", _TYPES), ("source_type", _SOURCES)):
        if column in table:
            check_values(path, table, column, tuple(allowed))
    place = pd.Index(table["image_name"]).get_indexer(catalogue.path)
    if (place < 0).all():
        note = (
            f"note: the boxes in {path} are of other images than those in {catalogue.root} "
            f"({table['image_name'][0]}, not {catalogue.path[0]}) and left out"
        )
        return dataclasses.replace(catalogue, notes=(*catalogue.notes, note))
    boxes, notes = _boxes(path, table, len(table) == PUBLISHED[benchmark].counts["images"])
    notes += _missing(path, catalogue, place) + _sides(path, table, catalogue, place)
    found = dataclasses.replace(
        catalogue,
        # The last row is that of no box.
        box=np.vstack([boxes, no_boxes(1)])[place],
        notes=(*catalogue.notes, *notes),
    )
    return _typed(found, table, place) if "clothes_type" in table else found


def with_aligned_boxes(catalogue: Catalogue) -> Catalogue:
    """Adds the boxes of `Anno_fine`: `train_bbox.txt`, aligned with `train.txt` by row, and so on.

    Args:
        catalogue: Catalogue whose sources are the latter.

    Returns:
        Catalogue; as it was where a list of boxes is missing. Notes as in `with_boxes`.

    Raises:
        FirError: naming file and line, for a malformed row, or lists of different lengths; for a
            box that is none in lists other than the published ones.
    """
    names = [Path(source) for source in catalogue.sources]
    paths = [path.with_name(f"{path.stem}_bbox.txt") for path in names]
    if not all(path.is_file() for path in paths):
        return catalogue
    released = len(catalogue) == PUBLISHED["category_fine"].counts["images"]
    box, notes = no_boxes(len(catalogue)), list[str]()
    for number, path in enumerate(paths):
        rows, table = np.flatnonzero(catalogue.origin == number), _corners(path)
        if len(rows) != len(table):
            raise FirError(
                f"{names[number]} and {path} belong together row by row. Received: {len(rows)} "
                f"and {len(table)} rows. Unpack them again"
            )
        box[rows], found = _boxes(path, table, released)
        notes += found
    return dataclasses.replace(catalogue, box=box, notes=(*catalogue.notes, *notes))


def _corners(path: Path) -> pd.DataFrame:
    """Reads a list of nothing but corners, without a header."""
    rows = [line.split() for line in read_lines(path)]
    for number, row in enumerate(rows, 1):
        if len(row) != len(_CORNERS):
            raise FirError(
                f"{path}:{number}: a row must have {len(_CORNERS)} columns "
                f"({', '.join(_CORNERS)}). Received: {' '.join(row)!r}"
            )
    table = pd.DataFrame(rows, columns=_CORNERS)
    table["line"] = table.index + 1
    return table


def _boxes(path: Path, table: pd.DataFrame, released: bool) -> tuple[np.ndarray, list[str]]:
    """Returns the boxes of a list, float32 [m, 4], and notes."""
    corners = np.stack(
        [pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in _CORNERS], 1
    )
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    good = np.isfinite(corners).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    good &= (corners[:, 2:] > 0).all(axis=1)
    notes = []
    if not good.all():
        row = table.iloc[int(np.argmin(good))]
        text = (
            f"{path}:{row['line']}: x_1 y_1 x_2 y_2 must be two corners in pixels, x_2 above x_1 "
            "and above 0, y_2 above y_1 and above 0. Received: "
            f"{' '.join(row[name] for name in _CORNERS)}"
        )
        if not released:
            raise FirError(f"{text}. Correct the row, or take it out: its image is whole then")
        notes.append(f"warning: {text}. {(~good).sum():,} such images count whole")
    return np.where(good[:, None], boxes, np.nan).astype(np.float32), notes


def _missing(path: Path, catalogue: Catalogue, place: np.ndarray) -> list[str]:
    lost = catalogue.path[place < 0]
    if not len(lost):
        return []
    return [f"note: {listed(lost, 'image', 'images')} without a box in {path} count whole"]


def _sides(path: Path, table: pd.DataFrame, catalogue: Catalogue, place: np.ndarray) -> list[str]:
    """Says where a list takes a consumer's photo for one of the shop, or the other way round."""
    if "source_type" not in table:
        return []
    sides = [*table["source_type"].map(_SOURCES), UNKNOWN]
    side = np.array(sides, np.int8)[place]
    rows = np.flatnonzero((side != catalogue.domain) & (side >= 0) & (catalogue.domain >= 0))
    if not len(rows):
        return []
    line = table["line"][place[rows[0]]]
    return [
        f"warning: `source_type` in {path} is not the side that {catalogue.source} has of "
        f"{len(rows):,} images; the latter counts: {path}:{line}, {catalogue.location(rows[0])}"
    ]


def _typed(catalogue: Catalogue, table: pd.DataFrame, place: np.ndarray) -> Catalogue:
    names = [*table["clothes_type"].map(_TYPES), ""]
    column = Column("text", texts_of(names[row] for row in place))
    return dataclasses.replace(
        catalogue,
        columns={"clothes_type": column},
        product=np.arange(len(place), dtype=np.int32),
    )
