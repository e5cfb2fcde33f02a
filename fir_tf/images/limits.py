"""How large an image file may be."""

# What training, the index and a server decode. 64 Mi pixels: a phone's 64-megapixel photo passes.
# Decoded they take 192 MiB.
MAX_PIXELS = 64 * 2**20
MAX_BYTES = 32 * 2**20

# What is larger is made smaller by `prepare` up to here: a phone's 108-megapixel photo passes.
CONVERTIBLE_PIXELS = 2 * MAX_PIXELS
CONVERTIBLE_BYTES = 16 * MAX_BYTES
