"""The tables of flag files, backbones, poolings and necks are those of the code."""

import re
from pathlib import Path

import pytest

from fir_tf.registry import names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_flag_files_exist():
    named = re.findall(r"`(\w+\.flags)`", README + TRAINING)
    assert len(set(named)) >= 4
    for name in named:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", names("backbone"))
def test_parameter_counts_are_the_tested_ones(name):
    from test_backbones import PARAMETERS

    assert re.search(rf"\| `{name}`.*\| {PARAMETERS[name]:,} \|", TRAINING)


@pytest.mark.parametrize("kind", ["pooling", "neck"])
def test_poolings_and_necks_have_rows(kind):
    rows = re.findall(rf"^\| (`--{kind}=.*?) \|", TRAINING, re.MULTILINE)
    told = re.findall(r"`(?:--\w+=)?(\w+)`", " ".join(rows))
    assert told == list(names(kind))
