"""The run's log: TensorBoard scalars, and the same numbers as log.csv."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from fir_tf.files import replacing
from fir_tf.run import read_log_rows


class RunLog:
    """Appends scalars to `<run>/log.csv` and `<run>/logs` (TensorBoard).

    Args:
        run: Path, the run's folder.
        start_step: int; entries of later steps, left by an interrupted run, are dropped, so that
            each step stands there once. A run from the start on has none.
    """

    def __init__(self, run: Path, start_step: int = 0) -> None:
        self._path = Path(run) / "log.csv"
        self._drop_after(start_step)
        self._file = open(self._path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._rows = csv.writer(self._file)
        self._writer = tf.summary.create_file_writer(
            os.path.join(run, "logs"), filename_suffix=f".{start_step}"
        )

    def _drop_after(self, start_step: int) -> None:
        entries = read_log_rows(self._path) if start_step else []
        kept = [entry for entry in entries if entry[0] <= start_step]
        with (
            replacing(self._path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(("step", "name", "value"))
            rows.writerows(kept)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes {name: number} at a step."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
                self._rows.writerow((step, name, repr(float(value))))
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._writer.close()
