"""Ctrl-C before a command has begun: its imports alone take a second."""

import sys
from types import TracebackType


def end_quietly() -> None:
    """Lets Ctrl-C outside `fir_tf.shell.run_command` end the process in a line, as inside.

    The status stays Python's own, which shells show as 130.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("stopped on request", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook
