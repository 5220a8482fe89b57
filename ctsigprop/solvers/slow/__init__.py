"""Solvers for weights that are much slower than neurons."""

from ctsigprop.solvers.slow.averaging import Averaging
from ctsigprop.solvers.slow.projective import Projective

__all__ = ["Averaging", "Projective"]
