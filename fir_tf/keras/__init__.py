"""The Keras face: fir_tf's losses for `model.compile`, saved and loaded with the model.

`import fir_tf.keras` makes them known to `keras.saving.load_model`.
"""

from fir_tf.keras import layers, losses

__all__ = ["layers", "losses"]
