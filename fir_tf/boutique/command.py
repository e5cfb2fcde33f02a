"""`python -m fir_tf.datasets boutique`."""

from collections.abc import Sequence

from fir_tf.boutique.planning import LAYOUTS
from fir_tf.boutique.writing import CONTACT, SCENES, Order, write
from fir_tf.datasets.command_line import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of the boutique; `argv` is a list of str, by default that of the process.

    Returns:
        int, 0 when the folder is there.

    Raises:
        FirError: for bad input.
    """
    parser = Parser(
        prog="python -m fir_tf.datasets boutique",
        description="Writes rendered garments in the layout of one of DeepFashion's benchmarks: "
        "a data set to try everything on, without a licence or a download.",
    )
    parser.add_argument("--out", required=True, help="folder to create")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="inshop",
        help="the benchmark whose folders and annotation files are written (%(default)s)",
    )
    for name, value, text in (
        ("items", 180, "items; half of them are kept from training"),
        ("views", 6, "photos an item, by the shop and by consumers"),
        ("size", 160, "pixels a side of a photo"),
        ("seed", 0, "another seed, another boutique"),
        ("scenes", 0, "photos of one to three garments beside them, with boxes in scenes.json"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (%(default)s)")
    parser.add_argument(
        "--workers", type=int, help="processes (one a core); the files do not depend on it"
    )
    args = parser.parse_args(argv)
    order = Order(args.layout, args.items, args.views, args.size, args.seed, args.scenes)
    root = write(args.out, order, args.workers)
    print(f"{args.items} items, {args.items * args.views} photos: {root}")
    if args.scenes:
        print(f"{args.scenes} scenes, their garments: {root / SCENES}")
    print(f"A look at them: {root / CONTACT}")
    return 0
