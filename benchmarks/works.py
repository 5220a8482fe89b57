"""The works, ours beside its peers: ``python -m benchmarks [W1 … W5] [--json]``.

In one run, turn by turn (`contestants`), one thread each, the median of the rounds after a first
run, which is told apart: cold, and for ours from its caches as well. What takes longer than a
minute of processor time is not repeated. The error of each is the largest over what was found of
|found − exact|/|exact|, root mean squares, against a reference at tight tolerances.

A ratio is a contestant's time over ours. A floor is the least that has to be done, so that its
ratio is below one. W1 stands for all works whose names begin with it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import (
    Contestant,
    MissingError,
    add_options,
    check_options,
    version,
)
from benchmarks.figure import draw

RESULTS = Path(__file__).with_name("results")
ENOUGH = 60.0  # seconds of a contestant's runs


@dataclass(frozen=True)
class Work:
    """What is to be done, and by whom.

    Parameters
    ----------
    said : str
        The work in words.
    module : str
        Under `benchmarks`: a function for each contestant, and ``reference``.
    options : mapping
        Of those functions.
    ours, peers, patient : sequence of str
        Other ways of this package besides ``ctsigprop``, which is measured against; peers; and
        peers that run only where all are asked for.
    asked : mapping of str to (float, float)
        By contestant: the ratio that is asked at least, and that which is aimed at.
    """

    said: str
    module: str
    options: Mapping[str, Any]
    ours: Sequence[str]
    peers: Sequence[str]
    patient: Sequence[str] = ()
    asked: Mapping[str, tuple[float, float]] = field(default_factory=dict)


OJA = "Oja's rule, {} neurons, {}, 100 tau"
ORBITS = "100 000 orbits of {}, 100 units of time, steps chosen to 1e-5"
LAYERS = "784-500-500-10, batch {}: 50 + 10 steps of Euler, two-point update, float32"
LEARNED = "learned field 2-64-64-2, batch 128, 10 units of time: {}"
GEMM = {"floor": (1 / 1.15, 1 / 1.05)}

WORKS: dict[str, Work] = {
    "W1-1000": Work(
        OJA.format(1000, "steps chosen to 1e-5"),
        "plastic",
        {"size": 1000},
        ("dense", "floor"),
        ("torchdiffeq", "diffrax"),
        asked={"torchdiffeq": (80, 150), "diffrax": (12, 20), "floor": (0, 1 / 1.5)},
    ),
    "W1-100": Work(
        OJA.format(100, "steps chosen to 1e-5"),
        "plastic",
        {"size": 100},
        ("dense", "floor"),
        ("torchdiffeq", "diffrax"),
        asked={"torchdiffeq": (40, 70), "diffrax": (4, 7)},
    ),
    "W1-rk4": Work(
        OJA.format(1000, "200 steps of RK4"),
        "plastic",
        {"size": 1000, "fixed": True},
        ("dense", "floor"),
        ("torchdiffeq", "jax"),
        asked={"torchdiffeq": (15, 25)},
    ),
    "W1b": Work(
        "the same, 100 neurons, weights 10⁴ times slower, rhythmic input, 10⁴ tau",
        "slow",
        {"size": 100, "end": 1e4},
        ("projective", "full"),
        ("diffrax", "diffrax_loose"),
        ("torchdiffeq",),
        asked={"full": (60, 125), "diffrax": (0, 1000)},
    ),
    "W2-fhn": Work(
        ORBITS.format("FitzHugh and Nagumo"),
        "orbits",
        {"neuron": "fhn", "orbits": 100_000},
        (),
        ("torchdiffeq", "diffrax", "numba", "torchode"),
        asked={"torchdiffeq": (30, 65), "diffrax": (8, 15)},
    ),
    "W2-wc": Work(
        ORBITS.format("Wilson and Cowan"),
        "orbits",
        {"neuron": "wc", "orbits": 100_000},
        (),
        ("torchdiffeq", "diffrax", "numba", "torchode"),
        asked={"torchdiffeq": (12, 28), "diffrax": (8, 15)},
    ),
    "W3-20": Work(
        LAYERS.format(20),
        "relaxation",
        {"batch": 20},
        ("steady", "settling", "floor"),
        ("torchdiffeq", "jax"),
        asked=GEMM,
    ),
    "W3-500": Work(
        LAYERS.format(500),
        "relaxation",
        {"batch": 500},
        ("steady", "settling", "floor"),
        ("torchdiffeq", "jax"),
        asked=GEMM,
    ),
    "W5": Work(
        LEARNED.format("gradient of a loss at the end"),
        "gradients",
        {},
        (),
        ("torchdiffeq", "adjoint", "diffrax"),
        asked={"torchdiffeq": (1.5, 1.5), "adjoint": (3.5, 3.5), "diffrax": (0, 1)},
    ),
    "W5-local": Work(
        LEARNED.format("update that goes only forward, beside their gradients"),
        "local",
        {},
        (),
        ("torchdiffeq", "adjoint", "diffrax"),
        asked={"torchdiffeq": (3, 4), "adjoint": (8, 10)},
    ),
}

PACKAGES = {"adjoint": "torchdiffeq", "diffrax_loose": "diffrax"}
"""The distribution of a peer that is not called by its name."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--all", action="store_true", help="peers that take minutes, too")
    add_options(parser)
    given = parser.parse_args(arguments)
    check_options(parser, given)
    chosen = []
    for asked in given.works or list(WORKS):
        meant = [asked] if asked in WORKS else [name for name in WORKS if name[:2] == asked]
        if not meant:
            parser.error(f"unknown work '{asked}'; accepted: W1, W2, W3, W5, {', '.join(WORKS)}")
        chosen += [name for name in meant if name not in chosen]
    rows = []
    for name in chosen:
        sys.stdout.write(f"\n{name}: {WORKS[name].said}\n")
        rows.append(measured(name, WORKS[name], given.peers, given.rounds, given.all))
        sys.stdout.write(_table(rows[-1]))
        sys.stdout.flush()
        _keep(rows[-1])
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def measured(
    name: str, work: Work, peers: str = sys.executable, rounds: int = 5, patient: bool = False
) -> dict[str, Any]:
    """Return the row of a work: times, ratios and errors of all that could take part."""
    pythons = dict.fromkeys(("ctsigprop", *work.ours), sys.executable)
    pythons |= dict.fromkeys((*work.peers, *(work.patient if patient else ())), peers)
    module = f"benchmarks.{work.module}"
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        starts = []  # alone: processes that lie idle beside others wake more slowly
        for _ in ("nothing kept", "from cache"):
            with _ready(module, work, {"ctsigprop": sys.executable}, folder, skipped) as alone:
                starts.append(_rounds(alone, 0, folder, skipped))
        with _ready(module, work, pythons, folder, skipped) as contestants:
            runs = _rounds(contestants, rounds, folder, skipped)
        errors = _errors(module, work, runs, folder)
    medians = {who: statistics.median(seconds[1:] or seconds) for who, seconds in runs.items()}
    cold, cached = starts
    first = {who: cold.get(who, seconds)[0] for who, seconds in runs.items()}
    ours = medians.get("ctsigprop", math.nan)
    others = {who: seconds for who, seconds in medians.items() if who != "ctsigprop"}
    return {
        "work": name,
        "ratios": {who: round(s / ours, 4) for who, s in others.items() if ours > 0},
        "errors": errors,
        "cpu_ms": {who: round(1e3 * s, 4) for who, s in medians.items()},
        "first_s": {who: round(seconds, 4) for who, seconds in first.items()},
        "cached_s": round(cached["ctsigprop"][0], 4) if "ctsigprop" in runs else None,
        "rounds": {who: max(1, len(seconds) - 1) for who, seconds in runs.items()},
        "asked": {who: list(pair) for who, pair in work.asked.items()},
        "skipped": skipped,
        "versions": {who: version(PACKAGES.get(who, who), pythons[who]) for who in runs},
    }


