"""Miners: which triplets of a batch count.

Each is a function of (distance, positive, negative, margin): the squared L2 distances, float32
[n, n]; whether column and row are of one label, but not one image, bool [n, n]; whether they are of
two labels, bool [n, n]; and a float. It returns (loss, active), float32 scalars: the mean hinge and
the share of triplets with a hinge above zero; zeros where there is no triplet. Not lists of
triplets: "all" needs n^2 memory then instead of n^3.
"""
