"""Tensors in, tensors out: covariances, decompositions, low-rank differences, statistics."""
