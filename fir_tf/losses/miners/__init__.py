"""Miners: which triplets of a batch count.

Each is a function of (distance [n, n], positive pairs, negative pairs, margin) that returns the
loss and the share of active triplets, not lists of triplets: "all" needs n^2 memory then instead
of n^3.
"""
