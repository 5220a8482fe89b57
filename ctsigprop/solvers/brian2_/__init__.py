"""Brian2 as a solver."""

from ctsigprop.solvers.brian2_.solver import Brian2

__all__ = ["Brian2"]
