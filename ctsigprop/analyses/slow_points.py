"""Slow points: where a network that is too large for a search of its fixed points hardly moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flags import flagged
from ctsigprop.analyses.flat import At, FlatField, Inputs
from ctsigprop.analyses.newton import distinct
from ctsigprop.analyses.stability import classify, described
from ctsigprop.solution import Solution
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["KINDS", "slow_points", "start_states"]

Array = NDArray[np.float64]
Starts = Mapping[str, Tensor] | Solution

KINDS = ("fixed_point", "slow_point")
"""What a minimum of the speed is: a zero, or a place where the flow is only slow."""

DENSE = 80  # components; above it, the steps of Gauss and Newton come from conjugate gradients
INNER = 60  # of those, in one step at most
FLAT = 1e-6  # of |J||f|: the gradient at which a minimum of q is one


def slow_points(
    system: System,
    starts: Starts,
    *,
    at: At | None = None,
    count: int = 128,
    seed: int = 0,
    spread: float = 0.0,
    tolerance: float = 1e-9,
    slowest: float = 0.1,
    merge: float = 1e-4,
    iterations: int = 200,
    marginal: float = 1e-9,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Find the minima of the speed of a network, its fixed points and its slow points.

    Minima of

        q(y) = ½ |f(y)|²

    from many states at once, by damped Gauss-Newton steps (Levenberg and Marquardt)

        (JᵀJ + μ|J|² I) δ = −Jᵀ f

    solved directly for up to 80 components, and above that by conjugate gradients with products
    J v and Jᵀ v alone. Around a slow point the flow is nearly the linear one of its Jacobian, which
    is why its eigenvalues are told as those of a fixed point are.

    Parameters
    ----------
    system : System
        Without delays, in float64. Its free components must all have one unit.
    starts : Solution or mapping of str to Tensor
        Where to start: states that a run has gone through, or values of variables, each
        ``(..., *dims)``.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held, such as learned weights, as in `fixed_points`.
    count : int
        How many of the states are taken, at most, by chance.
    seed : int
        Of the choice and of the noise.
    spread : float
        Noise on each start, in standard deviations of its component over the starts, so that
        points are found beside the trajectories too.
    tolerance : float
        A minimum is a fixed point where |f| is below `tolerance` times its median over the starts.
    slowest : float
        Minima that are faster than `slowest` times that median are left out.
    merge : float
        Points nearer than `merge` times the typical distance of the starts from their mean are one.
    iterations : int
        The most steps.
    marginal : float
        As in `fixed_points`.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        Along ``point``, slowest first: every variable ``(point, *dims)``, ``speed`` (|f|), ``q``,
        ``kind`` (a flag of `KINDS`), ``starts`` (how many came there), ``eigenvalue`` ``(point,
        mode, part)``, ``residual``, and the flags ``stability`` and ``type`` of the Jacobian there.
        Attributes: how many starts were ``left_out`` as too fast, and how many ``unfinished``, at
        no minimum yet.

    Raises
    ------
    ValueError
        Starts, names or numbers that do not fit, components of different units, a field that is
        finite at none of the starts.

    References
    ----------
    D. Sussillo, O. Barak, Opening the black box, Neural Computation 25 (2013) 626, eq. (2.2).

    Examples
    --------
    >>> import ctsigprop as ct
    >>> net = ct.System(ct.hopfield(size=2), ct.Synapse("", "", torch.tensor([[0, 2.0], [2, 0]])))
    >>> found = slow_points(net, {"u": torch.randn(32, 2).double()})
    >>> int((found["speed"] < 1e-9).sum()) >= 2
    True
    """
    if not (
        count >= 1
        and iterations >= 1
        and spread >= 0
        and 0 < tolerance < slowest
        and merge > 0
        and marginal >= 0
    ):
        raise ValueError(
            "slow_points takes count >= 1, iterations >= 1, spread >= 0, 0 < tolerance < slowest, "
            f"merge > 0, marginal >= 0; got {count}, {iterations}, {spread}, {tolerance}, "
            f"{slowest}, {merge}, {marginal}"
        )
    field = FlatField(system, at=at, t=t, inputs=inputs)
    if len(set(field.rate_units)) > 1:
        raise ValueError(
            "slow_points needs components of one unit, whose rates can be added up; "
            f"hold others by at=. Units: {', '.join(sorted(set(field.units)))}"
        )
    y = start_states(field, starts)
    generator = torch.Generator().manual_seed(seed)
    y = y[torch.randperm(len(y), generator=generator)[:count].to(y.device)]
    scale = float((y - y.mean(0)).square().sum(-1).mean().sqrt()) or 1.0
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y)
    y = y + spread * y.std(0, correction=0) * noise
    f = field(y).detach()
    finite = f.isfinite().all(-1)
    if not bool(finite.any()):
        raise ValueError("the derivative is not finite at any start; look at starts and at=")
    y, typical = y[finite], float(f[finite].norm(dim=-1).median())
    y, done = _minima(field, y, tolerance * typical, iterations)
    speed = field(y).detach().norm(dim=-1)
    slow = done & (speed <= slowest * typical)
    unfinished, left_out = int((~done).sum()), int((done & ~slow).sum())
    y, speed = y[slow], speed[slow]
    order = speed.argsort()
    y, speed = y[order], speed[order]
    flat = (y / scale).cpu().numpy()
    kept = distinct(flat, np.full_like(flat, merge / 2), speed.cpu().numpy())
    came = np.bincount(
        [int(np.abs(flat[kept] - row).max(-1).argmin()) for row in flat], minlength=len(kept)
    )
    y, speed = y[kept], speed[kept]
    J = [field.jacobian(point).cpu().numpy() for point in y]
    verdicts = [classify(matrix, 0.0, marginal) for matrix in J]
    kinds = [KINDS[int(v > tolerance * typical)] for v in speed.tolist()]
    unit = {"units": field.rate_units[0]}
    squared = {"units": _squared(field.rate_units[0]), "long_name": "q = |f|²/2"}
    values = speed.cpu().numpy()
    dataset = described(field, y, verdicts).rename(fp="point")
    dataset = dataset.assign(
        speed=("point", values, unit | {"long_name": "speed |f|"}),
        q=("point", values**2 / 2, squared),
        kind=("point", *flagged(kinds, KINDS)),
        starts=("point", came, {"units": "1"}),
    )
    dataset.attrs = {
        "count": len(finite),
        "seed": seed,
        "tolerance": tolerance,
        "time": float(t),
        "typical_speed": typical,
        "left_out": left_out,
        "unfinished": unfinished,
    }
    return dataset


