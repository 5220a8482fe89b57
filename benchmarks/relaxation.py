"""W3: a layered network relaxes to rest, is nudged, and learns from the difference.

Error Forward-Propagation in 784-500-500-10: 50 steps of Euler with the input alone, 10 with the
learning signal, and the delta form of the Hebbian update; float32, as learners compute. The error
is that of the change of the weights. Ours is what `ContinuousSigprop` does for a batch. Besides,
where only the ends matter: straight to rest, against steps until the units move as little as they
then do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Run

Array = NDArray[np.float32]

SIZES, DT, RATE = (784, 500, 500, 10), 0.2, 0.01
RESIDUAL = 1e-3  # the most that `steady` accepts


def given(batch: int, sizes: Sequence[int]) -> tuple[Array, Array, list[Array], Array]:
    """Return inputs, labels, the weights of the layers, and those by which the output comes in."""
    random = np.random.default_rng(0)
    x = random.random((batch, sizes[0]), dtype=np.float32)
    weights = [
        random.uniform(-1, 1, (m, n)).astype(np.float32) * np.float32((6 / (n + m)) ** 0.5)
        for n, m in pairwise(sizes)
    ]
    back = random.uniform(-0.3, 0.3, (sizes[1], sizes[-1])).astype(np.float32)
    return x, np.arange(batch) % sizes[-1], weights, back


def ctsigprop(
    batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10, to: str = ""
) -> Run:
    import torch

    import ctsigprop as ct

    inputs, labels, start, network = _network(batch, sizes, free)
    solver = ct.Steady(tol=RESIDUAL) if to == "rest" else ct.Euler(dt=DT)
    learner = ct.ContinuousSigprop(
        network, end=(free + nudged) * DT, update="delta", solver=solver, weights=start
    )
    x, y, kept = torch.tensor(inputs), torch.tensor(labels), learner.snapshot()

    def run() -> dict[str, Any]:
        learner.restore(kept)
        learner.present(x, y)
        return {name: learner.weights[name] for name in start}

    return run


def _network(batch: int, sizes: Sequence[int], free: int) -> Any:
    """Return inputs, labels, weights to start from, and the network with this loop."""
    import torch

    import ctsigprop as ct

    torch.set_num_threads(1)
    inputs, labels, weights, back = given(batch, sizes)
    start = _named([torch.tensor(w) for w in weights])
    network = ct.sigprop_network(sizes, eta=RATE, onset=free * DT)
    (loop,) = (current for current in network.currents if current.name == "B_h1_y")
    loop.weight.data.copy_(torch.tensor(back))  # type: ignore[union-attr]
    return inputs, labels, start, network


def steady(batch: int, **options: Any) -> Run:
    """Return ours straight to rest, where no unit moves faster than `RESIDUAL`."""
    straight = ctsigprop(batch, to="rest", **options)
    return lambda: {f"{name} at rest": w for name, w in straight().items()}


def settling(batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10) -> Run:
    """Return ours by as many steps as come as close to rest as `steady` does."""
    reached = _residuals(batch, sizes, free, nudged)
    x, layers, back, target = _exactly(batch, sizes)
    still = [np.zeros((batch, n)) for n in sizes[1:]]
    rest, first = _marched(x, layers, back, target, still, 0.0, residual=reached[0])
    _, second = _marched(x, layers, back, target, rest, 1.0, residual=reached[1])
    slowly = ctsigprop(batch, sizes, first, second)
    return lambda: {f"{name} at rest": w for name, w in slowly().items()}


def _residuals(batch: int, sizes: Sequence[int], free: int, nudged: int) -> list[float]:
    """Return the derivatives that are left where ours rests, without the signal and with it."""
    import torch

    import ctsigprop as ct

    inputs, labels, state, network = _network(batch, sizes, free)
    network.float()
    held = {"x": torch.tensor(inputs), "c": torch.eye(sizes[-1])[torch.tensor(labels)]}
    found, method = [], ct.Steady(tol=RESIDUAL)
    for t in (0.0, (free + nudged / 2) * DT):
        rest = ct.steady_state(network, state, inputs=held, t=t, method=method)
        state = rest.states
        found.append(rest.residual)
    return found


def floor(batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10) -> Run:
    """Return the products of matrices alone; the input's share of the first layer once."""
    import torch

    torch.set_num_threads(1)
    x, _, weights, back = given(batch, sizes)
    layers = [torch.tensor(w).T for w in weights]
    loop, first = torch.tensor(back).T, torch.tensor(x)
    hidden = [torch.rand(batch, n) for n in sizes[1:]]
    outs = [torch.empty(batch, n) for n in sizes[1:]]
    changes = [torch.empty_like(torch.tensor(w)) for w in weights]

    def run() -> dict[str, Any]:
        torch.mm(first, layers[0], out=outs[0])
        for _ in range(free + nudged):
            torch.mm(hidden[-1], loop, out=outs[0])
            for k in range(1, len(layers)):
                torch.mm(hidden[k - 1], layers[k], out=outs[k])
        for pre, post, change in zip([first, *hidden], outs, changes, strict=False):
            torch.mm(post.T, pre, out=change)
        return {}

    return run


