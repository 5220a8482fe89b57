"""Which typed error a run that cannot go on ends with."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsigprop.errors import BlowUpError, IntegrationError, NonFiniteError, StiffnessError
from ctsigprop.solvers.base import Layout

__all__ = ["blown_up", "diverged", "grows", "not_finite", "stuck", "too_stiff"]

GROWTH = 100.0  # of the size at the start, and of the rate 1/(time elapsed)


def diverged(layout: Layout, t: float, before: Tensor, after: Tensor) -> IntegrationError:
    """Name what became of a fixed step to a packed state that is not finite."""
    sample, position = (int(i) for i in torch.nonzero(~torch.isfinite(after))[0])
    value = float(before[sample, position])
    huge = min(1e30, torch.finfo(before.dtype).max ** 0.25)
    largest = before[sample].abs()
    if float(largest.max()) > huge:
        variable, component = layout.locate(sample, int(largest.argmax()))
        return BlowUpError(
            time=t,
            variable=variable,
            component=component,
            cause=f"its size is {float(largest.max()):.3g}; the system grows without bound, "
            "or dt is beyond the stability of the method",
        )
    variable, component = layout.locate(sample, position)
    return NonFiniteError(
        time=t,
        variable=variable,
        component=component,
        cause=f"the step from {value:.6g} gives {float(after[sample, position])}; "
        "look for a division by zero, an exponential or a root out of its range",
    )


def not_finite(layout: Layout, sample: int, t: float, stages: Tensor) -> NonFiniteError:
    """Name the first number of a step's stages, ``(s, samples, size)``, that is not finite."""
    bad = torch.nonzero(~torch.isfinite(stages[:, sample]))
    variable, component = layout.locate(sample, int(bad[0, 1])) if len(bad) else (None, None)
    return NonFiniteError(
        time=t,
        variable=variable,
        component=component,
        cause="it is NaN or infinite however short the step; "
        "look for a division by zero, an exponential or a root out of its range",
    )


def stuck(layout: Layout, sample: int, t: float, h: float, position: int) -> StiffnessError:
    """Name the variable for which a step fell to the rounding of the time."""
    variable, component = layout.locate(sample, position)
    return StiffnessError(
        time=t,
        variable=variable,
        component=component,
        cause=f"the step fell to {h:.2g}, the rounding of t: the right-hand side is singular or "
        "jumps here, or use an implicit method: SciPy('Radau') or SciPy('LSODA')",
    )


def too_stiff(
    layout: Layout, sample: int, t: float, h: float, position: int, steps: float
) -> StiffnessError:
    """Name the variable that holds the steps at the bound of stability."""
    variable, component = layout.locate(sample, position)
    return StiffnessError(
        time=t,
        variable=variable,
        component=component,
        cause=f"stability, not accuracy, holds the step at {h:.2g}, so that {steps:.2g} more steps "
        "are needed; use an implicit method: SciPy('Radau') or SciPy('LSODA')",
    )


def grows(y: Tensor, f: Tensor, start: Tensor, elapsed: Tensor) -> int | None:
    """Return the position of a component that blows up, of one sample's ``(size,)``, or None.

    It has outgrown the initial state, and grows on a time scale far below the time elapsed.
    """
    large = y.abs() > GROWTH * start.abs().max()
    fast = f / y * elapsed > GROWTH
    both = large & fast
    return int(torch.where(both, y.abs(), -1.0).argmax()) if bool(both.any()) else None


def blown_up(layout: Layout, sample: int, t: float, position: int) -> BlowUpError:
    """Name the variable that reaches infinity in finite time."""
    variable, component = layout.locate(sample, position)
    return BlowUpError(
        time=t,
        variable=variable,
        component=component,
        cause="it grows ever faster, and reaches infinity in finite time; "
        "end the span before, or check the signs of the terms that feed it back",
    )
