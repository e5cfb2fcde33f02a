"""A skip that docs/testing.md does not list fails the run; those it lists are real."""

import re
from pathlib import Path

import pytest
from listed_skips import read_table

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
PAGE = "docs/testing.md"
TESTS = """
    import pytest

    def test_passes(): pass

    @pytest.mark.skipif(True, reason="needs a moon, and more")
    def test_mark(): pass

    @pytest.fixture
    def moon(): pytest.skip("needs a moon")

    def test_fixture(moon): pass

    @pytest.mark.xfail(reason="needs a moon")
    def test_expected(): assert False
"""
WHOLE_FILE = 'import pytest; pytest.importorskip("no_such_module", reason="needs a sun")'


@pytest.fixture
def run(pytester):
    """A function: runs tests/test_moon.py and test_sun.py with a table of rows."""
    pytester.makeconftest(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        'pytest_plugins = ["listed_skips"]'
    )
    folder = pytester.mkdir("tests")
    pytester.makepyfile(**{"tests/test_moon": TESTS})

    def run(*rows, options=(), whole_file=False):
        table = "".join(f"| `{test}` | `{reason}` | `make it` |\n" for test, reason in rows)
        (pytester.path / "page.md").write_text(
            "| test | reason | command |\n|---|---|---|\n" + table
        )
        (folder / "test_sun.py").write_text(WHOLE_FILE if whole_file else "")
        return pytester.runpytest("--listed-skips=page.md", *options)

    return run


MOON = ("tests/test_moon.py", "a moon")


def test_listed_skips_are_skips(run):
    result = run(MOON, ("tests/test_sun.py", "a sun"), whole_file=True)
    result.assert_outcomes(passed=1, skipped=3, xfailed=1)
    assert result.ret == 0


def test_an_unlisted_one_fails(run):
    result = run(("tests/test_moon.py::test_mark", "a moon"))
    # Its fixture skips: an error at the setup, as pytest calls it.
    result.assert_outcomes(passed=1, skipped=1, errors=1, xfailed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*test_moon.py::test_fixture was skipped, and page.md does not list it: *needs a moon"]
    )


def test_another_reason_is_unlisted(run):
    result = run(("tests/test_moon.py", "a moon in"), ("tests/test_sun.py", "a moon"))
    result.assert_outcomes(passed=1, errors=2, xfailed=1)


def test_a_file_that_skips_itself_fails_unlisted(run):
    result = run(MOON, whole_file=True)
    result.assert_outcomes(errors=1)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_sun.py was skipped, and page.md does not list it:*"])


@pytest.mark.slow
def test_side_by_side(run):
    """With pytest-xdist the processes that skip are not the one that counts."""
    result = run(("tests/test_moon.py", "and more"), options=("-n2",), whole_file=True)
    result.assert_outcomes(passed=1, skipped=1, errors=2, xfailed=1)
    assert result.ret != 0


def test_without_the_option_nothing_fails(pytester, run):
    run(("x", "y"))
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)


def test_a_page_without_a_table_is_told(pytester, run):
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Received: page.md"])
    result = pytester.runpytest("--listed-skips=gone.md")
    result.stderr.fnmatch_lines(["*gone.md*"])


@pytest.mark.parametrize(("test", "reason", "command"), read_table(ROOT / PAGE))
def test_every_row_is_of_a_skip_that_is_there(test, reason, command):
    path, _, name = test.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    common = "".join(
        (ROOT / "tests" / name).read_text(encoding="utf-8")
        for name in ("conftest.py", "browsers.py")
    )
    assert reason in source + common and (not name or f"def {name}(" in source)
    targets = re.findall(r"`make ([a-z -]+)", command)
    assert targets or command == "the same"


def test_all_rows_are_read():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `tests/")]
    assert len(rows) == len(read_table(ROOT / PAGE)) >= 10
