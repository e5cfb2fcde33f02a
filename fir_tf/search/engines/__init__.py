"""Search engines, chosen by the index's address."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.search.conditions import Condition, Filter
from fir_tf.search.engines.base import Engine, Hit, Record, Scheme, shown
from fir_tf.search.engines.generations import Generations

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


def open_engine(
    address: str | Path,
    create: bool = False,
    effort: float = 1.0,
    generation: str | None = None,
) -> Engine:
    """Opens the engine of an index.

    Args:
        address: str, a folder or `<engine>[+<variant>]:<place>`, see `addresses`.
        create: bool, whether to make a new index where there is none.
        effort: float, how far an approximate engine searches.
        generation: str, the name of one of the index's generations; the one that answers when
            None.

    Returns:
        Engine. It stays what it is when the index is switched to another generation.

    Raises:
        FirError: the address is unknown, or there is no index and `create` is off.
    """
    scheme, variant, place = _parsed(address)
    if scheme.generations is None:
        return scheme.open(variant, place, create, effort)
    with scheme.generations(variant, place) as generations:
        return generations.open(generation, create, effort)


def generations_of(address: str | Path) -> Generations | None:
    """Returns the generations of the index at an address, None for an engine that has none.

    Raises:
        FirError: the address is unknown.
    """
    scheme, variant, place = _parsed(address)
    return scheme.generations(variant, place) if scheme.generations else None


@contextlib.contextmanager
def writing_to(address: str | Path) -> Iterator[Engine]:
    """Opens the generation of an index that answers, or a new index, to be changed.

    A migration does not switch until the block has ended.

    Yields:
        Engine.

    Raises:
        FirError: the address is unknown; or, for an engine without locks, the index was switched
            in the meantime.
    """
    generations = generations_of(address)
    if generations is None:
        with open_engine(address, create=True) as engine:
            yield engine
        return
    with generations, contextlib.ExitStack() as opened:
        engine = opened.enter_context(generations.open(create=True))
        opened.enter_context(generations.holding("writing"))
        if generations.state().current != engine.generation:
            engine = opened.enter_context(generations.open())
        yield engine
        if generations.state().current != engine.generation:
            raise FirError(
                f"the index {shown(address)} was switched to another model while it was written "
                "to, which has what was there before. Give the command again, with that model"
            )


def folder_of(address: str | Path) -> Path | None:
    """Returns the folder that the index of an address lies in, None where it lies elsewhere.

    Raises:
        FirError: the address is unknown.
    """
    place = Path(_parsed(address)[2])
    return place if place.is_dir() else None


def is_default(address: str | Path) -> bool:
    """Whether the engine of an address is the one of an address without a scheme.

    Raises:
        FirError: the address is unknown.
    """
    return _parsed(address)[0] is registry.get("engine", DEFAULT)


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
    "Generations",
    "Hit",
    "Record",
    "Scheme",
    "addresses",
    "folder_of",
    "generations_of",
    "is_default",
    "open_engine",
    "writing_to",
]
