"""What is written for people to read: Jinja2 templates of `fir_tf/templates`, filled with values.

The code gathers plain values, a template says how they look.
"""

import base64
import functools
import re

import jinja2
from markupsafe import Markup

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}

_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')


def render(template: str, **values: object) -> str:
    """Returns a template of `fir_tf/templates` filled with values.

    In HTML, what has a meaning there is escaped. What a screen would take as a command, such as
    the escape character in a file's name, is replaced.

    Args:
        template: str, the template's file name.
        **values: what it shows.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fir_tf"),
        autoescape=jinja2.select_autoescape(["html"]),
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "data_uri": _data_uri,
        "headings": _headings,
        "thousands": "{:,}".format,
    }
    return environment


def _printable(value: object) -> object:
    """What a template shows, without characters that would move a cursor or break a line."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value
    )


def _breakable(text: str) -> Markup:
    """A name that a browser may break behind its slashes, commas and underscores."""
    pieces = re.split(r"(?<=[/,_])", str(_printable(text)))
    return Markup("<wbr>").join(pieces)


def _headings(html: Markup) -> list[tuple[str, Markup]]:
    """The names and texts of the headings that can be jumped to."""
    return [(name, Markup(text)) for name, text in _HEADING.findall(html)]


def _data_uri(picture: bytes) -> Markup:
    """A PNG or JPEG file as an address that holds it."""
    kind = next(kind for start, kind in _KINDS.items() if picture.startswith(start))
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode()}")
