"""The documentation is true: its commands parse, its links lead somewhere, its examples run."""

import ast
import collections
import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import json
import os
import pydoc
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest
from matplotlib import pyplot

from fir_tf import registry
from fir_tf.registry import KINDS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for folder in (".", "docs", "serving", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
# Every command that is given its flags by absl, and the options they fill.
OPTIONS = {
    "train.py": "fir_tf.config.Config",
    "evaluate.py": "fir_tf.options.EvaluateOptions",
    "export.py": "fir_tf.options.ExportOptions",
    "search.py index": "fir_tf.search_options.IndexOptions",
    "search.py query": "fir_tf.search_options.QueryOptions",
    "search.py measure": "fir_tf.search_options.MeasureOptions",
    "search.py compare": "fir_tf.search_options.CompareOptions",
    "search.py migrate": "fir_tf.search_options.MigrateOptions",
    "search.py watch": "fir_tf.search_options.WatchOptions",
    "search.py web": "fir_tf.search_options.WebOptions",
}
OTHER_MODULES = ("pytest", "venv")


def blocks(page, language):
    """Returns [(line number, text)] of a page's code blocks in a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(1)) + 1, found[1])
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def commands(page):
    """Returns the commands of a page's shell blocks, a list of words each."""
    text = "".join(text for _, text in blocks(page, "sh")).replace("\\\n", " ")
    found, begun = [], ""
    for line in re.sub(r"<([^<>\n]*)>", r"'\1'", text).splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            # A quotation that goes on in the next line.
            begun += " "
            continue
        begun = ""
        if words:
            found.append(words)
    assert not begun, f"{page}: {begun}"
    return found


def python_commands():
    return [(page, words) for page in NAMES for words in commands(page) if words[0] == "python"]


_PARSE = """
import dataclasses, importlib, json, sys
from absl import flags
from absl.testing import flagsaver
from fir_tf.cli.common import define_flags, read_flags

module, name = sys.argv[1].rsplit(".", 1)
options = getattr(importlib.import_module(module), name)
define_flags(dataclasses.fields(options))
flags.FLAGS.set_gnu_getopt(True)
flags.FLAGS([sys.argv[0]])
for words in json.load(sys.stdin):
    try:
        with flagsaver.flagsaver():
            left = flags.FLAGS([sys.argv[0], *words])[1:]
            read_flags(options)
        print(json.dumps(["", left]))
    except Exception as error:
        print(json.dumps([str(error), []]))
"""


def test_how_to_extend_has_an_example_of_every_kind():
    text = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    assert set(re.findall(r'register\("(\w+)", "\w+"\)', text)) == set(KINDS)


@functools.lru_cache
def by_script():
    """Returns {script: [(page, words behind it)]} of all commands that are checked by parsing."""
    found = collections.defaultdict(list)
    for page, (_, script, *words) in python_commands():
        name = f"{script} {words[0]}" if script == "search.py" else script
        if name in OPTIONS:
            found[name].append((page, words[1:] if script == "search.py" else words))
    return found


@pytest.mark.parametrize("script", OPTIONS)
def test_flags_of_the_scripts_parse(script, tmp_path):
    told = by_script()[script]
    assert told, f"no page shows {script}"
    # The plugin that the page on extending tells to write: its names are enough here.
    parts = re.findall(r'@?register\("\w+", "\w+"\)', (ROOT / "docs/extend.md").read_text())
    lines = [f"{part.removeprefix('@')}(object())" for part in parts]
    (tmp_path / "my_parts.py").write_text(
        "\n".join(["from fir_tf.registry import register", *lines])
    )
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, OPTIONS[script]],
        input=json.dumps([words for _, words in told]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))},
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(told)
    for (page, words), (error, left) in zip(told, answers, strict=True):
        assert not error, f"{page}: {script} {shlex.join(words)}: {error}"
        photos = left if script == "search.py query" else []
        assert left == photos, f"{page}: {script} takes no {left}"
        assert script != "search.py query" or photos, f"{page}: no photo is asked for"


