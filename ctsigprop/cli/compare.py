"""``ctsigprop compare``: learning rules side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from ctsigprop.analyses.needs import summary, verdict
from ctsigprop.cli.run import (
    AsJson,
    Device,
    Out,
    Overwrite,
    check_device,
    check_resume,
    clear,
    new_folder,
    numbers_of,
    refusals,
    say,
    write,
)
from ctsigprop.compare import compare as compare_rules
from ctsigprop.data import digits, load
from ctsigprop.errors import unknown
from ctsigprop.learning.catalogue import RULES, build
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import DataArray, Dataset, DataTree

__all__ = ["compare"]


def compare(
    rules: Annotated[str, typer.Option(help=f"Some of: {', '.join(RULES)}; or 'all'.")] = (
        "sigprop-loop,sigprop-label,frozen,backpropagation"
    ),
    data: Annotated[str, typer.Option(help="'digits', or a folder with MNIST's four files.")] = (
        "digits"
    ),
    hidden: Annotated[str, typer.Option(help="Units of the hidden layers.")] = "100,100",
    seeds: Annotated[str, typer.Option(help="Of weights, split and order.")] = "0,1,2",
    epochs: Annotated[int, typer.Option(min=1, help="How often each sample is shown.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Samples shown at once.")] = 20,
    noise: Annotated[
        float, typer.Option(min=0, help="Gaussian, on the inputs while training.")
    ] = 0.1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the processor.")] = 1,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in --out.")] = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train several learning rules on the same task, with the same effort, and compare them."""
    with refusals():
        torch.set_num_threads(threads)
        check_device(device)
        names = list(RULES) if rules == "all" else rules.split(",")
        for name in names:
            if name not in RULES:
                raise ValueError(unknown("rule", name, RULES))
        check_resume(resume, overwrite, out)
        units, numbers = numbers_of("hidden", hidden, int), numbers_of("seeds", seeds, int)
        task = digits if data == "digits" else load(data)
        first = digits() if callable(task) else task
        sizes = [first.train.sizes["pixel"], *units, len(first.classes)]
        with new_folder(out, "compare", overwrite or resume) as folder:
            clear(folder, resume, overwrite)
            found = compare_rules(
                {name: partial(_made, name, sizes, device) for name in names},
                task,
                seeds=numbers,
                epochs=epochs,
                batch=batch,
                noise=noise,
                checkpoints=folder / "checkpoints",
                resume=resume,
                progress=not as_json,
            )
            shape = "-".join(map(str, sizes))
            tree = found.to_xarray(f"learning rules on {first.name}, {shape}, {epochs} epochs")
            lines = [
                tree.attrs["title"],
                f"seeds {', '.join(map(str, numbers))}; noise {noise:g}; batch {batch}",
                *_table(tree["comparison"].to_dataset()),
            ]
            lines += _needs(tree)
            lines += [f"failed: {failure}" for failure in tree.attrs["failures"]]
            if found.status == "interrupted":
                lines.append(f"interrupted: the same options with --resume --out {folder} go on")
            write(folder, tree, [*lines, *_evidence(tree)])
            say(lines, folder, _summary(tree["comparison"].to_dataset()) if as_json else None)
    if found.status == "interrupted":
        raise typer.Exit(130)


def _made(rule: str, sizes: list[int], device: str, seed: int) -> Learner:
    return build(rule, sizes, seed).to(device)


def _table(data: Dataset) -> list[str]:
    """Return a line for each rule: its test error, mean and spread over the seeds, and its time."""
    last = 100 * (1 - data["test_accuracy"].isel(epoch=-1))
    mean, spread = last.mean("seed"), last.std("seed", ddof=1 if last.sizes["seed"] > 1 else 0)
    lines = []
    for rule in mean["rule"].values[mean.argsort().values]:
        here, seconds = float(mean.sel(rule=rule)), float(data["seconds"].sel(rule=rule).mean())
        lines.append(
            f"{rule:28} test error {here:6.2f} % ± {float(spread.sel(rule=rule)):.2f}, "
            f"{seconds:.1f} s a run"
        )
    return lines


def _needs(tree: DataTree) -> list[str]:
    """Return a line for each rule that was measured: what it needs, by its first seed."""
    return [f"{rule:28} {summary(found)}" for rule, found in _measured(tree)]


def _evidence(tree: DataTree) -> list[str]:
    """Return the same with the evidence for each criterion."""
    lines = []
    for rule, found in _measured(tree):
        lines += ["", f"{rule}: what it needs, from interventions after learning", *verdict(found)]
    return lines


def _measured(tree: DataTree) -> Iterator[tuple[str, Dataset]]:
    if "plausibility" not in tree.children:
        return
    table = tree["plausibility"].to_dataset().isel(seed=0)
    for rule in table["rule"].values:
        found = table.sel(rule=rule)
        yield str(rule), found.sel(layer=found["passes"] >= 0)


def _summary(data: Dataset) -> Mapping[str, Any]:
    last = 100 * (1 - data["test_accuracy"].isel(epoch=-1))
    return {
        "rules": {
            str(rule): {
                "test_error_percent": _known(last.sel(rule=rule).mean()),
                "by_seed": [_known(value) for value in last.sel(rule=rule)],
                "seconds": _known(data["seconds"].sel(rule=rule).mean()),
            }
            for rule in last["rule"].values
        }
    }


def _known(value: DataArray) -> float | None:
    """Return a number, or None for NaN, which JSON has not."""
    return None if bool(value.isnull()) else float(value)
