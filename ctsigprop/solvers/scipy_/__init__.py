"""SciPy's methods as a solver."""

from ctsigprop.solvers.scipy_.solver import SciPy

__all__ = ["SciPy"]
