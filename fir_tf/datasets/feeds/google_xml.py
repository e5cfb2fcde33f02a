"""Google Merchant's product feed as RSS 2.0 or Atom with the g: namespace."""

from collections.abc import Iterator
from typing import Any

from fir_tf.datasets.feeds.format import Format, Row, column_name
from fir_tf.datasets.feeds.source import Source
from fir_tf.datasets.metadata import Cell
from fir_tf.errors import FirError

_GOOGLE = "{http://base.google.com/ns/1.0}"
# RSS 2.0, Atom, RSS 1.0.
_ITEMS = ("item", "{http://www.w3.org/2005/Atom}entry", "{http://purl.org/rss/1.0/}item")


def _recognises(source: Source) -> bool:
    return source.head.lstrip().startswith("<")


def _rows(source: Source) -> Iterator[Row]:
    """Yields the products of a feed, one in memory at a time.

    A document type is refused: no feed needs one, and entities are declared there. Nothing is
    fetched, no entity is replaced, and libxml2's bounds on depth, text and amplification hold.
    """
    # It takes a tenth of a second.
    from lxml import etree

    safe = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
    try:
        with source.bytes() as file:
            products = etree.iterparse(
                file, tag=_ITEMS, remove_comments=True, remove_pis=True, **safe
            )
            for number, (_, element) in enumerate(products):
                if number == 0 and element.getroottree().docinfo.doctype:
                    raise _no_entities(source)
                yield element.sourceline, _cells(element)
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        # The first says what is wrong, the last what came of it.
        log = [(entry.line, entry.message) for entry in products.error_log]
        line, said = log[0] if log else (error.lineno, error.msg)
        raise FirError(
            f"{source.path}:{line}: the feed is no XML, or cut off here. Received: {said}. "
            "Download it again"
        ) from error


def _no_entities(source: Source) -> FirError:
    return FirError(
        f"{source.path}: a feed must have no document type (<!DOCTYPE ...>), which can declare "
        "entities that fill the memory or read other files. Take it out"
    )


def _cells(element: Any) -> dict[str, Cell]:
    """Returns a product's cells; where a name stands with g: and without, that with g: counts."""
    plain: dict[str, list[str]] = {}
    google: dict[str, list[str]] = {}
    for child in element.iterchildren("*"):
        space, _, name = child.tag.rpartition("}")
        cells = google if f"{space}}}" == _GOOGLE else plain
        cells.setdefault(column_name(name), []).append(_text(child))
    return {
        name: texts[0] if len(texts) == 1 else texts for name, texts in (plain | google).items()
    }


def _text(element: Any) -> str:
    """Returns an element's text; of one with parts, as in `shipping`, theirs between colons."""
    if len(element):
        beside = [element.text, *(child.tail for child in element)]
        if any(text and text.strip() for text in beside):
            # HTML that was not escaped.
            return " ".join("".join(element.itertext()).split())
        return ":".join(map(_text, element))
    return (element.text or element.get("href") or "").strip()


FORMAT = Format("Google Merchant's feed as XML (RSS or Atom)", _recognises, _rows)