def torchdiffeq(batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10) -> Run:
    import torch
    from torch import Tensor
    from torch.nn.functional import one_hot
    from torchdiffeq import odeint

    torch.set_num_threads(1)
    inputs, labels, weights, back = given(batch, sizes)
    x, layers, loop = torch.tensor(inputs), [torch.tensor(w) for w in weights], torch.tensor(back)
    target = one_hot(torch.tensor(labels), sizes[-1]).float()
    biases = [torch.zeros(n) for n in sizes[1:]]

    def rates(s: tuple[Tensor, ...], beta: float) -> tuple[Tensor, ...]:
        drives = [
            torch.addmm(b, pre, w.T) for b, pre, w in zip(biases, (x, *s), layers, strict=False)
        ]
        drives[0] = drives[0] + s[-1] @ loop.T
        slopes = [drive.clamp(0, 1) - state for drive, state in zip(drives, s, strict=True)]
        if beta:
            slopes[-1] = slopes[-1] + beta * (target - s[-1])
        return tuple(slopes)

    def relaxed(s: tuple[Tensor, ...], beta: float, steps: int) -> tuple[Tensor, ...]:
        times = torch.tensor([0.0, steps * DT], dtype=torch.float64)
        options = {"step_size": DT}
        ends = odeint(lambda _t, y: rates(y, beta), s, times, method="euler", options=options)
        return tuple(end[-1] for end in ends)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            still = tuple(torch.zeros(batch, n) for n in sizes[1:])
            rest = relaxed(still, 0.0, free)
            held = relaxed(rest, 1.0, nudged)
            moved = [(b - a).T for a, b in zip(rest, held, strict=True)]
            after = [
                w + RATE / batch * (change @ pre)
                for w, change, pre in zip(layers, moved, (x, *rest), strict=False)
            ]
            for bias, change in zip(biases, moved, strict=True):
                bias + RATE / batch * change.sum(1)
        return _named(after)

    return run


def jax(batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10) -> Run:
    """Return the steps written by hand, the input's share taken once, compiled."""
    import jax
    import jax.numpy as jnp

    x, labels, weights, back = given(batch, sizes)
    target = jnp.asarray(np.eye(sizes[-1], dtype=np.float32)[labels])
    biases = [jnp.zeros(n, jnp.float32) for n in sizes[1:]]

    def relaxed(s: Any, beta: float, steps: int, drive: Any, layers: Any) -> Any:
        def step(_k: Any, s: Any) -> Any:
            drives = [drive + s[-1] @ back.T]
            drives += [pre @ w.T + b for pre, w, b in zip(s, layers[1:], biases[1:], strict=False)]
            slopes = [jnp.clip(d, 0, 1) - state for d, state in zip(drives, s, strict=True)]
            slopes[-1] += beta * (target - s[-1])
            return [state + np.float32(DT) * k for state, k in zip(s, slopes, strict=True)]

        return jax.lax.fori_loop(0, steps, step, s)

    @jax.jit
    def learn(x: Any, layers: Any) -> Any:
        drive = x @ layers[0].T + biases[0]
        still = [jnp.zeros((batch, n), jnp.float32) for n in sizes[1:]]
        rest = relaxed(still, 0.0, free, drive, layers)
        held = relaxed(rest, 1.0, nudged, drive, layers)
        return [
            w + np.float32(RATE / batch) * ((b - a).T @ pre)
            for w, a, b, pre in zip(layers, rest, held, [x, *rest], strict=False)
        ]

    def run() -> dict[str, Any]:
        return _named(jax.block_until_ready(learn(x, weights)))

    return run


def reference(batch: int, sizes: Sequence[int] = SIZES, free: int = 50, nudged: int = 10) -> Run:
    """Return the same steps in float64, the weights before, and what rest would make of them."""
    x, layers, back, target = _exactly(batch, sizes)

    def learned(first: int, second: int) -> list[Any]:
        still = [np.zeros((batch, n)) for n in sizes[1:]]
        rest, _ = _marched(x, layers, back, target, still, 0.0, steps=first)
        held, _ = _marched(x, layers, back, target, rest, 1.0, steps=second)
        return [
            w + RATE / batch * ((b - a).T @ pre)
            for w, a, b, pre in zip(layers, rest, held, [x, *rest], strict=False)
        ]

    def run() -> dict[str, Any]:
        found = _named(learned(free, nudged))
        found |= {f"{name} at rest": w for name, w in _named(learned(300, 300)).items()}
        for name, w in _named(layers).items():
            found |= {f"{name} before": w, f"{name} at rest before": w}
        return found

    return run


def _exactly(batch: int, sizes: Sequence[int]) -> Any:
    """Return inputs, weights, the loop and targets in float64."""
    x, labels, weights, back = given(batch, sizes)
    return x.astype(float), [w.astype(float) for w in weights], back, np.eye(sizes[-1])[labels]


def _marched(
    x: Any, layers: Any, back: Any, target: Any, s: Any, beta: float,
    steps: int = 10_000, residual: float = 0.0,
) -> tuple[Any, int]:  # fmt: skip
    """Return the units after some steps of Euler, and how many; fewer if they are at rest."""
    first = x @ layers[0].T
    for k in range(steps):
        drives = [pre @ w.T for pre, w in zip(s, layers[1:], strict=False)]
        drives = [first + s[-1] @ back.T, *drives]
        slopes = [np.clip(d, 0, 1) - state for d, state in zip(drives, s, strict=True)]
        slopes[-1] += beta * (target - s[-1])
        if max(np.abs(slope).max() for slope in slopes) < residual:
            return s, k
        s = [state + DT * slope for state, slope in zip(s, slopes, strict=True)]
    return s, steps


def _named(weights: Any) -> dict[str, Any]:
    names = ["x", *(f"h{k}" for k in range(1, len(weights))), "y"]
    return {f"W_{b}_{a}": w for (a, b), w in zip(pairwise(names), weights, strict=True)}
