"""What each query of a measured run is worth: queries.csv."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from fir_tf.errors import FirError
from fir_tf.files import replacing

_COLUMNS = ("path", "item", "rank", "AP@R", "R-precision")


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """The queries that count in a run's means, one a row.

    Attributes:
        path: str array [q], the image, relative to the data set's folder.
        item: str array [q].
        rank: int array [q], at which rank the first match stands; 0 where none was looked at.
        average_precision: float array [q], AP@R.
        r_precision: float array [q].
    """

    path: np.ndarray
    item: np.ndarray
    rank: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray

    def values(self, metric: str) -> np.ndarray:
        """Returns what each query adds to a mean.

        Args:
            metric: str, "mAP@R", "R-precision" or "recall@k", k up to the ranks looked at (50).

        Returns:
            float array [q].
        """
        if metric.startswith("recall@"):
            k = int(metric.removeprefix("recall@"))
            return ((self.rank > 0) & (self.rank <= k)).astype(np.float64)
        return {"mAP@R": self.average_precision, "R-precision": self.r_precision}[metric]

    def save(self, path: str | Path) -> None:
        """Writes the table as CSV."""
        columns = (getattr(self, field.name).tolist() for field in dataclasses.fields(self))
        with (
            replacing(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows(zip(*columns, strict=True))

    @classmethod
    def load(cls, path: str | Path) -> "Queries":
        """Reads what `save` wrote.

        Raises:
            FirError: it is missing or damaged.
        """
        try:
            with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *rows = csv.reader(file, strict=True)
            if tuple(header) != _COLUMNS:
                raise ValueError(f"the columns {', '.join(header)}")
            cells = np.array(rows, object).reshape(-1, len(_COLUMNS)).T
            numbers = (cells[2].astype(np.int64), *cells[3:].astype(np.float64))
        except (OSError, ValueError, csv.Error) as error:
            raise FirError(
                f"{path} must be what evaluate.py writes. Received: {error}. Evaluate the run again"
            ) from error
        return cls(cells[0], cells[1], *numbers)