@contextmanager
def _ready(
    module: str,
    work: Work,
    pythons: Mapping[str, str],
    folder: Path,
    skipped: dict[str, str],
) -> Iterator[dict[str, Contestant]]:
    """Start those that can take part, and end them afterwards; tell why others cannot."""
    running: dict[str, Contestant] = {}
    try:
        for who, python in pythons.items():
            try:
                running[who] = Contestant(module, who, work.options, python, caches=folder)
            except MissingError as why:
                skipped[who] = str(why)
        yield running
    finally:
        for contestant in running.values():
            contestant.close()


def _rounds(
    contestants: Mapping[str, Contestant], rounds: int, folder: Path, skipped: dict[str, str]
) -> dict[str, list[float]]:
    """Return the seconds of every run, turn by turn; what was found first is kept in the folder."""
    runs: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        for who, contestant in contestants.items():
            if who in skipped or sum(runs.get(who, [])) > ENOUGH:
                continue
            answer = contestant.run(None if round_ else folder / f"{who}.npz")
            if "failed" in answer:
                skipped[who] = answer["failed"]
                runs.pop(who, None)
            else:
                runs.setdefault(who, []).append(answer["seconds"])
    return runs


def _errors(
    module: str, work: Work, runs: Mapping[str, Sequence[float]], folder: Path
) -> dict[str, float]:
    """Return the errors of those that found something.

    Where the reference tells what was there before, the error is that of the change.
    """
    reference = Contestant(module, "reference", work.options)
    reference.run(folder / "reference.npz")
    reference.close()
    truth = np.load(folder / "reference.npz")
    errors = {}
    for who in runs:
        path = folder / f"{who}.npz"
        if not path.exists():
            continue
        found = np.load(path)
        parts = []
        for name in set(found.files) & set(truth.files):
            before = truth[f"{name} before"] if f"{name} before" in truth.files else 0.0
            off = np.square(found[name] - truth[name]).mean()
            parts.append(math.sqrt(off / np.square(truth[name] - before).mean()))
        if parts:
            errors[who] = max(parts)
    return errors


def _table(row: Mapping[str, Any]) -> str:
    lines = []
    for who, ms in row["cpu_ms"].items():
        ratio, error = row["ratios"].get(who), row["errors"].get(who)
        said = f"  {who:14} {ms:11.2f} ms"
        said += f"   x {ratio:8.3f}" if ratio is not None else " " * 13
        said += f"   error {error:.1e}" if error is not None else " " * 16
        said += f"   first {row['first_s'][who]:6.2f} s"
        if who == "ctsigprop":
            said += f", from cache {row['cached_s']:.2f} s"
        if who == "floor":
            said += f"   ours is {1 / ratio:.3f} of it" if ratio else ""
        elif who in row["asked"] and ratio is not None:
            least, aim = row["asked"][who]
            said += f"   asked {least:g}, aim {aim:g}"
        lines.append(said + "\n")
    lines += [f"  {who} is skipped: {why}\n" for who, why in row["skipped"].items()]
    return "".join(lines)


def _keep(row: Mapping[str, Any]) -> None:
    """Write the row among those that are kept of other works, and draw them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "works.json"
    rows = {kept["work"]: kept for kept in json.loads(path.read_text())} if path.exists() else {}
    rows[row["work"]] = dict(row)
    ordered = sorted(rows.values(), key=lambda kept: [*WORKS, kept["work"]].index(kept["work"]))
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    draw(ordered, RESULTS / "works.png")
