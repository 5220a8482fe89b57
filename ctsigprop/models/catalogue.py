"""The shipped neurons by name: the table behind the command line and the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ctsigprop.models.conductance import hodgkin_huxley, morris_lecar
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.oscillators import (
    fitzhugh_nagumo,
    hindmarsh_rose,
    qif,
    stuart_landau,
    theta,
)
from ctsigprop.models.rate import hopfield, leaky_integrator, rate, wilson_cowan

__all__ = ["NEURONS", "WINDOWS"]

#: Builder of each shipped population, by the name that the command line uses.
NEURONS: Mapping[str, Callable[..., TextNeuron]] = {
    "fitzhugh-nagumo": fitzhugh_nagumo,
    "hindmarsh-rose": hindmarsh_rose,
    "hodgkin-huxley": hodgkin_huxley,
    "hopfield": hopfield,
    "leaky-integrator": leaky_integrator,
    "morris-lecar": morris_lecar,
    "qif": qif,
    "rate": rate,
    "stuart-landau": stuart_landau,
    "theta": theta,
    "wilson-cowan": wilson_cowan,
}

#: Where the states of each model usually are: the axes of its portrait, and where its fixed points
#: are looked for.
WINDOWS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "fitzhugh-nagumo": {"v": (-2.5, 2.5), "w": (-1.0, 2.5)},
    "hindmarsh-rose": {"x": (-2.0, 2.0), "y": (-16.0, 2.0), "z": (-2.0, 6.0)},
    "hodgkin-huxley": {"v": (-100.0, 60.0), "n": (0.0, 1.0), "m": (0.0, 1.0), "h": (0.0, 1.0)},
    "hopfield": {"u": (-3.0, 3.0)},
    "leaky-integrator": {"s": (-3.0, 3.0)},
    "morris-lecar": {"v": (-80.0, 60.0), "w": (-0.1, 1.0)},
    "qif": {"v": (-5.0, 5.0)},
    "rate": {"s": (-3.0, 3.0)},
    "stuart-landau": {"x": (-2.0, 2.0), "y": (-2.0, 2.0)},
    "theta": {"theta": (-3.2, 3.2)},
    "wilson-cowan": {"E": (-0.1, 0.6), "I": (-0.1, 0.6)},
}
