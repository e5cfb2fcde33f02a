"""`python -m fir_tf parts`: what can be named by a flag, and what it is."""

import argparse
import sys
from collections.abc import Sequence

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.settings import PLUGINS_HELP
from fir_tf.shell import given_path, quiet_import, run_command


def _summary(kind: str, name: str) -> str:
    try:
        return registry.summary(kind, name)
    except FirError as error:
        return str(error)


def _parts(options: argparse.Namespace) -> None:
    with quiet_import():
        registry.load_plugins(given_path("plugins", options.plugins))
        for number, (kind, about) in enumerate(registry.KINDS.items()):
            print(f"{chr(10) if number else ''}{kind}, named by --{about.flag}: {about.what}")
            for name in registry.names(kind):
                print(f"  {name:20s} {_summary(kind, name)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fir_tf", description="About fir_tf itself.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parts = commands.add_parser(
        "parts",
        help="list the parts that the flags name",
        description="Lists all parts with a line of what each is: fir_tf's own, those of installed "
        "packages (entry points of the group fir_tf.parts) and those of --plugins.",
    )
    parts.add_argument("--plugins", default="", help=PLUGINS_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return run_command(lambda: _parts(_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
