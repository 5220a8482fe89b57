"""Processor time to an accuracy: ``python -m benchmarks accuracy --data digits``, or a folder.

Continuous sigprop, which goes only forward, against backpropagation through torchdiffeq's steps on
the same network in continuous time: the same units and sizes, Euler steps of 0.6 tau, batches of
20, the same noise, a rate that falls along half a cosine. Each has the same number of settings to
choose from (its rate, how long a presentation lasts, how many epochs); that which is there first
with a seed that is not used again is taken, and told for three others. Beside them, both without
the way to rest: sigprop by `Steady`, and backpropagation in layers.

The time is that of learning, one thread, to the end of the first epoch after which the test error
is what was asked or less; tests are not counted. A run that has been made is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Run

RESULTS = Path(__file__).with_name("results")
TUNING = 3  # the seed by which settings are chosen
DT = 0.6

RULES = ("sigprop", "sigprop-steady", "backpropagation-torchdiffeq", "backpropagation")


@dataclass(frozen=True)
class Race:
    """A task: `target` is the test error to be reached, in percent."""

    sizes: tuple[int, ...]
    target: float
    noise: float
    epochs: tuple[int, ...]
    rates: Mapping[str, tuple[float, ...]]
    lengths: Mapping[str, tuple[float, ...]]


RACES = {
    "digits": Race(
        (64, 100, 100, 10),
        3.0,
        0.1,
        (10, 20),
        {"sigprop": (0.25, 0.5, 1.0), "backpropagation": (1e-3, 3e-3, 1e-2)},
        {"sigprop": (4.8, 8.4), "backpropagation": (3.6, 8.4)},
    ),
    "mnist": Race(
        (784, 500, 500, 10),
        2.5,
        0.3,
        (4, 8),
        {"sigprop": (0.25, 0.5), "backpropagation": (3e-4, 1e-3)},
        {"sigprop": (8.4,), "backpropagation": (3.6,)},
    ),
}
"""Rates are those of sigprop's first layer, and of Adam; lengths those of the free interval."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=__doc__)
    parser.add_argument("--data", default="digits", help="'digits', or a folder with MNIST's files")
    parser.add_argument("--rules", default=",".join(RULES), help="names separated by commas")
    parser.add_argument("--seeds", default="0,1,2", help="numbers separated by commas")
    parser.add_argument("--json", action="store_true", help="print the rows as one last line")
    given = parser.parse_args(arguments)
    data = "digits" if given.data == "digits" else "mnist"
    for rule in given.rules.split(","):
        if rule not in RULES:
            parser.error(f"unknown rule '{rule}'; accepted: {', '.join(RULES)}")
    path = RESULTS / f"accuracy-{data}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "runs": []}
    rows = {row["rule"]: row for row in kept["rows"]}
    RESULTS.mkdir(exist_ok=True)

    def runs(rule: str, seed: int, settings: dict[str, float]) -> dict[str, Any]:
        run = _run(rule, data, given.data, seed, settings, kept["runs"])
        path.write_text(json.dumps(kept, indent=1) + "\n")
        return run

    rules = given.rules.split(",")
    tried = {rule: [runs(rule, TUNING, s) for s in _settings(rule, RACES[data])] for rule in rules}
    best = {rule: _first(found)["settings"] for rule, found in tried.items()}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    # seed by seed, so that a machine whose speed drifts is as fast for one rule as for another
    done = [{rule: runs(rule, seed, best[rule]) for rule in rules} for seed in seeds]
    for rule in rules:
        found = [of_seed[rule] for of_seed in done]
        times = [run["cpu_seconds"] for run in found]
        rows[rule] = {
            "rule": rule,
            "data": data,
            "network": "-".join(map(str, RACES[data].sizes)),
            "target_percent": RACES[data].target,
            "settings": best[rule],
            "tried": len(tried[rule]),
            "seeds": seeds,
            "cpu_seconds": times,
            "median": None if None in times else statistics.median(times),
            "epochs": [run["epochs_taken"] for run in found],
            "last_error_percent": [run["test_error_by_epoch"][-1] for run in found],
        }
        sys.stdout.write(_line(rows[rule]))
    kept["rows"] = [rows[name] for name in RULES if name in rows]
    path.write_text(json.dumps(kept, indent=1) + "\n")
    if given.json:
        sys.stdout.write(json.dumps(kept["rows"]) + "\n")
    return 0


