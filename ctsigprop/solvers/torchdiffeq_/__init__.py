"""torchdiffeq's methods as a solver."""

from ctsigprop.solvers.torchdiffeq_.solver import TorchDiffEq

__all__ = ["TorchDiffEq"]
