"""Branches and bifurcations as labelled data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.cycle_events import CycleEvent, Orbit
from ctsigprop.analyses.continuation.cycles import CycleBranch
from ctsigprop.analyses.continuation.defining import Equilibria
from ctsigprop.analyses.continuation.equilibria import MARGINAL, Branch, Located, eigenvalues
from ctsigprop.analyses.flags import flagged, flags
from ctsigprop.analyses.flat import FlatField
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.analyses.stability import STABILITIES
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["CRITICALITIES", "ENDS", "KINDS", "Names", "symbol_of"]

Array = NDArray[np.float64]

KINDS = (
    *("fold", "hopf", "pitchfork", "transcritical", "degenerate"),
    *("cycle_fold", "period_doubling", "torus", "cycle_branch_point", "homoclinic", "snic"),
)
"""What may be found: on branches of equilibria, then on branches of cycles.

A cycle_fold is a saddle-node of cycles; torus, a Neimark–Sacker point. At a homoclinic point a
cycle meets a saddle, at a snic a saddle-node on its way: the period diverges at both.
"""

CRITICALITIES = ("none", "supercritical", "subcritical", "degenerate")
"""Whether what is born is stable, unstable, or not decided by the normal form; none: no such kind.
"""

ENDS = (
    *("range", "bounds", "closed", "lost", "steps"),
    *("hopf", "period_doubling", "start", "homoclinic", "snic", "long_period"),
)
"""Why a branch ends: the range of the parameter, the bounds of the variables, its own beginning,
Newton's method did not converge at the smallest step, the most steps; then those of cycles."""

PHASES = 301
"""How many states of each cycle are kept."""


def symbol_of(field: FlatField, parameter: str) -> str:
    """Return the name of a parameter as an identifier that no free variable has."""
    symbol = parameter.replace(".", "_").replace("[", "_").replace(",", "_").rstrip("]")
    return f"{symbol}_parameter" if symbol in field.variables else symbol


