"""Learning rules side by side: the same task, the same units, the same number of presentations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ctsigprop.analyses.alignment import alignment
from ctsigprop.analyses.cost import cost
from ctsigprop.analyses.energy import energy
from ctsigprop.analyses.needs import needs, side_by_side
from ctsigprop.analyses.statistics import activity_statistics, weight_statistics
from ctsigprop.data import Task
from ctsigprop.errors import IntegrationError
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.learning.forward_forward import ForwardForward
from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.learning.learner import Learner
from ctsigprop.solution import root_attributes
from ctsigprop.train import Training, train

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["Comparison", "compare"]

ALIGNED = 200
"""Training samples whose update is compared with that of backpropagation."""


@dataclass
class Comparison:
    """What `compare` returns: every run that there is, by rule and seed.

    Attributes
    ----------
    runs : dict of (str, int) to Training
        Those that are whole.
    failures : dict of (str, int) to str
        What stopped a run whose numerics failed.
    rules, seeds : tuple
        What was asked for.
    plausibility : dict of (str, int) to Dataset
        What each rule needs, by `needs`, and its `alignment`, after it has learned.
    measures : dict of (str, int) to Dataset
        The `cost` and the `energy` of a presentation, and the statistics of weights and activities.
    status : str
        "complete", or "interrupted".
    """

    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    runs: dict[tuple[str, int], Training] = field(default_factory=dict)
    failures: dict[tuple[str, int], str] = field(default_factory=dict)
    plausibility: dict[tuple[str, int], Dataset] = field(default_factory=dict)
    measures: dict[tuple[str, int], Dataset] = field(default_factory=dict)
    status: Literal["complete", "interrupted"] = "complete"

    def to_xarray(self, title: str = "ctsigprop comparison of learning rules") -> DataTree:
        """Return the runs as a labelled tree, /comparison with dims rule, seed and epoch.

        What an interruption left out is NaN. In /plausibility and /measures there are the rules
        that were measured, with dims rule, seed and layer.
        """
        import xarray as xr

        groups = {"/comparison": self._accuracies()}
        for name in ("plausibility", "measures"):
            if getattr(self, name):
                groups[f"/{name}"] = self._measured(getattr(self, name))
        tree = xr.DataTree.from_dict(groups)
        failures = [f"{rule}, seed {seed}: {why}" for (rule, seed), why in self.failures.items()]
        tree.attrs = root_attributes(title) | {"status": self.status, "failures": failures}
        for run in self.runs.values():
            tree.attrs |= {"task": run.task.name}
        return tree

    def _measured(self, measured: Mapping[tuple[str, int], Dataset]) -> Dataset:
        """Return what was measured of every rule with the seeds that all of them have."""
        import xarray as xr

        rules = [rule for rule in self.rules if any(r == rule for r, _ in measured)]
        seeds = [s for s in self.seeds if all((rule, s) in measured for rule in rules)]
        by_rule = {}
        for rule in rules:
            found = {seed: measured[rule, seed] for seed in seeds or self.seeds[:1]}
            by_rule[rule] = side_by_side(found, xr.Variable("seed", [*found], {"units": "1"}))
        return side_by_side(by_rule, "rule")

    def _accuracies(self) -> Dataset:
        import numpy as np
        import xarray as xr

        shape = (len(self.rules), len(self.seeds), self.epochs)
        train, test = np.full(shape, np.nan), np.full(shape, np.nan)
        seconds = np.full(shape[:2], np.nan)
        for (rule, seed), run in self.runs.items():
            at = self.rules.index(rule), self.seeds.index(seed)
            train[at], test[at] = run.train_accuracy, run.test_accuracy
            seconds[at] = run.seconds
        dims = ("rule", "seed", "epoch")
        missing = {"missing": "NaN where a run was not made"} if np.isnan(seconds).any() else {}
        return xr.Dataset(
            {
                "train_accuracy": (
                    dims,
                    train,
                    {"units": "1", "long_name": "accuracy while training"} | missing,
                ),
                "test_accuracy": (
                    dims,
                    test,
                    {"units": "1", "long_name": "accuracy on the test set"} | missing,
                ),
                "seconds": (
                    dims[:2],
                    seconds,
                    {"units": "s", "long_name": "time spent training"} | missing,
                ),
            },
            coords={
                "rule": ("rule", list(self.rules)),
                "seed": ("seed", list(self.seeds), {"units": "1"}),
                "epoch": ("epoch", np.arange(1, self.epochs + 1), {"units": "1"}),
            },
        )


def compare(
    rules: Mapping[str, Callable[[int], Learner]],
    task: Task | Callable[[int], Task],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    batch: int = 20,
    noise: float = 0.0,
    decay: Literal["cosine", "none"] = "cosine",
    checkpoints: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    plausibility: bool = True,
) -> Comparison:
    """Train every rule with every seed on the same presentations, and keep what is done.

    Parameters
    ----------
    rules : mapping of str to callable
        Makes the learner of a rule from a seed.
    task : Task or callable
        What is learned, or what makes it from a seed.
    seeds : sequence of int
        Of weights, order of presentations and noise.
    epochs, batch, noise, decay
        As in `train`, the same for all.
    checkpoints : path, optional
        A folder that receives the state of every run after every epoch.
    resume : bool
        Go on from there: runs that are done are read, not made again.
    progress : bool
        Show a bar for each run.
    plausibility : bool
        Measure each rule when it has learned: what it needs, on one training sample of each class;
        its angles to backpropagation, on the first 200; the cost of a presentation; statistics.

    Raises
    ------
    ValueError
        No rule or no seed, a seed that comes twice, and what `train` refuses.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.data import digits
    >>> def rule(seed):
    ...     return ct.Backpropagation(ct.Layers.dense([64, 16, 10], seed=seed))
    >>> table = compare({"backpropagation": rule}, digits, seeds=[0, 1], epochs=1).to_xarray()
    >>> dict(table["comparison/test_accuracy"].sizes)
    {'rule': 1, 'seed': 2, 'epoch': 1}
    """
    if not rules:
        raise ValueError("rules needs at least one rule")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one; got {list(seeds)}")
    found = Comparison(tuple(rules), tuple(seeds), epochs)
    tasks = {seed: task(seed) if callable(task) else task for seed in seeds}
    for seed in seeds:  # seed by seed, so that an interruption leaves whole comparisons
        for name, make in rules.items():
            folder = None if checkpoints is None else Path(checkpoints) / f"{name}-{seed}"
            begun = folder is not None and any(folder.glob("step_*.npz"))
            learner = make(seed)
            try:
                run = train(
                    learner,
                    tasks[seed],
                    epochs=epochs,
                    batch=batch,
                    noise=noise,
                    decay=decay,
                    seed=seed,
                    checkpoints=folder,
                    resume=resume and begun,
                    progress=progress,
                    label=f"{name}, seed {seed}",
                )
            except IntegrationError as error:  # one rule's trouble is not the others'
                found.failures[name, seed] = str(error)
                continue
            if run.status == "interrupted":
                found.status = "interrupted"
                return found
            found.runs[name, seed] = run
            if not plausibility:
                continue
            try:
                found.measures[name, seed] = _measures(learner, tasks[seed], batch)
                needed = _plausibility(learner, tasks[seed])
            except KeyboardInterrupt:
                found.status = "interrupted"
                return found
            if needed is not None:
                found.plausibility[name, seed] = needed
    return found


def _plausibility(learner: Learner, task: Task) -> Dataset | None:
    """Return what a rule needs and its angles to backpropagation; None where neither applies."""
    import xarray as xr

    if not isinstance(learner, ContinuousSigprop | LayerRule):
        return None
    x, labels = _samples(learner, task)
    first = [int((labels == label).nonzero()[0]) for label in sorted({*labels.tolist()})]
    try:
        found = needs(learner, x[first], labels[first])
    except ValueError:  # one hidden layer, or weights that have come to rest
        return None
    if isinstance(learner, ForwardForward):  # whose network has no output that errs
        return found
    angles = alignment(learner, x[:ALIGNED], labels[:ALIGNED])
    return xr.merge([found, angles], join="outer")


def _measures(learner: Learner, task: Task, batch: int) -> Dataset:
    """Return what a presentation costs, and the statistics of weights and activities."""
    import xarray as xr

    x, labels = _samples(learner, task)
    kept = {name: value.clone() for name, value in learner.snapshot().items()}
    try:
        paid = cost(learner, x[:batch], labels[:batch])
    finally:
        learner.restore(kept)
    weights, shown = weight_statistics(learner), activity_statistics(learner, x[:ALIGNED])
    parts = [
        paid,
        energy(learner, x[:batch], labels[:batch]),
        weights.rename({name: f"weight_{name}" for name in weights.data_vars}),
        shown.rename({name: f"activity_{name}" for name in shown.data_vars}),
    ]
    renamed = {"operations": "operations_a_sample", "words": "words_a_sample"}
    parts[1] = parts[1].rename({k: v for k, v in renamed.items() if k in parts[1]})
    return xr.merge(parts, join="outer")


def _samples(learner: Learner, task: Task) -> tuple[Tensor, Tensor]:
    """Return the training samples in the type of the weights, and where they are."""
    labels = torch.as_tensor(task.train["label"].values).to(learner.device)
    like = next(iter(learner.weights.values()))
    return torch.as_tensor(task.train["input"].values).to(like), labels
