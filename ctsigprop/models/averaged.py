"""Averaged learning: the expected motion of weights, as flows of their own.

Learning that is slow against its inputs follows the average of its rules over them. The weights,
and what a rule keeps besides, are then the only state variables, and their fixed points are what
can be learned.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctsigprop.equations import Equations
from ctsigprop.models.neurons import Value
from ctsigprop.models.rate import nonlinearity
from ctsigprop.quantities import Parameter, Variable
from ctsigprop.signals import as_values
from ctsigprop.terms import Local, Neuron, Plasticity, State

__all__ = [
    "AveragedBCM",
    "AveragedLearning",
    "AveragedOja",
    "AveragedSanger",
    "correlated",
    "patterns_of",
]


class _Weights(Neuron):
    """Weights as a population: its activity is the weights."""

    def __init__(self, dims: Mapping[str, int], initial: Tensor | float) -> None:
        super().__init__("", math.prod(dims.values()))
        self.ports = {}
        self.variables = (Variable("w", dims, initial=initial),)

    def activity(self, state: State) -> Tensor:
        """Return the weights, ``(*batch, size)``."""
        return state["w"].flatten(-len(self.variables[0].dims))

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return their derivative."""
        del state
        return self.activity(derivative)


class _Averaged(_Weights):
    """Weights with a flow that is written down."""

    @abc.abstractmethod
    def flow(self, w: Tensor) -> Tensor:
        """Return dw/dt."""

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return dw/dt."""
        del t, currents
        return {"w": self.flow(state["w"])}


class AveragedLearning(_Weights):
    """Any local rules averaged over patterns that are presented equally often.

        y_p = ρ(w x_p + strength · c_p),    x_p = M(correlation) · patterns_p
        dw/dt = Σ_rules E_p[rule(x_p, y_p, w)]

    The neurons are at their steady state for every pattern, as where they are fast and plasticity
    is slow. A rule's own variables, such as a sliding threshold, are averaged in the same way.
    Everything that the rules depend on stays a parameter by its name, ``eta``, ``tau_theta``,
    so that portraits and bifurcation diagrams may move it. M mixes the inputs, see `correlated`;
    c is the learning signal, one more forward input. `presented` is the same learning, not
    averaged: neurons and weights driven by the patterns in turn.

    Parameters
    ----------
    patterns : Tensor
        One a row, ``(patterns, n)``.
    plasticity : Plasticity or sequence of Plasticity
        Rules that add up, without gates.
    context : Tensor, optional
        c, ``(patterns, m)``: what the learning signal says of each pattern, for each of m units.
    strength : Parameter, Tensor or float
        Of the learning signal.
    rho : str
        The nonlinearity ρ, as in `rate`.
    correlation : Parameter, Tensor or float
        Between any two inputs, where those of the patterns have none; −1/(n − 1) to 1.
    modulator : Tensor or "mean", optional
        What a modulator by name is: ``(patterns,)``, a number for each pattern; or the mean of
        the inputs x_p.
    units : int
        m, where there is no context.
    initial : Tensor or float
        Initial weights ``w``, ``(post = m, pre = n)``.

    Raises
    ------
    ValueError
        Shapes that do not fit, a correlation out of range, a gate, a rule that reads derivatives
        of activities, which are zero while a pattern is held, or a modulator that is not given.

    References
    ----------
    Oja 1982, J. Math. Biol. 15:267-273; Sanders, Verhulst & Murdock 2007, Averaging Methods in
    Nonlinear Dynamical Systems, ch. 2: the error is of the order of the learning rate.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> rules = [ct.hebb(1.0), ct.weight_decay(0.5)]
    >>> flow = ct.System(AveragedLearning(patterns_of(torch.eye(2)), rules, correlation=0.2))
    >>> rate = flow(torch.tensor(0.0), {"w": torch.tensor([[1.0, 0.0]]).double()})["w"]
    >>> rate.round(decimals=6).tolist()
    [[0.5, 0.2]]
    """

    patterns: Tensor
    context: Tensor | None
    third: Tensor | None
    strength: Tensor
    correlation: Tensor

    def __init__(
        self,
        patterns: Tensor,
        plasticity: Plasticity | Sequence[Plasticity],
        *,
        context: Tensor | None = None,
        strength: Value = 1.0,
        rho: str = "identity",
        correlation: Value = 0.0,
        modulator: Tensor | Literal["mean"] | None = None,
        units: int = 1,
        initial: Tensor | float = 0.1,
    ) -> None:
        x, c, third = shown(patterns, context, modulator)
        size = units if c is None else c.shape[1]
        super().__init__({"post": size, "pre": x.shape[1]}, initial)
        rules = [plasticity] if isinstance(plasticity, Plasticity) else list(plasticity)
        for rule in rules:
            if rule.gate is not None:
                raise ValueError("averaged rules have no gate: they are on for every pattern")
            if rule.modulator is not None and modulator is None:
                raise ValueError(
                    f"a rule has the modulator {rule.modulator!r}: say what it is for each "
                    "pattern, modulator=..."
                )
        self.rules = nn.ModuleList(rules)
        self.variables += tuple(
            v for rule in rules for v in rule.variables(self.variables[0], "post", "pre")
        )
        for name, value in (("patterns", x), ("context", c), ("third", third)):
            self.register_buffer(name, value)
        self.add_parameters(
            {"correlation": _between(correlation, x.shape[1])}
            | ({} if c is None else {"strength": strength})
        )
        self._rho = Equations(f"dr/dt = {nonlinearity(rho)} : 1\nu : 1").torch()

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return the averages of all derivatives."""
        del currents
        w, x = state["w"], correlated(self.patterns, self.correlation)
        lead = (*w.shape[:-2], len(x))
        drive = (w @ x.T).transpose(-1, -2)
        if self.context is not None:
            drive = drive + self.strength * self.context
        clock = t[..., None] if t.dim() else t
        y = self._rho(clock[..., None] if t.dim() else t, {"u": drive, "r": drive})["r"]
        m = x.mean(-1) if self.third is None else self.third
        spread = {
            v.name: state[v.name]
            .unsqueeze(-1 - len(v.dims))
            .expand(*lead, *state[v.name].shape[-len(v.dims) :])
            for v in self.variables
        }
        change: State = {v.name: torch.zeros_like(state[v.name]) for v in self.variables}
        for rule in self.rules:
            local = Local(
                t=clock,
                w=spread["w"],
                x=x.expand(*lead, x.shape[-1]),
                y=y,
                dx=_no_derivative,
                dy=_no_derivative,
                modulator=None if rule.modulator is None else lambda: m[:, None],
                own={name.removesuffix("_w"): value for name, value in spread.items()},
                shared=False,
            )
            for short, value in rule.forward(local).items():
                name = "w" if short == "w" else f"{short}_w"
                change[name] = change[name] + value.mean(len(lead) - 1)
        return change


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


