"""Time and error of bifurcation analysis: ``python -m benchmarks dynamics --peers PYTHON``.

Turn by turn (`contestants`). A first run, which compiles what is compiled, is told apart; then the
median of the rounds. Peers that PYTHON, or this interpreter, does not have are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import (
    Contestant,
    MissingError,
    Run,
    add_options,
    check_options,
    version,
)

Array = NDArray[np.float64]

RESULTS = Path(__file__).with_name("results")
LIMIT = 60.0  # seconds of a run, after which it is given up

A, B, TAU = 0.7, 0.8, 12.5
V_HOPF = np.array([-1.0, 1.0]) * math.sqrt(1 - B / TAU)

TASKS: dict[str, tuple[str, list[float]]] = {
    "fitzhugh_nagumo": (
        "equilibria for I in [0, 2], both Hopf points",
        (V_HOPF**3 / 3 - V_HOPF + (V_HOPF + A) / B).tolist(),  # trace zero
    ),
    "hodgkin_huxley": (
        "equilibria for I in [0, 200], both Hopf points",
        [9.775437995393135, 154.5224336658079],  # DYN-HH-HOPF in tests/oracles/cases.json
    ),
    "fitzhugh_nagumo_cycles": ("the same and the cycles born there", []),
    "hodgkin_huxley_cycles": ("the same and the cycles born there", []),
    "portrait": ("FitzHugh-Nagumo, I = 0.5: vector field, nullclines, fixed points", []),
}
TASKS["fitzhugh_nagumo_cycles"][1].extend(TASKS["fitzhugh_nagumo"][1])
TASKS["hodgkin_huxley_cycles"][1].extend(TASKS["hodgkin_huxley"][1])

ASKED = {"hodgkin_huxley_cycles": 60.0, "portrait": 3.0}  # seconds of ctsigprop's first run
REST = float(next(r.real for r in np.roots([-1 / 3, 0, 1 - 1 / B, 0.5 - A / B]) if not r.imag))


def fitzhugh_nagumo(u: Array, I: float) -> Array:  # noqa: E741
    v, w = u
    return np.array([v - v**3 / 3 - w + I, (v + A - B * w) / TAU])


def hodgkin_huxley(u: Array, I: float) -> Array:  # noqa: E741
    v, m, h, n = u
    sodium, potassium = 120 * m**3 * h * (v - 50), 36 * n**4 * (v + 77)
    alpha_m = _linoid((v + 40) / 10)
    alpha_n = 0.1 * _linoid((v + 55) / 10)
    alpha_h, beta_h = 0.07 * np.exp(-(v + 65) / 20), 1 / (1 + np.exp(-(v + 35) / 10))
    return np.array(
        [
            I - sodium - potassium - 0.3 * (v + 54.387),
            alpha_m * (1 - m) - 4 * np.exp(-(v + 65) / 18) * m,
            alpha_h * (1 - h) - beta_h * h,
            alpha_n * (1 - n) - 0.125 * np.exp(-(v + 65) / 80) * n,
        ]
    )


def _linoid(x: Any) -> Any:
    """Return x/(1 − exp(−x)), of complex x too: PyCont-Lite steps along eigenvectors."""
    return x / -np.expm1(-x) if abs(x) > 1e-9 else 1 + x / 2


def hundredths(u: Array, p: float) -> Array:
    """Return Hodgkin and Huxley's equations with v and I in hundreds, all of order one."""
    unit = np.array([100.0, 1.0, 1.0, 1.0])
    rates: Array = hodgkin_huxley(u * unit, 100 * p) / unit
    return rates


# Each of these imports, and returns what is timed.


