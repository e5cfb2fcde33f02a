"""Embeddings of a test set -> metrics, a report and pictures."""