def start_states(field: FlatField, starts: Starts) -> Tensor:
    """Return the states of a run, or those that are given, as points of a field, ``(k, n)``."""
    if isinstance(starts, Solution):
        given: Mapping[str, Tensor] = {k: v.detach() for k, v in starts.states.items()}
    elif isinstance(starts, Mapping):
        given = {k: torch.as_tensor(v) for k, v in starts.items()}
    else:
        raise TypeError(
            f"starts must be a Solution or a mapping of names to tensors; "
            f"got {type(starts).__name__}"
        )
    needed = field.variables
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(f"starts must hold {', '.join(needed)}; it lacks {', '.join(missing)}")
    leads = {}
    for name in needed:
        shape = field.system.variables[name].shape
        value = given[name]
        lead = value.dim() - len(shape)
        if lead < 0 or tuple(value.shape[lead:]) != shape:
            raise ValueError(
                f"starts: '{name}' must be (..., {', '.join(map(str, shape))}); "
                f"got {tuple(value.shape)}"
            )
        leads[name] = tuple(value.shape[:lead])
    if len(set(leads.values())) > 1:
        raise ValueError(f"starts must have the same leading axes; got {leads}")
    axes = next(iter(leads.values()))
    blank = field.state(field.initial.expand(*axes, -1))
    whole = blank | {name: given[name].to(field.initial) for name in needed}
    y = field.select(whole).reshape(-1, len(field.names))
    y = y[y.isfinite().all(-1)]  # rows that a sample has not reached are NaN
    if not len(y):
        raise ValueError("starts must hold at least one finite state; got none")
    return y


def _squared(unit: str) -> str:
    from ctsigprop.units import power_unit

    return power_unit(unit, 2)


