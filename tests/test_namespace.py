"""What `import fir_tf` offers."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fir_tf

PACKAGES = ("fir_tf", "fir_tf.datasets", "fir_tf.samplers")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_is_there_and_seen_by_dir_and_by_type_checkers(name):
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)][-1:]
    typed = {alias.name for node in guarded.body for alias in node.names}
    assert typed == set(package.__all__) and package.__all__ == sorted(package.__all__)
    for public in package.__all__:
        value = getattr(package, public)
        assert public in dir(package)
        # From where type checkers take it, too.
        assert value is not None and public in (value.__name__.rpartition(".")[2], "register")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(package, "nonsense")  # noqa: B009


def test_the_import_itself_brings_nothing_that_is_heavy():
    program = (
        "import sys, fir_tf, fir_tf.datasets, fir_tf.samplers; dir(fir_tf); fir_tf.Config; "
        "print({'tensorflow', 'keras', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_all_names_can_be_starred():
    names = {}
    exec("from fir_tf import *", names)
    assert set(fir_tf.__all__) <= set(names)