def ctsigprop(task: str, **options: Any) -> Run:
    import torch

    import ctsigprop as ct
    from ctsigprop.analyses.bifurcations import KINDS, bifurcation_diagram
    from ctsigprop.analyses.phase import portrait

    torch.set_num_threads(1)
    small = task.startswith("fitzhugh_nagumo")

    def run() -> dict[str, Any]:
        if task == "portrait":
            neuron = ct.System(ct.fitzhugh_nagumo(I=0.5))
            tree = portrait(neuron, {"v": (-2.5, 2.5), "w": (-1.0, 2.0)}, **options)
            return {"rest": tree["fixed_points"].to_dataset()["v"].values.ravel().tolist()}
        tree = bifurcation_diagram(
            ct.System(ct.fitzhugh_nagumo() if small else ct.hodgkin_huxley()),
            "I",
            (0.0, 2.0 if small else 200.0),
            ranges={"v": (-3, 3) if small else (-100, 60)},
            cycles=task.endswith("_cycles"),
            **options,
        )
        found = tree["bifurcations"].to_dataset()
        hopf = found["kind"].values == KINDS.index("hopf")
        said = f"{tree['branches'].sizes['point']} equilibria"
        if "cycles" in tree.children:
            said += f", {tree['cycles'].sizes['orbit']} cycles, {(~hopf).sum()} more bifurcations"
        return {"hopf": found["I"].values[hopf].tolist(), "note": said}

    return run


def pycont(
    task: str, step: float = 0.01, scaled: bool = False, start: float = 0.0, **options: Any
) -> Run:
    """Take the steps of PyCont-Lite's README, and its default for each option that is not given."""
    import warnings

    import pycont  # type: ignore[import-not-found]
    from scipy.optimize import root

    warnings.simplefilter("ignore")
    small = task.startswith("fitzhugh_nagumo")
    unit, top = (1.0, 2.0) if small else (100.0, 2.0) if scaled else (1.0, 200.0)
    G = fitzhugh_nagumo if small else hundredths if scaled else hodgkin_huxley
    guess = [-1.2, -0.6] if small else [-60.0 / unit, 0.1, 0.4, 0.4]
    rest = root(G, guess, args=(start / unit,), tol=1e-14).x
    chosen = {"param_min": 0.0, "param_max": top, "hopf_detection": True}
    chosen |= {"limit_cycle_continuation": task.endswith("_cycles"), **options}

    def run() -> dict[str, Any]:
        done = pycont.arclengthContinuation(
            G,
            rest,
            start / unit,
            1e-6,
            step,
            step / 10,
            50_000,
            solver_parameters=chosen,
            verbosity="OFF",
        )
        hopf = [unit * float(event.p) for event in done.events if event.kind == "HB"]
        count = sum(len(branch.p_path) for branch in done.branches if not branch.is_lc)
        cycles = sum(len(branch.p_path) for branch in done.branches if branch.is_lc)
        said = f"{count} equilibria" + (f", {cycles} cycles" if cycles else "")
        return {"hopf": hopf, "note": said}

    return run


def brainpy(task: str, solved: bool = False, **resolutions: float) -> Run:
    import brainpy as bp  # type: ignore[import-not-found]
    import matplotlib as mpl
    from brainpy.analysis import constants  # type: ignore[import-not-found]

    mpl.use("Agg")
    bp.math.set_platform("cpu")
    bp.math.enable_x64()

    @bp.odeint
    def of_v(v, t, w, I=0.0):  # type: ignore[no-untyped-def] # noqa: ARG001, E741
        return v - v**3 / 3 - w + I

    @bp.odeint
    def of_w(w, t, v):  # type: ignore[no-untyped-def] # noqa: ARG001
        return (v + A - B * w) / TAU

    given: dict[str, Any] = {"model": [of_v, of_w], "resolutions": resolutions or None}
    if solved:  # by hand, for w
        given["options"] = {constants.y_by_x_in_fy: lambda v, I=0.0: (v + A) / B}  # noqa: ARG005, E741
    kept: list[Any] = []  # the analyzer, and with it what has been compiled

    def diagram() -> dict[str, Any]:
        if not kept:
            axes = {"v": [-3.0, 3.0], "w": [-2.0, 3.0]}
            pars = {"I": [0.0, 2.0]}
            kept.append(bp.analysis.Bifurcation2D(target_vars=axes, target_pars=pars, **given))
        _, I, jacobians = kept[0].plot_bifurcation(with_plot=False, with_return=True)  # noqa: E741
        growth = np.linalg.eigvals(jacobians).real.max(-1)
        p = np.asarray(I)[:, 0]
        k = np.flatnonzero(np.sign(growth[1:]) != np.sign(growth[:-1]))
        zero = p[k] - growth[k] * (p[k + 1] - p[k]) / (growth[k + 1] - growth[k])
        return {"interpolated": zero.tolist(), "note": f"{len(p)} equilibria"}

    def plane() -> dict[str, Any]:
        if not kept:
            axes = {"v": [-2.5, 2.5], "w": [-1.0, 2.0]}
            pars = {"I": 0.5}
            kept.append(bp.analysis.PhasePlane2D(target_vars=axes, pars_update=pars, **given))
        for key in [*kept[0].analyzed_results]:  # curves of an earlier run, which are not work done
            if key.startswith((constants.fx_nullcline_points, constants.fy_nullcline_points)):
                del kept[0].analyzed_results[key]
        kept[0].plot_vector_field(with_plot=False, with_return=True)
        curves = kept[0].plot_nullcline(with_plot=False, with_return=True)
        rest = kept[0].plot_fixed_point(with_plot=False, with_return=True)
        count = sum(len(x) for x, _ in curves.values())
        return {"rest": np.asarray(rest)[:, 0].tolist(), "note": f"{count} points of nullclines"}

    return plane if task == "portrait" else diagram


