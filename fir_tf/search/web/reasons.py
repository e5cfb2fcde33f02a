"""What scores come from, for the page to show it over both photos."""

import base64
import dataclasses
import threading
from typing import Any

from fir_tf.errors import FirError
from fir_tf.explain import Heat, PhotoExplainer, draw_heat, window
from fir_tf.images.thumbnail import thumbnail
from fir_tf.search.explained import explainer_of
from fir_tf.search.generation import Generation


class Reasons:
    """Explains scores by the model of the generation that is asked.

    Args:
        side: int, the longest side of a picture in pixels.
        quality: int, of its JPEG file.
    """

    def __init__(self, side: int, quality: int) -> None:
        self._side, self._quality = side, quality
        # Of the last one alone: that of an earlier generation holds a model for nothing.
        self._last: tuple[str, PhotoExplainer | None] | None = None
        self._lock = threading.Lock()

    def of(self, generation: Generation) -> PhotoExplainer | None:
        """Returns what explains a generation's scores; None where nothing can."""
        with self._lock:
            if self._last is None or self._last[0] != generation.name:
                try:
                    self._last = generation.name, explainer_of(generation)
                except FirError:
                    self._last = generation.name, None
            return self._last[1]

    def tell(self, explain: PhotoExplainer, query: bytes, match: bytes) -> dict[str, Any] | None:
        """Returns what a score comes from as `api.EXPLAIN` has it; None for unreadable photos.

        Args:
            explain: PhotoExplainer.
            query, match: bytes, image files as the model reads them.
        """
        found = explain(query, match)
        if found is None:
            return None
        return {
            "score": round(found.score, 4),
            "exact": explain.exact,
            "query": self._seen(query, found.query),
            "match": self._seen(match, found.match),
        }

    def _seen(self, contents: bytes, heat: Heat) -> dict[str, Any]:
        photo = thumbnail(contents, self._side)
        drawn = dataclasses.replace(photo, image=draw_heat(photo.image, heat))
        jpeg = base64.b64encode(drawn.jpeg(quality=self._quality)).decode()
        return {
            "map": [[round(value, 6) for value in row] for row in heat.values.tolist()],
            "window": [round(edge, 4) for edge in window(*photo.image.size, heat.resize)],
            "picture": f"data:image/jpeg;base64,{jpeg}",
        }
