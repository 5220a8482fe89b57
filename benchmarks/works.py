"""Speed of learning as dynamics, beside its peers: ``python -m benchmarks W1``.

The same work in one process, one thread, processor time, turn by turn, the median of the rounds;
the error of each is against a solution at ten thousand times tighter tolerances. A peer has the
same norm of the error: the largest over the variables of the root mean square of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctsigprop as ct

RESULTS = Path(__file__).with_name("results")
F64 = torch.float64
END, TOLERANCE, DT = 10.0, 1e-5, 0.05

Run = Callable[[], tuple[Tensor, Tensor]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks W1", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, timed")
    parser.add_argument("--works", default=",".join(WORKS), help="names separated by commas")
    parser.add_argument("--json", action="store_true", help="print the rows as one last line")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in given.works.split(","):
        if name not in WORKS:
            parser.error(f"unknown work '{name}'; accepted: {', '.join(WORKS)}")
        rows.append(_measured(name, given.rounds))
        row = rows[-1]
        sys.stdout.write(f"{name}\n")
        for who, ms in row["cpu_ms"].items():
            ratio, error = row["ratios"].get(who, 1.0), row["errors"].get(who)
            said = "" if error is None else f"error {error:.1e}"
            sys.stdout.write(f"  {who:14} {ms:10.1f} ms   x {ratio:7.2f}   {said}\n")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "works.json").write_text(json.dumps(rows, indent=1) + "\n")
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def _measured(name: str, rounds: int) -> dict[str, Any]:
    size, fixed = WORKS[name]
    work = _Oja(size, fixed)
    runs = work.contestants()
    times: dict[str, list[float]] = {who: [] for who in runs}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for round_ in range(rounds + 1):
        for who, run in runs.items():
            start = time.process_time()
            found[who] = run()
            if round_:  # the first warms up
                times[who].append(time.process_time() - start)
    medians = {who: statistics.median(values) for who, values in times.items()}
    truth = work.reference()
    errors = {
        who: max(
            float((value - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            for value, exact in zip(ends, truth, strict=True)
        )
        for who, ends in found.items()
        if who != "floor"
    }
    ours = medians["ctsigprop"]
    return {
        "work": name,
        "ratios": {who: round(value / ours, 3) for who, value in medians.items() if value != ours},
        "errors": errors,
        "cpu_ms": {who: round(1e3 * value, 3) for who, value in medians.items()},
        "rounds": rounds,
        "torch": torch.__version__,
    }


class _Oja:
    """tau ds/dt = −s + W x, dW/dt = eta (s xᵀ − s² W): N neurons on a held input of N channels."""

    tau, eta = 0.1, 1.0

    def __init__(self, size: int, fixed: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size, self.fixed = size, fixed
        self.x = torch.rand(size, generator=generator, dtype=F64)
        self.w0 = torch.randn(size, size, generator=generator, dtype=F64) / size
        self.rate = self.eta / size
        self.system = ct.System(
            ct.Source("x", size, self.x),
            ct.leaky_integrator("y", size, tau=self.tau),
            ct.Synapse("x", "y", self.w0, plasticity=ct.oja(self.rate)),
        )
        self.evaluations = 0

    def contestants(self) -> dict[str, Run]:
        solver: ct.RK4 | ct.Tsit5 = (
            ct.RK4(dt=DT) if self.fixed else ct.Tsit5(rtol=TOLERANCE, atol=TOLERANCE)
        )
        dense = solver.with_options(low_rank=False)

        def ours() -> tuple[Tensor, Tensor]:
            run = ct.solve(self.system, {}, [0.0, END], solver=solver)
            self.evaluations = run.statistics.evaluations
            return run["s_y"][-1], run["W_y_x"][-1]

        def entry_by_entry() -> tuple[Tensor, Tensor]:
            run = ct.solve(self.system, {}, [0.0, END], solver=dense)
            return run["s_y"][-1], run["W_y_x"][-1]

        return {
            "ctsigprop": ours,
            "dense": entry_by_entry,
            "torchdiffeq": self._torchdiffeq,
            "floor": self._floor,
        }

    def reference(self) -> tuple[Tensor, Tensor]:
        tight = ct.Tsit5(rtol=TOLERANCE / 1e4, atol=TOLERANCE / 1e4)
        run = ct.solve(self.system, {}, [0.0, END], solver=tight)
        return run["s_y"][-1], run["W_y_x"][-1]

    def _torchdiffeq(self) -> tuple[Tensor, Tensor]:
        from torchdiffeq import odeint

        def field(_t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            s, w = y
            ds = (-s + w @ self.x) / self.tau
            return ds, self.rate * (torch.outer(s, self.x) - s.square()[:, None] * w)

        def norm(parts: tuple[Tensor, Tensor]) -> Tensor:
            return torch.stack([part.square().mean().sqrt() for part in parts]).amax()

        times = torch.tensor([0.0, END], dtype=F64)
        start = torch.zeros(self.size, dtype=F64), self.w0
        options: dict[str, Any] = (
            {"method": "rk4", "options": {"step_size": DT}}
            if self.fixed
            else {
                "method": "dopri5",
                "rtol": TOLERANCE,
                "atol": TOLERANCE,
                "options": {"norm": norm},
            }
        )
        with torch.no_grad():
            s, w = odeint(field, start, times, **options)
        return s[-1], w[-1]

    def _floor(self) -> tuple[Tensor, Tensor]:
        """Multiply a matrix and a vector as often as our solver evaluates."""
        y = self.x
        for _ in range(self.evaluations):
            y = torch.mv(self.w0, self.x)
        return y, self.w0


WORKS: dict[str, tuple[int, bool]] = {
    "W1-1000": (1000, False),
    "W1-100": (100, False),
    "W1-rk4": (1000, True),
}
