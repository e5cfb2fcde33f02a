"""The registry, and parts that come from outside the package."""

import ast
import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from commands import done
from small_sets import write_jpeg

from fir_tf import registry
from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.models.pretrained import imagenet_weights
from fir_tf.run import read_history
from fir_tf.search.engines import addresses

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    monkeypatch.setattr(registry, "_origins", dict(registry._origins))
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
    found = [
        (path, set(literal))
        for path in (ROOT / "fir_tf").rglob("*.py")
        for literal in literals(path)
    ]
    own = ROOT / "fir_tf/registry.py"
    # Not lists of what there is: the published counts and lists of the benchmarks, and what renders
    # them.
    datasets = ("datasets/published", "datasets/deepfashion_boxes")
    about = {
        ROOT / f"fir_tf/{name}.py" for name in (*datasets, "boutique/layouts", "boutique/planning")
    }
    for kind in registry.KINDS:
        # Two names side by side may be chance.
        few = len(registry.names(kind)) < 3
        places = {path for path, literal in found if len(literal & set(registry.names(kind))) > 2}
        assert places - about == (set() if few else {own}), kind


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


def test_a_backbone_without_imagenet_weights():
    with pytest.raises(FirError, match="no ImageNet weights for the backbone tiny: --weights=none"):
        imagenet_weights("tiny", None)


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


def test_plugins_of_one_name_and_one_plugin_by_two_names(tmp_path, monkeypatch):
    """What a plugin brought is known whoever imported it first."""
    first = write_plugin(tmp_path / "parts.py", LOADER)
    (tmp_path / "other").mkdir()
    second = write_plugin(tmp_path / "other/parts.py", LOADER.replace("mine", "second"))
    registry.load_plugins(f"{first},{second}")
    assert registry.brought(f"{first},{second}") == {
        str(first): ["dataset mine"],
        str(second): ["dataset second"],
    }
    (tmp_path / "link.py").symlink_to(first)
    registry.load_plugins(str(tmp_path / "link.py"))
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(FirError, match="there is a dataset 'second' already, from fir_tf_plugin_"):
        registry.load_plugins("parts")
    write_plugin(tmp_path / "other/third_parts.py", LOADER.replace("mine", "third"))
    __import__("third_parts")
    registry.load_plugins("third_parts")
    assert registry.brought("third_parts") == {"third_parts": ["dataset third"]}
    monkeypatch.delitem(sys.modules, "third_parts")


def test_an_installed_package_brings_parts(tmp_path, monkeypatch):
    """As pip leaves it: a module beside its .dist-info."""
    (tmp_path / "their_parts.py").write_text('def load(path):\n    """Loads theirs."""\n')
    info = tmp_path / "their_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINTS}]\n"
        "dataset.theirs = their_parts:load\ndataset.gone = their_parts:no_such\n"
        "engine.away = their_parts:no_such\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        assert "theirs" in registry.names("dataset") and "their_parts" not in sys.modules
        assert registry.summary("dataset", "theirs") == "Loads theirs."
        with pytest.raises(FirError, match=r"'gone' of their-parts cannot be imported.*no_such"):
            registry.get("dataset", "gone")
        # Lists go on behind it.
        assert "engine 'away' of their-parts" in addresses() and "milvus" in addresses()
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
        registry._origins.clear()
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
    for text in ("[1]", '{"a.py": "dataset mine"}', '{"a.py": ["dataset"]}', "{"):
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


EVERYTHING = '''
"""A part of every kind, none of them in fir_tf."""

import csv
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from fir_tf.datasets.catalogue import SHOP, SPLITS, Catalogue, encode
from fir_tf.files import write_text
from fir_tf.locate import Garment
from fir_tf.losses.loss import Loss
from fir_tf.models.backbones import Backbone
from fir_tf.registry import get, register
from fir_tf.search.engines import Scheme, open_engine
from fir_tf.samplers.uniform import UniformSampler


def build(input_shape):
    x = images = keras.Input(input_shape)
    for stage in range(5):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name=f"part{stage}")(x)
    return keras.Model(images, x)


register("backbone", "tiny")(
    Backbone("Five convolutions", build, 8, tuple(f"part{stage}" for stage in range(5)))
)


@register("dataset", "listed")
def load(path):
    """Reads a list of path, item, category and split."""
    with open(Path(path) / "list.tsv", encoding="utf-8") as file:
        names, items, categories, splits = map(list, zip(*csv.reader(file, delimiter="\\t")))
    item, items = encode(np.array(items, object))
    category, categories = encode(np.array(categories, object))
    return Catalogue(
        root=Path(path),
        path=np.array(names, object),
        category=category,
        item=item,
        domain=np.full(len(names), SHOP, np.int8),
        split=np.array(splits, object),
        categories=categories,
        items=items,
        source=str(path),
        line=np.arange(1, len(names) + 1, dtype=np.int32),
    )


@register("loss", "short")
class Short(Loss):
    """How far the pooled features are from the centre of all of them."""

    output = "features"

    def build(self, classes, width):
        self._centre = keras.Variable(np.ones(width, "float32"), name="centre")
        return [self._centre]

    def __call__(self, values, labels, triplets=None):
        away = tf.reduce_mean(tf.square(values - self._centre.value))
        return {"loss": away, "centre": tf.reduce_mean(self._centre.value)}


@register("miner", "first")
def first(distance, positive, negative, margin):
    """The hinge of the first anchor alone."""
    near = tf.reduce_max(tf.where(positive[0], distance[0], 0.0))
    far = tf.reduce_min(tf.where(negative[0], distance[0], 4.0))
    loss = tf.nn.relu(margin + near - far)
    return loss, tf.cast(loss > 0, tf.float32)


@register("sampler", "plain")
def plain(request):
    """Draws single images, whatever the losses want."""
    return UniformSampler(request.known_rows(), request.size, request.seed)


@register("pooling", "largest")
def largest(features):
    """The largest value of each channel."""
    return keras.layers.GlobalMaxPooling2D(dtype="float32")(features)


@register("neck", "halved")
def halved(features, width):
    """Half of the numbers, by a dense layer."""
    return keras.layers.Dense(features.shape[-1] // 2, name="half")(features)


register("engine", "beside")(
    Scheme(
        "The folder's engine under another name",
        [("beside:FOLDER", "the same")],
        lambda variant, place, create, effort: open_engine(place, create, effort),
    )
)


@register("locator", "left")
def left(place, model):
    """The left side of a photo."""
    return lambda photos: [[Garment((0.0, 0.0, float(place), 1.0), "", 1.0)] for _ in photos]


@register("format", "numbers")
def numbers(export, folder):
    """How many weights the network has."""
    folder.mkdir()
    count = sum(int(np.prod(weight.shape)) for weight in export.network.weights)
    write_text(folder / "numbers.txt", str(count))
    return {"numbers": {"text": f"{count} weights"}}


@register("action", "note")
def note(moment):
    """Notes the steps it was called at."""
    with open(moment.folder / "steps.txt", "a") as file:
        file.write(f"{moment.step}\\n")
'''


