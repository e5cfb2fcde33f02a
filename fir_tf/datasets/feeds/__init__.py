"""Product feeds, one file for each format; a format is told by a feed's contents."""

from fir_tf.datasets.feeds import coco, google_text, google_xml, json_lines, product_search
from fir_tf.datasets.feeds.format import Format
from fir_tf.datasets.feeds.source import Source

FORMATS = (
    google_xml.FORMAT,
    coco.FORMAT,
    json_lines.FORMAT,
    google_text.FORMAT,
    product_search.FORMAT,
)


def format_of(source: Source) -> Format | None:
    """Returns the format that a file is of, None where it is of none."""
    return next((form for form in FORMATS if form.recognises(source)), None)
