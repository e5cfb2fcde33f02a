"""Where a catalogue's photos are: what a data set names becomes files of this machine."""

import shlex
from collections.abc import Mapping

from fir_tf.datasets.catalogue import Catalogue, is_address
from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError


def local_photos(catalogue: Catalogue, source: Mapping[str, str]) -> Catalogue:
    """Returns the Catalogue whose photos are files below its root.

    Whatever loads a data set by its name loads it through here.

    Args:
        catalogue: Catalogue.
        source: dict of str by flag, what it was loaded by; empty values are left out.

    Raises:
        FirError: naming the first row whose photo is an address.
    """
    rows = [row for row, path in enumerate(catalogue.path) if is_address(path)]
    if not rows:
        return catalogue
    given = [f"--{name}={shlex.quote(value)}" for name, value in source.items() if value]
    raise FirError(
        f"{catalogue.location(rows[0])}: the photo is an address, and photos are read from files. "
        f"Received: {printable(catalogue.path[rows[0]])} ({len(rows):,} of {len(catalogue):,} "
        "photos are addresses). Fetch them into a copy, and give that in place of the data set:\n"
        f"  python -m fir_tf.datasets prepare {' '.join(given)} --out=copy\n"
        "  --dataset=table --data_dir=copy/catalogue.csv\n"
        "search.py index fetches them itself"
    )
