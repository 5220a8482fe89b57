"""``ctsigprop learn``: a network learns images from a forward signal, beside a frozen control."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import torch
import typer

from ctsigprop.cli.run import AsJson, Out, Overwrite, new_folder, refusals, say, write
from ctsigprop.data import Task, digits, load
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.networks import sigprop_network
from ctsigprop.train import Training, train

__all__ = ["learn"]


class Form(StrEnum):
    """Where the learning signal comes from."""

    LOOP = "loop"
    LABEL = "label"


class Rule(StrEnum):
    """How a weight moves."""

    TAGGED = "tagged"
    DIFFERENTIAL = "differential"
    DELTA = "delta"
    CONTRASTIVE = "contrastive"


#: Learning rates of the first layer, the layers between, and the output.
RATES = {
    Rule.TAGGED: (0.5, 0.25, 0.1),
    Rule.DELTA: (0.5, 0.25, 0.1),
    Rule.CONTRASTIVE: (0.1, 0.05, 0.03),
    Rule.DIFFERENTIAL: (0.03, 0.03, 0.03),
}


def learn(
    data: Annotated[str, typer.Option(help="'digits', or a folder with MNIST's four files.")] = (
        "digits"
    ),
    hidden: Annotated[str, typer.Option(help="Units of the hidden layers.")] = "256,256",
    form: Annotated[Form, typer.Option(help="Where the learning signal enters from.")] = Form.LOOP,
    rule: Annotated[Rule, typer.Option(help="How a weight moves.")] = Rule.TAGGED,
    eta: Annotated[str, typer.Option(help="Learning rates: one a layer, or one for all.")] = "",
    strength: Annotated[float, typer.Option(help="Of the signal into the first layer.")] = 0.3,
    epochs: Annotated[int, typer.Option(min=1, help="How often each sample is shown.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Samples shown at once.")] = 20,
    noise: Annotated[float, typer.Option(min=0, help="On the inputs while training.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, split and order.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the processor.")] = 1,
    control: Annotated[bool, typer.Option(help="Also train with frozen hidden weights.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in --out.")] = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on images by a forward learning signal and Hebbian plasticity."""
    with refusals():
        folder = new_folder(out, "learn", overwrite or resume)
        torch.set_num_threads(threads)
        task = digits(seed=seed) if data == "digits" else load(data)
        sizes = [task.train.sizes["pixel"], *_numbers(hidden, int), len(task.classes)]
        layers = len(sizes) - 1
        rates = _numbers(eta, float) if eta else _by_layer(RATES[rule], layers)
        rates = rates * layers if len(rates) == 1 else rates
        runs: dict[str, Training] = {}
        for name in ("sigprop", "frozen") if control else ("sigprop",):
            network = sigprop_network(
                sizes,
                form="loop" if form is Form.LOOP else "label",
                rule="differential" if rule is Rule.DIFFERENTIAL else "tagged",
                eta=rates,
                strength=strength,
                learning="all" if name == "sigprop" else "output",
                seed=seed,
            )
            learner = Sigprop(network)
            if rule in (Rule.DELTA, Rule.CONTRASTIVE):
                update = "delta" if rule is Rule.DELTA else "contrastive"
                learner = Sigprop(network, update=update)  # type: ignore[arg-type]
            kept = folder / "checkpoints" / name
            runs[name] = train(
                learner,
                task,
                epochs=epochs,
                batch=batch,
                noise=noise,
                seed=seed,
                checkpoints=kept,
                resume=resume and kept.exists(),
                progress=not as_json,
                label=name,
            )
            if runs[name].status == "interrupted":
                break
        shape = "-".join(map(str, sizes))
        title = f"sigprop on {task.name}: {form} form, {rule} rule, {shape}"
        run, frozen = runs["sigprop"], runs.get("frozen")
        lines = _summary(title, run, frozen, task)
        write(folder, run.to_xarray(title=title, control=frozen), lines)
        numbers = {
            "test_accuracy": _last(run),
            "frozen_accuracy": None if frozen is None else _last(frozen),
            "seconds": round(sum(r.seconds for r in runs.values()), 2),
            "epochs": len(run.test_accuracy),
            "seed": seed,
            "status": run.status,
            "out": str(folder),
        }
        say(lines, folder, numbers if as_json else None)
    if any(r.status == "interrupted" for r in runs.values()):
        raise typer.Exit(130)


def _numbers(text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"'{text}' must be numbers separated by commas") from None


def _by_layer(rates: tuple[float, float, float], layers: int) -> list[float]:
    first, middle, last = rates
    return [first, *[middle] * (layers - 2), last]


def _last(run: Training) -> float | None:
    return run.test_accuracy[-1] if run.test_accuracy else None


def _summary(title: str, run: Training, frozen: Training | None, task: Task) -> list[str]:
    samples = f"{task.train.sizes['sample']} training and {task.test.sizes['sample']} test samples"
    settings = run.settings
    lines = [
        title,
        f"{samples}, {settings['epochs']} epochs, seed {settings['seed']}, {run.seconds:.0f} s",
    ]
    for name, part in (("all layers learning", run), ("hidden weights frozen", frozen)):
        if part is None:
            continue
        if part.status == "interrupted":
            lines.append(
                f"{name}: interrupted after {len(part.test_accuracy)} epochs; "
                "the same command with --resume goes on"
            )
        if part.test_accuracy:
            lines.append(f"test accuracy {part.test_accuracy[-1]:.2%}, {name}")
    return lines
