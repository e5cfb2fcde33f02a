"""Which columns of a file say what of its photos."""

import re

from fir_tf.datasets.feeds.format import column_name
from fir_tf.errors import FirError

COLUMNS = ("path", "item", "category", "domain", "split", "box")
"""What the columns of a table say of a photo, and how they are called by default."""


def parse_columns(text: str) -> dict[str, str]:
    """Reads the value of --columns, such as `item=sku,path=photo`.

    Args:
        text: str, `what=name` with `what` of `COLUMNS` and commas between, possibly empty. A box
            may stand in four columns, `box=left+top+width+height`.

    Returns:
        dict of the file's column by what it says. Names are those that
        `fir_tf.datasets.feeds.format.column_name` gives; those of a box have `+` between.

    Raises:
        FirError: for anything else, and for what is named twice.
    """
    columns: dict[str, str] = {}
    what = "|".join(COLUMNS)
    # A comma that begins another one; a name may have commas.
    for part in re.split(r",(?=\s*\w+\s*=)", text) if text.strip() else ():
        found = re.fullmatch(rf"\s*({what})\s*=(.*\S.*)", part)
        if not found or found[1] in columns:
            raise FirError(
                "`columns` must be what=name[,what=name...] such as item=sku,path=photo, each of "
                f"{', '.join(COLUMNS)} at most once. Received: {part.strip()!r}"
            )
        columns[found[1]] = (
            "+".join(map(column_name, found[2].split("+")))
            if found[1] == "box"
            else column_name(found[2])
        )
    return columns
