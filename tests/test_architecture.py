"""Imports go one way along the path of the data."""

import ast
from pathlib import Path

import keras

import fir_tf

# Each package or module may import those before it and itself.
ORDER = (
    "base",
    "images",
    "remote",
    "datasets",
    "boutique",
    "hygiene",
    "losses",
    "samplers",
    "input",
    "models",
    "run",
    "explain",
    "locate",
    "evaluation",
    "training",
    "search",
    "serving",
    "keras",
    "cli",
)
# What any package may import although it lies in a later one: names, without TensorFlow.
NAMES = "fir_tf.losses.grammar"
# The exceptions to the order: a stage that must not be reached although it comes before.
FORBIDDEN = {
    (later, earlier)
    for later in ("serving", "search", "evaluation")
    for earlier in ("training", "losses")
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield name.name


def stage(parts):
    return parts[0] if parts and parts[0] in ORDER else "base"


def test_imports_run_down_the_path_of_the_data():
    root = Path(fir_tf.__file__).parent
    seen = 0
    for path in root.rglob("*.py"):
        if path == root / "__init__.py":
            # It hands the public names on when they are asked for.
            continue
        here = path.relative_to(root)
        own = "base" if here == Path("losses/grammar.py") else stage(here.with_suffix("").parts)
        for module in imports_of(path):
            parts = module.split(".")
            if parts[0] != "fir_tf" or module.startswith(NAMES):
                continue
            used = stage(parts[1:])
            seen += 1
            assert ORDER.index(used) <= ORDER.index(own), f"{path.name} imports {module}"
            assert (own, used) not in FORBIDDEN, f"{path.name} imports {module}"
    assert seen > 20


def test_nothing_imports_training_but_the_script():
    root = Path(fir_tf.__file__).parent
    for path in root.rglob("*.py"):
        if path == root / "__init__.py":
            # It hands `train` on when it is asked for.
            continue
        if any("fir_tf.training" in module for module in imports_of(path)):
            assert path.parent.name == "training" or path == root / "cli" / "train.py"


def keras_names(tree):
    """Returns the dotted names below `keras` that a module uses, "layers.Conv2D"."""
    found = set()
    for node in ast.walk(tree):
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == "keras":
            found.add(".".join(names))
    return found


def test_one_module_knows_which_keras_it_is():
    """The others use what this Keras has; the test runs with Keras 2 and with Keras 3."""
    root = Path(fir_tf.__file__).parent
    used = set()
    for path in root.rglob("*.py"):
        if path == root / "keras_versions.py":
            continue
        assert "fir_tf.keras_versions.KERAS_2" not in imports_of(path), path.name
        used |= keras_names(ast.parse(path.read_text(encoding="utf-8")))
    assert len(used) > 20 and "__version__" not in used
    for name in used:
        value = keras
        for part in name.split("."):
            assert hasattr(value, part), f"this Keras has no keras.{name}"
            value = getattr(value, part)
