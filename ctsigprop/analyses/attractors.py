"""The attractors of a system, found from where many trajectories end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flags import flagged
from ctsigprop.analyses.flat import FlatField, Inputs
from ctsigprop.analyses.sections import returns
from ctsigprop.analyses.stability import STABILITIES, classify
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.events import Event
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["KINDS", "Attractor", "Survey", "flag_attributes"]

Array = NDArray[np.float64]

KINDS = ("fixed_point", "cycle", "other")
"""Kinds of attractors; other: tori, chaos, and cycles of more than `TURNS` turns."""

DIVERGED, UNDECIDED = -2, -1
LATE = 64  # states of the last stretch of every trajectory
DENSE = 4000  # states of the trajectory that stands for an attractor
TURNS = 16  # the most turns of a cycle before it closes
INSIDE = {"cycle": 0.95, "other": 0.5}  # which part of the late states must lie on an attractor
NEWTON = 20  # iterations that take a trajectory at rest to its fixed point


@dataclass(frozen=True)
class Attractor:
    """What trajectories go to: states on it, ``(k, n)``, with what is known about them."""

    kind: str
    states: Array
    period: float = math.nan
    stability: str = ""
    eigenvalues: NDArray[np.complex128] = field(default_factory=lambda: np.empty(0, complex))


class Survey:
    """Trajectories from many starts, and the attractors that they went to.

    Parameters
    ----------
    system : System
        Without delays and shared variables.
    plane : FlatField
        Of the components that the starts have values of; the others are held by it.
    starts, box : array
        ``(samples, m)``, and the ranges ``(m, 2)`` that they are from.
    duration, tolerance, escape, most, solver, t, inputs, options
        As in `basins`.

    Attributes
    ----------
    labels : array of int
        The number of each start's attractor, -1 undecided, -2 diverged.
    attractors : list of Attractor
        Sorted by kind and place.
    """

    def __init__(
        self,
        system: System,
        plane: FlatField,
        starts: Array,
        box: Array,
        duration: float,
        tolerance: float,
        escape: float,
        most: int,
        solver: Solver | None,
        t: float,
        inputs: Inputs | None,
        options: Mapping[str, Any],
    ) -> None:
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"duration must be > 0 and finite; got {duration}")
        if not (0 < tolerance < 1 < escape and most >= 1):
            raise ValueError(
                "tolerance must lie between 0 and 1, escape be > 1 and most >= 1; "
                f"got {tolerance}, {escape}, {most}"
            )
        for name, variable in system.variables.items():
            if variable.shared:
                raise ValueError(f"'{name}' is shared by a batch, so that it has one trajectory")
        self.system, self.t, self.duration = system, t, duration
        self.solver, self.options, self.inputs = solver, options, inputs
        self.tolerance, self.escape, self.most = tolerance, escape, most
        self.field = FlatField(system, t=t + duration, inputs=inputs)
        y = self.field.select(plane.state(torch.as_tensor(starts).to(plane.initial)))
        self.ranged = np.array([self.field.names.index(name) for name in plane.names])
        self.centre, self.width = y.mean(0), y[0].abs().clamp(min=1.0)
        self.centre[self.ranged] = torch.as_tensor(box.mean(1)).to(y)
        self.width[self.ranged] = torch.as_tensor(box[:, 1] - box[:, 0]).to(y)
        late, gone = self._followed(y, t, duration)
        self.late = late.cpu().numpy()
        self.labels = np.where(gone.cpu().numpy(), DIVERGED, UNDECIDED).astype(np.int16)
        self.unit = self.width.cpu().numpy().copy()
        others = np.setdiff1d(np.arange(y.shape[-1]), self.ranged)
        open_ = self.late[:, self.labels == UNDECIDED]
        if open_.size and len(others):
            extent = np.ptp(open_.reshape(-1, y.shape[-1]), axis=0)[others]
            # where all come to one place, that is no extent to measure by
            self.unit[others] = np.where(
                extent > 1e-3 * self.unit[others], extent, self.unit[others]
            )
        self.attractors: list[Attractor] = []
        self.note = ""
        self._find_fixed_points()
        self._find_others()
        self._sort()

    def _followed(
        self, y: Tensor, t: float, duration: float, rows: int = LATE, since: float = 0.75
    ) -> tuple[Tensor, Tensor]:
        """Return the states of the last part, ``(rows, samples, n)``, and who has escaped."""
        late = torch.linspace(since, 1.0, rows, dtype=torch.float64) * duration
        times = t + torch.cat([torch.zeros(1, dtype=torch.float64), late])

        def margin(t: Tensor, state: State) -> Tensor:
            del t
            apart = (self.field.select(state) - self.centre).abs() / self.width
            return self.escape - apart.amax(-1)

        run = solve(
            self.system,
            self.field.state(y),
            times,
            solver=self.solver,
            inputs=self.inputs,
            events=Event(margin, direction=-1, terminal=True, name="escape"),
            differentiable=False,
            **self.options,
        )
        states = self.field.select(run.states)
        gone = run.lengths < len(times)
        if len(states) < len(times):
            missing = states.new_full((len(times) - len(states), *states.shape[1:]), torch.nan)
            states = torch.cat([states, missing])
        return states[1:], gone.to(y.device)

    def _find_fixed_points(self) -> None:
        """Take what rests to its fixed point, and label who came near one."""
        still = np.flatnonzero(
            (self.labels == UNDECIDED)
            & (np.ptp(self.late, axis=0) / self.unit < self.tolerance / 4).all(-1)
        )
        if not len(still):
            return
        chosen = self._distinct(self.late[-1, still])
        for root in self._distinct(self._roots(self.late[-1, still][chosen]), values=True):
            attractor = self._rest(root)
            if attractor.stability in ("unstable", "saddle") or self._full():
                continue
            self.attractors.append(attractor)
        self._label_resting()

    def _label_resting(self) -> None:
        open_ = np.flatnonzero(self.labels == UNDECIDED)
        best = np.full(len(open_), self.tolerance)
        for k, attractor in enumerate(self.attractors):
            if attractor.kind == "fixed_point":
                apart = abs(self.late[:, open_] - attractor.states[0]) / self.unit
                furthest = apart.max(-1).max(0)
                self.labels[open_[furthest < best]] = k
                best = np.minimum(best, furthest)

    def _find_others(self) -> None:
        """Follow those that move, one after the other, and label who lies on the same set."""
        tried: set[int] = set()
        while True:
            rest = [i for i in np.flatnonzero(self.labels == UNDECIDED) if i not in tried]
            if not rest or self._full():
                return
            if len(tried) > 2 * self.most:
                self.note = f"the search ended after {len(tried)} trajectories without a home"
                return
            first = int(rest[0])
            tried.add(first)
            y = torch.as_tensor(self.late[-1, first]).to(self.field.initial)[None]
            states, gone = self._followed(y, self.t + self.duration, 2 * self.duration, DENSE, 0.5)
            if bool(gone[0]):
                continue
            attractor = self._recognised(states[:, 0].cpu().numpy())
            if attractor is None:
                continue
            known = [k for k, a in enumerate(self.attractors) if self._same(a, attractor)]
            if known:  # it was only slow to come there
                self.labels[first] = known[0]
                continue
            self.attractors.append(attractor)
            if attractor.kind == "fixed_point":
                self._label_resting()
                self.labels[first] = len(self.attractors) - 1
                continue
            open_ = np.flatnonzero(self.labels == UNDECIDED)
            near = self._near(self.late[:, open_], attractor.states).mean(0)
            near = near >= INSIDE[attractor.kind]
            self.labels[open_[near]] = self.labels[first] = len(self.attractors) - 1

    def _recognised(self, states: Array) -> Attractor | None:
        """Return the attractor that a long trajectory lies on; None where it rests at none."""
        if (np.ptp(states, axis=0) / self.unit < self.tolerance / 4).all():
            roots = self._roots(states[-1:])
            rest = self._rest(roots[0]) if len(roots) else None
            stable = rest is not None and rest.stability not in ("unstable", "saddle")
            return rest if stable else None
        span = self.duration
        closes, period = returns(states / self.unit, span / (len(states) - 1), TURNS)
        if not closes:
            return Attractor("other", states)
        turn = max(math.ceil(period / span * (len(states) - 1)), 2)
        return Attractor("cycle", states[-turn - 1 :], period)

    def _same(self, known: Attractor, other: Attractor) -> bool:
        near = float(self._near(other.states, known.states).mean())
        return near >= INSIDE.get(known.kind, 1.0)

    def _near(self, states: Array, onto: Array) -> NDArray[np.bool_]:
        """Say which states ``(..., n)`` lie within the tolerance of a curve through `onto`."""
        from scipy.spatial import cKDTree

        scaled = onto / self.unit
        if len(scaled) > 1:  # points between, where it moves fast
            gaps = np.abs(np.diff(scaled, axis=0)).max(-1)
            pieces = np.clip(np.ceil(gaps / (self.tolerance / 4)), 1, 50).astype(int)
            start, step = (
                np.repeat(scaled[:-1], pieces, 0),
                np.repeat(np.diff(scaled, axis=0), pieces, 0),
            )
            share = np.concatenate([np.arange(k) / k for k in pieces])[:, None]
            scaled = np.concatenate([start + share * step, scaled[-1:]])
        tree = cKDTree(scaled)
        flat = states.reshape(-1, states.shape[-1]) / self.unit
        apart, _ = tree.query(flat, p=np.inf, distance_upper_bound=self.tolerance)
        return np.isfinite(apart).reshape(states.shape[:-1])

    def _roots(self, states: Array) -> Array:
        """Return the fixed points that Newton's method finds close by; others are left out."""
        first = torch.as_tensor(states).to(self.field.initial)
        unit = torch.as_tensor(self.unit).to(first)
        y = first.clone()
        step = torch.full_like(y, torch.inf)
        for _ in range(NEWTON):
            J = self.field.jacobian(y)
            step = -(torch.linalg.pinv(J) @ self.field(y).detach()[..., None])[..., 0]
            y = y + step
            if bool(((step / unit).abs().amax(-1) < 1e-12).all()):
                break
        settled = ((step / unit).abs() < 1e-6).all(-1) & ((y - first) / unit).abs().amax(-1).lt(
            self.tolerance
        )
        return np.asarray(y[settled].cpu().numpy())

    def _rest(self, root: Array) -> Attractor:
        y = torch.as_tensor(root).to(self.field.initial)
        unit = torch.as_tensor(self.unit).to(y)
        J = (self.field.jacobian(y) * unit / unit[:, None]).cpu().numpy()
        eigenvalues, stability, _ = classify(J, 1e-6 * float(np.abs(J).max()), 1e-9)
        return Attractor(
            "fixed_point", root[None], stability=stability, eigenvalues=np.asarray(eigenvalues)
        )

    def _distinct(self, states: Array, values: bool = False) -> Any:
        """Return one state of each cluster: its position, or the state itself."""
        kept: list[int] = []
        rest = np.arange(len(states))
        while len(rest):
            apart = abs(states[rest] - states[rest[0]]) / self.unit
            kept.append(int(rest[0]))
            rest = rest[apart.max(-1) > self.tolerance / 2]
        return states[kept] if values else kept

    def _full(self) -> bool:
        if len(self.attractors) < self.most:
            return False
        self.note = f"more than {self.most} attractors: the search ended there"
        return True

    def _sort(self) -> None:
        """Give attractors numbers by kind and place; drop those that nobody reached."""
        used = [k for k in range(len(self.attractors)) if (self.labels == k).any()]

        def place(k: int) -> tuple[Any, ...]:
            a = self.attractors[k]
            return KINDS.index(a.kind), *np.round(a.states.mean(0) / self.unit, 3)

        used.sort(key=place)
        renamed = np.array([DIVERGED, UNDECIDED, *(-3 for _ in self.attractors)], np.int16)
        for new, old in enumerate(used):
            renamed[old + 2] = new
        self.labels = renamed[self.labels + 2]
        self.attractors = [self.attractors[k] for k in used]

    def described(self) -> Dataset:
        """Return the attractors and the counts."""
        import xarray as xr

        field_, found = self.field, self.attractors
        n, one = len(field_.names), {"units": "1"}
        parts = {
            "mean": [a.states.mean(0) for a in found],
            "low": [a.states.min(0) for a in found],
            "high": [a.states.max(0) for a in found],
        }
        data: dict[str, Any] = {}
        for suffix, rows in parts.items():
            y = torch.as_tensor(np.array(rows).reshape(-1, n)).to(field_.initial)
            for name, array in field_.to_xarray(y, "attractor").data_vars.items():
                data[f"{name}_{suffix}"] = array
        modes = np.full((len(found), n), complex(np.nan, np.nan))
        for k, a in enumerate(found):
            modes[k, : len(a.eigenvalues)] = a.eigenvalues
        why = {"missing": "NaN for what is no fixed point"}
        stabilities = ("not_a_fixed_point", *STABILITIES)
        states = [a.stability or stabilities[0] for a in found]
        rate = {"units": divide_units("1", self.system.time_unit)}
        clock = {"units": self.system.time_unit, "missing": "NaN for what is no cycle"}
        data |= {
            "kind": ("attractor", *flagged([a.kind for a in found], KINDS)),
            "period": ("attractor", np.array([a.period for a in found]), clock),
            "stability": ("attractor", *flagged(states, stabilities)),
            "eigenvalue": (
                ("attractor", "mode", "part"),
                np.stack([modes.real, modes.imag], -1),
                rate | why,
            ),
        }
        of_labels = flag_attributes(found)
        counts = np.array([(self.labels == value).sum() for value in of_labels["flag_values"]])
        data["count"] = ("outcome", counts, one | {"long_name": "starts"})
        outcome = of_labels["flag_meanings"].split()
        attrs: dict[str, Any] = {
            "duration": self.duration,
            "tolerance": self.tolerance,
            "escape": self.escape,
            "starts": len(self.labels),
            "undecided": int(counts[1]),
            "diverged": int(counts[0]),
        }
        return xr.Dataset(
            data,
            coords={
                "attractor": ("attractor", np.arange(len(found)), one),
                "mode": ("mode", np.arange(n), one),
                "part": ["re", "im"],
                "outcome": ("outcome", outcome),
            },
            attrs=attrs | ({"note": self.note} if self.note else {}),
        )


def flag_attributes(attractors: Sequence[Attractor]) -> dict[str, Any]:
    """Return the CF flags of labels: diverged, undecided, and each attractor."""
    names = [f"{a.kind}_{k}" for k, a in enumerate(attractors)]
    return {
        "flag_values": [DIVERGED, UNDECIDED, *range(len(attractors))],
        "flag_meanings": " ".join(["diverged", "undecided", *names]),
    }
