"""Losses, one file each, and the objective that is their weighted sum."""