@functools.lru_cache
def help_of(*program):
    """Returns what a program prints, run here: most import TensorFlow before they answer."""
    if program == ("train.py",):
        # Its flags are the process' own.
        command = [sys.executable, *program, "--help"]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    module, words = program[0] == "-m", program[1 if program[0] == "-m" else 0 :]
    run = runpy.run_module if module else runpy.run_path
    name = words[0] if module else str(ROOT / words[0])
    before = sys.argv, sys.path
    sys.argv = [words[0], *words[1:], "--help"]
    sys.path = [str((ROOT / words[0]).parent), *sys.path]
    try:
        with (
            mock.patch.dict(os.environ),
            contextlib.redirect_stdout(io.StringIO()) as out,
            pytest.raises(SystemExit) as ended,
        ):
            run(name, run_name="__main__")
    finally:
        sys.argv, sys.path = before
    assert not ended.value.code, program
    return out.getvalue()


@pytest.mark.slow
def test_flags_of_the_other_programs_are_in_their_help():
    seen = 0
    for page, (_, *words) in python_commands():
        if words[0] in ("train.py", "evaluate.py", "export.py", "search.py"):
            continue
        if words[0] == "-m":
            if words[1] in OTHER_MODULES:
                continue
            assert words[1].split(".")[0] == "fir_tf", f"{page}: {shlex.join(words)}"
        program, rest = (words[:2], words[2:]) if words[0] == "-m" else (words[:1], words[1:])
        if rest and re.fullmatch(r"[a-z_]+", rest[0]):
            # An unknown command has no --help.
            program, rest = [*program, rest[0]], rest[1:]
        for word in rest:
            if word == "--":
                # What stands behind it goes to train.py.
                program = ("train.py",)
            elif word.startswith("--"):
                flag = word.split("=")[0]
                known = re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(*program))
                assert known or flag == "--help", f"{page}: {shlex.join(words)}: {flag}"
                seen += 1
    assert seen > 10


def test_commands_are_of_a_kind_that_is_checked():
    known = {"python", "make", "docker", "curl", "pip", "export", "."}
    for page in NAMES:
        for words in commands(page):
            first = words[0] if "=" not in words[0] else "export"
            assert first in known, f"{page}: {shlex.join(words)}"


