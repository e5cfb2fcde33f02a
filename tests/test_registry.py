"""The registry, and parts that come from outside the package."""

import ast
import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.errors import FirError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    monkeypatch.setattr(sys, "path", list(sys.path))


def write_plugin(path, text):
    path.write_text(f"from fir_tf.registry import register\n\n{text}", encoding="utf-8")
    return path


LOADER = '''
@register("dataset", "mine")
def load_mine(path):
    """Loads nothing."""
'''


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_part_of_ours_says_what_it_is(kind):
    for name in registry.names(kind):
        line = registry.summary(kind, name)
        assert 5 < len(line) < 110 and "\n" not in line, (kind, name)


def literals(path):
    """The strings of each list, tuple, set and dictionary (its keys) written out in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            values = node.keys if isinstance(node, ast.Dict) else node.elts
            yield [value.value for value in values if isinstance(value, ast.Constant)]


def test_no_list_of_names_stands_anywhere_else():
    own = ROOT / "fir_tf/registry.py"
    # Not lists of what there is: the published counts of the benchmarks, and what renders them.
    about = {
        ROOT / f"fir_tf/datasets/{name}.py"
        for name in ("published", "boutique/layouts", "boutique/planning")
    }
    for kind in registry.KINDS:
        places = {
            path
            for path in (ROOT / "fir_tf").rglob("*.py")
            for literal in literals(path)
            if len(set(literal) & set(registry.names(kind))) > 2
        }
        assert places - about == {own}, kind


def test_a_registered_part_is_found():
    load = object()
    assert registry.register("dataset", "mine")(load) is load
    assert registry.get("dataset", "mine") is load
    assert registry.names("dataset")[-1] == "mine"
    assert Config(dataset="mine").dataset == "mine"
    registry.register("dataset", "mine")(load)
    with pytest.raises(FirError, match="there is a dataset 'mine' already"):
        registry.register("dataset", "mine")(object())
    with pytest.raises(FirError, match="there is a dataset 'inshop' already"):
        registry.register("dataset", "inshop")(load)


def test_mistakes_name_what_there_is():
    with pytest.raises(FirError, match=r"`backbone` must be one of resnet50, .*'resnet51'"):
        registry.get("backbone", "resnet51")
    with pytest.raises(FirError, match=r"`dataset` must be one of .*--plugins.*Received: 'nosuch'"):
        Config(dataset="nosuch")
    with pytest.raises(FirError, match="kind must be one of backbone"):
        registry.names("bakbone")
    for name in ("two words", "", "a-b", None):
        with pytest.raises(FirError, match="letters, digits and _"):
            registry.register("dataset", name)


def test_plugins_are_files_and_modules(tmp_path, monkeypatch):
    file = write_plugin(tmp_path / "one.py", LOADER)
    write_plugin(tmp_path / "two_parts.py", LOADER.replace("mine", "second"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "two_parts", raising=False)
    # The module lies where the command is called, which a console script does not look at.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".")])
    registry.load_plugins("one.py, two_parts")
    registry.load_plugins("one.py,two_parts")
    assert registry.brought("one.py,two_parts") == {
        str(file): ["dataset mine"],
        "two_parts": ["dataset second"],
    }
    assert registry.summary("dataset", "second") == "Loads nothing."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOADER + "1 / 0\n", r"ZeroDivisionError.*bad\.py:\d+"),
        ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f(:\n", "SyntaxError"),
        (LOADER.replace('"mine"', '"inshop"'), "there is a dataset 'inshop' already"),
    ],
)
def test_a_plugin_that_fails_brings_nothing(tmp_path, text, message):
    plugin = write_plugin(tmp_path / "bad.py", text)
    with pytest.raises(FirError, match=message):
        registry.load_plugins(str(plugin))
    assert "mine" not in registry.names("dataset")
    write_plugin(plugin, LOADER)
    registry.load_plugins(str(plugin))
    assert "mine" in registry.names("dataset")


def test_a_plugin_that_is_not_there():
    with pytest.raises(FirError, match=r"`plugins` must be .*nowhere\.py"):
        Config(plugins="nowhere.py")
    with pytest.raises(FirError, match="No module named 'nowhere'"):
        Config(plugins="nowhere")


def test_an_installed_package_brings_parts(tmp_path, monkeypatch):
    """As pip leaves it: a module beside its .dist-info."""
    (tmp_path / "their_parts.py").write_text('def load(path):\n    """Loads theirs."""\n')
    info = tmp_path / "their_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINTS}]\n"
        "dataset.theirs = their_parts:load\ndataset.gone = their_parts:no_such\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        assert "theirs" in registry.names("dataset") and "their_parts" not in sys.modules
        assert registry.summary("dataset", "theirs") == "Loads theirs."
        with pytest.raises(FirError, match=r"'gone' of their-parts cannot be imported.*no_such"):
            registry.get("dataset", "gone")
    finally:
        registry._entry_points.cache_clear()
        sys.modules.pop("their_parts", None)
    assert metadata.version("their-parts") == "1.0"


def test_a_run_remembers_its_plugins(tmp_path, monkeypatch):
    plugin = write_plugin(tmp_path / "parts.py", LOADER)
    monkeypatch.chdir(tmp_path)
    Config(plugins="parts.py", dataset="mine").save(tmp_path / "config.json")
    monkeypatch.chdir(ROOT)
    written = json.loads((tmp_path / "plugins.json").read_text())
    assert written == {str(plugin): ["dataset mine"]}

    def forget():
        registry._registered.clear()
        registry._plugins.clear()

    forget()
    config = Config.load(tmp_path / "config.json")
    assert config.dataset == "mine" and "mine" in registry.names("dataset")

    forget()
    moved = plugin.rename(tmp_path / "moved.py")
    with pytest.raises(FirError, match=r"parts\.py, which brought dataset mine.*--plugins"):
        Config.load(tmp_path / "config.json")
    registry.load_plugins(str(moved))
    assert Config.load(tmp_path / "config.json").dataset == "mine"

    forget()
    for text in ("[1]", '{"a.py": "dataset mine"}', "{"):
        (tmp_path / "plugins.json").write_text(text)
        with pytest.raises(FirError, match=r"plugins\.json"):
            Config.load(tmp_path / "config.json")
    # A run of a version before there were plugins.
    (tmp_path / "plugins.json").unlink()
    (tmp_path / "config.json").write_text('{"dataset": "inshop"}')
    assert Config.load(tmp_path / "config.json").plugins == ""


def test_the_list_of_parts(tmp_path, capsys):
    from fir_tf.__main__ import main

    plugin = write_plugin(tmp_path / "one.py", LOADER)
    assert main(["parts", f"--plugins={plugin}"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  mine +Loads nothing\.$", out, re.M)
    assert all(f"named by --{kind.flag}:" in out for kind in registry.KINDS.values())
    assert main(["parts", "--plugins=none.py"]) == 1
    assert "none.py" in capsys.readouterr().err
