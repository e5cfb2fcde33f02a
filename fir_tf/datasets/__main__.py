"""`python -m fir_tf.datasets COMMAND`: what can be done to a data set from the shell."""

import sys

from fir_tf.datasets import boutique, check, prepare
from fir_tf.shell import run_command

COMMANDS = {
    "boutique": (boutique.main, "render a small data set of garments to try things on"),
    "check": (check.main, "read every image and say what is wrong with files and labels"),
    "prepare": (prepare.main, "make a training copy: upright RGB JPEGs of a bounded size"),
}


def main(argv=None):
    """Runs one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        lines = "\n".join(f"  {name:12s}{text}" for name, (_, text) in COMMANDS.items())
        wanted = not argv or argv[0] in ("-h", "--help")
        print(
            f"usage: python -m fir_tf.datasets COMMAND [options]\n\ncommands:\n{lines}\n\n"
            "`COMMAND --help` lists the options of one.",
            file=sys.stdout if wanted else sys.stderr,
        )
        return 0 if argv and wanted else 2
    return run_command(lambda: COMMANDS[argv[0]][0](argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
