"""The parts of fir_tf by kind and name: its own, those of plugins, those of installed packages.

A part is a small public object that works alone. Our own are named here with the place they are
imported from when they are asked for, so that a list of names costs no import. Others come with
`register` in a module or file of --plugins, or from an installed package by an entry point of the
group `fir_tf.parts` called `<kind>.<name>`.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fir_tf.errors import FirError
from fir_tf.shell import quiet_import

ENTRY_POINTS = "fir_tf.parts"
"""The group of entry points by which an installed package brings parts."""


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        flag: str, the flag whose value is a name of this kind.
        what: str, what a part of this kind is.
        own: dict of a name to "module:attribute", the parts that fir_tf brings.
    """

    flag: str
    what: str
    own: dict[str, str]


KINDS = {
    "backbone": Kind(
        "backbone",
        "a fir_tf.models.backbones.Backbone",
        {
            "resnet50": "fir_tf.models.resnet:RESNET50",
            "resnet50_v15": "fir_tf.models.senet:RESNET50_V15",
            "densenet121": "fir_tf.models.densenet:DENSENET121",
            "seresnet50": "fir_tf.models.senet:SERESNET50",
            "seresnet50_v15": "fir_tf.models.senet:SERESNET50_V15",
            "seresnext50": "fir_tf.models.senet:SERESNEXT50",
            "seresnext50_v15": "fir_tf.models.senet:SERESNEXT50_V15",
            "efficientnet_lite0": "fir_tf.models.efficientnet_lite:EFFICIENTNET_LITE0",
            "efficientnet_lite1": "fir_tf.models.efficientnet_lite:EFFICIENTNET_LITE1",
            "efficientnet_lite2": "fir_tf.models.efficientnet_lite:EFFICIENTNET_LITE2",
        },
    ),
    "pooling": Kind(
        "pooling",
        "a function from a feature map to a vector an image, see fir_tf.models.pooling",
        {
            "average": "fir_tf.models.pooling:average",
            "max_average": "fir_tf.models.pooling:max_average",
            "gem": "fir_tf.models.gem:gem",
            "gem_channels": "fir_tf.models.gem:gem_channels",
        },
    ),
    "neck": Kind(
        "neck",
        "a function from pooled features and a width to what becomes the embedding",
        {
            "linear": "fir_tf.models.necks:linear",
            "linear_bn": "fir_tf.models.necks:linear_bn",
            "bnneck": "fir_tf.models.necks:bnneck",
            "bnneck_before": "fir_tf.models.necks:bnneck_before",
        },
    ),
    "loss": Kind(
        "losses",
        "a fir_tf.losses.loss.Loss",
        {
            "softmax": "fir_tf.losses.softmax:Softmax",
            "triplet": "fir_tf.losses.triplet:Triplet",
            "contrastive": "fir_tf.losses.contrastive:Contrastive",
            "normface": "fir_tf.losses.normface:NormFace",
            "supcon": "fir_tf.losses.supcon:SupCon",
            "arcface": "fir_tf.losses.arcface:ArcFace",
            "cosface": "fir_tf.losses.cosface:CosFace",
            "proxy_anchor": "fir_tf.losses.proxy_anchor:ProxyAnchor",
            "multi_similarity": "fir_tf.losses.multi_similarity:MultiSimilarity",
            "circle": "fir_tf.losses.circle:Circle",
        },
    ),
    "miner": Kind(
        "triplets",
        "a function that finds the triplets of a batch, see fir_tf.losses.miners",
        {
            "all": "fir_tf.losses.miners.batch_all:batch_all",
            "semihard": "fir_tf.losses.miners.semihard:semihard",
            "hard": "fir_tf.losses.miners.hard:hard",
        },
    ),
    "sampler": Kind(
        "sampler",
        "a function from a fir_tf.samplers.sampler.Request to a Sampler",
        {
            "uniform": "fir_tf.samplers.uniform:uniform",
            "pk": "fir_tf.samplers.pk:pk",
            "triplets": "fir_tf.samplers.triplets:triplets",
        },
    ),
    "engine": Kind(
        "index",
        "a fir_tf.search.engines.Scheme: vectors with their records",
        {
            "folder": "fir_tf.search.engines.local:FOLDER",
            "faiss": "fir_tf.search.engines.faiss:FAISS",
            "milvus": "fir_tf.search.engines.milvus:MILVUS",
            "postgresql": "fir_tf.search.engines.postgresql:POSTGRESQL",
        },
    ),
    "action": Kind(
        "actions",
        "a function of a fir_tf.training.actions.Moment, called beside the training steps",
        {},
    ),
    "format": Kind(
        "format",
        "a function of (fir_tf.serving.formats.Export, folder) that writes it there, or a Format",
        {
            "saved_model": "fir_tf.serving.formats.saved_model:SAVED_MODEL",
            "openvino": "fir_tf.serving.formats.openvino:OPENVINO",
            "tflite": "fir_tf.serving.formats.tflite:write_tflite",
            "onnx": "fir_tf.serving.formats.onnx:ONNX",
        },
    ),
    "locator": Kind(
        "locator",
        "a function of (place, model) that returns a fir_tf.locate.Locator",
        {
            "category_map": "fir_tf.locate.category_map:open_category_map",
            "saved_model": "fir_tf.locate.detectors:open_saved_model",
            "onnx": "fir_tf.locate.detectors:open_onnx",
        },
    ),
    "dataset": Kind(
        "dataset",
        "a function from a path to a fir_tf.datasets.Catalogue",
        {
            "inshop": "fir_tf.datasets.deepfashion:load_inshop",
            "category": "fir_tf.datasets.deepfashion:load_category",
            "consumer2shop": "fir_tf.datasets.deepfashion:load_consumer2shop",
            "folder": "fir_tf.datasets.folder:load_folder",
            "table": "fir_tf.datasets.table:load_table",
            "feed": "fir_tf.datasets.feed:load_feed",
        },
    ),
}

