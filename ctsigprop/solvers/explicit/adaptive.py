"""Runge-Kutta methods that choose their steps, for each sample on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ctsigprop.solvers.base import Problem, Solver, State
from ctsigprop.solvers.explicit.control import Control, Tolerance, check_tolerances
from ctsigprop.solvers.explicit.fixed import run_fixed
from ctsigprop.solvers.explicit.joint import joint
from ctsigprop.solvers.explicit.march import March
from ctsigprop.solvers.explicit.onestep import RungeKutta
from ctsigprop.solvers.explicit.solo import Solo
from ctsigprop.solvers.explicit.structured import (
    Structured,
    StructuredControl,
    StructuredSteps,
    structured,
)
from ctsigprop.solvers.explicit.tableaus import BOGACKI_SHAMPINE, DOPRI5, TSIT5, Tableau
from ctsigprop.solvers.options import TAPE, check_max_steps, check_positive, check_tape
from ctsigprop.solvers.stops import landings

__all__ = ["BogackiShampine", "Dopri5", "Tsit5"]


@dataclass(frozen=True)
class Embedded(Solver):
    """An explicit Runge-Kutta pair with control of its error.

    Every sample takes steps of its own, so that its result does not depend on its neighbours, but
    for `together`.
    Steps end on jumps of the field, and on the end of the span; output in between comes from the
    interpolant. Gradients are those of the steps that were taken (their sizes are constants).

    Parameters
    ----------
    rtol : float, optional
        Relative tolerance of a step.
    atol : float or mapping of str to float, optional
        Absolute tolerance, in the unit of each variable; a mapping names every variable.
    max_steps : int, optional
        The most steps of a sample, rejected ones included.
    first_step : float or None, optional
        Size of the first step; None chooses it (HNW I, II.4).
    dt : float or None, optional
        A fixed step without control of the error: each stretch between output times and jumps is
        cut into equal steps of at most `dt`.
    low_rank : bool, optional
        Whether large weights that plasticity moves by outer products are stepped by their factors:
        the same numbers but for rounding, at a fraction of the cost. Where it cannot be (gradients,
        events, dense output, signs or bounds of weights), they are stepped as they are.
    together : bool, optional
        Whether a batch takes its steps together, with the mean of the error over the batch too, and
        integral control (HNW I, II.4, (4.13)), which lengthens them faster, from a longer first
        one: fewer steps at less cost each, as suits a learned field. What comes out for a sample
        then depends, within the tolerance, on its neighbours.
    tape : float, optional
        Memory that the graph of a run may take for gradients, in MiB. Beyond it a step is kept by
        where it begins, and repeated in the backward pass: the same gradients, second derivatives
        too, at about 1.5 times the cost, in memory of two states a step. 0 repeats every step,
        ``inf`` none.
    native : bool or None, optional
        Whether a kernel compiled from the text of the equations takes the steps: the same numbers
        but for rounding. None: where that is possible and pays, which is up to 32 samples, and a
        hundred or more of a small system. True: wherever it is possible, and a refusal with the
        reason where it is not. False: never.

    Raises
    ------
    ValueError
        If an option is out of its range.

    Notes
    -----
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I (1993), II.4 to
    II.6; E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), IV.2.
    """

    rtol: float = 1e-6
    atol: Tolerance = 1e-9
    max_steps: int = 100_000
    first_step: float | None = None
    dt: float | None = None
    low_rank: bool = True
    together: bool = False
    tape: float = TAPE
    native: bool | None = None

    events: ClassVar[bool] = True
    ragged: ClassVar[bool] = True
    interpolates: ClassVar[bool] = True
    tableau: ClassVar[Tableau]

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)
        check_max_steps(self.max_steps)
        check_tape(self.tape)
        if self.first_step is not None:
            check_positive("first_step", self.first_step)
        if self.dt is not None:
            check_positive("dt", self.dt)

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``; return the interpolant where one was asked for."""
        from ctsigprop.solvers.native.paths import run_native  # many modules

        if self.native is not False and run_native(problem, self):
            return None
        if self.dt is not None:
            return run_fixed(
                problem, self.tableau, self.dt, self.max_steps, self.low_rank, self.tape
            )
        lazy = structured(problem, self.tableau, measured=True) if self.low_rank else None
        if lazy is not None:
            self._run_structured(lazy)
            return None
        if self.together:
            problem = joint(problem)
        y = problem.layout.pack(problem.y0)
        method = RungeKutta(self.tableau, y.detach())
        control = Control(
            method,
            problem.layout,
            y.detach(),
            self.rtol,
            self.atol,
            self.first_step,
            together=self.together,
        )
        problem.recorder.row(0, problem.y0)
        stops = landings(problem)
        alone = problem.layout.samples == 1 and not problem.events
        march = Solo if alone else March
        return march(problem, method, stops, control, self.max_steps, self.tape).run()

    def _run_structured(self, lazy: Structured) -> None:
        problem = lazy.problem
        y = problem.layout.pack(problem.y0)
        method = StructuredSteps(self.tableau, y, lazy)
        control = StructuredControl(method, lazy, y, self.rtol, self.atol, self.first_step)
        problem.recorder.row(0, problem.y0)
        Solo(problem, method, landings(problem), control, self.max_steps).run()


@final
@dataclass(frozen=True)
class Tsit5(Embedded):
    """Tsitouras' pair 5(4), with its interpolant of order 4: the default.

    Options and errors are those of `Embedded`.

    Examples
    --------
    >>> Tsit5(rtol=1e-8).with_options(atol=1e-12)  # doctest: +NORMALIZE_WHITESPACE
    Tsit5(rtol=1e-08, atol=1e-12, max_steps=100000, first_step=None, dt=None, low_rank=True,
          together=False, tape=1024.0, native=None)

    Notes
    -----
    Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770, Table 1.
    """

    tableau: ClassVar[Tableau] = TSIT5


@final
@dataclass(frozen=True)
class Dopri5(Embedded):
    """Dormand and Prince's pair 5(4), with its interpolant of order 4.

    Options and errors are those of `Embedded`.

    Examples
    --------
    >>> Dopri5(dt=0.1).dt
    0.1

    Notes
    -----
    J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19, Table 2.
    """

    tableau: ClassVar[Tableau] = DOPRI5


@final
@dataclass(frozen=True)
class BogackiShampine(Embedded):
    """Bogacki and Shampine's pair 3(2), with the cubic of Hermite: for low accuracy.

    Options and errors are those of `Embedded`.

    Examples
    --------
    >>> BogackiShampine(rtol=1e-3).rtol
    0.001

    Notes
    -----
    P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2 (1989) 321.
    """

    tableau: ClassVar[Tableau] = BOGACKI_SHAMPINE
