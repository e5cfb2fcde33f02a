"""The report of a check as text, HTML and JSON."""

import base64
import collections
import html
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fir_tf.files import write_json, write_text
from fir_tf.hygiene.findings import SEVERITIES
from fir_tf.images.file import UnreadableImageError, read
from fir_tf.images.picture import see_or_convert
from fir_tf.parallel import cores

_TEXT_EXAMPLES, _PICTURES, _LISTED = 3, 12, 10_000
_THUMBNAIL = 144
_BARS = 60

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 1080px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin: 1.8em 0 .3em; }
pre { background: #f4f4f4; padding: .8em; overflow-x: auto; }
.tag { color: #fff; border-radius: 3px; padding: .1em .5em; font-size: .8em; margin-right: .5em; }
.error { background: #cd202c; } .warning { background: #a65a00; } .note { background: #4a6a8a; }
.advice { margin: .2em 0 .6em; color: #444; }
.cases { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
figure { margin: 0; padding: 6px; border: 1px solid #ddd; border-radius: 4px; max-width: 310px; }
.pictures { display: flex; gap: 4px; min-height: 40px; }
.none { width: 100px; height: 60px; background: #eee; color: #777; font-size: 12px;
  text-align: center; line-height: 60px; }
figcaption { font-size: 12px; overflow-wrap: anywhere; color: #444; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 1px 8px; text-align: left; }
td.number { text-align: right; } td.wide { width: 420px; }
.bar { height: 11px; background: #0072b2; display: inline-block; }
.bar.rest { background: #e69f00; }
"""


class Report:
    """What a check found, ready to be written.

    Args:
        catalogue: Catalogue.
        dataset: str, the layout.
        findings: list of Finding, the worst first.
        strict: bool, whether a warning counts as much as an error.
    """

    def __init__(self, catalogue, dataset, findings, strict=False):
        self.catalogue = catalogue
        self.dataset = dataset
        self.findings = findings
        counting = SEVERITIES[:2] if strict else SEVERITIES[:1]
        self.failed = any(finding.severity in counting for finding in findings)

    def title(self):
        """Returns the first line, a str."""
        return f"Check of {self.dataset}: {self.catalogue.source}"

    def summary(self):
        """Returns how much was found, as one line."""
        count = collections.Counter(finding.severity for finding in self.findings)
        parts = [f"{count[name]} {name}{'' if count[name] == 1 else 's'}" for name in SEVERITIES]
        return f"Found: {', '.join(parts)}"

    def text(self):
        """Returns the whole report as text for a screen."""
        lines = [self.title(), self.catalogue.describe(), "", self.summary()]
        for finding in self.findings:
            lines += ["", f"{finding.severity.upper()}: {finding.text}  [{finding.name}]"]
            if finding.advice:
                lines.append(f"  {finding.advice}")
            for example in finding.examples[:_TEXT_EXAMPLES]:
                lines += [f"    {line}" for line in self._describe(example)]
            more = finding.count - _TEXT_EXAMPLES
            if more > 0:
                lines.append(f"    ... and {more:,} more")
        sizes = self.categories()
        if sizes:
            lines += ["", "training images by category (others behind +):"]
            most = max(train for _, train, _ in sizes) or 1
            width = min(40, max(len(name) for name, *_ in sizes))
            for name, train, rest in sizes[:_BARS]:
                bar = "#" * round(30 * train / most)
                lines.append(f"  {_printable(name)[:width]:{width}s} {train:7d} +{rest:<7d} {bar}")
            if len(sizes) > _BARS:
                lines.append(f"  ... and {len(sizes) - _BARS:,} more")
        items = self.items()
        if items:
            lines += ["", "items by number of images:"]
            lines += [f"  {name:>6s} {count:7d}" for name, count in items]
        return "\n".join(lines) + "\n"

    def _describe(self, example):
        """Returns the lines of an example: where it is listed, the files, what is particular."""
        lines = [
            f"{self.catalogue.location(row)}: {self.catalogue.root / self.catalogue.path[row]}"
            for row in example.rows
        ]
        if example.detail:
            lines[-1] += f" ({example.detail})"
        return [_printable(line) for line in lines]

    def categories(self):
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

    def items(self):
        """Returns [(range of numbers of images, items that have as many)]."""
        known = self.catalogue.item[self.catalogue.item >= 0]
        sizes = np.unique(known, return_counts=True)[1]
        edges = [1, 2, 3, 5, 9, 17, 33, np.iinfo(np.int64).max]
        names = ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-"]
        counts = np.histogram(sizes, edges)[0].tolist()
        return [(name, count) for name, count in zip(names, counts, strict=True) if count]

    def json(self):
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

    def html(self):
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
                zip(rows, pool.map(_thumbnail, [files[row] for row in rows]), strict=True)
            )
        title = html.escape(self.title())
        parts = [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            f"<pre>{html.escape(self.catalogue.describe())}</pre>",
            f"<p>{html.escape(self.summary())}.</p>",
        ]
        for finding in self.findings:
            parts.append(
                f'<section id="{finding.name}"><h2><span class="tag {finding.severity}">'
                f"{finding.severity}</span>{html.escape(finding.text)}</h2>"
                f'<p class="advice">{html.escape(finding.advice)}</p><div class="cases">'
            )
            parts += [self._figure(example, pictures) for example in finding.examples[:_PICTURES]]
            parts.append("</div>")
            if finding.count > _PICTURES:
                parts.append(f"<p>... and {finding.count - _PICTURES:,} more, see report.json</p>")
            parts.append("</section>")
        parts += [*self._bars(), "</body></html>"]
        return "\n".join(parts) + "\n"

    def _figure(self, example, pictures):
        shown = "".join(
            f'<img src="{pictures[row]}" alt="">'
            if pictures[row]
            else '<div class="none">no picture</div>'
            for row in example.rows
        )
        names = "<br>".join(
            html.escape(_printable(str(self.catalogue.path[row])))
            + (f" (line {self.catalogue.line[row]})" if self.catalogue.line[row] else "")
            for row in example.rows
        )
        detail = f"<br><b>{html.escape(_printable(example.detail))}</b>" if example.detail else ""
        return (
            f'<figure><div class="pictures">{shown}</div>'
            f"<figcaption>{names}{detail}</figcaption></figure>"
        )

    def _bars(self):
        sizes, items = self.categories(), self.items()
        parts = []
        if sizes:
            most = max(train + rest for _, train, rest in sizes)
            parts.append("<h2>Images by category: training (blue) and other splits (orange)</h2>")
            parts.append("<table><tr><th>category</th><th>train</th><th>other</th><th></th></tr>")
            parts += [
                f'<tr><td>{html.escape(_printable(name))}</td><td class="number">{train:,}</td>'
                f'<td class="number">{rest:,}</td><td class="wide">{_bar(train, most)}'
                f"{_bar(rest, most, ' rest')}</td></tr>"
                for name, train, rest in sizes
            ]
            parts.append("</table>")
        if items:
            most = max(count for _, count in items)
            parts.append("<h2>Items by number of images</h2>")
            parts.append("<table><tr><th>images</th><th>items</th><th></th></tr>")
            parts += [
                f'<tr><td>{name}</td><td class="number">{count:,}</td>'
                f'<td class="wide">{_bar(count, most)}</td></tr>'
                for name, count in items
            ]
            parts.append("</table>")
        return parts


def _bar(value, most, kind=""):
    return f'<span class="bar{kind}" style="width:{round(400 * value / most)}px"></span>'


def _printable(text):
    """Returns text without characters that would move a terminal's cursor or break a line."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _thumbnail(path):
    """Returns a picture as the model sees it as a data URI; "" if it cannot be read."""
    try:
        picture, _ = see_or_convert(read(path), _THUMBNAIL)
    except UnreadableImageError:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg(quality=80)).decode("ascii")


def write_report(report, folder):
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
