"""W5: the gradient of a loss at the end of a learned field's orbits, dy/dt = MLP(y).

128 orbits in the plane, two hidden layers of 64 tanh units, 10 units of time, the mean squared
distance to targets. Peers use Dormand and Prince's method at 1e-5, ours is Tsitouras' at 5e-5, with
no larger an error. All choose their steps by the root mean square over the batch. The error is that
of the gradient of each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Run

Array = NDArray[np.float64]

TOLERANCE, OURS, PLANE = 1e-5, 5e-5, 2


def given(batch: int, hidden: Sequence[int]) -> tuple[Array, Array, list[tuple[Array, Array]]]:
    """Return starts, targets, and the weights and biases of the field's layers."""
    random = np.random.default_rng(0)
    sizes = (PLANE, *hidden, PLANE)
    layers = [
        (1.5 * random.standard_normal((m, n)) / n**0.5, 0.1 * random.standard_normal(m))
        for n, m in pairwise(sizes)
    ]
    starts, targets = random.standard_normal((2, batch, PLANE))
    return starts, targets, layers


def module(layers: Sequence[tuple[Array, Array]]) -> Any:
    """Return the field as a torch module, called with a time that it does not read."""
    import torch
    from torch import Tensor, nn

    torch.set_num_threads(1)
    parts: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape[::-1], dtype=torch.float64)
        linear.weight.data.copy_(torch.tensor(weight))
        linear.bias.data.copy_(torch.tensor(bias))
        parts += [linear, nn.Tanh()]

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(*parts[:-1])

        def forward(self, _t: Tensor, y: Tensor) -> Tensor:
            return self.network(y)

    return Field()


def _gradient(field: Any, end: Any, target: Any) -> dict[str, Any]:
    import torch

    slopes = torch.autograd.grad((end - target).square().mean(), list(field.parameters()))
    return {name: slope for (name, _), slope in zip(field.named_parameters(), slopes, strict=True)}


def followed(
    batch: int, hidden: Sequence[int], end: float, differentiable: bool, **options: Any
) -> tuple[Any, Any, Callable[[], Any]]:
    """Return the field, the targets, and what follows the orbits to their ends by our solver."""
    import torch

    import ctsigprop as ct

    starts, targets, layers = given(batch, hidden)
    field, start = module(layers), torch.tensor(starts)
    system = ct.System(ct.VectorField(field, size=PLANE))
    options = {"rtol": OURS, "atol": OURS, "together": True, **options}
    solver = ct.Tsit5(**options)

    def ends() -> Any:
        times = [0.0, end]
        done = ct.solve(system, {"y": start}, times, solver=solver, differentiable=differentiable)
        return done["y"][-1]

    return field, torch.tensor(targets), ends


def ctsigprop(
    batch: int = 128, hidden: Sequence[int] = (64, 64), end: float = 10.0, **options: Any
) -> Run:
    field, target, ends = followed(batch, hidden, end, True, **options)

    def run() -> dict[str, Any]:
        return _gradient(field, ends(), target)

    return run


def torchdiffeq(
    batch: int = 128,
    hidden: Sequence[int] = (64, 64),
    end: float = 10.0,
    through: str = "odeint",
    tolerance: float = TOLERANCE,
) -> Run:
    import torch
    import torchdiffeq as td

    starts, targets, layers = given(batch, hidden)
    field, start, target = module(layers), torch.tensor(starts), torch.tensor(targets)
    times = torch.tensor([0.0, end], dtype=torch.float64)
    odeint = getattr(td, through)

    def run() -> dict[str, Any]:
        done = odeint(field, start, times, rtol=tolerance, atol=tolerance, method="dopri5")
        return _gradient(field, done[-1], target)

    return run


def adjoint(**options: Any) -> Run:
    return torchdiffeq(through="odeint_adjoint", **options)


def diffrax(batch: int = 128, hidden: Sequence[int] = (64, 64), end: float = 10.0) -> Run:
    import diffrax as dx  # type: ignore[import-not-found]
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]

    starts, targets, layers = given(batch, hidden)
    control = dx.PIDController(rtol=TOLERANCE, atol=TOLERANCE)

    def field(_t: Any, y: Any, layers: Any) -> Any:
        for weight, bias in layers[:-1]:
            y = jnp.tanh(y @ weight.T + bias)
        weight, bias = layers[-1]
        return y @ weight.T + bias

    @jax.jit
    @jax.grad
    def gradient(layers: Any) -> Any:
        done = dx.diffeqsolve(
            *(dx.ODETerm(field), dx.Dopri5(), 0.0, end, None, starts, layers),
            stepsize_controller=control,
            max_steps=1000,
        )
        return jnp.mean((done.ys[-1] - targets) ** 2)

    def run() -> dict[str, Any]:
        slopes = jax.block_until_ready(gradient(layers))
        return {
            f"network.{2 * k}.{kind}": slope
            for k, pair in enumerate(slopes)
            for kind, slope in zip(("weight", "bias"), pair, strict=True)
        }

    return run


def reference(**options: Any) -> Run:
    return torchdiffeq(tolerance=1e-11, **options)
