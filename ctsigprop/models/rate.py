"""Rate neurons: leaky integrators, nonlinear rates, Hopfield's and Wilson and Cowan's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctsigprop.errors import unknown
from ctsigprop.models.neurons import TextNeuron, Value

__all__ = [
    "NONLINEARITIES",
    "hopfield",
    "leaky_integrator",
    "nonlinearity",
    "rate",
    "wilson_cowan",
]

#: Nonlinearities of rate neurons, as text in the drive `u`.
NONLINEARITIES: Mapping[str, str] = {
    "identity": "u",
    "relu": "clip(u, 0, inf)",
    "hard": "clip(u, 0, 1)",
    "tanh": "tanh(u)",
    "logistic": "1/(1 + exp(-u))",
    "softplus": "clip(u, 0, inf) + log(1 + exp(-abs(u)))",
}


def nonlinearity(rho: str) -> str:
    """Return a nonlinearity as text in the drive ``u``: a name, or the expression itself.

    >>> nonlinearity("relu")
    'clip(u, 0, inf)'
    """
    if rho not in NONLINEARITIES and not re.search(r"\bu\b", rho):
        raise ValueError(unknown("nonlinearity", rho, NONLINEARITIES))
    return NONLINEARITIES.get(rho, rho)


def leaky_integrator(
    name: str = "", size: int = 1, *, tau: Value = 1.0, bias: Value = 0.0
) -> TextNeuron:
    """Return leaky integrators: tau ds/dt = −s + I + b.

    Parameters
    ----------
    name, size : str, int
        The population.
    tau : Parameter, Tensor or float
        Time constant.
    bias : Parameter, Tensor or float
        Constant current b.

    Examples
    --------
    >>> leaky_integrator("y", 3, tau=2.0).variables[0].name
    's_y'
    """
    return TextNeuron("ds/dt = (-s + I + bias)/tau : 1\nI : 1", name, size, tau=tau, bias=bias)


def rate(
    name: str = "",
    size: int = 1,
    *,
    rho: str = "tanh",
    tau: Value = 1.0,
    bias: Value = 0.0,
) -> TextNeuron:
    """Return rate neurons: tau ds/dt = −s + rho(I + b) + J.

    Parameters
    ----------
    name, size : str, int
        The population.
    rho : str
        "identity", "relu", "hard" (clipped to 0..1), "tanh", "logistic" or "softplus"; or any
        expression in ``u``, the sum of the currents into port I and the bias.
    tau, bias : Parameter, Tensor or float
        Time constant and b.

    Notes
    -----
    Currents into port J enter outside the nonlinearity: that is where a nudge belongs.

    Examples
    --------
    >>> rate("h", 4, rho="relu").ports
    {'I': '1', 'J': '1'}
    """
    text = (
        f"ds/dt = (-s + r + J)/tau : 1\nr = {nonlinearity(rho)} : 1\nu = I + bias : 1\nI : 1\nJ : 1"
    )
    return TextNeuron(text, name, size, tau=tau, bias=bias)


def hopfield(
    name: str = "", size: int = 1, *, tau: Value = 1.0, beta: Value = 1.0, bias: Value = 0.0
) -> TextNeuron:
    """Return the continuous Hopfield network's neurons: tau du/dt = −u + I + b, V = tanh(beta u).

    Parameters
    ----------
    name, size : str, int
        The population.
    tau, beta, bias : Parameter, Tensor or float
        Time constant, gain, and external current b; synapses see V.

    References
    ----------
    Hopfield 1984, PNAS 81:3088-3092, eq. 5.

    Examples
    --------
    >>> hopfield("memory", 8, beta=4.0).output
    'tanh(beta*u)'
    """
    return TextNeuron(
        "du/dt = (-u + I + bias)/tau : 1\nI : 1\nbeta : 1",
        name,
        size,
        output="tanh(beta*u)",
        tau=tau,
        beta=beta,
        bias=bias,
    )


def wilson_cowan(
    name: str = "",
    size: int = 1,
    *,
    c_1: Value = 16.0,
    c_2: Value = 12.0,
    c_3: Value = 15.0,
    c_4: Value = 3.0,
    a_e: Value = 1.3,
    a_i: Value = 2.0,
    theta_e: Value = 4.0,
    theta_i: Value = 3.7,
    r_e: Value = 1.0,
    r_i: Value = 1.0,
    tau_E: Value = 1.0,
    tau_I: Value = 1.0,
    P: Value = 1.25,
    Q: Value = 0.0,
) -> TextNeuron:
    """Return Wilson-Cowan pairs of an excitatory and an inhibitory population.

        tau_E dE/dt = −E + (k_e − r_e E) S_e(c_1 E − c_2 I + P + J)
        tau_I dI/dt = −I + (k_i − r_i I) S_i(c_3 E − c_4 I + Q + K)
               S_x(u) = 1/(1 + exp(−a_x (u − theta_x))) − 1/(1 + exp(a_x theta_x)),   k_x = S_x(∞)

    Parameters
    ----------
    name, size : str, int
        The population.
    c_1, c_2, c_3, c_4 : Parameter, Tensor or float
        Coupling.
    a_e, a_i, theta_e, theta_i, r_e, r_i : Parameter, Tensor or float
        Slopes, thresholds and refractoriness.
    tau_E, tau_I : Parameter, Tensor or float
        Time constants.
    P, Q : Parameter, Tensor or float
        Constant inputs; synapses enter at J and K. The defaults give a limit cycle.

    References
    ----------
    Wilson & Cowan 1972, Biophys. J. 12:1-24, eqs. 11, 12 and 15; the cycle of its fig. 11.

    Examples
    --------
    >>> [v.name for v in wilson_cowan().variables]
    ['E', 'I']
    """
    text = """
        dE/dt = (-E + (k_e - r_e*E)*S_e)/tau_E : 1
        dI/dt = (-I + (k_i - r_i*I)*S_i)/tau_I : 1
        S_e = 1/(1 + exp(-a_e*(c_1*E - c_2*I + P + J - theta_e))) - 1 + k_e : 1
        S_i = 1/(1 + exp(-a_i*(c_3*E - c_4*I + Q + K - theta_i))) - 1 + k_i : 1
        k_e = 1/(1 + exp(-a_e*theta_e)) : 1
        k_i = 1/(1 + exp(-a_i*theta_i)) : 1
        J : 1
        K : 1
    """
    values: dict[str, Any] = {
        "c_1": c_1,
        "c_2": c_2,
        "c_3": c_3,
        "c_4": c_4,
        "a_e": a_e,
        "a_i": a_i,
    }
    values |= {"theta_e": theta_e, "theta_i": theta_i, "r_e": r_e, "r_i": r_i}
    values |= {"tau_E": tau_E, "tau_I": tau_I, "P": P, "Q": Q}
    return TextNeuron(text, name, size, initial={"E": 0.1, "I": 0.05}, **values)