def _minima(field: FlatField, y: Tensor, small: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Return where the iterations ended, and which of them ended at a minimum of q."""
    direct = y.shape[-1] <= DENSE
    damping = torch.full((len(y),), 1e-3, dtype=y.dtype, device=y.device)
    growth = torch.full_like(damping, 2.0)
    done = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    stuck = done.clone()
    norm: Tensor | None = None
    y = y.clone()
    for _ in range(iterations):
        rows = (~done & ~stuck).nonzero()[:, 0]
        if not len(rows):
            break
        linear = _Linear(field, y[rows], direct)
        f, gradient = linear.f, linear.transposed(linear.f)
        if norm is None:  # the typical size of J, once
            norm = linear.size().median()
        speed = f.norm(dim=-1)
        level = gradient.norm(dim=-1) <= FLAT * norm * speed
        # a zero is polished as far as it goes: until steps change nothing
        ends = (level & (speed > small)) | (speed <= 1e-6 * small)
        step = -linear.solve(gradient, damping[rows] * norm**2)
        predicted = -(step * gradient).sum(-1) - 0.5 * linear.apply(step).square().sum(-1)
        moved = y[rows] + step
        value = field(moved).detach()
        drop = 0.5 * (f.square().sum(-1) - value.square().sum(-1))
        gain = drop / predicted.clamp(min=torch.finfo(y.dtype).tiny)
        better = value.isfinite().all(-1) & (drop > 0) & ~ends
        y[rows[better]] = moved[better]
        # Nielsen's rule for the damping
        shrink = (1 - (2 * gain - 1) ** 3).clamp(1 / 5, 2)
        damping[rows] *= torch.where(better, shrink, growth[rows])
        growth[rows] = torch.where(better, 2.0, 2 * growth[rows])
        damping[rows] = damping[rows].clamp(min=1e-15)
        tiny = step.norm(dim=-1) <= 1e-14 * (1 + y[rows].norm(dim=-1))
        over = ~better & (tiny | (damping[rows] > 1e12))
        done[rows] |= ends | (over & (level | (speed <= small)))
        stuck[rows] |= over & ~done[rows]
    rows = (~done).nonzero()[:, 0]
    if len(rows):  # those at a zero already, whose last digits still move
        done[rows] = field(y[rows]).detach().norm(dim=-1) <= small
    return y, done


class _Linear:
    """f and its linear part at many points: products with J and Jᵀ, and damped solutions."""

    def __init__(self, field: FlatField, y: Tensor, direct: bool) -> None:
        self._J = field.jacobian(y) if direct else None
        if direct:
            self.f = field(y).detach()
            return
        with torch.enable_grad():
            self._y = y.detach().clone().requires_grad_()
            self._out = field(self._y)
            self._dual = torch.zeros_like(y, requires_grad=True)
            # linear in the dual vector, so that its derivative gives J v
            (self._pulled,) = torch.autograd.grad(
                self._out, self._y, self._dual, create_graph=True, materialize_grads=True
            )
        self.f = self._out.detach()

    def apply(self, v: Tensor) -> Tensor:
        """Return J v."""
        if self._J is not None:
            return _apply(self._J, v)
        image: Tensor = torch.autograd.grad(
            self._pulled, self._dual, v, retain_graph=True, materialize_grads=True
        )[0]
        return image

    def transposed(self, v: Tensor) -> Tensor:
        """Return Jᵀ v."""
        if self._J is not None:
            return _apply(self._J.mT, v)
        (image,) = torch.autograd.grad(
            self._out, self._y, v, retain_graph=True, materialize_grads=True
        )
        return image

    def size(self) -> Tensor:
        """Return about |J|/√n of each point, the root of the mean squared singular value."""
        if self._J is not None:
            return self._J.square().sum((-2, -1)).sqrt() / math.sqrt(self._J.shape[-1])
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(self.f.shape, generator=generator, dtype=self.f.dtype).to(self.f)
        size: Tensor = self.apply(v).norm(dim=-1) / v.norm(dim=-1)
        return size

    def solve(self, right: Tensor, damping: Tensor) -> Tensor:
        """Return (JᵀJ + damping I)⁻¹ times a vector for each point."""
        if self._J is not None:
            eye = torch.eye(right.shape[-1], dtype=right.dtype, device=right.device)
            normal = self._J.mT @ self._J + damping[:, None, None] * eye
            solution: Tensor = torch.linalg.solve(normal, right.unsqueeze(-1)).squeeze(-1)
            return solution
        x, rest = torch.zeros_like(right), right.clone()
        direction, size = rest.clone(), rest.square().sum(-1)
        enough = 1e-10 * size  # of the squared residual
        for _ in range(INNER):
            if not bool((size > enough).any()):
                break
            image = self.transposed(self.apply(direction)) + damping[:, None] * direction
            going = (size > enough).to(right)
            length = going * size / (direction * image).sum(-1).clamp(min=1e-300)
            x = x + length[:, None] * direction
            rest = rest - length[:, None] * image
            new = rest.square().sum(-1)
            direction = rest + (new / size.clamp(min=1e-300))[:, None] * direction
            size = new
        return x


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    product: Tensor = (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
    return product
