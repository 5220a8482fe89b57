"""SciPy's integrators, implicit ones among them, with exact Jacobians and typed failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.solvers.base import Layout, Problem, Solver, State
from ctsigprop.solvers.scipy_.row import Array, Row
from ctsigprop.solvers.scipy_.trajectory import Trajectory

if TYPE_CHECKING:
    from scipy.integrate import OdeSolver

__all__ = ["SciPy"]

_EXPLICIT = {"RK45": 3.3, "RK23": 2.5, "DOP853": 6.4}  # with the reach of their stability
_METHODS = (*_EXPLICIT, "Radau", "BDF", "LSODA")
_LEAST_RTOL = 100 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class SciPy(Solver):
    """Methods of ``scipy.integrate``: the ones to take for stiff problems.

    Implicit: ``"Radau"`` (order 5), ``"BDF"`` (order 1 to 5), and ``"LSODA"``, which changes
    between Adams and BDF formulas by itself. Explicit: ``"RK45"``, ``"RK23"``, ``"DOP853"``.
    A step is accepted when its error, per number, is at most ``atol + rtol·abs(y)`` in the root
    mean square over the *whole* state (LSODA: over its own weighted norm), so that a large matrix
    of weights dilutes the error of a few neurons: give `atol` by variable, or tighten `rtol`.

    SciPy calculates in float64 on the CPU; the field is evaluated in the dtype and on the device
    of the state, and the results are returned so. There are no gradients.

    Each sample of a batch takes steps of its own. Its field is evaluated with every sample of the
    batch standing where it stands, so one evaluation costs that of the whole batch: right where
    samples do not interact, and meant for small batches.

    Parameters
    ----------
    method : str
        One of the names above.
    rtol : float
        Relative tolerance, at least 2.2e-14.
    atol : float or mapping of str to float
        Absolute tolerance, for all variables or for each by name.
    max_steps : int
        Most accepted steps of a sample.
    jacobian : {"exact", "differences"}
        For the implicit methods: by reverse-mode differentiation of the field, or by SciPy's
        finite differences, where the field cannot be differentiated.
    first_step, max_step : float, optional
        First and longest step.

    Raises
    ------
    ValueError
        An unknown method or variable, an option that the method does not use, or one out of its
        range.

    Notes
    -----
    Rejected steps are not counted: SciPy does not show them.

    Examples
    --------
    >>> SciPy("Radau", rtol=1e-8, atol={"v": 1e-6, "w": 1e-12}).method
    'Radau'
    >>> SciPy("radau")
    Traceback (most recent call last):
        ...
    ValueError: unknown method 'radau' (did you mean 'Radau'?); accepted: BDF, DOP853, ...
    """

    gradients: ClassVar[bool] = False
    events: ClassVar[bool] = True
    ragged: ClassVar[bool] = True
    interpolates: ClassVar[bool] = True

    method: str = "LSODA"
    rtol: float = 1e-6
    atol: float | Mapping[str, float] = 1e-9
    max_steps: int = 100_000
    jacobian: Literal["exact", "differences"] = "exact"
    first_step: float | None = None
    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError(unknown("method", self.method, _METHODS))
        if self.jacobian not in ("exact", "differences"):
            raise ValueError(unknown("jacobian", self.jacobian, ("exact", "differences")))
        if self.explicit and self.jacobian != "exact":
            raise ValueError(
                f"method '{self.method}' is explicit and does not use jacobian='{self.jacobian}'"
            )
        tolerances = (
            {f"atol['{name}']": value for name, value in self.atol.items()}
            if isinstance(self.atol, Mapping)
            else {"atol": self.atol}
        )
        limits = {name: getattr(self, name) for name in ("max_steps", "first_step", "max_step")}
        for name, value in {"rtol": self.rtol, **tolerances, **limits}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {value}")
        if self.rtol < _LEAST_RTOL:
            raise ValueError(f"rtol must be at least {_LEAST_RTOL:.2g}; got {self.rtol}")

    @property
    def explicit(self) -> bool:
        """Whether the method is explicit, so that stiffness limits its steps."""
        return self.method in _EXPLICIT

    @property
    def reach(self) -> float | None:
        """How far stability reaches along the negative real axis; None for implicit methods."""
        return _EXPLICIT.get(self.method)

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder`` sample by sample; return the interpolant if it is wanted."""
        layout, statistics = problem.layout, problem.recorder.statistics
        if layout.coupled and problem.t.dim() > 1:
            raise ValueError("a batch that shares a variable has one clock; t must be (n,)")
        problem.recorder.row(0, problem.y0)
        times = problem.t.detach().expand(*layout.batch, -1).reshape(-1, problem.t.shape[-1])
        clock, rows = times[: layout.samples, 0].clone(), layout.pack(problem.y0).detach().clone()

        def report(sample: int, t: float, row: Tensor) -> None:
            clock[sample], rows[sample] = t, row
            problem.accepted(layout.clock(clock), layout.unpack(rows), None)

        runs: list[Trajectory] = []
        try:
            with torch.no_grad():
                for sample in range(layout.samples):
                    t = times[sample]
                    inside = (problem.jumps > t.min()) & (problem.jumps < t.max())
                    own = replace(problem, t=t, jumps=problem.jumps[inside])
                    runs.append(Trajectory(self, own, sample, report))
                    runs[-1].run()
        finally:
            statistics.steps += max((run.steps for run in runs), default=0)
        return _Interpolant(layout, runs) if problem.dense else None

    def begin(
        self, row: Row, t: float, y: Array, end: float, first_step: float | None
    ) -> OdeSolver:
        """Return SciPy's integrator of one sample, about to take its first step."""
        import scipy.integrate

        options: dict[str, Any] = {"rtol": self.rtol, "atol": self.absolute(row.layout)}
        if self.max_step is not None:
            options["max_step"] = self.max_step
        if first_step is not None:
            options["first_step"] = min(first_step, abs(end - t))
        if self.jacobian == "exact" and not self.explicit:
            options["jac"] = row.jacobian
        method: type[OdeSolver] = getattr(scipy.integrate, self.method)
        return method(row.rate, t, y, end, **options)

    def absolute(self, layout: Layout) -> float | Array:
        """Return the absolute tolerance of every number of a row, or of all of them."""
        if not isinstance(self.atol, Mapping):
            return self.atol
        for name in self.atol:
            if name not in layout.names:
                raise ValueError(unknown("variable in atol", name, layout.names))
        missing = [name for name in layout.names if name not in self.atol]
        if missing:
            raise ValueError(f"atol must name every variable; missing: {', '.join(missing)}")
        values = np.empty(layout.size)
        for name, part in layout.slices.items():
            values[part] = self.atol[name]
        return values


class _Interpolant:
    """The state at any time of a run, from the interpolants of its steps."""

    def __init__(self, layout: Layout, runs: list[Trajectory]) -> None:
        self.layout, self.runs = layout, runs

    def __call__(self, t: Tensor) -> State:
        """Return each variable, ``(k, *batch, *dims)``, at times ``(k,)`` or ``(*batch, k)``."""
        k = t.shape[-1] if t.dim() else 0
        own = t.shape == (*self.layout.batch, k) and not self.layout.coupled
        if t.dim() != 1 and not own:
            raise ValueError(f"t must be of shape (k,) or (*batch, k); got {tuple(t.shape)}")
        times = t.detach().to(torch.float64).expand(*self.layout.batch, k).reshape(-1, k)
        rows = [
            torch.stack([run.row.tensor(run.at(time)) for time in wanted])
            for run, wanted in zip(self.runs, times.tolist(), strict=False)
        ]
        return self.layout.unpack(torch.stack(rows, dim=1))