# {(kind, name): part} with the module that registered it, and {plugin: its module's name}.
_registered: dict[tuple[str, str], Any] = {}
_origins: dict[tuple[str, str], str] = {}
_plugins: dict[str, str] = {}


def register(kind: str, name: str) -> Callable[[Any], Any]:
    """Returns a decorator that makes a part known by `name`; it returns the part unchanged.

    `register("dataset", "mine")(load_mine)` does the same for what is no function or class.

    Args:
        kind: str, a key of `KINDS`.
        name: str, what the kind's flag will be given.

    Raises:
        FirError: there is no such kind, the name is none, or it is taken.
    """
    _check_kind(kind)
    if not isinstance(name, str) or not name.isidentifier():
        raise FirError(f"the name of a {kind} must be letters, digits and _. Received: {name!r}")

    def decorate(part: Any) -> Any:
        origin = sys._getframe(1).f_globals.get("__name__", "")
        if _registered.get((kind, name), part) is not part or name in KINDS[kind].own:
            before = _origins.get((kind, name), "fir_tf")
            raise FirError(
                f"there is a {kind} {name!r} already, from {before}. Give yours another name, or "
                "name the plugin in one way only"
            )
        _registered[kind, name] = part
        _origins[kind, name] = origin
        return part

    return decorate


def names(kind: str) -> tuple[str, ...]:
    """Returns the names of all parts of a kind: fir_tf's own first."""
    _check_kind(kind)
    added = [name for of, name in _registered if of == kind]
    return tuple(dict.fromkeys([*KINDS[kind].own, *added, *_installed(kind)]))


def check(kind: str, name: Any, flag: str = "") -> None:
    """Raises FirError, listing the names, unless there is a part of that kind and name.

    Args:
        kind: str, a key of `KINDS`.
        name: what was asked for.
        flag: str, where it was given, if not in the kind's own flag.
    """
    known = names(kind)
    if name not in known:
        there = f"one of {', '.join(known)}, or one" if known else "one"
        raise FirError(
            f"`{flag or KINDS[kind].flag}` must be {there} that --plugins brings. "
            f"Received: {name!r}"
        )


