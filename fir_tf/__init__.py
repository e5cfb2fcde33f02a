"""Fashion image retrieval in TensorFlow and Keras."""

from typing import Any

from fir_tf import onednn

__version__ = "0.1.0"

onednn.switch_on()


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import, and most of what the scripts say needs none of it.
    if name == "load_model":
        from fir_tf.models.saving import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
