"""`python -m fir_tf.datasets check` and `prepare`: what they are told, and what they say."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from fir_tf.config import REMOVED_MAX
from fir_tf.datasets.command_line import Parser, add_options, add_source, options_of
from fir_tf.options import RefreshOptions
from fir_tf.shell import quiet_import

log = logging.getLogger(__package__)

EXIT_CLEAN, EXIT_FOUND = 0, 2


def _check_parser() -> Parser:
    parser = Parser(
        prog="python -m fir_tf.datasets check",
        description="Reads every image of a data set and says what is wrong with files and "
        "labels: on the screen, and in report.txt, report.html (with pictures) and report.json.",
        epilog="Exit status: 0 nothing wrong, 1 bad usage or a data set that cannot be loaded, "
        "2 errors were found (with --strict also warnings).",
    )
    add_source(parser)
    parser.add_argument("--out", default="runs/check", help="folder of the report (%(default)s)")
    parser.add_argument(
        "--near_duplicates",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for near-duplicates, not only for copies of a file (on)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 2 for warnings as well"
    )
    return parser


def check(argv: Sequence[str] | None = None) -> int:
    """The command line of the check; `argv` is a list of str, by default that of the process.

    Returns:
        int, the exit status: 0 clean, 2 when something was found that counts.

    Raises:
        FirError: for bad usage or a data set that cannot be loaded.
    """
    args = _check_parser().parse_args(argv)
    # Imported when there is something to do: TensorFlow takes seconds.
    with quiet_import():
        from fir_tf.datasets.loading import load_unchecked
        from fir_tf.hygiene import check as checking
        from fir_tf.hygiene.report import Report, write_check
    catalogue = load_unchecked(args.dataset, args.data_dir, args.columns, with_others=True)
    findings = checking.check(catalogue, args.near_duplicates, args.workers)
    report = Report(catalogue, args.dataset, findings, args.strict)
    log.info(report.text().removesuffix("\n"))
    log.info(f"\nreport: {write_check(report, args.out)}")
    return EXIT_FOUND if report.failed else EXIT_CLEAN


def _prepare_parser() -> Parser:
    parser = Parser(
        prog="python -m fir_tf.datasets prepare",
        description="Makes a training copy of a data set: upright RGB JPEGs of a bounded size "
        "and a table with checksums. JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and, with the extra "
        "`heic`, HEIC come in; photos at addresses (https://, s3://, gs://) are fetched. A killed "
        "run goes on when its command is given again.",
        epilog="Exit status: 0 the copy is complete; 1 bad usage, no room, or more than 1 % of "
        "the images cannot be read. JPEGs that need no change are copied as they are, with their "
        "metadata.",
    )
    add_source(parser)
    parser.add_argument("--out", required=True, help="folder of the copy")
    parser.add_argument(
        "--max_side",
        type=int,
        default=512,
        help="bound of the longest side in pixels; smaller images stay as they are (%(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=92, help="quality of the JPEGs (%(default)s)"
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove what is not listed any more, however much of the copy it is",
    )
    parser.add_argument(
        "--max_removed",
        type=float,
        default=REMOVED_MAX,
        help="largest share of the copy that is removed without --remove (%(default)s)",
    )
    add_options(parser, RefreshOptions, "photos at addresses")
    return parser


def prepare(argv: Sequence[str] | None = None) -> int:
    """The command line of the preparation; `argv` is a list of str, by default the process's.

    Returns:
        int, 0 when the copy is complete.

    Raises:
        FirError: for bad usage, a data set that cannot be loaded, and as `prepare`.
    """
    args = _prepare_parser().parse_args(argv)
    with quiet_import():
        from fir_tf.datasets.loading import load_unchecked
        from fir_tf.hygiene import prepare as preparing
    catalogue = load_unchecked(
        args.dataset, args.data_dir, args.columns, with_addresses=True, with_others=True
    )
    log.info(catalogue.describe())
    converted, kept, bad = preparing.prepare(
        catalogue,
        args.out,
        max_side=args.max_side,
        quality=args.quality,
        workers=args.workers,
        max_removed=1.0 if args.remove else args.max_removed,
        fetch=options_of(args, RefreshOptions),
    )
    log.info(f"{converted:,} images written, {kept:,} were there, {bad:,} cannot be read")
    log.info(
        f"train on the copy with --dataset=table --data_dir={Path(args.out) / preparing.TABLE}"
    )
    return 0
