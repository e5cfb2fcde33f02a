"""Google Merchant's product feed as text: cells between tabs (or commas) below their names."""

from fir_tf.datasets.feeds.delimited import first_row, read_named
from fir_tf.datasets.feeds.format import Format, column_name
from fir_tf.datasets.feeds.source import Source


def _recognises(source: Source) -> bool:
    names = set(map(column_name, first_row(source)))
    # With a `path` it is a table of our own.
    return "path" not in names and ("image_link" in names or {"id", "title", "link"} <= names)


FORMAT = Format("Google Merchant's feed as text (TSV or CSV)", _recognises, read_named)