@final
class Names:
    """Datasets of branches, with the names and units of a system."""

    def __init__(self, family: ParametricField, parameter: str) -> None:
        self.field = family.field
        self.symbol = symbol_of(family.field, parameter)
        self.unit = family.units[0]
        self.rate = {"units": divide_units("1", self.field.system.time_unit)}
        self.time = {"units": self.field.system.time_unit}

    def branches(self, curve: Equilibria, branches: Sequence[Branch]) -> Dataset:
        """Return the points of branches of equilibria, and how each branch ends."""
        points = [point for branch in branches for point in branch.points]
        u = np.stack([point.u for point in points])
        values = eigenvalues(curve, points)
        largest = np.abs(values).max(-1, keepdims=True)
        grows, decays = values.real > MARGINAL * largest, values.real < -MARGINAL * largest
        stability = np.select(
            [grows.any(-1) & decays.any(-1), grows.any(-1), decays.all(-1)],
            [STABILITIES.index(s) for s in ("saddle", "unstable", "stable")],
            STABILITIES.index("marginal"),
        )
        lengths = [len(branch.points) for branch in branches]
        ends = [[ENDS.index(end) for end in branch.ends] for branch in branches]
        return (
            self._states(u[:, :-1], "point")
            .assign(
                {
                    self.symbol: ("point", u[:, -1], {"units": self.unit}),
                    "branch": (
                        "point",
                        np.repeat(np.arange(len(lengths)), lengths),
                        {"units": "1"},
                    ),
                    "eigenvalue": (
                        ("point", "mode", "part"),
                        np.stack([values.real, values.imag], -1),
                        self.rate,
                    ),
                    "stability": ("point", stability.astype(np.int8), flags(STABILITIES)),
                    "residual": ("point", [point.residual for point in points], {"units": "1"}),
                    "end": (("line", "side"), np.array(ends, np.int8), flags(ENDS)),
                }
            )
            .assign_coords(_lines(len(lengths), values.shape[1]))
        )

    def bifurcations(
        self, located: Sequence[tuple[int, Located]], rings: Sequence[CycleBranch]
    ) -> Dataset:
        """Return what was located on branches of equilibria and of cycles, by the parameter."""
        n = len(self.field.names)
        rows = [_of_equilibria(found, k) for k, found in located]
        rows += [_of_cycles(e, k, n) for k, ring in enumerate(rings) for e in ring.events]
        rows.sort(key=lambda row: float(row["p"]))

        def column(name: str) -> Array:
            return np.array([row[name] for row in rows], float)

        none = "NaN where this kind has none"
        y = np.array([row["y"] for row in rows], float).reshape(-1, n)
        dim = "bifurcation"
        dataset = self._states(y, dim, missing="NaN where a whole cycle bifurcates")
        return dataset.assign(
            {
                self.symbol: (dim, column("p"), {"units": self.unit}),
                "kind": (dim, *flagged([row["kind"] for row in rows], KINDS)),
                "criticality": (
                    dim,
                    *flagged([row["criticality"] for row in rows], CRITICALITIES),
                ),
                "coefficient": (dim, column("coefficient"), {"units": "1", "missing": none}),
                "angular_frequency": (dim, column("omega"), self.rate | {"missing": none}),
                "period": (dim, column("period"), self.time | {"missing": none}),
                "residual": (dim, column("residual"), {"units": "1"}),
                "test": (dim, column("test"), {"units": "1"}),
                "branch": (
                    dim,
                    np.array([row["branch"] for row in rows], int),
                    {"units": "1", "comment": "of equilibria, or of cycles where cycles bifurcate"},
                ),
            }
        )

    def cycles(self, rings: Sequence[CycleBranch]) -> Dataset:
        """Return the orbits of branches of cycles, over a phase and by their extremes."""
        orbits: list[Orbit] = [orbit for ring in rings for orbit in ring.orbits]
        phase = np.linspace(0, 1, PHASES)
        profile = np.stack([orbit.cycle(phase) for orbit in orbits])
        least, most = (np.stack(x) for x in zip(*[o.cycle.extremes() for o in orbits], strict=True))
        values = np.stack([orbit.multipliers for orbit in orbits])
        lengths = [len(ring.orbits) for ring in rings]
        ends = [[ENDS.index(end) for end in ring.ends] for ring in rings]
        dataset = self._states(profile, "orbit", "phase")
        for y, of in ((least, "min"), (most, "max")):
            for name, extreme in self._states(y, "orbit").data_vars.items():
                dataset[f"{name}_{of}"] = extreme
        finite = np.where(np.isfinite(values), values, np.nan)
        return dataset.assign(
            {
                self.symbol: ("orbit", [o.cycle.p for o in orbits], {"units": self.unit}),
                "period": ("orbit", [o.cycle.period for o in orbits], self.time),
                "branch": ("orbit", np.repeat(np.arange(len(lengths)), lengths), {"units": "1"}),
                "multiplier": (
                    ("orbit", "mode", "part"),
                    np.stack([finite.real, finite.imag], -1),
                    {"units": "1", "missing": "NaN where a multiplier is beyond all numbers"},
                ),
                "stability": (
                    "orbit",
                    np.array([not o.stable for o in orbits], np.int8),
                    flags(("stable", "unstable")),
                ),
                "residual": ("orbit", [o.residual for o in orbits], {"units": "1"}),
                "error": (
                    "orbit",
                    [o.error for o in orbits],
                    {"units": "1", "long_name": "local error, relative to the size of a variable"},
                ),
                "end": (("line", "side"), np.array(ends, np.int8), flags(ENDS)),
            }
        ).assign_coords(
            {"phase": ("phase", phase, {"units": "1"})} | _lines(len(lengths), values.shape[1])
        )

    def _states(self, y: Array, *dims: str, missing: str = "") -> Dataset:
        """Return states ``(*dims, n)`` as variables; held ones are left out."""
        states = torch.as_tensor(y).to(self.field.initial)
        dataset = self.field.to_xarray(states, *dims, held=False)
        if missing and np.isnan(y).any():
            for values in dataset.data_vars.values():
                values.attrs["missing"] = missing
        return dataset


def _of_equilibria(found: Located, k: int) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "p": found.u[-1],
        "y": found.u[:-1],
        "criticality": found.criticality,
        "coefficient": found.coefficient,
        "omega": found.omega,
        "period": 2 * math.pi / found.omega,
        "residual": found.residual,
        "test": found.test,
        "branch": k,
    }


def _of_cycles(event: CycleEvent, k: int, n: int) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "p": event.p,
        "y": np.full(n, np.nan) if event.y is None else event.y,
        "criticality": "none",
        "coefficient": np.nan,
        "omega": np.nan,
        "period": event.orbit.cycle.period,
        "residual": event.residual,
        "test": event.test,
        "branch": k,
    }


def _lines(count: int, modes: int) -> dict[str, Any]:
    """Return the coordinates of the ends of branches, and of complex values on them."""
    return {
        "mode": ("mode", np.arange(modes), {"units": "1"}),
        "part": ["re", "im"],
        "line": ("line", np.arange(count), {"units": "1"}),
        "side": ["first", "last"],
    }
