"""W1b: weights that are 10⁴ times slower than their neurons, under a rhythm that comes round.

tau ds/dt = −s + W x(t), dW/dt = eps (s xᵀ − s² W) with tau = 1, x(t) = a + b cos(2π t), |a| = 1,
|b| = 1/2, for 10⁴ tau. An error of 2e-4 is asked of s and W at the end. Those that go through every
period take their steps at 1e-5; diffrax at 1e-4 besides, which is as much as is asked.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Run
from benchmarks.plastic import TOLERANCE, by_diffrax, by_torchdiffeq

Array = NDArray[np.float64]

EPS, PERIOD = 1e-4, 1.0


def given(size: int) -> tuple[Array, Array, Array]:
    """Return the mean of the input, its amplitude, and the first weights."""
    random = np.random.default_rng(0)
    a, b = random.random(size), random.standard_normal(size)
    w0 = random.standard_normal((size, size)) / size**0.5
    return a / np.linalg.norm(a), b / np.linalg.norm(b) / 2, w0


def ctsigprop(size: int, end: float, **options: Any) -> Run:
    """Return ours by averaging over the rhythm."""
    import ctsigprop as ct

    return _ours(size, end, ct.Averaging(period=PERIOD, **options))


def projective(size: int, end: float, **options: Any) -> Run:
    """Return ours by jumps over many periods."""
    import ctsigprop as ct

    return _ours(size, end, ct.Projective(period=PERIOD, **options))


def full(size: int, end: float, **options: Any) -> Run:
    """Return ours through every period."""
    import ctsigprop as ct

    return _ours(size, end, ct.Tsit5(rtol=TOLERANCE, atol=TOLERANCE, **options))


def _ours(size: int, end: float, solver: Any) -> Run:
    import torch

    import ctsigprop as ct

    torch.set_num_threads(1)
    a, b, w0 = (torch.tensor(v) for v in given(size))
    system = ct.System(
        ct.Source("x", size, ct.Rhythm(b, 1 / PERIOD, offset=a)),
        ct.leaky_integrator("y", size, tau=1.0),
        ct.Synapse("x", "y", w0, plasticity=ct.oja(EPS)),
    )

    def run() -> dict[str, Any]:
        done = ct.solve(system, {}, [0.0, end], solver=solver)
        return {"s": done["s_y"][-1], "W": done["W_y_x"][-1]}

    return run


def torchdiffeq(size: int, end: float) -> Run:
    import torch
    from torch import Tensor

    a, b = (torch.tensor(v) for v in given(size)[:2])

    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        s, w = y
        x = a + b * torch.cos(2 * math.pi / PERIOD * t)
        return w @ x - s, EPS * (torch.outer(s, x) - s.square()[:, None] * w)

    return by_torchdiffeq(field, given(size)[2], end)


def diffrax(size: int, end: float, tolerance: float = TOLERANCE) -> Run:
    import jax.numpy as jnp  # type: ignore[import-not-found]

    a, b = (jnp.asarray(v) for v in given(size)[:2])

    def field(t: Any, y: Any, _: Any) -> Any:
        s, w = y
        x = a + b * jnp.cos(2 * math.pi / PERIOD * t)
        return w @ x - s, EPS * (jnp.outer(s, x) - (s * s)[:, None] * w)

    return by_diffrax(field, given(size)[2], end, tolerance)


def diffrax_loose(**options: Any) -> Run:
    return diffrax(tolerance=10 * TOLERANCE, **options)


def reference(size: int, end: float) -> Run:
    """Solve for the factors of W = diag(d) W_0 + p aᵀ + q bᵀ, which it keeps."""
    from scipy.integrate import solve_ivp

    a, b, w0 = given(size)
    first = np.stack([w0 @ a, w0 @ b])
    products = np.array([[a @ a, a @ b], [b @ a, b @ b]])

    def field(t: float, y: Array) -> Array:
        s, d, p, q = y.reshape(4, size)
        wave = math.cos(2 * math.pi / PERIOD * t)
        mean, amplitude = products @ (1.0, wave)
        drive = d * (first[0] + wave * first[1]) + p * mean + q * amplitude
        lost = -EPS * s**2
        return np.concatenate([drive - s, lost * d, EPS * s + lost * p, EPS * s * wave + lost * q])

    def run() -> dict[str, Any]:
        start = np.concatenate([np.zeros(size), np.ones(size), np.zeros(2 * size)])
        y = solve_ivp(field, (0.0, end), start, "DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
        s, d, p, q = y.reshape(4, size)
        return {"s": s, "W": d[:, None] * w0 + np.outer(p, a) + np.outer(q, b)}

    return run
