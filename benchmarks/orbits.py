"""W2: many orbits of a small system, each from its own start, for 100 units of time.

Two neurons' equations: FitzHugh and Nagumo's, Wilson and Cowan's. Where every orbit has steps of
its own, its error is that of its worse variable; torchdiffeq, which takes the same steps for all,
chooses them by the worse variable's root mean square over the orbits. The error is told of every
hundredth orbit, over all of these. Some of Wilson and Cowan's orbits begin close to where two ways
part, and amplify any error; ours takes them at a tolerance with no larger an error than diffrax's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Run
from benchmarks.plastic import largest

Array = NDArray[np.float64]

END, TOLERANCE = 100.0, 1e-5
OURS = {"fhn": 1e-5, "wc": 8.5e-6}
STARTS = {"fhn": ((-2.5, 2.5), (-1.0, 2.0)), "wc": ((0.0, 0.5), (0.0, 0.5))}
NAMES = {"fhn": ("v", "w"), "wc": ("E", "I")}


def given(neuron: str, orbits: int) -> Array:
    """Return where the orbits start, ``(2, orbits)``."""
    random = np.random.default_rng(0)
    return np.stack([random.uniform(*between, orbits) for between in STARTS[neuron]])


def field(neuron: str, exp: Any) -> Any:
    """Return the derivatives of a pair of numbers, or arrays, with an exponential for these."""
    a_e, a_i, th_e, th_i = 1.3, 2.0, 4.0, 3.7
    rest_e, rest_i = 1 / (1 + math.exp(a_e * th_e)), 1 / (1 + math.exp(a_i * th_i))

    def fhn(v: Any, w: Any) -> Any:
        return v - v * v * v / 3 - w + 0.5, (v + 0.7 - 0.8 * w) / 12.5

    def wc(E: Any, I: Any) -> Any:  # noqa: E741
        s_e = 1 / (1 + exp(-a_e * (16 * E - 12 * I + 1.25 - th_e))) - rest_e
        s_i = 1 / (1 + exp(-a_i * (15 * E - 3 * I - th_i))) - rest_i
        return -E + (1 - rest_e - E) * s_e, -I + (1 - rest_i - I) * s_i

    return fhn if neuron == "fhn" else wc


def _told(neuron: str, first: Any, second: Any) -> dict[str, Any]:
    every = max(1, len(first) // 1000)
    return dict(zip(NAMES[neuron], (first[::every], second[::every]), strict=True))


def ctsigprop(neuron: str, orbits: int, **options: Any) -> Run:
    import torch

    import ctsigprop as ct

    torch.set_num_threads(1)
    system = ct.System(ct.fitzhugh_nagumo(I=0.5) if neuron == "fhn" else ct.wilson_cowan())
    pair = torch.tensor(given(neuron, orbits))[..., None]
    start = dict(zip(NAMES[neuron], pair, strict=True))
    solver = ct.Tsit5(rtol=OURS[neuron], atol=OURS[neuron], **options)

    def run() -> dict[str, Any]:
        done = ct.solve(system, start, [0.0, END], solver=solver)
        ends = (done[name][-1, :, 0] for name in NAMES[neuron])
        return _told(neuron, *ends)

    return run


def torchdiffeq(neuron: str, orbits: int) -> Run:
    import torch
    from torch import Tensor
    from torchdiffeq import odeint

    torch.set_num_threads(1)
    rates, start = field(neuron, torch.exp), torch.tensor(given(neuron, orbits))
    times = torch.tensor([0.0, END], dtype=torch.float64)
    options = {"norm": lambda y: y.view(2, -1).square().mean(1).sqrt().amax()}

    def stacked(_t: Tensor, y: Tensor) -> Tensor:
        return torch.stack(rates(y[0], y[1]))

    def run() -> dict[str, Any]:
        with torch.no_grad():
            y = odeint(
                stacked, start, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5",
                options=options,
            )[-1]  # fmt: skip
        return _told(neuron, y[0], y[1])

    return run


def diffrax(neuron: str, orbits: int) -> Run:
    import diffrax as dx  # type: ignore[import-not-found]
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]

    rates = field(neuron, jnp.exp)
    control = dx.PIDController(rtol=TOLERANCE, atol=TOLERANCE, norm=largest)

    @jax.jit
    @jax.vmap
    def solve(first: Any, second: Any) -> Any:
        return dx.diffeqsolve(
            dx.ODETerm(lambda _t, y, _: rates(*y)),
            *(dx.Tsit5(), 0.0, END, None, (first, second)),
            stepsize_controller=control,
            max_steps=100_000,
        ).ys

    def run() -> dict[str, Any]:
        y = jax.block_until_ready(solve(*given(neuron, orbits)))
        return _told(neuron, y[0][:, -1], y[1][:, -1])

    return run


def torchode(neuron: str, orbits: int) -> Run:
    import torch
    import torchode as to  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    rates = field(neuron, torch.exp)
    term = to.ODETerm(lambda _t, y: torch.stack(rates(y[:, 0], y[:, 1]), 1))
    control = to.IntegralController(
        atol=TOLERANCE, rtol=TOLERANCE, term=term, norm=lambda y: y.abs().amax(1)
    )
    solver = to.AutoDiffAdjoint(to.Tsit5(term=term), control)
    start = torch.tensor(given(neuron, orbits).T.copy())
    times = torch.tensor([0.0, END], dtype=torch.float64).expand(orbits, 2)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            y = solver.solve(to.InitialValueProblem(y0=start, t_eval=times)).ys[:, -1]
        return _told(neuron, y[:, 0], y[:, 1])

    return run


def numba(neuron: str, orbits: int) -> Run:
    """Return a loop over the orbits written by hand: Dormand and Prince's method, compiled."""
    import numba as nb

    rates = nb.njit(field(neuron, math.exp))

    @nb.njit
    def solve(starts: Array, ends: Array) -> None:
        for k in range(starts.shape[1]):
            x, y, t, h = starts[0, k], starts[1, k], 0.0, 0.01
            a1, b1 = rates(x, y)
            while t < END:
                h = min(h, END - t)
                a2, b2 = rates(x + h * a1 / 5, y + h * b1 / 5)
                a3, b3 = rates(x + h * (3 * a1 + 9 * a2) / 40, y + h * (3 * b1 + 9 * b2) / 40)
                a4, b4 = rates(
                    x + h * (44 / 45 * a1 - 56 / 15 * a2 + 32 / 9 * a3),
                    y + h * (44 / 45 * b1 - 56 / 15 * b2 + 32 / 9 * b3),
                )
                a5, b5 = rates(
                    x + h * (19372 * a1 - 76080 * a2 + 64448 * a3 - 1908 * a4) / 6561,
                    y + h * (19372 * b1 - 76080 * b2 + 64448 * b3 - 1908 * b4) / 6561,
                )
                a6, b6 = rates(
                    x
                    + h * (9017 / 3168 * a1 - 355 / 33 * a2 + 46732 / 5247 * a3)
                    + h * (49 / 176 * a4 - 5103 / 18656 * a5),
                    y
                    + h * (9017 / 3168 * b1 - 355 / 33 * b2 + 46732 / 5247 * b3)
                    + h * (49 / 176 * b4 - 5103 / 18656 * b5),
                )
                u = x + h * (35 / 384 * a1 + 500 / 1113 * a3 + 125 / 192 * a4)
                u += h * (11 / 84 * a6 - 2187 / 6784 * a5)
                v = y + h * (35 / 384 * b1 + 500 / 1113 * b3 + 125 / 192 * b4)
                v += h * (11 / 84 * b6 - 2187 / 6784 * b5)
                a7, b7 = rates(u, v)
                off = 71 / 57600 * a1 - 71 / 16695 * a3 + 71 / 1920 * a4
                off += 22 / 525 * a6 - 17253 / 339200 * a5 - a7 / 40
                wrong = abs(h * off) / (TOLERANCE + TOLERANCE * max(abs(x), abs(u)))
                off = 71 / 57600 * b1 - 71 / 16695 * b3 + 71 / 1920 * b4
                off += 22 / 525 * b6 - 17253 / 339200 * b5 - b7 / 40
                wrong = max(wrong, abs(h * off) / (TOLERANCE + TOLERANCE * max(abs(y), abs(v))))
                if wrong <= 1:
                    t, x, y, a1, b1 = t + h, u, v, a7, b7
                h *= min(10.0, max(0.2, 0.9 * max(wrong, 1e-10) ** -0.2))
            ends[0, k], ends[1, k] = x, y

    starts = given(neuron, orbits)

    def run() -> dict[str, Any]:
        ends = np.empty_like(starts)
        solve(starts, ends)
        return _told(neuron, ends[0], ends[1])

    return run


def reference(neuron: str, orbits: int) -> Run:
    from scipy.integrate import solve_ivp

    rates = field(neuron, np.exp)
    start = np.stack([*_told(neuron, *given(neuron, orbits)).values()])

    def run() -> dict[str, Any]:
        y = solve_ivp(
            lambda _t, y: np.concatenate(rates(*y.reshape(2, -1))),
            *((0.0, END), start.ravel(), "DOP853"),
            rtol=1e-12,
            atol=1e-12,
        ).y[:, -1]
        return dict(zip(NAMES[neuron], y.reshape(2, -1), strict=True))

    return run
