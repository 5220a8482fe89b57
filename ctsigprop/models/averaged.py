"""Averaged learning: the expected motion of the weights of linear neurons, as flows of their own.

Learning that is slow against its inputs follows the average of its rule over them. The weights are
then the only state variables, and their fixed points are what can be learned.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ctsigprop.quantities import Variable
from ctsigprop.signals import as_values
from ctsigprop.terms import Neuron, State

__all__ = ["AveragedBCM", "AveragedOja", "AveragedSanger"]


class _Averaged(Neuron):
    """Weights as a population: its activity is the weights."""

    def __init__(self, dims: Mapping[str, int], initial: Tensor | float) -> None:
        super().__init__("", math.prod(dims.values()))
        self.ports = {}
        self.variables = (Variable("w", dims, initial=initial),)

    @abc.abstractmethod
    def flow(self, w: Tensor) -> Tensor:
        """Return dw/dt."""

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return dw/dt."""
        del t, currents
        return {"w": self.flow(state["w"])}

    def activity(self, state: State) -> Tensor:
        """Return the weights, ``(*batch, size)``."""
        return state["w"].flatten(-len(self.variables[0].dims))

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return their derivative."""
        del state
        return self.activity(derivative)


class AveragedOja(_Averaged):
    """Oja's rule averaged over inputs of covariance C: dw/dt = C w − (wᵀ C w) w.

    Fixed points are 0 and the unit eigenvectors ±e_k of C, with eigenvalues −2 λ_k along e_k and
    λ_j − λ_k along the others: only the principal component is stable.

    Parameters
    ----------
    C : Tensor
        Covariance of the inputs, symmetric, ``(n, n)``.
    initial : Tensor or float
        Initial weights ``w``, ``(pre = n)``.

    References
    ----------
    Oja 1982, J. Math. Biol. 15:267-273.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> flow = ct.System(AveragedOja(torch.tensor([[3.0, 1.0], [1.0, 2.0]])))
    >>> flow.variables["w"].dims
    {'pre': 2}
    """

    C: Tensor

    def __init__(self, C: Tensor, *, initial: Tensor | float = 0.1) -> None:
        covariance = _symmetric(C)
        super().__init__({"pre": len(covariance)}, initial)
        self.add_parameters({"C": covariance})

    def flow(self, w: Tensor) -> Tensor:
        """Return C w − (wᵀ C w) w."""
        drive = w @ self.C
        return drive - (w * drive).sum(-1, keepdim=True) * w


class AveragedSanger(_Averaged):
    """Sanger's rule averaged over inputs of covariance C: dW/dt = W C − LT[W C Wᵀ] W.

    The rows of W go to the eigenvectors of C in the order of their eigenvalues; LT keeps the lower
    triangle. One row is `AveragedOja`.

    Parameters
    ----------
    C : Tensor
        Covariance of the inputs, symmetric, ``(n, n)``.
    components : int
        How many rows.
    initial : Tensor or float
        Initial weights ``w``, ``(post = components, pre = n)``.

    References
    ----------
    Sanger 1989, Neural Networks 2:459-473.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> flow = ct.System(AveragedSanger(torch.eye(3), components=2))
    >>> flow.variables["w"].dims
    {'post': 2, 'pre': 3}
    """

    C: Tensor

    def __init__(self, C: Tensor, components: int, *, initial: Tensor | float = 0.1) -> None:
        covariance = _symmetric(C)
        if not 1 <= components <= len(covariance):
            raise ValueError(
                f"components must lie between 1 and the {len(covariance)} inputs; got {components}"
            )
        super().__init__({"post": components, "pre": len(covariance)}, initial)
        self.add_parameters({"C": covariance})

    def flow(self, w: Tensor) -> Tensor:
        """Return W C − LT[W C Wᵀ] W."""
        drive = w @ self.C
        return drive - torch.tril(drive @ w.transpose(-1, -2)) @ w


class AveragedBCM(_Averaged):
    """The BCM rule averaged over equiprobable patterns, with the threshold at its mean.

        dw/dt = E[x y (y − θ)],    θ = E[y²],    y = wᵀ x

    For n linearly independent patterns, each of the 2ⁿ choices of patterns with one common
    response (the number chosen being k, y = n/k there) is a fixed point; only those that respond
    to a single pattern are stable.

    Parameters
    ----------
    patterns : Tensor
        One a row, ``(patterns, n)``.
    initial : Tensor or float
        Initial weights ``w``, ``(pre = n)``.

    References
    ----------
    Bienenstock, Cooper & Munro 1982, J. Neurosci. 2:32-48; Intrator & Cooper 1992, Neural
    Networks 5:3-17.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> flow = ct.System(AveragedBCM(torch.eye(2)))
    >>> flow(torch.tensor(0.0), {"w": torch.tensor([2.0, 0.0]).double()})["w"].tolist()
    [0.0, 0.0]
    """

    patterns: Tensor

    def __init__(self, patterns: Tensor, *, initial: Tensor | float = 0.1) -> None:
        given = as_values(patterns, "patterns").to(torch.float64)
        if given.dim() != 2 or 0 in given.shape:
            raise ValueError(f"patterns must be a matrix, one a row; got {tuple(given.shape)}")
        super().__init__({"pre": given.shape[1]}, initial)
        self.add_parameters({"patterns": given})

    def flow(self, w: Tensor) -> Tensor:
        """Return E[x y (y − E[y²])]."""
        y = w @ self.patterns.T
        threshold = (y**2).mean(-1, keepdim=True)
        return (y * (y - threshold)) @ self.patterns / len(self.patterns)


def _symmetric(C: Tensor) -> Tensor:
    matrix = as_values(C, "C").to(torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"C must be a square matrix; got shape {tuple(matrix.shape)}")
    if not torch.allclose(matrix, matrix.T, rtol=1e-12, atol=0.0):
        raise ValueError("C must be symmetric, as covariances are")
    return matrix
