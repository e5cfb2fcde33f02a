"""DeepFashion's annotation files: a count line, a header line, columns in runs of spaces."""

import re
from pathlib import Path

import pandas as pd

from fir_tf.errors import FirError


def existing_folder(data_dir):
    """Returns `data_dir` as a Path; FirError if it is empty or no folder."""
    if not str(data_dir):
        raise FirError("`data_dir` must name the folder of the data set. Received: ''")
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FirError(
            f"`data_dir` must be an existing folder. Received: {data_dir} (there is no such folder)"
        )
    return data_dir


def find_file(data_dir, name, folders):
    """Finds a file of a release, wherever the release puts it.

    Args:
        data_dir: str or Path, the unpacked download.
        name: str, the file's name.
        folders: sequence of str, folders below the benchmark's own that may hold it.

    Returns:
        (Path of the file, Path of the benchmark's folder).

    Raises:
        FirError: if `data_dir` does not exist or the file is in none of the places, all of
            which the message lists.
    """
    data_dir = existing_folder(data_dir)
    inner = sorted(path for path in data_dir.iterdir() if path.is_dir())
    for base in [data_dir, *inner]:
        for folder in folders:
            path = base / folder / name
            if path.is_file():
                return path, base
    looked = ", ".join(str(data_dir / folder / name) for folder in folders)
    raise FirError(
        f"{name} was not found. Looked for {looked}, and likewise one folder further down. "
        "Unpack the benchmark's annotation files there, or correct --data_dir or --dataset"
    )


def find_images(base, first):
    """Returns the folder that image paths such as `img/...` are relative to.

    Args:
        base: Path, the benchmark's folder.
        first: str, the first image path of the annotation file.

    Raises:
        FirError: if none of the places a release may use has the first path's folder.
    """
    top = first.split("/", 1)[0]
    for folder in ("Img", ".", "images", "Images"):
        if (base / folder / top).is_dir():
            return base / folder
    raise FirError(
        f"the image folder was not found: neither {base / 'Img' / top} nor {base / top} exists. "
        "Unpack the images there"
    )


def read_table(path, columns):
    """Reads an annotation file with a count line and a header line.

    Args:
        path: Path of the text file; UTF-8 with or without BOM, any line ends, columns separated
            by runs of spaces or tabs.
        columns: sequence of str, the columns' names; the header's own wording is not used.

    Returns:
        pandas.DataFrame of str columns, and `line`, the 1-based line in the file.

    Raises:
        FirError: naming file and line, for a row with too few or too many columns, a count line
            that is no number, or a count that disagrees with the rows.
    """
    names = [*columns, "_extra"]
    try:
        with open(path, encoding="utf-8-sig") as file:
            count = file.readline().strip()
            file.readline()
            table = pd.read_csv(
                file,
                sep=r"\s+",
                header=None,
                names=names,
                dtype=str,
                quoting=3,
                keep_default_na=False,
                na_values=[],
                skip_blank_lines=False,
                engine="c",
            )
    except UnicodeDecodeError as error:
        raise FirError(f"{path} must be UTF-8 text. Received: {error}") from error
    except pd.errors.EmptyDataError:
        table = pd.DataFrame({name: pd.Series(dtype=str) for name in names})
    except pd.errors.ParserError as error:
        found = re.search(r"line (\d+), saw (\d+)", str(error))
        where = f"{path}:{int(found[1]) + 2}" if found else str(path)
        saw = f"{found[2]} columns" if found else str(error)
        raise FirError(
            f"{where}: a row must have {len(columns)} columns ({', '.join(columns)}). "
            f"Received: {saw}"
        ) from error
    table["line"] = table.index + 3
    empty = table[columns[0]].isna() | (table[columns[0]] == "")
    table = table[~empty]
    short = table[columns[-1]].isna() | (table[columns[-1]] == "")
    long = table["_extra"].notna() & (table["_extra"] != "")
    wrong = table[short | long]
    if len(wrong):
        row = wrong.iloc[0]
        text = " ".join(str(row[name]) for name in names if isinstance(row[name], str))
        raise FirError(
            f"{path}:{row['line']}: a row must have {len(columns)} columns "
            f"({', '.join(columns)}). Received: {text!r}"
        )
    if not count.isdigit():
        raise FirError(f"{path}:1: the first line must be the number of rows. Received: {count!r}")
    if int(count) != len(table):
        raise FirError(
            f"{path}:1: the first line says {count} rows, the file has {len(table)}. "
            "It was cut off or edited; unpack it again, or correct the first line"
        )
    return table.drop(columns="_extra").reset_index(drop=True)


def check_values(path, table, column, allowed):
    """Raises FirError naming file and line of the first value that is not in `allowed`."""
    wrong = table[~table[column].isin(allowed)]
    if len(wrong):
        row = wrong.iloc[0]
        raise FirError(
            f"{path}:{row['line']}: `{column}` must be one of {', '.join(allowed)}. "
            f"Received: {row[column]!r}"
        )
