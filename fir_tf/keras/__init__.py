"""The Keras face: losses and metrics for `compile` and `fit`, saved and loaded with the model.

`import fir_tf.keras` makes them known to `keras.saving.load_model`.
"""

from fir_tf.keras import callbacks, layers, losses

__all__ = ["callbacks", "layers", "losses"]
