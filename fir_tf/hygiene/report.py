"""The report of a check as text, HTML and JSON."""

import collections
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.files import write_json, write_text
from fir_tf.hygiene.findings import SEVERITIES, Finding
from fir_tf.images.thumbnail import small_jpeg
from fir_tf.pages import render
from fir_tf.parallel import cores

_TEXT_EXAMPLES, _PICTURES, _LISTED = 3, 12, 10_000
_THUMBNAIL = 144
_BARS = 60


class Report:
    """What a check found, ready to be written.

    Args:
        catalogue: Catalogue.
        dataset: str, the layout.
        findings: list of Finding, the worst first.
        strict: bool, whether a warning counts as much as an error.
    """

    def __init__(
        self, catalogue: Catalogue, dataset: str, findings: Sequence[Finding], strict: bool = False
    ) -> None:
        self.catalogue = catalogue
        self.dataset = dataset
        self.findings = findings
        counting = SEVERITIES[:2] if strict else SEVERITIES[:1]
        self.failed = any(finding.severity in counting for finding in findings)

    def title(self) -> str:
        """Returns the first line, a str."""
        return f"Check of {self.dataset}: {self.catalogue.source}"

    def summary(self) -> str:
        """Returns how much was found, as one line."""
        count = collections.Counter(finding.severity for finding in self.findings)
        parts = [f"{count[name]} {name}{'' if count[name] == 1 else 's'}" for name in SEVERITIES]
        return f"Found: {', '.join(parts)}"

    def text(self) -> str:
        """Returns the whole report as text for a screen."""
        return render("check.txt", cases=_TEXT_EXAMPLES, bars=_BARS, **self._shown())

    def _shown(self) -> dict[str, Any]:
        return {
            "title": self.title(),
            "described": self.catalogue.describe().split("\n"),
            "summary": self.summary(),
            "findings": self.findings,
            "catalogue": self.catalogue,
            "categories": self.categories(),
            "items": self.items(),
        }

    def categories(self) -> list[tuple[str, int, int]]:
        """Returns [(name, training images, other images)] of the categories, the largest first."""
        known = self.catalogue.category >= 0
        count = len(self.catalogue.categories)
        train = self.catalogue.split == "train"
        own = np.bincount(self.catalogue.category[known & train], minlength=count)
        rest = np.bincount(self.catalogue.category[known & ~train], minlength=count)
        rows = zip(self.catalogue.categories, own.tolist(), rest.tolist(), strict=True)
        return sorted(
            (row for row in rows if row[1] or row[2]), key=lambda row: (-row[1], -row[2], row[0])
        )

    def items(self) -> list[tuple[str, int]]:
        """Returns [(range of numbers of images, items that have as many)]."""
        known = self.catalogue.item[self.catalogue.item >= 0]
        sizes = np.unique(known, return_counts=True)[1]
        edges = [1, 2, 3, 5, 9, 17, 33, np.iinfo(np.int64).max]
        names = ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-"]
        counts = np.histogram(sizes, edges)[0].tolist()
        return [(name, count) for name, count in zip(names, counts, strict=True) if count]

    def json(self) -> dict[str, Any]:
        """Returns the whole report as a structure for scripts; of each finding 10,000 cases."""
        catalogue = self.catalogue
        return {
            "dataset": self.dataset,
            "source": catalogue.source,
            "root": str(catalogue.root),
            "images": len(catalogue),
            "splits": {
                name: dict(zip(("images", "items", "categories"), counts, strict=True))
                for name, counts in catalogue.counts().items()
            },
            "notes": list(catalogue.notes),
            "failed": self.failed,
            "findings": [
                {
                    "name": finding.name,
                    "severity": finding.severity,
                    "count": finding.count,
                    "text": finding.text,
                    "advice": finding.advice,
                    "cases": [
                        {
                            "paths": [str(catalogue.path[row]) for row in example.rows],
                            "listed": [catalogue.location(row) for row in example.rows],
                            "detail": example.detail,
                        }
                        for example in finding.examples[:_LISTED]
                    ],
                }
                for finding in self.findings
            ],
            "categories": [
                {"name": name, "train": train, "other": rest}
                for name, train, rest in self.categories()
            ],
            "items_by_images": dict(self.items()),
        }

    def html(self) -> str:
        """Returns the whole report as one HTML page that needs no other file."""
        rows = {
            row
            for finding in self.findings
            for example in finding.examples[:_PICTURES]
            for row in example.rows
        }
        files = self.catalogue.files()
        with ThreadPoolExecutor(cores()) as pool:
            pictures = dict(
                zip(
                    rows,
                    pool.map(lambda row: small_jpeg(files[row], _THUMBNAIL), rows),
                    strict=True,
                )
            )
        shown = self._shown()
        return render(
            "check.html",
            cases=_PICTURES,
            pictures=pictures,
            largest=max((train + rest for _, train, rest in shown["categories"]), default=0),
            **shown,
        )


def write_check(report: Report, folder: str | Path) -> Path:
    """Writes report.txt, report.html and report.json.

    Args:
        report: Report.
        folder: str or Path, created where it is missing.

    Returns:
        Path of report.html.
    """
    folder = Path(folder)
    write_text(folder / "report.txt", report.text())
    write_json(folder / "report.json", report.json())
    write_text(folder / "report.html", report.html())
    return folder / "report.html"
