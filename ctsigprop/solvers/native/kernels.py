"""The source of a kernel that steps many orbits, each with a step of its own, in vector lanes.

A lane holds one orbit; when that has ended, the next one takes its place. What `control` and
`march` do for all samples at once is done here for the lanes: one loop without branches over all of
them, for the compiler to put in vector registers, and a visit to those few that landed, passed an
output time, or met trouble.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctsigprop.solvers.explicit.control import (
    FLOOR,
    INTEGRAL,
    LARGEST,
    NON_FINITE,
    PROPORTIONAL,
    SAFETY,
    SMALLEST,
)
from ctsigprop.solvers.explicit.march import EVERY, RETREATS, ROUNDINGS, STRETCH
from ctsigprop.solvers.explicit.tableaus import Tableau
from ctsigprop.solvers.native.functions import FUNCTIONS
from ctsigprop.solvers.native.scalars import Scalars
from ctsigprop.solvers.native.visits import KERNEL, VISITS

__all__ = ["ARGUMENTS", "FAILED", "FINISHED", "LANES", "Memory", "Part", "kernel_source"]

LANES = 64
"""How many orbits are stepped together."""

FINISHED, FAILED = 1, 2
"""What a kernel returns when all orbits have ended, and when one needs another solver."""

ARGUMENTS = "pqpppppppppq"
"""The kinds of what a kernel takes, for `compiled`."""

INTEGERS = (
    *("next", "used", "steps", "rejections", "evaluations", "turn"),
    *("samples", "rows", "max_steps", "turns"),
    *("rows_apart", "stops_apart", "held_by_stop", "held_by_sample"),
)
PER_LANE = ("sample", "row", "pointer", "began", "extra", "in_use")
OPTIONS = ("direction", "first_step", "rtol")
FLOATS = (
    *("t", "h", "target", "low", "high", "recent", "retried", "rejected", "missed", "due"),
    *("least", "size", "landing", "before", "attend", "accepted"),
)


@dataclass(frozen=True)
class Part:
    """Where in a sample one variable lies, and whether it is measured as a matrix."""

    start: int
    stop: int
    matrix: bool


@dataclass(frozen=True)
class Memory:
    """Where in its memory a kernel keeps what: floats, and integers.

    Integers: the next orbit, the lanes in use, the largest counts of steps, rejections and
    evaluations, and the turns taken so far; then what it is told: how many samples and rows, the
    most steps, how many turns to take, and how far apart in memory the times of two samples, their
    stops, and the held signals of two stops and of two samples are (0 where they are common).
    """

    floats: dict[str, int]
    integers: dict[str, int]
    size: int
    whole: int

    @staticmethod
    def of(size: int, channels: int, stages: int) -> Memory:
        """Return the memory for a system of so many variables and signals."""
        names = [f"y{c}" for c in range(size)]
        names += [f"o{c}" for c in range(size)]  # the state before the last step
        names += [f"e{c}" for c in range(size)]  # and after it
        names += [f"k{s}_{c}" for s in range(stages) for c in range(size)]
        names += [f"f{c}" for c in range(size)]
        names += [f"a{j}" for j in range(channels)]
        names += FLOATS
        floats = {name: k * LANES for k, name in enumerate(names)}
        floats |= {name: len(names) * LANES + k for k, name in enumerate(OPTIONS)}
        integers = {name: k for k, name in enumerate(INTEGERS)}
        integers |= {name: len(INTEGERS) + k * LANES for k, name in enumerate(PER_LANE)}
        return Memory(
            floats,
            integers,
            len(names) * LANES + len(OPTIONS),
            len(INTEGERS) + len(PER_LANE) * LANES,
        )


def kernel_source(scalars: Scalars, parts: Sequence[Part], tableau: Tableau) -> str:
    """Return a module whose function ``kernel`` steps orbits, until its turns are used.

    Its arguments: floats and integers as `Memory` has them; initial states ``(samples, size)``;
    output times; stops, and what the times before each are clamped to from below and from above;
    held signals; parameters; absolute tolerances; output ``(rows, samples, size)``; and how many
    rows each sample has reached. It returns 0, `FINISHED` or `FAILED`.
    """
    return _Source(scalars, parts, tableau.closed()).text()


class _Source:
    def __init__(self, scalars: Scalars, parts: Sequence[Part], tableau: Tableau) -> None:
        self.scalars, self.parts, self.tableau = scalars, parts, tableau
        self.size, self.channels = len(scalars.results), len(scalars.channels)
        self.stages = tableau.stages
        self.memory = Memory.of(self.size, self.channels, self.stages)
        self.at = self.memory.floats
        self.timed = scalars.timed
        self.params = [f"p{k}" for k in range(len(scalars.parameters))]
        self.args = [f"a{j}" for j in range(self.channels)]

    def text(self) -> str:
        constants = {name.upper(): place for name, place in self.memory.integers.items()}
        constants |= {f"W_{name.upper()}": self.at[name] for name in (*FLOATS, *OPTIONS)}
        firsts = {"Y": "y0", "O": "o0", "K": "k0_0", "F": "f0", "A": "a0"}
        constants |= {f"W_{letter}": self.at.get(name, 0) for letter, name in firsts.items()}
        constants |= {"LANES": LANES, "SIZE": self.size, "CHANNELS": self.channels}
        constants |= {"STAGES": self.stages, "EVERY": EVERY, "RETREATS": RETREATS}
        constants |= {"ROUNDINGS": ROUNDINGS, "FINISHED": FINISHED, "FAILED": FAILED}
        settings = [f"{name} = {value}" for name, value in constants.items()]
        settings += [
            f"EXPONENT = {1 / self.tableau.order!r}",
            f"RECENT = {math.log(FLOOR)!r}",
            "PLAIN = {**INLINE, 'forceinline': False}",
        ]
        parts = [FUNCTIONS, "\n".join(settings), self._field(), self._norm(), self._inside()]
        return "\n\n\n".join([*parts, VISITS, self._kernel()]) + "\n"

    def _field(self) -> str:
        """Write the derivative, and the evaluation of it for one lane."""
        names = ["t", *(f"y{c}" for c in range(self.size)), *self.args, *self.params]
        given = ["t", *(f"w[{self.at[f'o{c}']} + k]" for c in range(self.size))]
        given += [f"w[{self.at[f'a{j}']} + k]" for j in range(self.channels)]
        given += [f"parameters[{k}]" for k in range(len(self.params))]
        lines = ["@njit(**INLINE)", f"def field({', '.join(names)}):"]
        lines += [f"    {line}" for line in self.scalars.lines]
        lines += [f"    return ({', '.join(self.scalars.results)},)", "\n"]
        lines += ["@njit(**PLAIN)", "def slope(w, parameters, k, t, out):"]
        lines += ["    t = clip(t, w[W_LOW + k], w[W_HIGH + k])"]
        lines += [f"    f = field({', '.join(given)})", "    size = 0.0", "    out += k"]
        for c in range(self.size):
            lines += [f"    w[out + {c * LANES}] = f[{c}]", f"    size += abs(f[{c}])"]
        return "\n".join([*lines, "    return size < math.inf"])

    def _norm(self) -> str:
        """Write the norm of one lane's numbers, measured by its state."""
        lines = ["@njit(**PLAIN)", "def norm(w, atol, rtol, k, values):"]
        lines += ["    largest = 0.0", "    values += k"]
        for part in self.parts:
            components = range(part.start, part.stop)
            sizes = {c: f"abs(w[{self.at[f'y{c}']} + k])" for c in components}
            if part.matrix:
                squares = " + ".join(f"{size} * {size}" for size in sizes.values())
                lines.append(f"    whole = sqrt(({squares}) / {len(components)})")
                sizes = dict.fromkeys(components, "whole")
            for c, size in sizes.items():
                value = f"w[values + {c * LANES}]"
                lines.append(f"    q{c} = {value} / ({size} * rtol + atol[{c}])")
            total = " + ".join(f"q{c} * q{c}" for c in components)
            lines.append(f"    largest = max(largest, ({total}) / {len(components)})")
        return "\n".join([*lines, "    return sqrt(largest)"])

    def _inside(self) -> str:
        """Write the interpolant of one lane's last step at one of its shares."""
        lines = [
            "@njit(**PLAIN)",
            "def inside(w, out, place, k, theta):",
            "    size = w[W_SIZE + k]",
        ]
        weights = []
        for s, row in enumerate(self.tableau.dense):
            used = [(j, b) for j, b in enumerate(row) if b]
            if used:
                total = "0.0"
                for b in reversed(row):
                    total = f"theta * ({b!r} + {total})"
                lines.append(f"    b{s} = {total}")
                weights.append(s)
        for c in range(self.size):
            total = " + ".join(f"b{s} * w[{self.at[f'k{s}_{c}']} + k]" for s in weights)
            lines.append(
                f"    out[place + {c}] = w[{self.at[f'o{c}']} + k] + size * ({total or '0.0'})"
            )
        return "\n".join(lines)

    def _kernel(self) -> str:
        load = [f"{name} = parameters[{k}]" for k, name in enumerate(self.params)]
        load += [f"atol_{c} = atol[{c}]" for c in range(self.size)]
        text = KERNEL.replace("# parameters", "\n    ".join(load))
        return text.replace("# step", "\n    ".join(self._step()))

    def _step(self) -> list[str]:
        """Write what happens to every lane in a turn, as one loop after the other.

        A stage waits for the one before it; with a loop for each, the processor has those of the
        other lanes to do meanwhile.
        """
        loops = [[*self._load("t", "h", "target"), *_SIZE.strip().splitlines()]]
        loops += [self._stage(s) for s in range(1, self.stages)]
        loops.append([*self._error(), *_CONTROL.strip().splitlines(), *self._accept()])
        return [
            line
            for loop in loops
            for line in ("for k in range(LANES):", *(f"    {one}" for one in loop))
        ]

    def _load(self, *names: str) -> list[str]:
        return [f"{name} = w[W_{name.upper()} + k]" for name in names]

    def _numbers(self, name: str, slot: str) -> list[str]:
        return [f"{name}{c} = w[{self.at[f'{slot}{c}']} + k]" for c in range(self.size)]

    def _stages(self, weights: Sequence[float], c: int) -> str:
        """Write a sum over the stages of one component."""
        terms = [f"{weight!r} * k{s}_{c}" for s, weight in enumerate(weights) if weight]
        return " + ".join(terms) or "0.0"

    def _used(self, weights: Sequence[float]) -> list[str]:
        """Load the stages that a sum takes; the first is the derivative at the start."""
        lines = []
        for s, weight in enumerate(weights):
            if weight:
                lines += self._numbers(f"k{s}_", "f" if s == 0 else f"k{s}_")
        return lines

    def _stage(self, s: int) -> list[str]:
        tableau, components = self.tableau, range(self.size)
        lines = [*self._numbers("y", "y"), *self._used(tableau.a[s]), *self._load("size")]
        lines += [f"a{j} = w[{self.at[f'a{j}']} + k]" for j in range(self.channels)]
        lines += [f"z{c} = y{c} + size * ({self._stages(tableau.a[s], c)})" for c in components]
        time = "0.0"
        if self.timed:
            time = "now"
            lines += self._load("t", "low", "high")
            lines.append(f"now = clip(t + {tableau.c[s]!r} * size, low, high)")
        given = ", ".join([time, *(f"z{c}" for c in components), *self.args, *self.params])
        lines.append(f"({''.join(f'k{s}_{c}, ' for c in components)}) = field({given})")
        lines += [f"w[{self.at[f'k{s}_{c}']} + k] = k{s}_{c}" for c in components]
        if s == self.stages - 1:
            lines += [f"w[{self.at[f'e{c}']} + k] = z{c}" for c in components]
        return lines

    def _accept(self) -> list[str]:
        at, last = self.at, self.stages - 1
        lines = self._numbers("n", f"k{last}_") + self._numbers("k0_", "f")
        for c in range(self.size):
            lines += [
                f"w[{at[f'o{c}']} + k] = y{c}",
                f"w[{at[f'y{c}']} + k] = z{c} if good else y{c}",
                f"w[{at[f'k0_{c}']} + k] = k0_{c}",
                f"w[{at[f'f{c}']} + k] = n{c} if good else k0_{c}",
            ]
        return lines

    def _error(self) -> list[str]:
        """Write ``largest``, the square of the error of a lane, and ``total``, not finite as it."""
        weights = self.tableau.error
        assert weights is not None
        lines = [*self._numbers("y", "y"), *self._numbers("z", "e"), *self._used(weights)]
        lines += self._load("size", *_LOADED)
        for part in self.parts:
            components = range(part.start, part.stop)
            if part.matrix:
                for name in "yz":
                    squares = " + ".join(f"{name}{c} * {name}{c}" for c in components)
                    lines.append(f"whole_{name} = ({squares}) / {float(len(components))!r}")
                lines.append("whole = sqrt(max(whole_y, whole_z)) * rtol")
            for c in components:
                error = self._stages(weights, c)
                size = "whole" if part.matrix else f"max(abs(y{c}), abs(z{c})) * rtol"
                lines.append(f"e{c} = size * ({error}) / ({size} + atol_{c})")
            total = " + ".join(f"e{c} * e{c}" for c in components)
            if len(components) > 1:
                total = f"({total}) * {1 / len(components)!r}"
            lines.append(f"m{part.start} = {total}")
        means = [f"m{part.start}" for part in self.parts]
        largest = means[0]
        for mean in means[1:]:
            largest = f"max({largest}, {mean})"
        return [*lines, f"largest = {largest}", f"total = {' + '.join(means)}"]


