"""Conductance-based neurons: Morris and Lecar's, Hodgkin and Huxley's."""

from __future__ import annotations

from typing import Any

from ctsigprop.models.neurons import TextNeuron, Value

__all__ = ["hodgkin_huxley", "morris_lecar"]


def morris_lecar(
    name: str = "",
    size: int = 1,
    *,
    C: Value = 20.0,
    g_Ca: Value = 4.4,
    g_K: Value = 8.0,
    g_L: Value = 2.0,
    V_Ca: Value = 120.0,
    V_K: Value = -84.0,
    V_L: Value = -60.0,
    V_1: Value = -1.2,
    V_2: Value = 18.0,
    V_3: Value = 2.0,
    V_4: Value = 30.0,
    phi: Value = 0.04,
    I: Value = 0.0,  # noqa: E741
) -> TextNeuron:
    """Return Morris-Lecar neurons (class II by default).

        C dv/dt = I + J − g_Ca m∞(v)(v − V_Ca) − g_K w (v − V_K) − g_L (v − V_L)
          dw/dt = phi (w∞(v) − w) cosh((v − V_3)/(2 V_4))
             m∞ = (1 + tanh((v − V_1)/V_2))/2,   w∞ = (1 + tanh((v − V_3)/V_4))/2

    Parameters
    ----------
    name, size : str, int
        The population.
    C : Parameter, Tensor or float
        uF/cm².
    g_Ca, g_K, g_L : Parameter, Tensor or float
        mS/cm².
    V_Ca, V_K, V_L, V_1, V_2, V_3, V_4 : Parameter, Tensor or float
        mV.
    phi : Parameter, Tensor or float
        1/ms.
    I : Parameter, Tensor or float
        uA/cm²; synapses enter at J.

    References
    ----------
    Morris & Lecar 1981, Biophys. J. 35:193-213; parameter sets of Rinzel & Ermentrout 1998.

    Examples
    --------
    >>> morris_lecar(I=100.0).time_unit
    'ms'
    """
    text = """
        dv/dt = (I + J - g_Ca*m*(v - V_Ca) - g_K*w*(v - V_K) - g_L*(v - V_L))/C : mV
        dw/dt = phi*(w_inf - w)*cosh((v - V_3)/(2*V_4)) : 1
        m = (1 + tanh((v - V_1)/V_2))/2 : 1
        w_inf = (1 + tanh((v - V_3)/V_4))/2 : 1
        C : uF/cm**2
        g_Ca : mS/cm**2
        g_K : mS/cm**2
        g_L : mS/cm**2
        V_Ca : mV
        V_K : mV
        V_L : mV
        V_1 : mV
        V_2 : mV
        V_3 : mV
        V_4 : mV
        phi : 1/ms
        I : uA/cm**2
        J : uA/cm**2
    """
    values: dict[str, Any] = {
        "C": C,
        "g_Ca": g_Ca,
        "g_K": g_K,
        "g_L": g_L,
        "V_Ca": V_Ca,
        "V_K": V_K,
        "V_L": V_L,
    }
    values |= {"V_1": V_1, "V_2": V_2, "V_3": V_3, "V_4": V_4, "phi": phi, "I": I}
    return TextNeuron(text, name, size, initial={"v": -60.0, "w": 0.015}, **values)


def hodgkin_huxley(
    name: str = "",
    size: int = 1,
    *,
    C: Value = 1.0,
    g_Na: Value = 120.0,
    g_K: Value = 36.0,
    g_L: Value = 0.3,
    E_Na: Value = 50.0,
    E_K: Value = -77.0,
    E_L: Value = -54.387,
    I: Value = 0.0,  # noqa: E741
) -> TextNeuron:
    """Return Hodgkin-Huxley neurons at 6.3 °C, with the rest near −65 mV.

        C dv/dt = I + J − g_Na m³h (v − E_Na) − g_K n⁴ (v − E_K) − g_L (v − E_L)
          dx/dt = alpha_x(v) (1 − x) − beta_x(v) x        for x = m, h, n

    Parameters
    ----------
    name, size : str, int
        The population.
    C : Parameter, Tensor or float
        uF/cm².
    g_Na, g_K, g_L : Parameter, Tensor or float
        mS/cm².
    E_Na, E_K, E_L : Parameter, Tensor or float
        mV.
    I : Parameter, Tensor or float
        uA/cm²; synapses enter at J.

    References
    ----------
    Hodgkin & Huxley 1952, J. Physiol. 117:500-544, eqs. 12-26, shifted by −65 mV.

    Examples
    --------
    >>> [v.name for v in hodgkin_huxley().variables]
    ['v', 'm', 'h', 'n']
    """
    text = """
        dv/dt = (I + J - g_Na*m**3*h*(v - E_Na) - g_K*n**4*(v - E_K) - g_L*(v - E_L))/C : mV
        dm/dt = alpha_m*(1 - m) - beta_m*m : 1
        dh/dt = alpha_h*(1 - h) - beta_h*h : 1
        dn/dt = alpha_n*(1 - n) - beta_n*n : 1
        alpha_m = 1/exprel(-(v + 40*mV)/(10*mV))/ms : 1/ms
        beta_m = 4*exp(-(v + 65*mV)/(18*mV))/ms : 1/ms
        alpha_h = 0.07*exp(-(v + 65*mV)/(20*mV))/ms : 1/ms
        beta_h = 1/(1 + exp(-(v + 35*mV)/(10*mV)))/ms : 1/ms
        alpha_n = 0.1/exprel(-(v + 55*mV)/(10*mV))/ms : 1/ms
        beta_n = 0.125*exp(-(v + 65*mV)/(80*mV))/ms : 1/ms
        C : uF/cm**2
        g_Na : mS/cm**2
        g_K : mS/cm**2
        g_L : mS/cm**2
        E_Na : mV
        E_K : mV
        E_L : mV
        I : uA/cm**2
        J : uA/cm**2
    """
    start = {"v": -65.0, "m": 0.0529, "h": 0.5961, "n": 0.3177}
    values: dict[str, Any] = {
        "C": C,
        "g_Na": g_Na,
        "g_K": g_K,
        "g_L": g_L,
        "E_Na": E_Na,
        "E_K": E_K,
        "E_L": E_L,
    }
    return TextNeuron(text, name, size, initial=start, I=I, **values)
