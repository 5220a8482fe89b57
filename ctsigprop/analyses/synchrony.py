"""Synchrony of oscillators: the order parameter, and the coupling at which it rises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ctsigprop.solution import Solution

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

__all__ = ["critical_coupling", "order_parameter"]


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
