"""The source of a kernel that steps many orbits, each with a step of its own, in vector lanes.

A lane holds one orbit; when that has ended, the next one takes its place. What `control` and
`march` do for all samples at once is done here for the lanes: one loop without branches over all of
them, for the compiler to put in vector registers, and a visit to those few that landed, passed an
output time, or met trouble.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

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
from ctsigprop.solvers.native.scalars import LARGEST as LARGEST_SAMPLE
from ctsigprop.solvers.native.scalars import MOST_CHANNELS, Scalars
from ctsigprop.solvers.native.visits import ADVANCE, CALLS, DRIVE, VISITS

__all__ = [
    "DRIVER",
    "FAILED",
    "FIELD",
    "FINISHED",
    "LANES",
    "MEMORY",
    "TURN",
    "Memory",
    "driver_source",
    "field_source",
    "turn_source",
]

LANES = 64
"""How many orbits are stepped together."""

FINISHED, FAILED = 1, 2
"""What a driver returns when all orbits have ended, and when one needs another solver."""

DRIVER = "pqpppppppppppqii"
TURN = "pqppi"
FIELD = "ppdi"
"""The kinds of what the functions take, for `compiled`."""

STAGES = 8
"""The most stages of a method."""

PADDING = 72
"""Between the blocks of memory, so that their beginnings do not share a line of the cache."""

INTEGERS = (
    *("next", "used", "steps", "rejections", "evaluations", "turn"),
    *("samples", "rows", "max_steps", "turns", "size", "channels", "parts"),
    *("rows_apart", "stops_apart", "held_by_stop", "held_by_sample"),
)
PER_LANE = ("sample", "row", "pointer", "began", "extra", "in_use", "stale")
OPTIONS = ("direction", "rtol")
FLOATS = (
    *("t", "h", "target", "low", "high", "recent", "failed", "rejected", "missed", "due"),
    *("least", "size", "landing", "before", "attend"),
    *("whole", "other", "mean", "largest"),
)


@final
class Memory:
    """Where a driver keeps what: floats, and integers, in blocks of the largest size.

    Floats, for each lane: the state y, that of a stage and at the end of the step z, and that
    before the step o; the derivative f at y, and those of the stages k; signals a; and so on; at
    the end, what depends on parameters alone. Integers: the next orbit, the lanes in use, the
    largest counts of steps, rejections and evaluations, and the turns taken so far; then what it is
    told: how many samples and rows, the most steps, how many turns to take, the variables, signals
    and parts of a sample, and how far apart in memory the times of two samples, their stops, and
    the held signals of two stops and of two samples are (0 where they are common). A part is where
    a variable begins and ends, and whether it is measured as a matrix.
    """

    def __init__(self) -> None:
        self.block = LARGEST_SAMPLE * LANES + PADDING
        self.floats = {name: k * LANES for k, name in enumerate(FLOATS)}
        self.floats |= {name: len(FLOATS) * LANES + k for k, name in enumerate(OPTIONS)}
        first = len(FLOATS) * LANES + PADDING
        self.blocks = {name: first + k * self.block for k, name in enumerate("yzofk")}
        self.blocks["a"] = first + (4 + STAGES) * self.block
        self.constants = self.blocks["a"] + MOST_CHANNELS * LANES
        self.integers = {name: k for k, name in enumerate(INTEGERS)}
        self.integers |= {name: len(INTEGERS) + k * LANES for k, name in enumerate(PER_LANE)}
        self.parts = len(INTEGERS) + len(PER_LANE) * LANES
        self.whole = self.parts + 3 * LARGEST_SAMPLE


MEMORY = Memory()


def field_source(scalars: Scalars) -> str:
    """Return a module whose function ``evaluate`` takes the derivative of all lanes.

    Its arguments: the floats of `Memory` and the parameters; at which share of the lanes' steps,
    and where to write. The states are read at z. With a place below 0, it writes what depends on
    parameters alone.
    """
    at, blocks = MEMORY.constants, MEMORY.blocks
    constant, moving = scalars.split
    names = [line.partition(" = ")[0] for line in constant]
    load = [f"p{k} = parameters[{k}]" for k in range(len(scalars.parameters))]
    write = [f"w[{at + j}] = {name}" for j, name in enumerate(names)]
    read = [f"{name} = w[{at + j}]" for j, name in enumerate(names)]
    count = len(scalars.results)
    inside = [f"y{c} = w[{blocks['z'] + c * LANES} + k]" for c in range(count)]
    inside += [f"a{j} = w[{blocks['a'] + j * LANES} + k]" for j in range(len(scalars.channels))]
    if scalars.timed:
        t, size, low, high = (MEMORY.floats[name] for name in ("t", "size", "low", "high"))
        inside += [f"t = clip(w[{t} + k] + node * w[{size} + k], w[{low} + k], w[{high} + k])"]
    inside += moving
    inside += [f"w[(out + {c * LANES}) + k] = {r}" for c, r in enumerate(scalars.results)]
    lines = [
        "def evaluate(w, parameters, node, out):",
        *(f"    {line}" for line in load),
        "    if out < 0:",
        *(f"        {line}" for line in [*constant, *write, "return 0"]),
        *(f"    {line}" for line in read),
        f"    for k in range({LANES}):",
        *(f"        {line}" for line in inside),
        "    return 0",
    ]
    return FUNCTIONS + "\n\n" + "\n".join(lines) + "\n"


def turn_source(tableau: Tableau) -> str:
    """Return a module whose function ``advance`` takes a step of every lane.

    Its arguments: floats and integers of `Memory`, parameters, absolute tolerances, and the address
    of the field's ``evaluate``. It returns 0 where no lane needs a visit.
    """
    return "\n\n".join([FUNCTIONS, _settings(tableau), CALLS, _advance(tableau.closed())])


def driver_source(tableau: Tableau) -> str:
    """Return a module whose function ``drive`` steps orbits, until its turns are used.

    Its arguments: floats and integers of `Memory`; initial states and their derivatives
    ``(samples, size)``; the sizes of first steps; output times; stops, and what the times before
    each are clamped to from below and from above; held signals; parameters; absolute tolerances;
    output ``(rows, samples, size)``; how many rows each sample has reached; and the addresses of
    ``evaluate`` and ``advance``. It returns 0, `FINISHED` or `FAILED`.
    """
    dense = {_block(s): (0.0, *row) for s, row in enumerate(tableau.closed().dense) if any(row)}
    inside = f"inside = weighted({dense!r})"
    return "\n\n".join([FUNCTIONS, _settings(tableau), CALLS, inside, VISITS, DRIVE])


def _settings(tableau: Tableau) -> str:
    stages = tableau.closed().stages
    constants: dict[str, float] = {
        **{name.upper(): place for name, place in MEMORY.integers.items()},
        **{f"W_{name.upper()}": place for name, place in MEMORY.floats.items()},
        **{f"W_{name.upper()}": place for name, place in MEMORY.blocks.items()},
        **{"LANES": LANES, "FIRST_PART": MEMORY.parts, "W_LAST": _block(stages - 1)},
        **{"STAGES": stages, "EVERY": EVERY, "RETREATS": RETREATS, "STRETCH": STRETCH},
        **{"ROUNDINGS": ROUNDINGS, "FINISHED": FINISHED, "FAILED": FAILED},
        **{"EXPONENT": 1 / tableau.order, "RECENT": 2 * math.log2(FLOOR)},
    }
    return "\n".join(f"{name} = {value!r}" for name, value in constants.items())


def _weights(weights: Sequence[float]) -> dict[int, tuple[float]]:
    """Return where the stages lie that have a weight; the first is the derivative at the start."""
    return {_block(s) if s else MEMORY.blocks["f"]: (w,) for s, w in enumerate(weights) if w}


def _block(stage: int) -> int:
    return MEMORY.blocks["k"] + stage * MEMORY.block


def _advance(tableau: Tableau) -> str:
    """Write a turn of all lanes.

    A stage waits for the one before it; with loops of its own for each, the processor has the other
    lanes to do meanwhile.
    """
    assert tableau.error is not None
    sums, stages = [f"weighted_error = weighted({_weights(tableau.error)!r})"], []
    for s in range(1, tableau.stages):
        sums.append(f"go{s} = stage({_weights(tableau.a[s])!r})")
        stages += [
            f"go{s}(w, q[SIZE])",
            f"evaluate(field, w, parameters, {tableau.c[s]!r}, {_block(s)})",
        ]
    text = ADVANCE.replace("# stages", "\n    ".join(stages))
    text = text.replace("# control", "\n        ".join(_CONTROL.strip().splitlines()))
    return "\n".join([*sums, text])


_CONTROL = f"""
largest = v[W_LARGEST]  # the square of the error, as are those whose logarithms follow
error = near_log2(larger(largest, 1e-20))
finite = largest < math.inf
good = largest <= 1.0
lands = v[W_LANDING] == 1.0
landed = good & lands
h = v[W_H]
t = v[W_T]
size = v[W_SIZE]
recent = v[W_RECENT]
target = v[W_TARGET]
wanted = {PROPORTIONAL!r} * recent - {INTEGRAL!r} * error if good else -error
factor = larger(near_exp2(0.5 * EXPONENT * wanted + {math.log2(SAFETY)!r}), {SMALLEST!r})
most = {LARGEST!r} if good & (v[W_FAILED] == 0.0) else 1.0
factor = factor if factor < most else most
chosen = abs(size) * (factor if finite else {NON_FINITE!r})
chosen = larger(chosen, h if landed else 0.0)
reached = target if lands else t + size
failed = 0.0 if good else 1.0
missed = v[W_MISSED] * failed
due = good & (reached * direction >= v[W_DUE])
stop = landed | due | (not finite) | (chosen < v[W_LEAST])
v[W_MISSED] = missed + (0.0 if finite else 1.0)
v[W_FAILED] = failed
v[W_REJECTED] += failed
v[W_RECENT] = larger(error, RECENT) if good else recent
v[W_H] = chosen
v[W_T] = reached if good else t
asks = 1.0 if stop else 0.0
v[W_ATTEND] = asks
attend |= bits(asks)
"""
