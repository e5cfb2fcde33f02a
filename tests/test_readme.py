"""The README's commands are real: their flags parse, their targets and files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fir_tf.models.backbones import BACKBONES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).splitlines()
SCRIPTS = [line for line in BLOCKS if line.startswith("python ")]
TARGETS = [line.split("#")[0].strip() for line in BLOCKS if line.startswith("make ")]


def test_there_are_commands_to_check():
    assert len(SCRIPTS) >= 4 and {"make quickstart", "make test"} <= set(TARGETS)


def run(words, *more):
    words = [sys.executable, *words[1:], *more]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("command", SCRIPTS)
def test_script_flags_parse(command):
    words = shlex.split(command.replace("<", "'").replace(">", "'"), comments=True)
    assert words[0] == "python"
    if words[1] in ("train.py", "evaluate.py", "export.py"):
        done = run(words, "--only_check_args")
        assert done.returncode == 0, done.stderr
        return
    # A program of several commands: the command and each flag stand in its --help.
    commands = 4 if words[1] == "-m" else 3
    done = run(words[:commands], "--help")
    for word in words[commands:]:
        if word.startswith("--"):
            assert word.split("=")[0] in done.stdout, f"{word}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("command", TARGETS)
def test_make_targets_exist(command):
    done = subprocess.run(["make", "-n", *command.split()[1:]], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_linked_files_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).is_file(), link
    for name in re.findall(r"`(\w+\.flags)`", README):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_counts_are_the_tested_ones(name):
    from test_backbones import PARAMETERS

    assert re.search(rf"\| `{name}`.*\| {PARAMETERS[name]:,} \|", README)
