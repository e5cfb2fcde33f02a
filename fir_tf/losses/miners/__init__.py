"""Miners: which triplets of a batch count.

Each is a function of (distance, positive, negative, margin): the squared L2 distances, float32
[n, n]; whether column and row are of one label, but not one image, bool [n, n]; whether they are of
two labels, bool [n, n]; and a float, or None for the soft margin. It returns (loss, active), two
float32 scalars: the mean and the share of what `fir_tf.losses.masked.hinge` gives for its triplets;
zeros where there is none. Not lists of triplets: "all" needs n^2 memory then instead of n^3.
"""
