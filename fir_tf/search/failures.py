"""Photos that an index could not be made of: a line each in errors.csv, and counts by reason."""

import collections
import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fir_tf.files import write_text

UNOPENED, UNDECODED = "cannot be opened", "cannot be decoded"
"""str, kinds of failures of local files, the second of fetched ones too."""

UNCROPPED = "cannot be cropped to its box"
"""str, the kind of failure of a photo that could be read."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A photo that cannot be read.

    Attributes:
        path: str, as it is listed.
        kind: str, what such photos are counted by: UNDECODED, UNCROPPED, or why it could not be
            opened or fetched.
        reason: str, in words; empty where `kind` says all.
    """

    path: str
    kind: str
    reason: str = ""

    def __str__(self) -> str:
        """Returns why, in one text."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def by_kind(failures: Iterable[Failure]) -> str:
    """Returns how many there are of each kind, the most first."""
    counts = collections.Counter(failure.kind for failure in failures)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())


def write_errors(path: str | Path, failures: Sequence[Failure], lines: Mapping[str, int]) -> None:
    """Writes failures as CSV: `row`, `photo`, `reason`.

    Args:
        path: str or Path.
        failures: sequence of Failure.
        lines: dict of int by path, the line of a photo in its file; others have none.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "photo", "reason"])
    for failure in failures:
        table.writerow([lines.get(failure.path, ""), failure.path, str(failure)])
    write_text(path, text.getvalue())
