"""What the commands of `python -m fir_tf.datasets` share."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from fir_tf import registry
from fir_tf.config import PHOTO_RULE
from fir_tf.errors import FirError
from fir_tf.settings import COLUMNS_HELP, PLUGINS_HELP
from fir_tf.shell import given_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


class Parser(argparse.ArgumentParser):
    """An argument parser whose objections are FirErrors: status 1, as everywhere.

    Options of text are paths, see `fir_tf.shell.given_path`.
    """

    # argparse has overloads for namespaces of any class; commands use its own.
    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """Returns the options, raises FirError."""
        options = super().parse_args(args, namespace)
        for action in self._actions:
            value = getattr(options, action.dest, None)
            if isinstance(value, str) and not action.choices:
                setattr(options, action.dest, given_path(action.dest, value))
        registry.load_plugins(getattr(options, "plugins", ""))
        if "dataset" in options:
            registry.check("dataset", options.dataset)
        return options

    def error(self, message: str) -> NoReturn:
        """Raises FirError."""
        raise FirError(f"{message}. `{self.prog} --help` lists the options")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds --plugins, --dataset, --data_dir, --columns and --workers to an ArgumentParser."""
    parser.add_argument("--plugins", default="", help=PLUGINS_HELP)
    parser.add_argument(
        "--dataset",
        default="inshop",
        help=f"layout, one of {', '.join(registry.names('dataset'))} (%(default)s)",
    )
    parser.add_argument(
        "--data_dir",
        required=True,
        help="folder of the data set, or the file of a table or a feed. In a plain folder: "
        f"{PHOTO_RULE}",
    )
    parser.add_argument("--columns", default="", help=COLUMNS_HELP)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0 is one a core (%(default)s)"
    )


def add_options(parser: argparse.ArgumentParser, cls: type[Options], title: str) -> None:
    """Adds the fields of a dataclass as options of their names, below a title of the help."""
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(cls):
        default: Any = field.default
        kind: dict[str, Any] = {"type": type(default)}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        text = field.metadata["help"].replace("%", "%%")
        text = f"{text[0].lower()}{text[1:].rstrip('.')}"
        shown = "" if default == "" else " (%(default)s)"
        group.add_argument(f"--{field.name}", default=default, help=text + shown, **kind)


def options_of(args: argparse.Namespace, cls: type[Options]) -> Options:
    """Returns the dataclass that `add_options` added, filled from what was given."""
    return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})
