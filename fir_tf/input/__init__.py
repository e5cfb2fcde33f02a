"""From a Catalogue to batches: decoding, augmentation and batch plans."""
