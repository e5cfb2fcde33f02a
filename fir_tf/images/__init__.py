"""Image files -> pixels: the one decoder that everything else sees with."""
