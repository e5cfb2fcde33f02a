"""From a Catalogue to batches: augmentation and batch plans."""
