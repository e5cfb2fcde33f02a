"""The scripts called in this process: what a user types, without the seconds of imports."""

import contextlib
import importlib
import io
import sys
from unittest import mock

from absl import app, flags
from absl.testing import flagsaver

# Defined once in a process, and therefore before anything is put back.
app.define_help_flags()


def call(name, *arguments):
    """Calls a script; what it sets (flags, arguments, streams) is as before afterwards.

    Args:
        name: str, such as "train.py".
        *arguments: what stands behind it.

    Returns:
        (exit status, standard output, standard error).
    """
    run = importlib.import_module(f"fir_tf.cli.{name.removesuffix('.py')}").run
    output, errors = io.StringIO(), io.StringIO()
    saved = flagsaver.save_flag_values()
    main = sys.modules["__main__"]
    try:
        with (
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            mock.patch.object(main, "__doc__", main.__doc__),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            run()
        status = 0
    except SystemExit as stopped:
        status = stopped.code or 0
    finally:
        flagsaver.restore_flag_values(saved)
        flags.FLAGS.unparse_flags()
        flags.FLAGS.set_gnu_getopt(False)
    return status, output.getvalue(), errors.getvalue()


def done(name, *arguments, ok=True):
    """Calls a script that is to succeed, or without `ok` to end in a message.

    Returns:
        (standard output, standard error).
    """
    status, output, errors = call(name, *arguments)
    assert (status == 0) == ok, output + errors
    assert "Traceback" not in errors
    return output, errors
