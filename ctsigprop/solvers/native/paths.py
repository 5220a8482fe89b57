"""Which native path takes a problem: each is tried in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.explicit.methods import Method
from ctsigprop.solvers.native.compiled import available
from ctsigprop.solvers.native.lanes import TROUBLE, ensemble
from ctsigprop.system import System

__all__ = ["PATHS", "run_native"]


def _solo(problem: Problem, solver: Method) -> str:
    from ctsigprop.solvers.native.solo import solo  # many modules

    return solo(problem, solver)


def _several(problem: Problem, solver: Method) -> str:
    from ctsigprop.solvers.native.several import several

    return several(problem, solver)


PATHS: tuple[Callable[[Problem, Any], str], ...] = (_solo, ensemble, _several)
"""Each integrates the problem and returns "", or leaves it as it is and returns the reason."""


def run_native(problem: Problem, solver: Method) -> bool:
    """Integrate a problem natively where that is possible and pays; tell whether it was.

    A run that met trouble is begun again by the solver in torch, which says what the trouble is.

    Raises
    ------
    ValueError
        If ``native=True`` and it is not possible.
    """
    reasons = _common(problem, solver)
    if not reasons:
        for path in PATHS:
            reason = path(problem, solver)
            if not reason:
                problem.recorder.statistics.native = True
                return True
            if reason == TROUBLE:
                return False
            reasons.append(reason)
    if solver.native:
        raise ValueError(f"native=True is not possible here: {'; '.join(reasons)}")
    return False


def _common(problem: Problem, solver: Method) -> list[str]:
    """Return what keeps every native path from a problem."""
    if not isinstance(problem.system, System):
        return ["it is no System"]
    together = problem.layout.samples > 1 and getattr(solver, "together", False)
    found = {
        "numba is not installed: pip install ctsigprop[native]": not available(),
        "a batch is to step together": together,
        "gradients are wanted": torch.is_grad_enabled(),
        "there are events": bool(problem.events),
        "dense output is wanted": problem.dense,
        "there are delays": bool(problem.system.delay),
        "the state is not in the memory of the processor": any(
            value.device.type != "cpu" for value in problem.y0.values()
        ),
    }
    return [reason for reason, true in found.items() if true]
