"""Roots of a flat field: damped Newton iterations from many starts at once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Field", "distinct", "find_roots"]

Array = NDArray[np.float64]

ITERATIONS = 100
DAMPING = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.015625, 0.00390625)
ROUNDING = 4e-15  # of f and of a step, relative to the sizes of their terms


class Field(Protocol):
    """A field of which roots are looked for."""

    initial: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """Return f at many points ``(..., n)``."""

    def jacobian(self, y: Tensor) -> Tensor:
        """Return ∂f/∂y ``(..., n, n)``."""


def find_roots(
    field: Field, low: Array, high: Array, starts: int, seed: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct roots inside a box, the error of each, and the size of the box.

    Parameters
    ----------
    field : Field
        f, with n components, such as a `FlatField`.
    low, high : array
        Bounds, ``(n,)``; infinite ones leave a component free, which starts at its initial value.
    starts, seed, tolerance : int, int, float
        As in `fixed_points`.

    Returns
    -------
    y, error : Tensor
        ``(roots, n)``; the error comes from the last Newton step and from the rounding of f.
    size : Tensor
        The widths of the box, ``(n,)``.
    """
    bounded = np.isfinite(low)
    centre = field.initial.cpu().numpy()
    width = np.where(bounded, high - low, np.maximum(np.abs(centre), 1.0))
    shares = _shares(int(bounded.sum()), starts, seed)
    points = np.tile(centre, (len(shares), 1))
    points[:, bounded] = low[bounded] + shares * (high - low)[bounded]
    first, below, above, size = (
        torch.as_tensor(a).to(field.initial) for a in (points, low, high, width)
    )
    y, step = _newton(field, first, size, tolerance)
    margin = 1e-9 * size
    inside = ((y >= below - margin) & (y <= above + margin)).all(-1)
    y, step = y[inside], step[inside]
    J = field.jacobian(y) * size
    noise = ROUNDING * _apply(J.abs(), (y / size).abs())
    scale = J.abs().sum(-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    spread = _apply(torch.linalg.pinv(J / scale).abs(), noise / scale[..., 0])
    error = 10 * step.abs() + spread * size
    chosen = distinct((y / size).cpu().numpy(), (error / size).cpu().numpy())
    chosen.sort(key=lambda k: tuple(np.round((y[k] / size).tolist(), 7)))
    return y[chosen], error[chosen], size


def _shares(n: int, count: int, seed: int) -> Array:
    """Return a grid of half the points or less, off the edges, and random ones for the rest."""
    if not n:
        return np.zeros((1, 0))
    side = max(int((count / 2) ** (1 / n) + 1e-9), 1)
    axis = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(*[axis] * n, indexing="ij"), -1).reshape(-1, n)
    random = np.random.default_rng(seed).random((max(count - len(grid), 0), n))
    shares: Array = np.concatenate([grid, random])[:count]
    return shares


def _newton(field: Field, y: Tensor, size: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return where the iterations from all starts converged, and the last step of each.

    A damped step is accepted if the simplified Newton correction shrinks (Deuflhard's natural
    monotonicity test), which does not depend on the units of f.
    """
    f = field(y).detach()
    finite = f.isfinite().all(-1)
    if not bool(finite.any()):
        raise ValueError("the derivative is not finite at any start; look at ranges and at=")
    y, f = y[finite], f[finite]
    typical = f.abs().median(0).values
    typical = torch.where(typical > 0, typical, 1.0)
    step = torch.full_like(y, torch.inf)
    active = torch.ones(len(y), dtype=torch.bool, device=y.device)
    for _ in range(ITERATIONS):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        J = field.jacobian(y[rows]) * size / typical[:, None]
        known = J.isfinite().all(-1).all(-1)
        active[rows[~known]] = False
        rows, inverse = rows[known], torch.linalg.pinv(J[known])
        correction = -_apply(inverse, f[rows] / typical)
        step[rows] = correction * size
        moved, value, accepted = _damped(
            field, y[rows], f[rows], inverse, correction, size, typical
        )
        y[rows], f[rows] = moved, value
        small = correction.abs().amax(-1) <= ROUNDING
        active[rows] = accepted & ~small
    # a small step alone is no root: where the Jacobian is singular it may be f that is left over
    still = (step.abs() / (size + y.abs())).amax(-1)
    near = (f.abs() / typical).amax(-1)
    root = tolerance**0.5
    good = ((still <= tolerance) & (near <= root)) | ((still <= root) & (near <= tolerance))
    return y[good], step[good]


def _damped(
    field: Field,
    y: Tensor,
    f: Tensor,
    inverse: Tensor,
    correction: Tensor,
    size: Tensor,
    typical: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points after the longest step that passes the test, and which found one."""
    y, f = y.clone(), f.clone()
    start, length = y.clone(), correction.abs().amax(-1)
    accepted = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for share in DAMPING:
        rows = (~accepted).nonzero()[:, 0]
        if not len(rows):
            break
        trial = start[rows] + share * correction[rows] * size
        value = field(trial).detach()
        left = _apply(inverse[rows], value / typical).abs().amax(-1)
        passed = value.isfinite().all(-1) & (left <= (1 - share / 4) * length[rows])
        y[rows[passed]], f[rows[passed]] = trial[passed], value[passed]
        accepted[rows[passed]] = True
    return y, f, accepted


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def distinct(y: Array, errors: Array, rank: Array | None = None) -> list[int]:
    """Return one of each cluster, the best known or the lowest in rank, best first."""
    error = errors.max(-1, initial=0.0)
    kept: list[int] = []
    for i in np.argsort(error if rank is None else rank, kind="stable"):
        near = np.abs(y[i] - y[kept]).max(-1) <= 1e-8 + error[i] + error[kept]
        if not near.any():
            kept.append(int(i))
    return kept
