"""Synchrony of oscillators: the order parameter, and the coupling at which it rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ctsigprop.models.neurons import Value
from ctsigprop.quantities import Parameter, Variable
from ctsigprop.solution import Solution
from ctsigprop.terms import Neuron, State

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

__all__ = ["Kuramoto", "critical_coupling", "order_parameter"]


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
    >>> pair = ct.System(Kuramoto(torch.tensor([-0.1, 0.1]).double(), 1.0))
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


def order_parameter(
    phases: Solution | Dataset | DataArray, variable: str = "", dim: str = ""
) -> Dataset:
    """Return the order parameter of phases, r exp(iψ) = (1/N) Σ_j exp(iθ_j).

    Parameters
    ----------
    phases : Solution, xarray.Dataset or xarray.DataArray
        Phases θ in radians.
    variable : str, optional
        Which of the variables holds them; not needed where there is one.
    dim : str, optional
        The axis of the oscillators; the last one by default.

    Returns
    -------
    xarray.Dataset
        ``coherence`` r from 0 to 1, and ``mean_phase`` ψ in (−π, π], along the other axes. Where r
        is 0, ψ is no more than rounding.

    Raises
    ------
    ValueError
        Unknown names, no oscillator, phases that are not finite.

    References
    ----------
    Kuramoto 1984, Chemical Oscillations, Waves, and Turbulence, eq. 5.4.13; Strogatz 2000, Physica
    D 143:1-20, eq. 3.1.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> quarter = xr.DataArray([0.0, np.pi / 2], dims="neuron", name="theta")
    >>> found = order_parameter(quarter)
    >>> round(found["coherence"].item() ** 2, 6), round(found["mean_phase"].item() / np.pi, 6)
    (0.5, 0.25)
    """
    import numpy as np
    import xarray as xr

    from ctsigprop.analyses.spectra import one_variable

    theta = one_variable(phases, variable)
    axis = dim or str(theta.dims[-1]) if theta.dims else dim
    if axis not in theta.dims or not theta.sizes[axis]:
        raise ValueError(
            f"dim must be an axis of '{theta.name}' with one oscillator or more, of "
            f"{dict(theta.sizes)}; got '{axis}'"
        )
    if not np.isfinite(theta.values).all():
        raise ValueError(f"the phases '{theta.name}' must be finite; got NaN or an infinity")
    if theta.attrs.get("units", "1") not in ("1", "rad"):
        raise ValueError(f"phases must be in radians; '{theta.name}' is in {theta.attrs['units']}")
    place = theta.get_axis_num(axis)
    rest = [str(d) for d in theta.dims if d != axis]
    cosine, sine = (f(theta.values).mean(place) for f in (np.cos, np.sin))
    coords: dict[Any, Any] = {
        d: theta[d] if d in theta.coords else (d, np.arange(theta.sizes[d]), {"units": "1"})
        for d in rest
    }
    r = {"units": "1", "long_name": "order parameter"}
    psi = {"units": "rad", "long_name": "mean phase"}
    return xr.Dataset(
        {
            "coherence": (rest, np.hypot(cosine, sine), r),
            "mean_phase": (rest, np.arctan2(sine, cosine), psi),
        },
        coords,
        {"oscillators": theta.sizes[axis]},
    )


def critical_coupling(density: Callable[[float], float] | float, centre: float = 0.0) -> float:
    """Return the coupling at which a population of oscillators begins to synchronise.

    K_c = 2/(π g(Ω)) for frequencies of a density g that is symmetric about its only maximum Ω.

    Parameters
    ----------
    density : callable or float
        g(ω), or its value at the centre; in the inverse of the frequencies' unit.
    centre : float
        Ω.

    Returns
    -------
    float
        K_c, in the unit of the frequencies.

    Raises
    ------
    ValueError
        A density that is not positive and finite at the centre.

    References
    ----------
    Kuramoto 1984, Chemical Oscillations, Waves, and Turbulence, eq. 5.4.22; Strogatz 2000, Physica
    D 143:1-20, eq. 4.5.

    Examples
    --------
    >>> critical_coupling(lambda omega: 0.5 / (omega**2 + 0.25) / math.pi)
    1.0
    """
    peak = float(density(centre) if callable(density) else density)
    if not (math.isfinite(peak) and peak > 0):
        raise ValueError(f"density must be > 0 and finite at the centre, {centre:g}; got {peak}")
    return 2 / (math.pi * peak)
