"""`python -m fir_tf.datasets COMMAND`: what can be done to a data set from the shell."""

import importlib
import os
import sys
from collections.abc import Sequence

from fir_tf.shell import run_command

COMMANDS = {
    "boutique": (
        "fir_tf.boutique.command:main",
        "render a small data set of garments to try things on",
    ),
    "check": ("fir_tf.hygiene.command:check", "read every image and say what is wrong with it"),
    "prepare": (
        "fir_tf.hygiene.command:prepare",
        "make a training copy: upright JPEGs of a bounded size",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def run() -> int:
        if not argv or argv[0] not in COMMANDS:
            return _print_usage(argv)
        module, _, name = COMMANDS[argv[0]][0].partition(":")
        return getattr(importlib.import_module(module), name)(argv[1:])

    return run_command(run)


def _print_usage(argv: Sequence[str]) -> int:
    """Lists the commands; returns the exit status."""
    lines = "\n".join(f"  {name:12s}{text}" for name, (_, text) in COMMANDS.items())
    wanted = not argv or argv[0] in ("-h", "--help")
    print(
        f"usage: python -m fir_tf.datasets COMMAND [options]\n\ncommands:\n{lines}\n\n"
        "`COMMAND --help` lists the options of one.",
        file=sys.stdout if wanted else sys.stderr,
    )
    return 0 if argv and wanted else 2


if __name__ == "__main__":
    # The decoder says of each bad image what the report says anyway; and it needs no GPU, which
    # may be somebody else's. Workers inherit both.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    sys.exit(main())
