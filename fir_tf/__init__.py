"""Fashion image retrieval in TensorFlow and Keras."""

__version__ = "0.1.0"
