"""Data sources: each becomes a Catalogue."""
