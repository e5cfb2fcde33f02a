"""TensorFlow's oneDNN kernels are on, whichever way fir_tf is reached."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fir_tf import onednn

ROOT = Path(__file__).parent.parent


@pytest.fixture
def unset(monkeypatch):
    """An x86 machine whose user has not set the variable."""
    monkeypatch.delenv(onednn.VARIABLE, raising=False)
    monkeypatch.setattr(onednn.platform, "machine", lambda: "x86_64")


def test_they_are_switched_on_before_tensorflow_is_imported(unset, monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    onednn.switch_on()
    assert os.environ[onednn.VARIABLE] == "1" and not caplog.records


@pytest.mark.parametrize("value", ["0", "1", ""])
def test_what_the_user_has_set_stays(unset, monkeypatch, caplog, value):
    monkeypatch.setenv(onednn.VARIABLE, value)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    onednn.switch_on()
    assert os.environ[onednn.VARIABLE] == value and not caplog.records


def test_other_processors_are_left_alone(unset, monkeypatch):
    monkeypatch.setattr(onednn.platform, "machine", lambda: "arm64")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    onednn.switch_on()
    assert onednn.VARIABLE not in os.environ


@pytest.mark.slow
def test_too_late_is_said_in_one_line():
    """TensorFlow is imported with the kernels off, then fir_tf without a word from the user."""
    code = (
        "import os, tensorflow; del os.environ['TF_ENABLE_ONEDNN_OPTS']; import fir_tf; "
        "print(fir_tf.onednn.is_on(), 'TF_ENABLE_ONEDNN_OPTS' in os.environ)"
    )
    environment = {**os.environ, onednn.VARIABLE: "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
    said = [line for line in done.stderr.splitlines() if "fir_tf" in line]
    assert len(said) == 1 and "1.8 times as slow" in said[0] and onednn.VARIABLE in said[0]


def imported(path):
    """Yields the names of the modules that a file imports, in the file's order."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)


def test_programs_import_fir_tf_before_tensorflow():
    """conftest.py does so for the tests; inside the package it comes first by itself."""
    programs = [
        path
        for folder in ("benchmarks", "serving", "tools")
        for path in (ROOT / folder).glob("*.py")
        # Its interpreter has torch and need not have fir_tf.
        if not path.name.startswith("torch_")
    ]
    assert len(programs) > 10
    for path in [*programs, ROOT / "tests" / "conftest.py"]:
        names = list(imported(path))
        for name in ("tensorflow", "keras"):
            if name in names:
                assert "fir_tf" in names[: names.index(name)], path


def test_the_serving_kit_has_them_on():
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").replace("\\\n", " ")
    started = [
        line
        for line in text.splitlines()
        if line.startswith("docker run") and line.endswith("tensorflow/serving")
    ]
    assert started and all(f" -e {onednn.VARIABLE}=1 " in line for line in started)
    compose = (ROOT / "serving" / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"{onednn.VARIABLE}: ${{{onednn.VARIABLE}:-1}}" in compose
