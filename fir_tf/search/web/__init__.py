"""A page to search an index with a photo."""

from fir_tf.search.web.app import make_app
from fir_tf.search.web.server import serve

__all__ = ["make_app", "serve"]