def get(kind: str, name: str) -> Any:
    """Returns the part of that kind and name, imported where it has to be.

    Raises:
        FirError: listing the names, if there is none; if an installed package's part cannot be
            imported.
    """
    check(kind, name)
    if (kind, name) in _registered:
        return _registered[kind, name]
    if name in KINDS[kind].own:
        module, attribute = KINDS[kind].own[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    point = _installed(kind)[name]
    try:
        return point.load()
    # Whatever a stranger's module raises when it is imported.
    except Exception as error:
        raise FirError(
            f"the {kind} {name!r} of {point.dist.name if point.dist else point.value} cannot be "
            f"imported: {type(error).__name__}: {error}"
        ) from error


def summary(kind: str, name: str) -> str:
    """Returns what a part says of itself: its `description`, or its docstring's first line."""
    part = get(kind, name)
    text = getattr(part, "description", None) or inspect.getdoc(part) or ""
    return text.strip().split("\n")[0]


def load_plugins(text: str) -> None:
    """Imports plugins, whose parts are then known. Each is imported once in a process.

    Args:
        text: str, modules' names and paths of .py files, separated by commas; may be empty.

    Raises:
        FirError: one of them does not exist or cannot be imported.
    """
    for plugin in _keys(text):
        if plugin not in _plugins:
            # Nearly every plugin imports TensorFlow.
            with _told(plugin), quiet_import():
                _plugins[plugin] = _import(plugin)


def loaded() -> str:
    """Returns the plugins that this process has loaded, as `load_plugins` takes them."""
    return ",".join(_plugins)


def brought(text: str) -> dict[str, list[str]]:
    """Returns {plugin: its parts, "kind name" each} of loaded plugins; a file by its whole path."""
    return {
        plugin: [
            " ".join(part)
            for part, origin in _origins.items()
            if f"{origin}.".startswith(f"{_plugins[plugin]}.")
        ]
        for plugin in _keys(text)
    }


def require(plugins: dict[str, list[str]], of: str) -> None:
    """Loads the plugins of a run, unless their parts are here already.

    Args:
        plugins: dict as `brought` returned it when the run was made.
        of: str, what needs them, for the message.

    Raises:
        FirError: saying which cannot be loaded and what it brought.
    """
    for plugin, parts in plugins.items():
        if parts and all(_is_here(part) for part in parts):
            # From another place than then.
            _plugins.setdefault(plugin, plugin)
        try:
            load_plugins(plugin)
        except FirError as error:
            raise FirError(
                f"{of} was made with the plugin {plugin}, which brought "
                f"{', '.join(parts) or 'no part'} and cannot be loaded now: {error}. Give it "
                "again: --plugins=..."
            ) from error


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise FirError(f"a part's kind must be one of {', '.join(KINDS)}. Received: {kind!r}")


@functools.cache
def _entry_points() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=ENTRY_POINTS))


def _installed(kind: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of installed packages' parts of a kind, {name: EntryPoint}."""
    split = [(point.name.partition("."), point) for point in _entry_points()]
    return {name: point for (of, _, name), point in split if of == kind and name}


def _keys(text: str) -> Iterator[str]:
    """The plugins in a flag's value: modules' names, and whole paths of files."""
    for plugin in filter(None, (part.strip() for part in text.split(","))):
        is_file = plugin.endswith(".py")
        yield os.path.realpath(os.path.expanduser(plugin)) if is_file else plugin


def _is_here(part: str) -> bool:
    kind, _, name = part.partition(" ")
    return kind in KINDS and name in names(kind)


def _import(plugin: str) -> str:
    """Imports a plugin; returns its module's name."""
    if not plugin.endswith(".py"):
        # A console script does not look for modules where it is called.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        importlib.import_module(plugin)
        return plugin
    name = f"fir_tf_plugin_{Path(plugin).stem}"
    if name in sys.modules:
        # Another file of the same name.
        name = f"{name}_{len(_plugins)}"
    spec = importlib.util.spec_from_file_location(name, plugin)
    # The loader of a .py file.
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name


@contextlib.contextmanager
def _told(plugin: str) -> Iterator[None]:
    """Turns what goes wrong while a plugin is imported into a FirError with its place."""
    before, origins = dict(_registered), dict(_origins)
    try:
        yield
    # Whatever a stranger's module raises when it is imported.
    except Exception as error:
        # The parts that it registered before it failed are none.
        _registered.clear()
        _registered.update(before)
        _origins.clear()
        _origins.update(origins)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({last.filename}:{last.lineno})" if last.filename != __file__ else ""
        raise FirError(
            "`plugins` must be modules or .py files that can be imported, with commas. "
            f"Received: {plugin}, {type(error).__name__}: {error}{place}"
        ) from error
