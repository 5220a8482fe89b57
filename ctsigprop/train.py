"""Training: presentations streamed through a learner, epoch by epoch, with nothing lost."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ctsigprop.data import Task
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.solution import root_attributes
from ctsigprop.store import load_checkpoint, match_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["Training", "train"]


@dataclass
class Training:
    """What `train` returns: accuracies by epoch, and the weights before and after.

    Attributes
    ----------
    learner : Sigprop
        With the weights it has now.
    train_accuracy, test_accuracy : list of float
        One for each epoch: of the free outputs during training, and on the test set after it.
    status : str
        "complete", or "interrupted".
    seconds : float
        Wall time spent training.
    """

    learner: Sigprop
    task: Task
    initial: dict[str, Tensor]
    settings: dict[str, Any]
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    status: Literal["complete", "interrupted"] = "complete"
    seconds: float = 0.0

    def to_xarray(
        self, title: str = "ctsigprop training", control: Training | None = None
    ) -> DataTree:
        """Return the run as a labelled tree, with the accuracies of a control beside it.

        Groups: /learning (accuracies by epoch), /weights (initial and final), /responses (outputs
        on the test set), and /control (as /learning) where a control is given.
        """
        import xarray as xr

        groups = {
            "/learning": self._accuracies(),
            "/weights": self._weights(),
            "/responses": self._responses(),
        }
        if control is not None:
            groups["/control"] = control._accuracies()
        tree = xr.DataTree.from_dict(groups)
        tree.attrs = root_attributes(title) | {
            "status": self.status,
            "task": self.task.name,
            "seconds": self.seconds,
            "settings": self.settings,
        }
        return tree

    def _accuracies(self) -> Dataset:
        import numpy as np
        import xarray as xr

        epochs = ("epoch", np.arange(1, len(self.test_accuracy) + 1), {"units": "1"})
        return xr.Dataset(
            {
                "train_accuracy": (
                    "epoch",
                    np.array(self.train_accuracy),
                    {"units": "1", "long_name": "accuracy of the free outputs during training"},
                ),
                "test_accuracy": (
                    "epoch",
                    np.array(self.test_accuracy),
                    {"units": "1", "long_name": "accuracy on the test set"},
                ),
            },
            coords={"epoch": epochs},
        )

    def _weights(self) -> Dataset:
        import numpy as np
        import xarray as xr

        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {"stage": ("stage", ["initial", "final"])}
        for name, final in self.learner.weights.items():
            dims = self.learner.network.variables[name].dims
            values = torch.stack([self.initial[name], final]).cpu().numpy()
            variables[name] = (("stage", *dims), values, {"units": "1"})
            coords |= {d: (d, np.arange(n), {"units": "1"}) for d, n in dims.items()}
        return xr.Dataset(variables, coords=coords)

    def _responses(self) -> Dataset:
        import numpy as np
        import xarray as xr

        outputs = _in_batches(self.learner, torch.as_tensor(self.task.test["input"].values))
        classes = np.array(self.task.classes)
        return xr.Dataset(
            {
                "output": (("sample", "class"), outputs.numpy(), {"units": "1"}),
                "label": ("sample", self.task.test["label"].values, {"units": "1"}),
                "predicted": ("sample", outputs.argmax(-1).numpy(), {"units": "1"}),
            },
            coords={
                "sample": ("sample", self.task.test["sample"].values, {"units": "1"}),
                "class": ("class", classes),
            },
        )


def train(
    learner: Sigprop,
    task: Task,
    *,
    epochs: int = 20,
    batch: int = 20,
    decay: Literal["cosine", "none"] = "cosine",
    noise: float = 0.0,
    seed: int = 0,
    checkpoints: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    label: str = "",
) -> Training:
    """Show a task to a learner again and again; weights are carried from batch to batch.

    Parameters
    ----------
    learner : Sigprop
        What learns; it holds the weights.
    task : Task
        From `ctsigprop.data`.
    epochs, batch : int
        How often every sample is shown, and how many at once.
    decay : {"cosine", "none"}
        Of the learning rates over the epochs: from their value to zero along half a cosine.
    noise : float
        Standard deviation of Gaussian noise on the inputs while training.
    seed : int
        Of the order of presentations and of the noise.
    checkpoints : path, optional
        A folder that receives the weights, the accuracies and the state of the random numbers
        after every epoch.
    resume : bool
        Go on from the newest checkpoint: the result is that of an uninterrupted run.
    progress : bool
        Show a bar with the accuracy and the time left.
    label : str
        What the bar calls this run.

    Returns
    -------
    Training
        With status "interrupted" after Ctrl-C: the weights are those of the last whole batch.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.data import digits
    >>> network = ct.sigprop_network([64, 16, 10])
    >>> run = train(ct.Sigprop(network), digits(), epochs=1)
    >>> len(run.test_accuracy), run.status
    (1, 'complete')
    """
    if epochs < 1 or batch < 1 or noise < 0:
        raise ValueError(
            f"train takes epochs >= 1, batch >= 1, noise >= 0; got {epochs}, {batch}, {noise}"
        )
    if decay not in ("cosine", "none"):
        raise ValueError(f"decay must be 'cosine' or 'none'; got {decay!r}")
    if resume and checkpoints is None:
        raise ValueError("resume=True needs the folder of the checkpoints")
    x = torch.as_tensor(task.train["input"].values)
    labels = torch.as_tensor(task.train["label"].values)
    if x.shape[1] != learner.network.populations["x"].size:
        raise ValueError(
            f"the network takes {learner.network.populations['x'].size} inputs; "
            f"'{task.name}' has {x.shape[1]}"
        )
    settings = {"epochs": epochs, "batch": batch, "decay": decay, "noise": noise, "seed": seed}
    initial = {name: w.clone() for name, w in learner.weights.items()}
    run = Training(learner, task, initial, settings)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    if resume:
        first = _restore(run, Path(checkpoints), generator)  # type: ignore[arg-type]
    bar = _bar(progress, epochs * math.ceil(len(x) / batch), first, epochs, label)
    began = time.perf_counter() - run.seconds
    try:
        for epoch in range(first, epochs):
            learner.scale_rates(
                0.5 * (1 + math.cos(math.pi * epoch / epochs)) if decay == "cosine" else 1.0
            )
            right = 0
            for chosen in torch.split(torch.randperm(len(x), generator=generator), batch):
                shown = x[chosen]
                if noise:
                    shown = shown + noise * torch.randn(shown.shape, generator=generator)
                free = learner.present(shown, labels[chosen])
                right += int((free.argmax(-1) == labels[chosen]).sum())
                bar.update()
            run.train_accuracy.append(right / len(x))
            run.test_accuracy.append(accuracy(learner, task.test))
            run.seconds = time.perf_counter() - began
            bar.set_postfix_str(f"test accuracy {run.test_accuracy[-1]:.1%}")
            if checkpoints is not None:
                _keep(run, Path(checkpoints), epoch + 1, generator)
    except KeyboardInterrupt:
        run.status = "interrupted"
    finally:
        bar.close()
        learner.scale_rates(1.0)
    run.seconds = time.perf_counter() - began
    return run


def accuracy(learner: Sigprop, part: Dataset) -> float:
    """Return the fraction of samples whose strongest output is their label's.

    A tie, such as a row of silent outputs, is never counted as right.
    """
    outputs = _in_batches(learner, torch.as_tensor(part["input"].values))
    labels = torch.as_tensor(part["label"].values)
    best, predicted = outputs.max(-1)
    alone = (outputs == best.unsqueeze(-1)).sum(-1) == 1
    return float(((predicted == labels) & alone).double().mean())


def _in_batches(learner: Sigprop, x: Tensor) -> Tensor:
    return torch.cat([learner.respond(part) for part in torch.split(x, 1000)])


def _keep(run: Training, folder: Path, epoch: int, generator: torch.Generator) -> None:
    arrays = {
        **{f"weights.{k}": v for k, v in run.learner.weights.items()},
        **{f"initial.{k}": v for k, v in run.initial.items()},
        "generator": generator.get_state(),
        "train_accuracy": torch.tensor(run.train_accuracy, dtype=torch.float64),
        "test_accuracy": torch.tensor(run.test_accuracy, dtype=torch.float64),
    }
    save_checkpoint(folder, epoch, arrays, {"settings": run.settings, "seconds": run.seconds})


def _restore(run: Training, folder: Path, generator: torch.Generator) -> int:
    kept = load_checkpoint(folder)
    if kept.state["settings"] != run.settings:
        raise ValueError(
            f"the checkpoint was made with {kept.state['settings']}, this run has {run.settings}"
        )
    weights = {k: v for k, v in kept.arrays.items() if k.startswith("weights.")}
    match_checkpoint(
        type(kept)(kept.step, weights, kept.state),
        {f"weights.{k}": tuple(v.shape) for k, v in run.learner.weights.items()},
    )
    run.learner.weights = {k.removeprefix("weights."): v for k, v in weights.items()}
    run.initial = {
        k.removeprefix("initial."): v for k, v in kept.arrays.items() if k.startswith("initial.")
    }
    generator.set_state(kept.arrays["generator"])
    run.train_accuracy = kept.arrays["train_accuracy"].tolist()
    run.test_accuracy = kept.arrays["test_accuracy"].tolist()
    run.seconds = float(kept.state["seconds"])
    return kept.step


def _bar(progress: bool, total: int, first: int, epochs: int, label: str) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=total * first // epochs,
        desc=label or None,
        disable=not progress,
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
    )
