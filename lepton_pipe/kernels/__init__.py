"""The catalogue of kernels."""
