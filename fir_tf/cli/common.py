"""What the scripts share: flags from the config, messages instead of tracebacks."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from absl import app, flags, logging

from fir_tf.config import Config
from fir_tf.errors import FirError
from fir_tf.options import EvaluateOptions, ExportOptions, find_run
from fir_tf.settings import check_parts, help_of
from fir_tf.shell import given_path, quiet_tensorflow, run_command

# TensorFlow's C++ log says nothing a user of the scripts can act on; set before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
OfRun = TypeVar("OfRun", EvaluateOptions, ExportOptions)


def define_flags(fields: Sequence[dataclasses.Field]) -> None:
    """Defines one absl flag for each dataclass field, listed by --help.

    Args:
        fields: iterable of dataclasses.Field with `help` and `choices` in the metadata.
    """
    for field in fields:
        default: Any = field.default
        text, choices = help_of(field), field.metadata.get("choices")
        if choices and not field.metadata.get("part"):
            flags.DEFINE_enum(field.name, default, choices, text)
        elif field.metadata.get("alone"):
            flags.DEFINE_flag(_AloneFlag(field.metadata["alone"], field.name, default, text))
        elif field.type in (bool, "bool"):
            flags.DEFINE_bool(field.name, default, text)
        elif field.type in (int, "int"):
            flags.DEFINE_integer(field.name, default, text)
        elif field.type in (float, "float"):
            flags.DEFINE_float(field.name, default, text)
        else:
            flags.DEFINE_string(field.name, default, text)
    for field in fields:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field.name])


class _AloneFlag(flags.Flag):
    """A string flag that may stand alone, as --name, and be switched off, as --noname."""

    def __init__(self, alone: str, name: str, default: str, text: str) -> None:
        self._alone = alone
        parser: flags.ArgumentParser[str] = flags.ArgumentParser()
        super().__init__(parser, flags.ArgumentSerializer(), name, default, text)
        # absl then asks for no value.
        self.boolean = True

    def _parse(self, argument: str) -> str:
        return {"true": self._alone, "false": ""}.get(argument, argument)

    def _serialize(self, value: Any) -> str:
        return f"--{self.name}={value}"


def read_flags(cls: type[Options]) -> Options:
    """Returns the dataclass `cls` filled from the parsed flags.

    Raises:
        FirError: a path cannot be one, see `fir_tf.shell.given_path`, or what `cls` objects to.
    """
    values = {}
    for field in dataclasses.fields(cls):
        value: Any = flags.FLAGS[field.name].value
        values[field.name] = given_path(field.name, value) if field.metadata.get("path") else value
    return cls(**values)


def with_run(options: OfRun) -> OfRun:
    """Returns options with the run that is meant: a mistake is told before TensorFlow is imported.

    Raises:
        FirError: there is no run, or the folder is none.
    """
    run = find_run(options.run)
    Config.load(run / "config.json")
    check_parts(options)
    return dataclasses.replace(options, run=str(run))


def load_library(module: str, tensorflow: bool = True) -> ModuleType:
    """Imports a module; with TensorFlow it takes seconds, so --help does without it.

    Args:
        module: str.
        tensorflow: bool, whether it needs TensorFlow whatever is asked of it.
    """
    if tensorflow:
        quiet_tensorflow()
    logging.set_verbosity(logging.WARNING)
    return importlib.import_module(module)


def run_script(
    body: Callable[..., None],
    usage: str,
    argv: list[str] | None = None,
    arguments: bool = False,
) -> NoReturn:
    """Parses the command line, calls `body` and ends the process, see `fir_tf.shell.run_command`.

    Args:
        body: callable, without parameters, or with one if `arguments`.
        usage: str, what --help says above the flags.
        argv: list of str, the script's name and what follows; the process' own by default.
        arguments: bool, whether `body` takes what stands there beside the flags, a list of str.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            text = str(error).removeprefix("ERROR:: ")
            raise FirError(f"{text}. --help lists the flags") from error
        except SystemExit:
            # absl ends its help with 1, as if it were a mistake to ask for it.
            sys.exit(0)
        except UnicodeDecodeError as error:
            raise FirError(f"`flagfile` must be a text file in UTF-8. Received: {error}") from error

    def main(argv: list[str]) -> None:
        if len(argv) > 1 and not arguments:
            raise FirError(
                f"unexpected argument {argv[1]!r}; settings are given as --name=value "
                "(--help lists them)"
            )
        body(argv[1:]) if arguments else body()

    sys.modules["__main__"].__doc__ = usage
    sys.exit(run_command(lambda: app.run(main, argv, flags_parser=parse)))
