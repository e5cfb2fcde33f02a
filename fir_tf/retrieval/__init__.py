"""Embeddings -> top-k -> metrics and pictures."""
