"""What the decoders go by: `fir_tf.images.decode` in a graph, `fir_tf.images.plain` without one."""

# Evaluation resizes the short side to 256 for a centre crop of 224 (PAPER: images).
CROP_FRACTION = 224 / 256

# The JPEG decoder halves an image up to three times and saves most of its work. What remains for
# evaluation is at least this many times the size it is resized to: PSNR against the full decode is
# then 44 dB or more; at 1.4 times it is 40 dB (benchmarks/README.md, "Input").
OVERSAMPLING = 2.0
HALVINGS_MAX = 3
# Pixels of a side of the blocks that a JPEG is made of.
BLOCK = 8