@pytest.mark.slow
def test_one_file_brings_a_part_of_every_kind_to_every_script(tmp_path, monkeypatch):
    """As a user does: nothing of fir_tf is edited."""
    plugin = tmp_path / "my_parts.py"
    plugin.write_text(EVERYTHING, encoding="utf-8")
    lines = []
    for item in range(8):
        for view in range(4):
            name = f"{item}_{view}.jpg"
            write_jpeg(tmp_path / "shop" / name, seed=item, size=(40 + view, 50))
            split = "train" if item < 5 else ("query", "gallery")[view % 2]
            lines.append(f"{name}\titem {item}\t{('Dresses', 'Shirts')[item % 2]}\t{split}")
    (tmp_path / "shop/list.tsv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done(
        "train.py",
        "--plugins=my_parts.py",
        "--dataset=listed",
        "--data_dir=shop",
        "--run=run",
        "--backbone=tiny",
        "--weights=none",
        "--image_size=32",
        "--pooling=largest",
        "--neck=halved",
        "--losses=OC+IS+0.5*short:item",
        "--triplets=first",
        "--sampler=plain",
        "--loss_learning_rate=0.1",
        "--batch_size=8",
        "--epochs=2",
        "--val_fraction=0.2",
        "--log_every=1",
        "--actions=note",
    )
    run = tmp_path / "run"
    brought = json.loads((run / "plugins.json").read_text())[str(plugin)]
    assert {part.split()[0] for part in brought} == set(registry.KINDS)
    steps = (run / "steps.txt").read_text().split()
    assert steps == [str(step) for step in range(1, len(steps) + 1)] and len(steps) >= 2
    history = read_history(run)
    assert {"OC", "IS", "short:item", "active"} <= set(history)
    # Its own variable was trained, at its own rate.
    assert abs(history["centre"][-1][1] - 1.0) > 0.05

    # Another process would know nothing of the plugin.
    registry._registered.clear()
    registry._origins.clear()
    registry._plugins.clear()
    monkeypatch.chdir(ROOT)
    done("evaluate.py", f"--run={run}", "--data_dir", tmp_path / "shop", "--whiten=0")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"]["queries"] == 6
    out, _ = done("export.py", f"--run={run}", "--format=numbers", f"--data_dir={tmp_path}/shop")
    (written,) = (run / "export").rglob("numbers.txt")
    # Five convolutions, the neck, the relaxation head.
    convolutions = 3 * 9 * 8 + 8 + 4 * (8 * 9 * 8 + 8)
    head = (8 * 512 + 512) + (512 * 2 + 2)
    assert int(written.read_text()) == convolutions + (8 * 4 + 4) + head
    assert "numbers: " in out
    done("export.py", f"--run={run}", f"--data_dir={tmp_path}/shop")
    shop = f"--images={tmp_path}/shop"
    index = f"--index=beside:{tmp_path}/index"
    done("search.py", "index", f"--model={run}", "--dataset=listed", shop, index)
    out, _ = done("search.py", "query", tmp_path / "shop/6_1.jpg", index, "--json", "--nosheet")
    assert json.loads(out)[0]["results"][0]["item"] == "item 6"
    out, _ = done(
        *("search.py", "query", tmp_path / "shop/6_1.jpg", index, "--json", "--locator=left:0.5")
    )
    (answer,) = json.loads(out)
    assert answer["garment"]["box"] == [0, 0, 0.5, 1] and answer["results"]
    assert (tmp_path / "index").is_dir()
