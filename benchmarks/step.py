"""Time of a learning step, forward only against backwards: ``python -m benchmarks step``.

The same network in continuous time, the same batch, as many steps of the same method; one thread,
processor time of the process, turn by turn, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import ctsigprop as ct

RESULTS = Path(__file__).with_name("results")
SIZES, BATCH, END, DT = [784, 500, 500, 10], 20, 14.4, 0.6


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="presentations of each, timed")
    parser.add_argument("--json", action="store_true", help="print the row as one last line")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = torch.rand(BATCH, SIZES[0]), torch.arange(BATCH) % SIZES[-1]
    learners = {name: make() for name, make in LEARNERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for round_ in range(given.rounds + 1):
        for name, learner in learners.items():
            start = time.process_time()
            learner.present(*batch)
            if round_:  # the first warms up
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians["sigprop, two-point"]
    row = {
        "network": "-".join(map(str, SIZES)),
        "batch": BATCH,
        "steps": round(END / DT),
        "cpu_ms": {name: round(1e3 * value, 2) for name, value in medians.items()},
        "two_point_over": {
            name: round(ours / value, 3) for name, value in medians.items() if value != ours
        },
        "rounds": given.rounds,
        "torch": torch.__version__,
    }
    for name, value in medians.items():
        sys.stdout.write(f"{name:44} {1e3 * value:8.2f} ms   x {value / ours:.2f}\n")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "step.json").write_text(json.dumps(row, indent=1) + "\n")
    if given.json:
        sys.stdout.write(json.dumps(row) + "\n")
    return 0


def _forward(update: str, solver: object) -> Callable[[], ct.ContinuousSigprop]:
    return lambda: ct.ContinuousSigprop(
        ct.sigprop_network(SIZES, eta=0.01), end=END, update=update, solver=solver
    )


def _backward(solver: ct.Solver) -> Callable[[], ct.ContinuousBackpropagation]:
    network = ct.Layers.dense(SIZES, rho="hard")
    return lambda: ct.ContinuousBackpropagation(network, end=END, solver=solver)


LEARNERS: dict[str, Callable[[], ct.ContinuousSigprop | ct.ContinuousBackpropagation]] = {
    "sigprop, two-point": _forward("delta", ct.Euler(dt=DT)),
    "sigprop, two-point, straight to rest": _forward("delta", ct.Steady()),
    "sigprop, weights in the ODE": _forward("integrated", ct.Euler(dt=DT)),
    "backpropagation, the same solver": _backward(ct.Euler(dt=DT)),
    "backpropagation, torchdiffeq": _backward(ct.TorchDiffEq(method="euler", dt=DT)),
    "backpropagation, torchdiffeq, adjoint": _backward(
        ct.TorchDiffEq(method="euler", dt=DT, adjoint=True)
    ),
}
