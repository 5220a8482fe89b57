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

__all__ = ["NEURONS"]

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
