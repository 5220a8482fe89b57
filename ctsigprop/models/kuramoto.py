"""Phase oscillators in a mean field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from ctsigprop.models.neurons import Value
from ctsigprop.quantities import Parameter, Variable
from ctsigprop.terms import Neuron, State

__all__ = ["Kuramoto"]


@final
class Kuramoto(Neuron):
    """Phase oscillators in the mean field of all: dθ_i/dt = ω_i + (K/N) Σ_j sin(θ_j − θ_i).

    The sum is K r sin(ψ − θ_i) with the order parameter r exp(iψ), so that N oscillators cost N.

    Parameters
    ----------
    omega : Parameter, Tensor or float
        Frequencies ω, ``(N,)``.
    coupling : Parameter, Tensor or float
        K.
    name : str
        Of the population; the variable is then called ``theta_<name>``.
    size : int, optional
        N, where `omega` is one number for all.

    Raises
    ------
    ValueError
        Frequencies that are not one for each oscillator.

    References
    ----------
    Kuramoto 1984, Chemical Oscillations, Waves, and Turbulence, ch. 5; Strogatz 2000, Physica D
    143:1-20, eqs. 2.1 to 3.4.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> pair = ct.System(ct.Kuramoto(torch.tensor([-0.1, 0.1]).double(), 1.0))
    >>> run = ct.solve(pair, {"theta": torch.tensor([0.0, 2.0]).double()}, [0.0, 60.0])
    >>> round(float(torch.sin(run["theta"][-1].diff())), 6)
    0.2
    """

    def __init__(
        self, omega: Value, coupling: Value, name: str = "", *, size: int | None = None
    ) -> None:
        value = omega.value if isinstance(omega, Parameter) else omega
        shape = tuple(torch.as_tensor(value).shape)
        if size is None and len(shape) != 1:
            raise ValueError(f"omega must be one frequency for each oscillator; got shape {shape}")
        super().__init__(name, shape[0] if size is None else size)
        self.add_parameters({"omega": omega}, self.size)
        self.add_parameters({"coupling": coupling}, 1)
        self.ports = {"J": "1"}
        self.variables = (Variable(f"theta_{name}" if name else "theta", {self.dim: self.size}),)

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return dθ/dt; a current into port J adds to it."""
        del t
        theta = state[self.variables[0].name]
        sine, cosine = torch.sin(theta), torch.cos(theta)
        pull = sine.mean(-1, keepdim=True) * cosine - cosine.mean(-1, keepdim=True) * sine
        rate = self.omega + self.coupling * pull
        return {self.variables[0].name: rate + currents["J"] if "J" in currents else rate}

    def activity(self, state: State) -> Tensor:
        """Return sin θ."""
        return torch.sin(state[self.variables[0].name])

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return cos θ dθ/dt."""
        name = self.variables[0].name
        return torch.cos(state[name]) * derivative[name]
