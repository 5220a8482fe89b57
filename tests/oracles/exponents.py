"""Lyapunov exponents, and the synchrony of many oscillators."""

from __future__ import annotations

import math

import numpy as np
import torch
from ode import end, start, text

import ctsigprop as ct
from ctsigprop.analyses.lyapunov import lyapunov_spectrum
from ctsigprop.analyses.stability import fixed_points
from ctsigprop.analyses.synchrony import critical_coupling, order_parameter

LORENZ = "dx/dt = s*(y - x) : 1\ndy/dt = x*(r - z) - y : 1\ndz/dt = x*y - b*z : 1"


def spectrum(case, equations, duration, transient, ensemble, rtol=1e-5):
    parameters = {name: float(value) for name, value in case["parameters"].items()}
    system = text(equations, **parameters)
    y0 = start(system, case["initial_state"])
    return system, lyapunov_spectrum(
        system,
        duration,
        start=y0,
        transient=transient,
        ensemble=ensemble,
        spread=0.1,
        rtol=rtol,
    )


def measure_lorenz(case):
    _, found = spectrum(case, LORENZ, 8.0, 16.0, 1024)
    assert abs(found["exponent_sum"].item() - found["divergence"].item()) < 1e-4
    assert found["standard_error"].max() < 0.01
    return [found["exponent"].values, found["exponent_sum"].item(), found["kaplan_yorke"].item()]


def measure_stable_lorenz(case):
    return [spectrum(case, LORENZ, 30.0, 15.0, 32)[1]["exponent"].values]


def measure_roessler(case):
    equations = "dx/dt = -y - z : 1\ndy/dt = x + a*y : 1\ndz/dt = b + z*(x - c) : 1"
    system, found = spectrum(case, equations, 90.0, 40.0, 512, rtol=1e-4)
    points = fixed_points(system, {"x": (-1, 1), "y": (-1, 1), "z": (-1, 1)})
    assert points.sizes["fp"] == 1
    modes = points["eigenvalue"].values[0]
    pair, real = modes[np.abs(modes[:, 1]) > 0.5][0], modes[np.abs(modes[:, 1]) < 0.5][0, 0]
    return [
        found["exponent"].values,
        [points[name].item() for name in "xyz"],
        [pair[0], abs(pair[1]), real],
    ]


def measure_linear(case):
    (a, b), (c, d) = case["parameters"]["A"]
    system = text(f"dx/dt = {a}*x + {b}*y : 1\ndy/dt = {c}*x + {d}*y : 1")
    y0 = start(system, case["initial_state"])
    return [lyapunov_spectrum(system, 50.0, start=y0, ensemble=4)["exponent"].values]


def stuart_landau_exponents(case):
    """Return the exponents alone: the case also asks for multipliers of the cycle."""
    p = case["parameters"]
    system = ct.System(ct.stuart_landau(mu=p["mu"], omega=p["w"], c=p["c"]))
    return lyapunov_spectrum(system, 40.0, transient=10.0, ensemble=4)["exponent"].values


def measure_kuramoto(case):
    width, n = case["parameters"]["Delta"], 10_000
    critical = critical_coupling(1 / (math.pi * width))
    reduced = text("dr/dt = -Delta*r + K/2*r*(1 - r**2) : 1", Delta=width, K=2.0)
    rest = fixed_points(reduced, {"r": (0.1, 1.0)})
    later = end(reduced, [0.1], [0.0, 5.0], ct.Tsit5(rtol=1e-11, atol=1e-13))[0]
    shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    omega = width * torch.tan(math.pi * (shares - 0.5))
    system = ct.System(ct.Kuramoto(omega, 2.0))
    phases = 2 * math.pi * torch.rand(n, generator=torch.Generator().manual_seed(0)).double()
    run = ct.solve(system, {"theta": phases}, torch.linspace(0, 30, 61), solver=ct.RK4(dt=0.05))
    coherence = order_parameter(run)["coherence"].sel(time=slice(15, None)).mean().item()
    assert abs(coherence - math.sqrt(1 - critical / 2)) < 0.02
    gaussian = critical_coupling(lambda w: math.exp(-(w**2) / 2) / math.sqrt(2 * math.pi))
    return [critical, rest["r"].item(), later, gaussian]


CASES = {
    "DYN-LORENZ-LE": measure_lorenz,
    "DYN-LORENZ-STABLE-LE": measure_stable_lorenz,
    "DYN-ROSSLER": measure_roessler,
    "DYN-LINEAR-LE": measure_linear,
    "DYN-KURAMOTO": measure_kuramoto,
}
CASES = {name: {"": measure} for name, measure in CASES.items()}