def _first(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the run that was there first, or that came closest."""
    reached = [run for run in tried if run["cpu_seconds"] is not None]
    return min(
        reached or tried,
        key=lambda run: run["cpu_seconds"] if reached else min(run["test_error_by_epoch"]),
    )


def _line(row: Mapping[str, Any]) -> str:
    times = ", ".join("not reached" if s is None else f"{s:.1f} s" for s in row["cpu_seconds"])
    return f"{row['rule']:28} to {row['target_percent']} %: {times}   {row['settings']}\n"


def _settings(rule: str, race: Race) -> list[dict[str, float]]:
    family = rule.partition("-")[0]
    lengths: Sequence[float] = race.lengths[family]
    if rule in ("sigprop-steady", "backpropagation"):  # no way to rest
        lengths = (0.0,)
    grid = itertools.product(race.rates[family], lengths, race.epochs)
    return [{"rate": rate, "length": length, "epochs": n} for rate, length, n in grid]


def _run(
    rule: str,
    data: str,
    source: str,
    seed: int,
    settings: dict[str, float],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return a run that is kept, or make it, in a process of its own."""
    asked = {"rule": rule, "seed": seed, "settings": settings}
    for run in runs:
        if all(run[name] == value for name, value in asked.items()):
            return run
    options = {"rule": rule, "source": source, "seed": seed, **settings}
    contestant = Contestant("benchmarks.accuracy", "learning", options, limit=86400.0)
    done = contestant.run()
    contestant.close()
    if "failed" in done:  # as where a rate is too large
        done |= {"test_error_by_epoch": [100.0], "cpu_by_epoch": [done["seconds"]]}
    errors, times = done["test_error_by_epoch"], done["cpu_by_epoch"]
    at = next((k for k, error in enumerate(errors) if error <= RACES[data].target), None)
    run = {
        **asked,
        "cpu_seconds": None if at is None else times[at],
        "epochs_taken": None if at is None else at + 1,
        "test_error_by_epoch": errors,
        "cpu_by_epoch": times,
    }
    runs.append(run | {"failed": done["failed"]} if "failed" in done else run)
    return runs[-1]


def learning(rule: str, source: str, seed: int, rate: float, length: float, epochs: int) -> Run:
    """Make a learner ready; what is timed is told epoch by epoch, without its tests."""
    import torch

    import ctsigprop as ct
    from ctsigprop.data import digits, load
    from ctsigprop.learning.learner import Learner
    from ctsigprop.train import train

    torch.set_num_threads(1)
    race = RACES["digits" if source == "digits" else "mnist"]
    task = digits(seed=seed) if source == "digits" else load(source)
    learner: Learner
    if rule.startswith("sigprop"):
        eta = rate if source == "digits" else (rate, rate / 2, rate / 3)
        onset = length or 8.4
        network = ct.sigprop_network(race.sizes, eta=eta, onset=onset, seed=seed)
        learner = ct.ContinuousSigprop(
            network,
            end=onset + 6.0,
            update="delta",
            solver=ct.Steady() if rule == "sigprop-steady" else ct.Euler(dt=DT),
        )
    else:
        layers = ct.Layers.dense(race.sizes, rho="hard", seed=seed)
        adam = partial(torch.optim.Adam, lr=rate)
        learner = ct.Backpropagation(layers, adam)
        if rule == "backpropagation-torchdiffeq":
            solver = ct.TorchDiffEq(method="euler", dt=DT)
            learner = ct.ContinuousBackpropagation(layers, adam, end=length, solver=solver)

    answer, tested = learner.respond, 0.0

    def respond(x: torch.Tensor) -> torch.Tensor:
        nonlocal tested
        begun = time.process_time()
        output = answer(x)
        tested += time.process_time() - begun
        return output

    learner.respond = respond  # type: ignore[method-assign]

    def run() -> dict[str, Any]:
        begun = time.process_time()
        done = train(learner, task, epochs=epochs, batch=20, noise=race.noise, seed=seed)
        an_epoch = (time.process_time() - begun - tested) / epochs  # all are alike
        return {
            "test_error_by_epoch": [round(100 * (1 - a), 3) for a in done.test_accuracy],
            "cpu_by_epoch": [round(an_epoch * (k + 1), 3) for k in range(epochs)],
        }

    return run