@dataclass(frozen=True, eq=False)
class Entry:
    """A contestant's way to do a task, and its settings in words."""

    task: str
    contestant: str
    said: str = ""
    options: dict[str, Any] = field(default_factory=dict)


PACKAGES = {
    "ctsigprop": ("ctsigprop", ctsigprop),
    "PyCont-Lite": ("pycont-lite", pycont),
    "BrainPy": ("brainpy", brainpy),
}
"""Of each contestant: the distribution, and the work."""

ENTRIES = [
    Entry("fitzhugh_nagumo", "ctsigprop", "defaults"),
    Entry("fitzhugh_nagumo", "PyCont-Lite", "defaults, steps 0.01"),
    Entry("fitzhugh_nagumo", "PyCont-Lite", "steps 0.001", {"step": 0.001}),
    Entry("fitzhugh_nagumo", "BrainPy", "defaults, 20 values of I"),
    Entry(
        *("fitzhugh_nagumo", "BrainPy", "2000 values of I, w-nullcline solved by hand"),
        {"solved": True, "I": 0.001},
    ),
    Entry("hodgkin_huxley", "ctsigprop", "defaults"),
    # it follows two eigenvalues of four: begun where they are the pair that crosses, or not
    Entry("hodgkin_huxley", "PyCont-Lite", "from I = 0, steps 0.1", {"step": 0.1}),
    Entry("hodgkin_huxley", "PyCont-Lite", "from I = 80, steps 0.1", {"step": 0.1, "start": 80.0}),
    Entry(
        *("hodgkin_huxley", "PyCont-Lite", "from I = 80, v and I in hundreds, steps 0.001"),
        {"step": 0.001, "start": 80.0, "scaled": True},
    ),
    Entry("fitzhugh_nagumo_cycles", "ctsigprop", "defaults"),
    Entry("fitzhugh_nagumo_cycles", "PyCont-Lite", "defaults, steps 0.01"),
    Entry("hodgkin_huxley_cycles", "ctsigprop", "defaults"),
    Entry("portrait", "ctsigprop", "without orbits", {"orbits": 0}),
    Entry("portrait", "ctsigprop", "defaults, 16 orbits besides"),
    Entry("portrait", "BrainPy", "defaults, 20 lines an axis"),
    Entry("portrait", "BrainPy", "200 lines an axis", {"v": 0.025, "w": 0.015}),
]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks dynamics", description=__doc__)
    parser.add_argument("--tasks", default="", help="names separated by commas; all by default")
    add_options(parser)
    given = parser.parse_args(arguments)
    tasks = given.tasks.split(",") if given.tasks else list(TASKS)
    for task in tasks:
        if task not in TASKS:
            parser.error(f"unknown task '{task}'; accepted: {', '.join(TASKS)}")
    check_options(parser, given)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        sys.stdout.write(f"\n{task}: {TASKS[task][0]}\n")
        found = _rows([e for e in ENTRIES if e.task == task], given.peers, given.rounds)
        rows += found
        for row in found:
            sys.stdout.write(_line(row) + "\n")
        sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    rows = _with_kept(rows, tasks)
    (RESULTS / "dynamics.json").write_text(json.dumps(rows, indent=1) + "\n")
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def _with_kept(rows: list[dict[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows, and with them those that are kept of tasks that were not run now."""
    path = RESULTS / "dynamics.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    rows = rows + [row for row in kept if row["task"] not in tasks]
    return sorted(rows, key=lambda row: [*TASKS].index(row["task"]))


def _rows(entries: Sequence[Entry], peers: str, rounds: int) -> list[dict[str, Any]]:
    running: dict[Entry, Contestant] = {}
    for entry in entries:
        try:
            running[entry] = _contestant(entry, peers)
        except MissingError as why:
            sys.stdout.write(f"  {entry.contestant} is skipped: {why}\n")
    try:
        runs = {entry: [contestant.run()] for entry, contestant in running.items()}
        for _ in range(rounds):  # turn by turn
            for entry, contestant in running.items():
                if not runs[entry][0].get("hopeless"):
                    runs[entry].append(contestant.run())
    finally:
        for contestant in running.values():
            contestant.close()
    rows = [_row(entry, _version(entry, peers), done) for entry, done in runs.items()]
    ours = rows[0]["cpu_seconds"]
    for row in rows:
        own = row["cpu_seconds"]
        row["ratio"] = None if own is None or ours is None else round(own / ours, 3)
    return rows


def _python(entry: Entry, peers: str) -> str:
    return sys.executable if entry.contestant == "ctsigprop" else peers


def _contestant(entry: Entry, peers: str) -> Contestant:
    work = PACKAGES[entry.contestant][1].__name__
    options = {"task": entry.task, **entry.options}
    return Contestant("benchmarks.dynamics", work, options, _python(entry, peers), LIMIT)


def _version(entry: Entry, peers: str) -> str:
    return version(PACKAGES[entry.contestant][0], _python(entry, peers))


def _row(entry: Entry, version: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    exact = TASKS[entry.task][1]
    first, *rounds = runs
    times = [run["seconds"] for run in rounds if "failed" not in run]
    note = [run["failed"] for run in runs if "failed" in run][:1]
    note += [run["note"] for run in runs if "note" in run][:1]
    located = [_error(run["hopf"], exact) for run in runs if "hopf" in run]
    errors = [error for error in located if error is not None]
    if located and len(errors) < len(runs):
        note.append(f"both Hopf points in {len(errors)} of {len(runs)} runs")
    if any(len(run.get("hopf", [])) > len(exact) for run in runs):
        note.append("and some that are none")
    return {
        "task": entry.task,
        "contestant": entry.contestant,
        "settings": entry.said,
        "version": version,
        "cpu_seconds": statistics.median(times) if times else None,
        "spread": max(times) - min(times) if times else None,
        "first_cpu_seconds": first.get("seconds"),
        "asked_seconds": ASKED.get(entry.task) if entry.contestant == "ctsigprop" else None,
        "hopf_error": max(errors, default=None),
        "interpolated_error": _error(first.get("interpolated", []), exact),
        "fixed_point_error": _error(first.get("rest", []), [REST]),
        "note": "; ".join(note),
        "rounds": len(times),
    }


def _error(found: Sequence[float], exact: Sequence[float]) -> float | None:
    """Return the largest relative error of what is nearest; none, where one is missed by 1 %."""
    if not found or not exact:
        return None
    errors = [min(abs(value / true - 1) for value in found) for true in exact]
    return max(errors) if max(errors) < 0.01 else None


def _line(row: dict[str, Any]) -> str:
    name = f"{row['contestant']} {row['version']}, {row['settings']}"
    if row["cpu_seconds"] is None:
        return f"  {name:66} {row['note']}"
    errors = {"Hopf": "hopf_error", "interpolated": "interpolated_error"}
    errors |= {"fixed point": "fixed_point_error"}
    told = [f"{said} {row[key]:.0e}" for said, key in errors.items() if row[key] is not None]
    return (
        f"  {name:66} {row['cpu_seconds']:7.3f} s ± {row['spread']:.3f}  "
        f"first {row['first_cpu_seconds']:6.2f} s  x {row['ratio']:6.2f}  "
        f"{', '.join([*told, *filter(None, [row['note']])])}"
    )
