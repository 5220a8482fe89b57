"""Solvers: our own explicit methods, and those of torchdiffeq, SciPy and Brian2."""
