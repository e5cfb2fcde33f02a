"""Search engines, chosen by the index's address."""

from pathlib import Path

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.search.conditions import Condition, Filter
from fir_tf.search.engines.base import Engine, Hit, Record, Scheme, shown

DEFAULT = "folder"
"""The engine of an address without a scheme."""


def addresses() -> str:
    """Returns what an address may be, for the help of the commands."""
    lines = ["Where an index lies says what searches it:"]
    for name in registry.names("engine"):
        try:
            known = registry.get("engine", name).addresses
        except FirError as error:
            known = [(f"{name}:", str(error))]
        lines += [f"  {address:35s}{what}" for address, what in known]
    return "\n".join(lines)


def open_engine(address: str | Path, create: bool = False, effort: float = 1.0) -> Engine:
    """Opens the engine of an index.

    Args:
        address: str, a folder or `<engine>[+<variant>]:<place>`, see `addresses`.
        create: bool, whether to make a new index where there is none.
        effort: float, how far an approximate engine searches.

    Returns:
        Engine.

    Raises:
        FirError: the address is unknown, or there is no index and `create` is off.
    """
    scheme, variant, place = _parsed(address)
    return scheme.open(variant, place, create, effort)


def folder_of(address: str | Path) -> Path | None:
    """Returns the folder that the index of an address lies in, None where it lies elsewhere.

    Raises:
        FirError: the address is unknown.
    """
    place = Path(_parsed(address)[2])
    return place if place.is_dir() else None


def _parsed(address: str | Path) -> tuple[Scheme, str, str]:
    """Returns (Scheme, variant, place) of an address."""
    address = str(address)
    if not address.strip():
        raise FirError("`index` must be an index's address. Received: nothing")
    scheme, separator, place = address.partition(":")
    # One letter is a drive.
    if not separator or len(scheme) == 1:
        scheme, place = DEFAULT, address
    name, _, variant = scheme.partition("+")
    if name not in registry.names("engine"):
        raise FirError(
            f"`index` must be an index's address. Received: {shown(address)!r}.\n{addresses()}"
        )
    return registry.get("engine", name), variant, place


__all__ = [
    "Condition",
    "Engine",
    "Filter",
    "Hit",
    "Record",
    "Scheme",
    "addresses",
    "folder_of",
    "open_engine",
]