def test_make_targets_exist():
    targets = {tuple(words[1:]) for page in NAMES for words in commands(page) if words[0] == "make"}
    assert {("quickstart",), ("test",), ("lint",)} <= targets
    # Those in the running text too.
    for page in NAMES:
        text = (ROOT / page).read_text(encoding="utf-8")
        targets |= {tuple(told.split()) for told in re.findall(r"`make ([^`]+)`", text)}
    for words in targets:
        done = subprocess.run(["make", "-n", *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_extras_exist():
    extras = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    extras = extras.split("[options.extras_require]")[1].split("\n[")[0]
    known = set(re.findall(r"^([\w-]+) =", extras, re.MULTILINE))
    for page in NAMES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for names in re.findall(r"(?:EXTRAS=|'\.\[|'fir_tf\[)([\w,-]+)", text):
            assert set(names.split(",")) <= known, f"{page}: {names}"


def anchors(path):
    """Returns the anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(\s*<?([^)\s>]+)", prose):
        parts = urlsplit(link)
        if parts.scheme:
            # External ones are only read: nothing is fetched here.
            assert parts.scheme == "https" and "." in parts.netloc, f"{page}: {link}"
            continue
        target = path.parent / unquote(parts.path) if parts.path else path
        assert target.exists(), f"{page}: {link}"
        if parts.fragment:
            assert parts.fragment in anchors(target), f"{page}: {link}"


def example(page, count):
    """Returns a page's Python blocks as one program, under the page's own line numbers."""
    found = blocks(page, "python")
    assert len(found) >= count
    lines = []
    for number, text in found:
        lines += [""] * (number - 1 - len(lines)) + text.splitlines()
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "count", "shown"),
    [
        ("docs/library.md", 8, "recall@1 0.9"),
        ("docs/keras.md", 4, "learned"),
        ("docs/garments.md", 2, "cut out: (74, 74)"),
    ],
)
def test_examples_run(tmp_path, monkeypatch, capsys, shallow, page, count, shown):
    monkeypatch.chdir(tmp_path)
    exec(compile(example(page, count), page, "exec"), {"__name__": "__main__"})
    pyplot.close("all")
    assert shown in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_that_registers_parts_runs(tmp_path):
    """In a process of its own: its parts stay registered."""
    program = "import sys; exec(compile(sys.stdin.read(), 'docs/extend.md', 'exec'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=example("docs/extend.md", 8),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "80 images under shop" in done.stdout


@pytest.mark.parametrize("page", NAMES)
def test_names_in_examples_exist(page):
    for number, text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fir_tf":
                module = importlib.import_module(node.module)
                for name in node.names:
                    found = hasattr(module, name.name) or importlib.import_module(
                        f"{node.module}.{name.name}"
                    )
                    assert found, f"{page}:{number}: {node.module}.{name.name}"


# A changelog names what is gone.
@pytest.mark.parametrize("page", [page for page in NAMES if page != "CHANGELOG.md"])
def test_names_in_the_text_exist(page):
    text = re.sub(
        r"^```.*?^```",
        "",
        (ROOT / page).read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    for name in re.findall(r"`(fir_tf(?:\.\w+)+)(?:\(\))?`", text):
        # The group of entry points is called as a module would be.
        assert name == registry.ENTRY_POINTS or pydoc.locate(name) is not None, f"{page}: {name}"


@pytest.mark.parametrize("page", [page for page in NAMES if page != "docs/api.md"])
def test_pages_are_plain_markdown(page):
    found = re.search(r"^```\{.*|\{\w+:\w+\}`.*", (ROOT / page).read_text(), re.MULTILINE)
    assert not found, f"{page}: {found[0]}"


def documented_modules():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)


def public_callables(module):
    """Yields (name, function) of a module's public functions and public classes' methods."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, function in vars(value).items():
                if isinstance(function, (classmethod, property)):
                    function = getattr(function, "__func__", None) or function.fget
                wanted = not method.startswith("_") or method in ("__init__", "__call__")
                generated = "<string>" in getattr(
                    getattr(function, "__code__", None), "co_filename", ""
                )
                own = wanted and getattr(function, "__name__", "") == method
                if inspect.isfunction(function) and own and not generated:
                    yield f"{name}.{method}", function


@pytest.mark.parametrize("module", documented_modules())
def test_documented_signatures_have_types(module):
    for name, function in public_callables(importlib.import_module(module)):
        # What a decorator wraps is the signature that the person reads.
        signature = inspect.signature(inspect.unwrap(function))
        missing = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        assert not missing, f"{module}.{name}: {missing}"
        assert signature.return_annotation is not signature.empty, f"{module}.{name}"


@pytest.mark.parametrize("module", documented_modules())
def test_docstrings_that_list_arguments_list_all(module):
    found = importlib.import_module(module)
    for name, function in public_callables(found):
        # A constructor's arguments stand in the docstring of its class.
        whole = function if not name.endswith(".__init__") else getattr(found, name.split(".")[0])
        described = re.search(r"\n *Args:\n(.*?)(\n\n|$)", inspect.getdoc(whole) or "", re.DOTALL)
        for parameter in inspect.signature(inspect.unwrap(function)).parameters:
            if described and parameter not in ("self", "cls"):
                assert re.search(
                    rf"^    [\w, *]*\b{parameter}\b[\w, ]*:", described[1], re.MULTILINE
                ), f"{module}.{name}: {parameter}"


def test_what_the_packages_export_is_documented():
    import fir_tf.datasets
    import fir_tf.search.engines

    documented = set(documented_modules())
    for package in (fir_tf.datasets, fir_tf.search.engines):
        for name in package.__all__:
            home = getattr(getattr(package, name), "__module__", package.__name__)
            assert home in documented or home == "builtins", f"{package.__name__}.{name}"
    assert fir_tf.load_model.__module__ in documented


@functools.lru_cache
def results_table():
    spec = importlib.util.spec_from_file_location(
        "results_table", ROOT / "tools" / "results_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_page_is_what_the_records_give():
    table = results_table()
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == table.render(
        table.read_records()
    )


def write_run(folder, protocol, values, **config):
    """Writes the three files of a run that its record is made of."""
    config = {
        "run": str(folder),
        "dataset": "inshop",
        "data_dir": "/somebody/inshop",
        "backbone": "resnet50",
        "weights": "imagenet",
        "losses": "OC",
        "seed": 3,
        "epochs": 200,
        "image_size": 224,
        **config,
    }
    protocol = {
        "dataset": config["dataset"],
        "data_dir": "/somebody/inshop",
        "split": "test",
        "unreadable_images": 0,
        **protocol,
    }
    metrics = {**values, "protocol": protocol, "run": {"folder": str(folder)}}
    folder.mkdir()
    for name, value in (("metrics", metrics), ("config", config), ("versions", {})):
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


RELEASED = {"queries": 14218, "gallery_images": 12612}


def test_a_record_stands_in_its_row_and_the_others_are_not_run(tmp_path):
    table = results_table()
    run = write_run(tmp_path / "one", RELEASED, {"recall@5": 0.6334, "recall@20": 0.7})
    record = table.read_record(run, released=True)
    assert "somebody" not in json.dumps(record)
    rows = [line for line in table.render([record]).splitlines() if line.startswith("| ")]
    (own,) = (row for row in rows if "results/one.json" in row)
    assert own == (
        "| ResNet50 OC | .633 | .766 | .633 | .700 | [one](results/one.json): 200 epochs, seed 3 |"
    )
    ours = [row for row in rows if re.match(r"\| (ResNet50|DenseNet121|SERes\w+) OC", row)]
    assert len(ours) == 6 + 4 + 4
    assert sum("**not run**" in row for row in ours) == len(ours) - 1
    assert "None is recorded." in table.render([record])


def test_a_run_on_other_images_stands_apart(tmp_path):
    table = results_table()
    run = write_run(tmp_path / "two", {"queries": 73, "gallery_images": 93}, {"recall@1": 0.7})
    page = table.render([table.read_record(run)])
    others = page.split("## Other runs")[1]
    assert "results/two.json" in others and "results/two.json" not in page.split("## Other runs")[0]
    assert "| resnet50 | OC | 3 | .700 |  |  |  |  |" in others


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (
            {**RELEASED, "queries": 14217},
            "evaluated on 14,217 query images; the release has 14,218",
        ),
        ({**RELEASED, "gallery_images": 13000}, "on 13,000 gallery images; the release has 12,612"),
        ({**RELEASED, "split": "val"}, "evaluated on the part `val`, not on `test`"),
    ],
)
def test_a_record_cannot_claim_the_release(tmp_path, protocol, message):
    table = results_table()
    run = write_run(tmp_path / "run", protocol, {})
    with pytest.raises(table.FirError, match=message):
        table.read_record(run, released=True)


def test_unreadable_images_of_the_release_are_allowed_for(tmp_path):
    protocol = {"queries": 14217, "gallery_images": 12612, "unreadable_images": 1}
    run = write_run(tmp_path / "run", protocol, {})
    assert results_table().read_record(run, released=True)["released"]


def test_a_run_without_metrics_is_refused(tmp_path, capsys):
    assert results_table().main(["add", f"--run={tmp_path}"]) == 1
    assert "metrics.json is missing there. Run evaluate.py" in capsys.readouterr().err


def test_every_row_of_the_paper_has_its_command():
    table = results_table()
    told = collections.Counter()
    for words in commands("docs/reproduce.md"):
        if words[:2] == ["python", "train.py"]:
            flags = dict(word[2:].split("=", 1) for word in words[2:] if "=" in word)
            if flags["data_dir"].endswith("Benchmark") and "--dry_run" not in words:
                dataset = flags["flagfile"].removesuffix(".flags")
                told[dataset, flags["backbone"], flags["losses"]] += 1
                assert flags["run"] == f"runs/{dataset}_{flags['backbone']}_{flags['losses']}"
    rows = (*table.PAPER_RESULTS, *table.FIGURE_4)
    assert told == collections.Counter(
        (row.dataset, row.backbone, row.losses) for row in rows if row.backbone
    )


def test_new_lines_for_old_ones_run():
    """The right column of the table from tensorflow-addons, line by line."""
    import numpy as np

    text = (ROOT / "docs/keras.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([^`]*tf(?:a|_addons)[^`]*)` \| `([^`]+)` \|$", text, re.MULTILINE)
    assert len(lines) >= 10
    names = {"x": np.eye(4, dtype=np.float32), "y": np.array([0, 0, 1, 1])}
    for old, new in lines:
        exec(new, names)
        loss = re.search(r"losses\.(\w+)\(", new)
        assert bool(loss) == ("losses." in old), new
        if old.startswith("tfa.losses.T") or "Loss(" in old:
            assert old.removeprefix("tfa.") == new
