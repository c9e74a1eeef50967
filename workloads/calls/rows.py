"""Calls of row-wise kernels: norms, softmax, additions, activations, quantisation."""
