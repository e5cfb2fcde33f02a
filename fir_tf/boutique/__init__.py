"""A rendered fashion data set in the layouts of DeepFashion's three benchmarks.

DeepFashion's images need a licence and a GPU. The boutique needs neither: it draws garments of
twelve categories on mannequins, hangers and beds, each item in several photos, and writes them as
JPEG files that everything which reads DeepFashion reads. It is made so that the instance has to be
learned: items come in families of the same category, cut, colours and kind of pattern (not in the
Category layout, where there are no items to tell apart), an item comes in colour variants, and
consumer photos (cluttered rooms, odd light, occlusion, noise) have to find shop photos.

Scenes show one to three garments on people and in rooms (`fir_tf.boutique.scenes`).

Three steps, each usable alone:

1. `plan` decides which items, photos and splits there are,
2. `render` draws one photo of one item,
3. `write` puts the photos and the annotation files on the disk.

Nothing here imports TensorFlow.
"""

from fir_tf.boutique.command import main
from fir_tf.boutique.planning import LAYOUTS, Item, Photo, plan
from fir_tf.boutique.rendering import render
from fir_tf.boutique.styles import CATEGORIES
from fir_tf.boutique.writing import SCENES, Order, write

__all__ = [
    "CATEGORIES",
    "LAYOUTS",
    "SCENES",
    "Item",
    "Order",
    "Photo",
    "main",
    "plan",
    "render",
    "write",
]
