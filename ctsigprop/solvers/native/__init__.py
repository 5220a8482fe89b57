"""Kernels compiled from the text of the equations, where numba is installed."""
