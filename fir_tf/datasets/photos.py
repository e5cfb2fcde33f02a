"""Where a catalogue's photos are: what a data set names becomes files of this machine."""

from fir_tf.datasets.catalogue import Catalogue, is_address
from fir_tf.datasets.walk import printable
from fir_tf.errors import FirError


def local_photos(catalogue: Catalogue) -> Catalogue:
    """Returns the Catalogue whose photos are files below its root.

    Whatever loads a data set by its name loads it through here.

    Raises:
        FirError: naming the first row whose photo is an address.
    """
    rows = [row for row, path in enumerate(catalogue.path) if is_address(path)]
    if not rows:
        return catalogue
    raise FirError(
        f"{catalogue.location(rows[0])}: the photo is an address, and photos are read from files. "
        f"Received: {printable(catalogue.path[rows[0]])} ({len(rows):,} of {len(catalogue):,} "
        "photos are addresses). search.py index fetches them; for all else download them, and "
        "name their files relative to the feed's folder"
    )
