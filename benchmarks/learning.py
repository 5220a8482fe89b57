"""Test errors of the learning rules: ``python -m benchmarks learning --data FOLDER``.

Each run is a process of its own with one thread; a run that has been made is not made again. The
table, one row a rule, is written beside the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str]) -> int:
    from benchmarks.recipes import RECIPES

    parser = argparse.ArgumentParser(prog="python -m benchmarks learning", description=__doc__)
    parser.add_argument("--data", default="digits", help="'digits', or a folder with MNIST's files")
    parser.add_argument("--rules", default="", help="names separated by commas; all by default")
    parser.add_argument("--seeds", default="0,1,2", help="numbers separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", action="store_true", help="print the rows as one last line")
    parser.add_argument("--list", action="store_true", help="list the rules and their options")
    parser.add_argument("--run", nargs=2, metavar=("RULE", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    data = "digits" if given.data == "digits" else "mnist"
    recipes = {name: recipe for (of, name), recipe in RECIPES.items() if of == data}
    if given.list:
        for name, recipe in recipes.items():
            sys.stdout.write(f"{name}: {recipe}\n")
        return 0
    rules = given.rules.split(",") if given.rules else list(recipes)
    for rule in rules:
        if rule not in recipes:
            parser.error(f"unknown rule '{rule}' on {data}; accepted: {', '.join(recipes)}")
    if given.run:
        rule, seed = given.run
        sys.stdout.write(json.dumps(_train(rule, given.data, data, int(seed))) + "\n")
        return 0
    seeds = [int(seed) for seed in given.seeds.split(",")]
    missing = [(r, s) for r in rules for s in seeds if not _kept(data, r, s, recipes[r]).exists()]
    _run_all(missing, given.data, given.jobs)
    rows = _table(data, recipes)
    for row in rows:
        sys.stdout.write(
            f"{row['rule']:24} {row['network']:24} {row['test_error_percent']:6.2f} % "
            f"± {row['spread']:.2f}  seeds {row['seeds']}  {row['seconds']:.0f} s  "
            f"{row['peak_memory_mb']:.0f} MB\n"
        )
    if given.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def _kept(data: str, rule: str, seed: int, recipe: Any) -> Path:
    """Return the file of a run: another recipe is another file, so that none is mistaken."""
    return RESULTS / "by_seed" / f"{data}-{rule}-{recipe.fingerprint}-{seed}.json"


def _run_all(missing: list[tuple[str, int]], data: str, jobs: int) -> None:
    waiting, running = list(missing), []
    while waiting or running:
        while waiting and len(running) < jobs:
            rule, seed = waiting.pop(0)
            command = [sys.executable, "-m", "benchmarks", "learning", "--data", data]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            process = subprocess.Popen(
                [*command, "--run", rule, str(seed)], env=environment, stdout=subprocess.PIPE
            )
            running.append((rule, seed, process))
        rule, seed, process = running.pop(0)
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{rule}, seed {seed}: the run ended with {process.returncode}")
        row = json.loads(output.decode().splitlines()[-1])
        sys.stdout.write(f"{rule}, seed {seed}: {row['test_error_percent']:.2f} %\n")
        sys.stdout.flush()


def _train(rule: str, source: str, data: str, seed: int) -> dict[str, Any]:
    import resource

    import torch

    from benchmarks.recipes import RECIPES
    from ctsigprop.data import digits, load
    from ctsigprop.train import train

    torch.set_num_threads(1)
    recipe = RECIPES[data, rule]
    task = digits(seed=seed) if source == "digits" else load(source)
    learner = recipe.build(seed)
    kept = RESULTS / "checkpoints" / f"{data}-{rule}-{recipe.fingerprint}-{seed}"
    run = train(
        learner,
        task,
        seed=seed,
        checkpoints=kept,
        resume=any(kept.glob("step_*.npz")),
        progress=sys.stderr.isatty(),
        label=rule,
        **recipe.train,
    )
    if run.status == "interrupted":
        raise SystemExit(130)
    row = {
        "rule": rule,
        "data": data,
        "network": recipe.network,
        "seed": seed,
        "test_error_percent": 100 * (1 - run.test_accuracy[-1]),
        "train_error_percent": 100 * (1 - run.train_accuracy[-1]),
        "test_error_by_epoch": [round(100 * (1 - a), 3) for a in run.test_accuracy],
        "seconds": run.seconds,
        "cpu_seconds": time.process_time(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "recipe": str(recipe),
        "torch": torch.__version__,
    }
    path = _kept(data, rule, seed, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row, indent=1) + "\n")
    return row


def _table(data: str, recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each rule from the runs that there are, and write them."""
    rows = []
    for rule, recipe in recipes.items():
        files = sorted((RESULTS / "by_seed").glob(f"{data}-{rule}-{recipe.fingerprint}-*.json"))
        runs = [json.loads(file.read_text()) for file in files]
        if not runs:
            continue
        errors = [run["test_error_percent"] for run in runs]
        rows.append(
            {
                "rule": rule,
                "data": data,
                "network": recipe.network,
                "seeds": sorted(run["seed"] for run in runs),
                "test_error_percent": statistics.mean(errors),
                "spread": statistics.stdev(errors) if len(errors) > 1 else 0.0,
                "published_percent": recipe.published,
                # one thread; a run that was interrupted tells the time of its rest only
                "seconds": max(run["cpu_seconds"] for run in runs),
                "wall_seconds": statistics.mean(run["seconds"] for run in runs),
                "peak_memory_mb": max(run["peak_memory_mb"] for run in runs),
                "recipe": str(recipe),
            }
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"learning-{data}.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows
