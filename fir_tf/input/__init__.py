"""From a Catalogue to batches: augmentation and batches."""