_LOADED = ("t", "h", "target", "landing", "recent", "retried", "rejected", "missed", "due", "least")

_SIZE = f"""
remaining = target - t
landing = h * {STRETCH!r} >= abs(remaining)
w[W_SIZE + k] = remaining if landing else h * direction
w[W_LANDING + k] = 1.0 if landing else 0.0
w[W_BEFORE + k] = t
"""

_CONTROL = f"""
lands = landing == 1.0
length = abs(size)
finite = total < math.inf
good = finite & (largest <= 1.0)
landed = good & lands
error = 0.5 * log(max(largest, 1e-20))
accepted_power = {PROPORTIONAL!r} * recent - {INTEGRAL!r} * error
power = EXPONENT * (accepted_power if good else -error)
factor = max({SAFETY!r} * exp(power), {SMALLEST!r})
factor = min(factor, {LARGEST!r} if good & (retried == 0.0) else 1.0)
chosen = length * (factor if finite else {NON_FINITE!r})
chosen = max(chosen, h if landed else 0.0)
reached = target if lands else t + size
missed = 0.0 if good else missed
failed = 0.0 if good else 1.0
stop = landed | (good & (reached * direction >= due)) | (not finite) | (chosen < least)
w[W_MISSED + k] = missed + (0.0 if finite else 1.0)
w[W_RETRIED + k] = failed
w[W_REJECTED + k] = rejected + failed
w[W_RECENT + k] = max(error, RECENT) if good else recent
w[W_H + k] = chosen
w[W_T + k] = reached if good else t
w[W_ACCEPTED + k] = 1.0 - failed
w[W_ATTEND + k] = 1.0 if stop else 0.0
"""
