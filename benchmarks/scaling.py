"""Cost against size: ``python -m benchmarks scaling``.

Of the works with another number of neurons, batch, duration, depth, or orbits. Measured as the
works are; a contestant whose last run took longer than a minute is not given more to do. Beside
each table stands the exponent p of cost ∝ value^p between its two largest values.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, MissingError, add_options, check_options
from benchmarks.figure import COLOURS, SAID
from benchmarks.works import ENOUGH, WORKS

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Axis:
    """What grows: an option of a work, with its values and what else is chosen."""

    said: str
    work: str
    option: str
    values: Sequence[Any]
    peers: Sequence[str]
    others: Mapping[str, Any] = field(default_factory=dict)


def _layers(depth: int) -> list[int]:
    return [784, *[500] * depth, 10]


AXES = {
    "neurons": Axis(
        "Oja's rule, N neurons", "W1-100", "size", (10, 30, 100, 300, 1000), ("diffrax",)
    ),
    "duration": Axis(
        "Oja's rule, 100 neurons, duration/tau/10",
        "W1-100",
        "end",
        (1.0, 10.0, 100.0),
        ("torchdiffeq", "diffrax"),
    ),
    "slow": Axis(
        "weights 10⁴ times slower, duration/tau",
        "W1b",
        "end",
        (1e2, 1e3, 1e4),
        ("full", "diffrax"),
    ),
    "orbits": Axis(
        "FitzHugh-Nagumo orbits",
        "W2-fhn",
        "orbits",
        (1, 10, 100, 1000, 10_000, 100_000),
        ("torchdiffeq", "diffrax", "numba"),
    ),
    "batch": Axis(
        "784-500-500-10, batch", "W3-20", "batch", (1, 5, 20, 100, 500), ("torchdiffeq", "jax")
    ),
    "depth": Axis(
        "784-500-…-10, batch 20, hidden layers",
        "W3-20",
        "sizes",
        (1, 2, 4, 8),
        ("torchdiffeq", "jax"),
    ),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=", ".join(AXES))
    add_options(parser, rounds=3)
    given = parser.parse_args(arguments)
    check_options(parser, given)
    for name in given.axes:
        if name not in AXES:
            parser.error(f"unknown axis '{name}'; accepted: {', '.join(AXES)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "scaling.json"
    kept = {row["axis"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    rows = []
    for name in given.axes or AXES:
        row = _measured(name, AXES[name], given.peers, given.rounds)
        rows.append(row)
        kept[name] = row
        ordered = [kept[axis] for axis in AXES if axis in kept]
        path.write_text(json.dumps(ordered, indent=1) + "\n")
        draw(ordered, RESULTS / "scaling.png")
        sys.stdout.write(_table(row))
        sys.stdout.flush()
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def _measured(name: str, axis: Axis, peers: str, rounds: int) -> dict[str, Any]:
    work = WORKS[axis.work]
    times: dict[str, list[float | None]] = {who: [] for who in ("ctsigprop", *axis.peers)}
    for value in axis.values:
        given = _layers(value) if axis.option == "sizes" else value
        options = {**work.options, **axis.others, axis.option: given}
        running: dict[str, Contestant] = {}
        for who, before in times.items():
            python = sys.executable if who in ("ctsigprop", *work.ours) else peers
            last = before[-1] if before else 0.0
            if last is None or last > 1e3 * ENOUGH:
                continue
            try:
                running[who] = Contestant(f"benchmarks.{work.module}", who, options, python)
            except MissingError as why:
                sys.stdout.write(f"{who} is skipped: {why}\n")
        runs: dict[str, list[float]] = {who: [] for who in running}
        for _ in range(rounds + 1):
            for who, contestant in running.items():
                if sum(runs[who]) <= ENOUGH:
                    answer = contestant.run()
                    runs[who].append(math.nan if "failed" in answer else answer["seconds"])
        for contestant in running.values():
            contestant.close()
        for who, found in times.items():
            seconds = runs.get(who, [])
            middle = statistics.median(seconds[1:] or seconds) if seconds else math.nan
            found.append(None if math.isnan(middle) else round(1e3 * middle, 4))
    return {
        "axis": name,
        "said": axis.said,
        "work": axis.work,
        "values": list(axis.values),
        "cpu_ms": times,
        "exponents": {who: _exponent(axis.values, found) for who, found in times.items()},
        "rounds": rounds,
    }


def _exponent(values: Sequence[float], found: Sequence[float | None]) -> float | None:
    known = [(v, ms) for v, ms in zip(values, found, strict=True) if ms]
    if len(known) < 2:
        return None
    (v, ms), (more, longer) = known[-2:]
    return round(math.log(longer / ms) / math.log(more / v), 2)


def _table(row: Mapping[str, Any]) -> str:
    lines = [f"\n{row['said']:40}" + "".join(f"{value:>11g}" for value in row["values"]) + "\n"]
    for who, found in row["cpu_ms"].items():
        cells = "".join(f"{'-' if ms is None else f'{ms:.1f}':>11}" for ms in found)
        p = row["exponents"][who]
        lines.append(f"  {who:30} (ms) " + " " * 2 + cells + f"   p = {p}\n")
    return "".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the cost along every axis, both logarithmic."""
    from matplotlib.figure import Figure

    wide = min(3, len(rows))
    high = math.ceil(len(rows) / wide)
    figure = Figure(figsize=(3.2 * wide, 2.6 * high), dpi=100, layout="constrained")
    every = figure.subplots(high, wide, squeeze=False).ravel()
    for axes, row in zip(every, rows, strict=False):
        for who, found in row["cpu_ms"].items():
            axes.plot(
                row["values"],
                [math.nan if ms is None else ms for ms in found],
                "o-",
                ms=3,
                lw=1.2,
                color=COLOURS.get(who, "#27ae60"),
                label=SAID.get(who, who),
            )
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel(row["said"], fontsize=8)
        axes.set_xticks(row["values"], [f"{value:g}" for value in row["values"]])
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, frameon=False)
    for axes in every[len(rows) :]:
        axes.set_axis_off()
    for axes in every[::wide]:
        axes.set_ylabel("processor time (ms)", fontsize=8)
    figure.savefig(path)
