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

LANES = 16
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
    *("least", "size", "before", "attend", "accepted"),
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
        names = ["t", *(f"y{c}" for c in range(self.size)), *self.args, *self.params]
        body = [*self.scalars.lines, f"return ({', '.join(self.scalars.results)},)"]
        at_lane = [f"w[W_Y + {c} * LANES + k]" for c in range(self.size)]
        moved = [f"w[W_O + {c} * LANES + k]" for c in range(self.size)]
        held = [f"w[W_A + {j} * LANES + k]" for j in range(self.channels)]
        given = [f"parameters[{k}]" for k in range(len(self.params))]
        return "\n".join(
            [
                "@njit(**INLINE)",
                f"def field({', '.join(names)}):",
                *(f"    {line}" for line in body),
                "\n",
                "@njit(**PLAIN)",
                "def slope(w, parameters, k, t, state, out):",
                "    t = clip(t, w[W_LOW + k], w[W_HIGH + k])",
                "    if state == W_Y:",
                f"        f = field({', '.join(['t', *at_lane, *held, *given])})",
                "    else:",
                f"        f = field({', '.join(['t', *moved, *held, *given])})",
                "    finite = True",
                *(
                    line
                    for c in range(self.size)
                    for line in (
                        f"    w[out + {c} * LANES + k] = f[{c}]",
                        f"    finite = finite and abs(f[{c}]) < math.inf",
                    )
                ),
                "    return finite",
            ]
        )

    def _norm(self) -> str:
        """Write the norm of one lane's numbers, measured by its state."""
        lines = [
            "@njit(**PLAIN)",
            "def norm(w, atol, rtol, k, values, less):",
            "    largest = 0.0",
        ]
        for part in self.parts:
            components = range(part.start, part.stop)
            if part.matrix:
                squares = " + ".join(f"w[W_Y + {c} * LANES + k] ** 2" for c in components)
                lines.append(f"    whole = math.sqrt(({squares}) / {len(components)})")
            terms = []
            for c in components:
                size = "whole" if part.matrix else f"abs(w[W_Y + {c} * LANES + k])"
                lines += [
                    f"    v = w[values + {c} * LANES + k]",
                    f"    v = v - w[W_F + {c} * LANES + k] if less else v",
                    f"    q{c} = v / ({size} * rtol + atol[{c}])",
                ]
                terms.append(f"q{c} * q{c}")
            lines.append(f"    mean = ({' + '.join(terms)}) / {len(components)}")
            lines.append("    largest = largest if largest >= mean else mean")
        return "\n".join([*lines, "    return math.sqrt(largest)"])

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
                f"    out[place + {c}] = w[W_O + {c} * LANES + k] + size * ({total or '0.0'})"
            )
        return "\n".join(lines)

    def _kernel(self) -> str:
        load = [f"{name} = parameters[{k}]" for k, name in enumerate(self.params)]
        load += [f"atol_{c} = atol[{c}]" for c in range(self.size)]
        text = KERNEL.replace("# parameters", "\n    ".join(load))
        return text.replace("# step", "\n        ".join(self._step()))

    def _step(self) -> list[str]:
        """Write what happens to every lane in a turn."""
        at, tableau = self.at, self.tableau
        components = range(self.size)
        lines = [f"y{c} = w[{at[f'y{c}']} + k]" for c in components]
        lines += [f"k0_{c} = w[{at[f'f{c}']} + k]" for c in components]
        lines += [f"a{j} = w[{at[f'a{j}']} + k]" for j in range(self.channels)]
        lines += [
            *(f"{name} = w[W_{name.upper()} + k]" for name in _LOADED),
            "remaining = target - t",
            f"landing = h * {STRETCH!r} >= abs(remaining)",
            "size = remaining if landing else h * direction",
            "length = abs(size)",
        ]
        if self.timed:
            lines += ["low_t = w[W_LOW + k]", "high_t = w[W_HIGH + k]"]
        for s in range(1, self.stages):
            for c in components:
                used = [(j, a) for j, a in enumerate(tableau.a[s]) if a]
                total = " + ".join(f"{a!r} * k{j}_{c}" for j, a in used) or "0.0"
                lines.append(f"z{c} = y{c} + size * ({total})")
            time = "t"
            if self.timed:
                time = "now"
                lines.append(f"now = clip(t + {tableau.c[s]!r} * size, low_t, high_t)")
            given = ", ".join([time, *(f"z{c}" for c in components), *self.args, *self.params])
            lines.append(f"({''.join(f'k{s}_{c}, ' for c in components)}) = field({given})")
        lines += self._error()
        lines += _CONTROL.strip().splitlines()
        last = self.stages - 1
        for c in components:
            lines += [
                f"w[{at[f'o{c}']} + k] = y{c}",
                f"w[{at[f'y{c}']} + k] = z{c} if good else y{c}",
                f"w[{at[f'f{c}']} + k] = k{last}_{c} if good else k0_{c}",
            ]
            lines += [f"w[{at[f'k{s}_{c}']} + k] = k{s}_{c}" for s in range(self.stages)]
        return lines

    def _error(self) -> list[str]:
        """Write ``largest``, the square of the error of a lane, and ``total``, not finite as it."""
        weights = self.tableau.error
        assert weights is not None
        lines = []
        for part in self.parts:
            components = range(part.start, part.stop)
            if part.matrix:
                for name in "yz":
                    squares = " + ".join(f"{name}{c} * {name}{c}" for c in components)
                    lines.append(f"whole_{name} = ({squares}) / {float(len(components))!r}")
                lines.append("whole = sqrt(max(whole_y, whole_z)) * rtol")
            for c in components:
                used = [(s, e) for s, e in enumerate(weights) if e]
                error = " + ".join(f"{e!r} * k{s}_{c}" for s, e in used)
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


_LOADED = ("t", "h", "target", "recent", "retried", "rejected", "missed", "due", "least")

_CONTROL = f"""
finite = total < math.inf
good = finite & (largest <= 1.0)
landed = good & landing
error = 0.5 * log(max(largest, 1e-20))
accepted_power = {PROPORTIONAL!r} * recent - {INTEGRAL!r} * error
power = EXPONENT * (accepted_power if good else -error)
factor = max({SAFETY!r} * exp(power), {SMALLEST!r})
factor = min(factor, {LARGEST!r} if good & (retried == 0.0) else 1.0)
chosen = length * (factor if finite else {NON_FINITE!r})
chosen = max(chosen, h if landed else 0.0)
reached = target if landing else t + size
missed = 0.0 if good else missed
failed = 0.0 if good else 1.0
stop = landed | (good & (reached * direction >= due)) | (not finite) | (chosen < least)
w[W_MISSED + k] = missed + (0.0 if finite else 1.0)
w[W_RETRIED + k] = failed
w[W_REJECTED + k] = rejected + failed
w[W_RECENT + k] = max(error, RECENT) if good else recent
w[W_H + k] = chosen
w[W_T + k] = reached if good else t
w[W_BEFORE + k] = t
w[W_SIZE + k] = size
w[W_ACCEPTED + k] = 1.0 - failed
w[W_ATTEND + k] = 1.0 if stop else 0.0
"""
