"""``ctsigprop learn``: a network learns images from a forward signal, beside a frozen control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

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
from ctsigprop.data import digits, load
from ctsigprop.errors import unknown
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.models.networks import sigprop_network
from ctsigprop.train import Training, train

__all__ = ["learn"]


#: Learning rates of the first layer, the layers between, and the output, for every rule.
RATES = {
    "tagged": (0.5, 0.5, 0.5),
    "delta": (0.5, 0.5, 0.5),
    "contrastive": (0.1, 0.05, 0.03),
    "differential": (0.03, 0.03, 0.03),
}


def learn(
    data: Annotated[str, typer.Option(help="'digits', or a folder with MNIST's four files.")] = (
        "digits"
    ),
    hidden: Annotated[str, typer.Option(help="Units of the hidden layers.")] = "100,100",
    form: Annotated[
        str, typer.Option(help="The signal into the first layer: 'loop', the output; or 'label'.")
    ] = "loop",
    rule: Annotated[
        str, typer.Option(help=f"How a weight moves; one of: {', '.join(RATES)}.")
    ] = "tagged",
    eta: Annotated[str, typer.Option(help="Learning rates: one a layer, or one for all.")] = "",
    strength: Annotated[float, typer.Option(help="Of the signal into the first layer.")] = 0.3,
    epochs: Annotated[int, typer.Option(min=1, help="How often each sample is shown.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Samples shown at once.")] = 20,
    noise: Annotated[
        float, typer.Option(min=0, help="Gaussian, on the inputs while training.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, split and order.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the processor.")] = 1,
    device: Device = "cpu",
    control: Annotated[bool, typer.Option(help="Also train with frozen hidden weights.")] = True,
    control_eta: Annotated[float, typer.Option(help="Output rate of that control.")] = 1.0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in --out.")] = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on images by a forward learning signal and Hebbian plasticity."""
    with refusals():
        torch.set_num_threads(threads)
        check_device(device)
        if rule not in RATES:
            raise ValueError(unknown("rule", rule, RATES))
        check_resume(resume, overwrite, out)
        units, rates = numbers_of("hidden", hidden, int), numbers_of("eta", eta, float)
        task = digits(seed=seed) if data == "digits" else load(data)
        sizes = [task.train.sizes["pixel"], *units, len(task.classes)]
        layers = len(sizes) - 1
        rates = _by_layer(rates or RATES[rule], layers)
        learners = {"sigprop": _learner(sizes, form, rule, rates, strength, "all", seed)}
        if control:  # at the rate that is best for it, not at that of the network
            own = [control_eta] * layers
            learners["frozen"] = _learner(sizes, form, rule, own, strength, "output", seed)
        with new_folder(out, "learn", overwrite or resume) as folder:
            clear(folder, resume, overwrite)
            runs: dict[str, Training] = {}
            for name, learner in learners.items():
                learner.to(device)
                kept = folder / "checkpoints" / name
                runs[name] = train(
                    learner,
                    task,
                    epochs=epochs,
                    batch=batch,
                    noise=noise,
                    seed=seed,
                    checkpoints=kept,
                    resume=resume and any(kept.glob("step_*.npz")),
                    progress=not as_json,
                    label=name,
                )
                if runs[name].status == "interrupted":
                    break
            stopped = any(r.status == "interrupted" for r in runs.values())
            shape = "-".join(map(str, sizes))
            title = f"sigprop on {task.name}: {form} form, {rule} rule, {shape}"
            run, frozen = runs["sigprop"], runs.get("frozen")
            lines = _summary(title, run, frozen, folder)
            write(folder, run.to_xarray(title=title, control=frozen), lines)
            numbers = {
                "test_accuracy": _last(run),
                "frozen_accuracy": None if frozen is None else _last(frozen),
                "seconds": round(sum(r.seconds for r in runs.values()), 2),
                "epochs": len(run.test_accuracy),
                "seed": seed,
                "status": "interrupted" if stopped else "complete",
                "out": str(folder),
            }
            say(lines, folder, numbers if as_json else None)
    if stopped:
        raise typer.Exit(130)


def _learner(
    sizes: list[int],
    form: str,
    rule: str,
    rates: list[float],
    strength: float,
    learning: str,
    seed: int,
) -> ContinuousSigprop:
    network = sigprop_network(
        sizes,
        form=form,  # type: ignore[arg-type]
        rule="differential" if rule == "differential" else "tagged",
        eta=rates,
        strength=strength,
        learning=learning,  # type: ignore[arg-type]
        seed=seed,
    )
    update = rule if rule in ("delta", "contrastive") else "integrated"
    return ContinuousSigprop(network, update=update)  # type: ignore[arg-type]


def _by_layer(rates: Sequence[float], layers: int) -> list[float]:
    """Return one rate a layer from one for all, from a default of three, or from one a layer."""
    if len(rates) == 1:
        return list(rates) * layers
    if isinstance(rates, tuple):
        return [rates[0], *[rates[1]] * (layers - 2), rates[2]]
    return list(rates)


def _last(run: Training) -> float | None:
    return run.test_accuracy[-1] if run.test_accuracy else None


def _summary(title: str, run: Training, frozen: Training | None, folder: Path) -> list[str]:
    train, test = (part.sizes["sample"] for part in (run.task.train, run.task.test))
    epochs, seed = run.settings["epochs"], run.settings["seed"]
    lines = [
        title,
        f"{train} training and {test} test samples, {epochs} epochs, seed {seed}, "
        f"{run.seconds:.0f} s",
    ]
    for name, part in (("all layers learning", run), ("hidden weights frozen", frozen)):
        if part is None:
            continue
        if part.status == "interrupted":
            lines.append(
                f"{name}: interrupted after {len(part.test_accuracy)} epochs; "
                f"the same options with --resume --out {folder} go on"
            )
        if part.test_accuracy:
            lines.append(f"test accuracy {part.test_accuracy[-1]:.2%}, {name}")
    return lines
