"""Keras functional models: images -> category and embedding."""
