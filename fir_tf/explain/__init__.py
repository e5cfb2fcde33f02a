"""Why two photos are alike: the places of both that their score comes from."""

from fir_tf.explain.heat import Heat, draw_heat, window
from fir_tf.explain.photos import NOT_EXACT, Explained, PhotoExplainer
from fir_tf.explain.split import Explainer, Explanation

__all__ = [
    "NOT_EXACT",
    "Explained",
    "Explainer",
    "Explanation",
    "Heat",
    "PhotoExplainer",
    "draw_heat",
    "window",
]
