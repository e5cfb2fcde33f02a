"""DeepFashion's annotation files: a count line, a header line, columns in runs of spaces."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fir_tf.datasets.walk import existing_folder, subfolders
from fir_tf.errors import FirError

# The low resolution first: it is the one that results are published for.
IMAGE_FOLDERS = ("img", "img_highres")
LABEL_FOLDERS = ("Anno", "Anno_coarse", "Anno_fine", "Eval")


def find_file(data_dir: str | Path, name: str, folders: Sequence[str]) -> tuple[Path, Path]:
    """Finds a file of a release, wherever the release puts it.

    Args:
        data_dir: str or Path: the unpacked download, the folder above it, or one of its folders
            that is asked for (`Img/img_highres`, `Anno_fine`).
        name: str, the file's name.
        folders: sequence of str, folders below the benchmark's own that may hold it.

    Returns:
        (Path of the file, Path of the benchmark's folder).

    Raises:
        FirError: if `data_dir` does not exist or the file is in none of the places, all of
            which the message lists.
    """
    for place in _places(data_dir, name, folders):
        return place
    looked = ", ".join(str(Path(data_dir) / folder / name) for folder in folders)
    raise FirError(
        f"{name} was not found. Looked for {looked}, and likewise one folder further down. "
        "Unpack the benchmark's annotation files there, or correct --data_dir or --dataset"
    )


def has_file(data_dir: str | Path, name: str, folders: Sequence[str]) -> bool:
    """Returns whether `find_file` finds the file."""
    return any(True for _ in _places(data_dir, name, folders))


def _places(data_dir: str | Path, name: str, folders: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yields (file, benchmark's folder) wherever the file is."""
    data_dir = existing_folder(data_dir)
    bases = [data_dir, *subfolders(data_dir)]
    if asked_for(data_dir, IMAGE_FOLDERS + LABEL_FOLDERS):
        bases = [*Path(os.path.abspath(data_dir)).parents[:2], *bases]
    for base in bases:
        for folder in folders:
            if (base / folder / name).is_file():
                yield base / folder / name, base


def asked_for(data_dir: str | Path, names: Sequence[str]) -> str:
    """Returns the last part of `data_dir` if it is one of `names`, else an empty string."""
    name = os.path.basename(os.path.abspath(data_dir))
    return name if name in names else ""


def find_images(
    base: Path, data_dir: str | Path, paths: np.ndarray
) -> tuple[Path, np.ndarray, tuple[str, ...]]:
    """Finds the image files that paths such as `img/WOMEN/...` mean.

    The releases have them in two resolutions, `img` and `img_highres`, under the same names.
    Where both are unpacked `img` is taken, the one that published results are for, unless
    `data_dir` is the other folder.

    Args:
        base: Path, the benchmark's folder.
        data_dir: str or Path, what the person named.
        paths: str array, the image paths of the annotation file.

    Returns:
        (Path that the paths are relative to, str array of the paths in it, tuple of notes).

    Raises:
        FirError: if no place that a release may use has the image folder.
    """
    own = paths[0].split("/", 1)[0] if len(paths) else IMAGE_FOLDERS[0]
    names = dict.fromkeys([own, *IMAGE_FOLDERS])
    found = [
        (base / folder, name)
        for name in names
        for folder in ("Img", ".", "images", "Images")
        if (base / folder / name).is_dir()
    ]
    if asked_for(data_dir, IMAGE_FOLDERS):
        found.sort(key=lambda place: not os.path.samefile(place[0] / place[1], data_dir))
    if not found:
        raise FirError(
            f"the image folder was not found: neither {base / 'Img' / own} nor {base / own} "
            f"exists, and no {IMAGE_FOLDERS[1]} beside them. Unpack the images there"
        )
    root, name = found[0]
    notes: tuple[str, ...] = ()
    others = [str(place / other) for place, other in found[1:] if other != name]
    if others:
        notes = (f"images: {root / name} (for {others[0]} give that folder as --data_dir)",)
    if name != own:
        start = len(own) + 1
        paths = np.array(
            [f"{name}/{path[start:]}" if path.startswith(f"{own}/") else path for path in paths],
            object,
        )
    return root, paths, notes


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Reads an annotation file with a count line and a header line.

    Args:
        path: Path of the text file; UTF-8 with or without BOM, any line ends, columns separated
            by runs of spaces or tabs.
        columns: sequence of str, the columns' names; the header's own wording is not used.

    Returns:
        pandas.DataFrame of str columns, and `line`, the 1-based line in the file.

    Raises:
        FirError: naming file and line, for a row with too few or too many columns, a count line
            that is no number, a count that disagrees with the rows, or a file without rows.
    """
    must = f"a row must have {len(columns)} columns ({', '.join(columns)}). Received:"
    try:
        count, table = _parse(path, [*columns, "_extra"])
    except UnicodeDecodeError as error:
        raise FirError(f"{path} must be UTF-8 text. Received: {error}") from error
    except pd.errors.ParserError as error:
        found = re.search(r"line (\d+), saw (\d+)", str(error))
        where = f"{path}:{int(found[1]) + 2}" if found else str(path)
        saw = f"{found[2]} columns" if found else str(error)
        raise FirError(f"{where}: {must} {saw}") from error
    table = table[table[columns[0]] != ""]
    wrong = table[(table[columns[-1]] == "") | (table["_extra"] != "")]
    if len(wrong):
        *cells, line = wrong.iloc[0]
        raise FirError(f"{path}:{line}: {must} {' '.join(filter(None, cells))!r}")
    if not count.isdigit():
        raise FirError(f"{path}:1: the first line must be the number of rows. Received: {count!r}")
    if int(count) != len(table):
        raise FirError(
            f"{path}:1: the first line says {count} rows, the file has {len(table)}. "
            "It was cut off or edited; unpack it again, or correct the first line"
        )
    if not len(table):
        raise FirError(f"{path} has no rows. Unpack it again, or correct --data_dir")
    return table.drop(columns="_extra").reset_index(drop=True)


def _parse(path: Path, names: list[str]) -> tuple[str, pd.DataFrame]:
    """Returns the count line and the rows: str cells, "" where there is none, and `line`."""
    with open(path, encoding="utf-8-sig") as file:
        count = file.readline().strip()
        file.readline()
        try:
            table = pd.read_csv(
                file,
                sep=r"\s+",
                header=None,
                names=names,
                dtype=object,
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=[],
                skip_blank_lines=False,
                engine="c",
            )
        except pd.errors.EmptyDataError:
            table = pd.DataFrame(columns=names, dtype=object)
    table = table.fillna("")
    table["line"] = table.index + 3
    return count, table


def read_lines(path: Path) -> list[str]:
    """Reads a file that has neither a count line nor a header, one value a line.

    Args:
        path: Path of the text file; UTF-8 with or without BOM, any line ends.

    Returns:
        list of str without the blanks around them; value i stood on line i + 1. Empty lines at
        the end do not count.

    Raises:
        FirError: if the file is missing or no UTF-8, or for an empty line between others.
    """
    if not path.is_file():
        raise FirError(f"{path} was not found. Unpack the benchmark's annotation files again")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise FirError(f"{path} must be UTF-8 text. Received: {error}") from error
    values = [line.strip() for line in lines]
    if "" in values:
        raise FirError(f"{path}:{values.index('') + 1}: a line must hold one value. Received: ''")
    return values


def check_listed_once(path: Path, table: pd.DataFrame, column: str) -> None:
    """Raises FirError naming file and lines if two rows have the same value in `column`."""
    twice = table[column].duplicated()
    if twice.any():
        row = table[twice].iloc[0]
        first = table.loc[table[column] == row[column], "line"].iloc[0]
        raise FirError(
            f"{path}:{row['line']}: {row[column]} is listed already on line {first}. Take one out"
        )


def check_values(path: Path, table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    """Raises FirError naming file and line of the first value that is not in `allowed`."""
    wrong = table[~table[column].isin(allowed)]
    if len(wrong):
        row = wrong.iloc[0]
        raise FirError(
            f"{path}:{row['line']}: `{column}` must be one of {', '.join(allowed)}. "
            f"Received: {row[column]!r}"
        )
