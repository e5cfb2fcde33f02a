"""Pages are read by a strict parser, which refuses what a browser would only guess at."""

import collections

import html5lib


def page(text, beside=()):
    """Returns a page as a tree (xml.etree); html5lib's ParseError if it is no valid HTML.

    It has to stand alone: nothing is loaded but the files of these names, `beside` it.
    """
    html5lib.HTMLParser(strict=True).parse(text)
    tree = html5lib.parse(text, namespaceHTMLElements=False)
    names = collections.Counter(node.get("id") for node in tree.iter() if node.get("id"))
    assert set(names.values()) <= {1}, names
    for node in tree.iter():
        for address in ("src", "href", "srcset", "action"):
            loaded = node.get(address) or "data:"
            assert loaded.startswith(("data:", "#")) or loaded in beside, loaded
        assert node.tag != "img" or node.get("alt") is not None
    return tree


def text_of(node):
    """Returns the text in and below a node, white space as a browser shows it."""
    return " ".join("".join(node.itertext()).split())
