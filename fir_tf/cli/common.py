"""What the scripts share: flags from the config, messages instead of tracebacks."""

import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile

from absl import app, flags, logging

from fir_tf.errors import FirError

# TensorFlow's C++ log says nothing a user of the scripts can act on; set before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def define_flags(fields, **defaults):
    """Defines one absl flag for each dataclass field, listed by --help.

    Args:
        fields: iterable of dataclasses.Field with `help` and `choices` in the metadata.
        **defaults: other defaults than the fields' own, by name.
    """
    for field in fields:
        default = defaults.get(field.name, field.default)
        text, choices = field.metadata["help"], field.metadata.get("choices")
        if choices:
            flags.DEFINE_enum(field.name, default, choices, text)
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


def read_flags(cls):
    """Returns the dataclass `cls` filled from the parsed flags."""
    return cls(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(cls)})


@contextlib.contextmanager
def _quiet_import():
    """Keeps what TensorFlow's C++ side says while it is imported off the screen.

    It writes about CPU features and missing GPUs straight to the descriptor, whatever the log
    level. If the import fails the text is shown, for then it matters.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        screen = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(screen, kept.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def load_library(module):
    """Imports a module that needs TensorFlow; takes seconds, so --help does without it."""
    with _quiet_import():
        import tensorflow as tf

        # Looking for devices is what says the most.
        tf.config.list_physical_devices()
    logging.set_verbosity(logging.WARNING)
    return importlib.import_module(module)


def run_script(body, usage, argv=None, arguments=False):
    """Parses the command line and calls `body`; a FirError becomes a message and status 1.

    Args:
        body: callable, without parameters, or with one if `arguments`.
        usage: str, what --help says above the flags.
        argv: list of str, the script's name and what follows; the process' own by default.
        arguments: bool, whether `body` takes what stands there beside the flags, a list of str.
    """

    def main(argv):
        if len(argv) > 1 and not arguments:
            print(
                f"error: unexpected argument {argv[1]!r}; settings are given as --name=value "
                "(--help lists them)",
                file=sys.stderr,
            )
            return 1
        try:
            body(argv[1:]) if arguments else body()
        except FirError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    sys.modules["__main__"].__doc__ = usage
    app.run(main, argv)
