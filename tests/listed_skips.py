"""A pytest plugin: with `--listed-skips=PAGE`, a skip that the page's table does not list fails.

A row of the table is `| test | what the skip says | how to run it |`: the beginning of a test's
name and a part of the skip's reason, each in backticks.
"""

import re
from pathlib import Path

import pytest

_ROW = re.compile(r"^\| `(tests/[^`]+)` \| `([^`]+)` \| (.+) \|$", re.MULTILINE)


def read_table(page):
    """Returns [(beginning of the test's name, part of the reason, how to run it)] of a page."""
    try:
        rows = _ROW.findall(Path(page).read_text(encoding="utf-8"))
    except OSError as error:
        raise pytest.UsageError(f"--listed-skips must be a page with a table: {error}") from error
    if not rows:
        raise pytest.UsageError(
            f"--listed-skips must be a page with rows '| `tests/...` | `reason` | how to run it |'."
            f" Received: {page}"
        )
    return rows


class ListedSkips:
    """Makes failures of the skips that no row lists, before anything counts them."""

    def __init__(self, page):
        self.page = page
        self.rows = read_table(page)

    def _check(self, report):
        # An expected failure is reported as a skip with `wasxfail`.
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2]
        for test, part, _ in self.rows:
            if report.nodeid.startswith(test) and part in reason:
                return
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped, and {self.page} does not list it: {reason}\n"
            "Install what it needs, or add a row that says how it can be run."
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report):
        self._check(report)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_collectreport(self, report):
        # A file that skips itself as a whole.
        self._check(report)
        return (yield)


def pytest_addoption(parser):
    parser.addoption(
        "--listed-skips", metavar="PAGE", help="fail on skips that the table of PAGE does not list"
    )


def pytest_configure(config):
    page = config.getoption("--listed-skips")
    # The processes of pytest-xdist hand their reports on to the one that counts.
    if page and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ListedSkips(page))