def patterns_of(covariance: Tensor) -> Tensor:
    """Return n patterns of n inputs whose second moments E[x xᵀ] are these: √n · √C, symmetric.

    Parameters
    ----------
    covariance : Tensor
        C, symmetric and with no negative eigenvalue, ``(n, n)``.

    Examples
    --------
    >>> C = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    >>> x = patterns_of(C)
    >>> torch.allclose(x.T @ x / 2, C)
    True
    """
    rates, axes = torch.linalg.eigh(_symmetric(covariance))
    if rates[0] < -1e-12 * rates[-1].abs():
        raise ValueError(f"a covariance has no negative eigenvalue; got {float(rates[0]):g}")
    root: Tensor = axes @ torch.diag((len(rates) * rates.clamp(min=0)).sqrt()) @ axes.T
    return root


def correlated(patterns: Tensor, correlation: Tensor | float) -> Tensor:
    """Return patterns whose inputs are mixed so that uncorrelated ones of one variance get c.

        M = √(1 − c) (1 − J/n) + √(1 + (n − 1) c) J/n,    M M = (1 − c) 1 + c J

    J is all ones, and x M replaces x: second moments v·1 become v ((1 − c) 1 + c J).

    Parameters
    ----------
    patterns : Tensor
        ``(patterns, n)``.
    correlation : Tensor or float
        c, −1/(n − 1) to 1.

    Examples
    --------
    >>> x = correlated(2**0.5 * torch.eye(2).double(), 0.6)
    >>> (x.T @ x / 2).round(decimals=6).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    n = patterns.shape[-1]
    c = torch.as_tensor(correlation).to(patterns)
    mean = patterns.mean(-1, keepdim=True)
    return (1 - c).sqrt() * (patterns - mean) + (1 + (n - 1) * c).sqrt() * mean


def shown(
    patterns: Tensor, context: Tensor | None, modulator: Tensor | Literal["mean"] | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return patterns, context and modulator in float64, None for the mean; refuse misfits."""
    x = as_values(patterns, "patterns").to(torch.float64)
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"patterns must be a matrix, one a row; got {tuple(x.shape)}")
    c = None if context is None else as_values(context, "context").to(torch.float64)
    if c is not None and (c.dim() != 2 or len(c) != len(x) or not c.shape[1]):
        raise ValueError(
            f"context must have a row for each of {len(x)} patterns; got {tuple(c.shape)}"
        )
    if modulator is None or isinstance(modulator, str):
        if modulator not in (None, "mean"):
            raise ValueError(f'modulator must be numbers, or "mean"; got {modulator!r}')
        return x, c, None
    third = as_values(modulator, "modulator").to(torch.float64)
    if tuple(third.shape) != (len(x),):
        raise ValueError(
            f"modulator must have a number for each of {len(x)} patterns; "
            f"got shape {tuple(third.shape)}"
        )
    return x, c, third


def _between(correlation: Value, n: int) -> Parameter:
    """Return a correlation with the bounds that it has between n inputs."""
    given = correlation if isinstance(correlation, Parameter) else Parameter(correlation)
    if as_values(given.value, "correlation").dim():
        raise ValueError("correlation must be one number")
    if n == 1 and float(given.value):
        raise ValueError("one input has no correlation")
    return Parameter(given.value, given.unit, -1 / max(n - 1, 1), 1.0, given.learn)


def _no_derivative() -> Tensor:
    raise ValueError(
        "the rule reads the derivative of an activity, which is zero while a pattern is held: "
        "its average says nothing"
    )


def _symmetric(C: Tensor) -> Tensor:
    matrix = as_values(C, "C").to(torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"C must be a square matrix; got shape {tuple(matrix.shape)}")
    if not torch.allclose(matrix, matrix.T, rtol=1e-12, atol=0.0):
        raise ValueError("C must be symmetric, as covariances are")
    return matrix
