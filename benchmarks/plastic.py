"""W1: a network that learns, tau ds/dt = −s + W x, dW/dt = eta (s xᵀ − s² W).

N neurons and their N² weights, by Oja's rule, on an input of N channels that is held for 100 tau.
A peer chooses its steps by the norm that ours does: the largest over the variables of the root mean
square of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Run

Array = NDArray[np.float64]

TAU, TOLERANCE, DT = 0.1, 1e-5, 0.05


def given(size: int) -> tuple[Array, Array, float]:
    """Return the input, the first weights and the learning rate."""
    random = np.random.default_rng(0)
    return random.random(size), random.standard_normal((size, size)) / size, 1.0 / size


def ctsigprop(size: int, fixed: bool = False, end: float = 10.0, **options: Any) -> Run:
    import torch

    import ctsigprop as ct

    torch.set_num_threads(1)
    x, w0, eta = given(size)
    system = ct.System(
        ct.Source("x", size, torch.tensor(x)),
        ct.leaky_integrator("y", size, tau=TAU),
        ct.Synapse("x", "y", torch.tensor(w0), plasticity=ct.oja(eta)),
    )
    solver: ct.RK4 | ct.Tsit5 = (
        ct.RK4(dt=DT, **options) if fixed else ct.Tsit5(rtol=TOLERANCE, atol=TOLERANCE, **options)
    )

    def run() -> dict[str, Any]:
        done = ct.solve(system, {}, [0.0, end], solver=solver)
        count = done.statistics.evaluations
        return {"s": done["s_y"][-1], "W": done["W_y_x"][-1], "evaluations": count}

    return run


def dense(size: int, fixed: bool = False, end: float = 10.0) -> Run:
    """Return ours without structure: every weight at every stage."""
    return ctsigprop(size, fixed, end, low_rank=False, native=False)


def floor(size: int, fixed: bool = False, end: float = 10.0) -> Run:
    """Multiply a matrix and a vector as often as our solver evaluates."""
    import torch

    count = ctsigprop(size, fixed, end)()["evaluations"]
    x, w0, _ = given(size)
    vector, matrix = torch.tensor(x), torch.tensor(w0)

    def run() -> dict[str, Any]:
        for _ in range(count):
            torch.mv(matrix, vector)
        return {}

    return run


def torchdiffeq(size: int, fixed: bool = False, end: float = 10.0) -> Run:
    import torch
    from torch import Tensor

    drive, w0, eta = given(size)
    x = torch.tensor(drive)

    def field(_t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        s, w = y
        return (w @ x - s) / TAU, eta * (torch.outer(s, x) - s.square()[:, None] * w)

    if fixed:
        return by_torchdiffeq(field, w0, end, method="rk4", options={"step_size": DT})
    return by_torchdiffeq(field, w0, end)


def diffrax(size: int, end: float = 10.0) -> Run:
    import jax.numpy as jnp  # type: ignore[import-not-found]

    drive, w0, eta = given(size)
    x = jnp.asarray(drive)

    def field(_t: Any, y: Any, _: Any) -> Any:
        s, w = y
        return (w @ x - s) / TAU, eta * (jnp.outer(s, x) - (s * s)[:, None] * w)

    return by_diffrax(field, w0, end)


def jax(size: int, fixed: bool = True, end: float = 10.0) -> Run:
    """Return RK4 written by hand, of steps DT, compiled."""
    assert fixed
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp

    drive, w0, eta = given(size)
    x = jnp.asarray(drive)

    def field(y: Any) -> Any:
        s, w = y
        return (w @ x - s) / TAU, eta * (jnp.outer(s, x) - (s * s)[:, None] * w)

    def after(y: Any, *slopes: Any) -> Any:
        """Return y + the sum of weight · slope, of pairs of these."""
        return jax.tree.map(
            lambda v, *k: v + sum(c * q for (c, _), q in zip(slopes, k, strict=True)),
            y,
            *(slope for _, slope in slopes),
        )

    def step(_k: Any, y: Any) -> Any:
        k1 = field(y)
        k2 = field(after(y, (DT / 2, k1)))
        k3 = field(after(y, (DT / 2, k2)))
        k4 = field(after(y, (DT, k3)))
        return after(y, (DT / 6, k1), (DT / 3, k2), (DT / 3, k3), (DT / 6, k4))

    @jax.jit
    def solve(start: Any) -> Any:
        return jax.lax.fori_loop(0, round(end / DT), step, start)

    def run() -> dict[str, Any]:
        s, w = jax.block_until_ready(solve((jnp.zeros(size), jnp.asarray(w0))))
        return {"s": s, "W": w}

    return run


def by_torchdiffeq(field: Any, w0: Array, end: float, **options: Any) -> Run:
    """Return the solution of neurons from zero, and weights from w0, by torchdiffeq."""
    import torch
    from torch import Tensor
    from torchdiffeq import odeint

    torch.set_num_threads(1)
    start = torch.zeros(len(w0), dtype=torch.float64), torch.tensor(w0)
    times = torch.tensor([0.0, end], dtype=torch.float64)

    def norm(parts: tuple[Tensor, Tensor]) -> Tensor:
        return torch.stack([part.square().mean().sqrt() for part in parts]).amax()

    if not options:
        options = {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
        options["options"] = {"norm": norm}

    def run() -> dict[str, Any]:
        with torch.no_grad():
            s, w = odeint(field, start, times, **options)
        return {"s": s[-1], "W": w[-1]}

    return run


def largest(parts: Any) -> Any:
    """Return the largest over the variables of the root mean square of each, for diffrax."""
    import jax
    import jax.numpy as jnp

    return jnp.stack([jnp.sqrt(jnp.mean(part**2)) for part in jax.tree.leaves(parts)]).max()


def by_diffrax(field: Any, w0: Array, end: float, tolerance: float = TOLERANCE) -> Run:
    """Return the solution of neurons from zero, and weights from w0, by diffrax."""
    import diffrax as dx  # type: ignore[import-not-found]
    import jax
    import jax.numpy as jnp

    control = dx.PIDController(rtol=tolerance, atol=tolerance, norm=largest)

    @jax.jit
    def solve(start: Any) -> Any:
        return dx.diffeqsolve(
            *(dx.ODETerm(field), dx.Tsit5(), 0.0, end, None, start),
            stepsize_controller=control,
            max_steps=10_000_000,
        ).ys

    def run() -> dict[str, Any]:
        s, w = jax.block_until_ready(solve((jnp.zeros(len(w0)), jnp.asarray(w0))))
        return {"s": s[-1], "W": w[-1]}

    return run


def reference(size: int, fixed: bool = False, end: float = 10.0) -> Run:  # noqa: ARG001
    """Solve for the factors of W = diag(d) W_0 + c xᵀ, which it keeps as long as x is held."""
    from scipy.integrate import solve_ivp

    x, w0, eta = given(size)
    first, square = w0 @ x, x @ x

    def field(_t: float, y: Array) -> Array:
        s, d, c = y.reshape(3, size)
        return np.concatenate(
            [(d * first + c * square - s) / TAU, -eta * s**2 * d, eta * (s - s**2 * c)]
        )

    def run() -> dict[str, Any]:
        start = np.concatenate([np.zeros(size), np.ones(size), np.zeros(size)])
        y = solve_ivp(field, (0.0, end), start, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        s, d, c = y.reshape(3, size)
        return {"s": s, "W": d[:, None] * w0 + np.outer(c, x)}

    return run
