"""Training: presentations streamed through a learner, epoch by epoch, with nothing lost."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ctsigprop.data import Task
from ctsigprop.errors import StoreExistsError, unknown
from ctsigprop.learning.learner import Learner
from ctsigprop.solution import root_attributes
from ctsigprop.store import Checkpoint, load_checkpoint, match_checkpoint, save_checkpoint
from ctsigprop.store.files import check_folder

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["Training", "accuracy", "train"]


@dataclass
class Training:
    """What `train` returns: accuracies by epoch, and the weights before and after.

    Attributes
    ----------
    learner : Learner
        With the weights it has now.
    task : Task
        What it was shown.
    initial : dict of str to Tensor
        The weights before the first epoch.
    settings : dict
        All that decides the result: what `train` was given, the learner's settings, and
        fingerprints of its network and of the data.
    train_accuracy, test_accuracy : list of float
        One for each epoch: of the free outputs during training, and on the test set after it.
    status : str
        "complete", or "interrupted".
    seconds : float
        Wall time spent training.
    """

    learner: Learner
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
            "image_shape": self.task.train.attrs.get("image_shape"),
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
            attrs={"status": self.status, "seconds": self.seconds},
        )

    def _weights(self) -> Dataset:
        import numpy as np
        import xarray as xr

        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {"stage": ("stage", ["initial", "final"])}
        for name, final in self.learner.weights.items():
            dims = self.learner.dims(name)
            values = torch.stack([self.initial[name], final]).cpu().numpy()
            variables[name] = (("stage", *dims), values, {"units": "1"})
            sizes = zip(dims, final.shape, strict=True)
            coords |= {d: (d, np.arange(n), {"units": "1"}) for d, n in sizes}
        return xr.Dataset(variables, coords=coords)

    def _responses(self) -> Dataset:
        import numpy as np
        import xarray as xr

        outputs = _in_batches(self.learner, _tensors(self.task.test)[0])
        classes = np.array(self.task.classes)
        return xr.Dataset(
            {
                "output": (("sample", "class"), outputs.numpy(), {"units": "1"}),
                "label": ("sample", self.task.test["label"].values, {"units": "1"}),
                "predicted": (
                    "sample",
                    _winners(outputs).numpy(),
                    {"units": "1", "long_name": "class of the strongest output; -1 for a tie"},
                ),
            },
            coords={
                "sample": ("sample", self.task.test["sample"].values, {"units": "1"}),
                "class": ("class", classes),
            },
        )


def train(
    learner: Learner,
    task: Task,
    *,
    epochs: int = 20,
    batch: int = 20,
    decay: Literal["cosine", "none"] = "cosine",
    noise: float = 0.0,
    jitter: int = 0,
    seed: int = 0,
    checkpoints: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    label: str = "",
) -> Training:
    """Show a task to a learner again and again; weights are carried from batch to batch.

    Parameters
    ----------
    learner : Learner
        What learns; it holds the weights.
    task : Task
        From `ctsigprop.data`.
    epochs, batch : int
        How often every sample is shown, and how many at once.
    decay : {"cosine", "none"}
        Of the learning rates over the epochs: from their value to zero along half a cosine.
    noise : float
        Standard deviation of Gaussian noise on the inputs while training.
    jitter : int
        The most pixels by which each image is shifted, both ways at random, while training; what
        comes in at its edge is zero.
    seed : int
        Of the order of presentations and of the noise.
    checkpoints : path, optional
        A folder that receives the weights, the accuracies and the state of the random numbers
        after every epoch.
    resume : bool
        Go on from the newest checkpoint: the result is that of an uninterrupted run, bit for bit
        on the same machine with the same number of threads.
    progress : bool
        Show a bar with the accuracy and the time left.
    label : str
        What the bar calls this run.

    Returns
    -------
    Training
        With status "interrupted" after Ctrl-C: the weights are those of the last whole batch, and
        the accuracies those of whole epochs.

    Raises
    ------
    ValueError
        A number out of range; a task whose inputs or classes are not the network's; a checkpoint
        of another run, with all that differs.
    FileNotFoundError, StoreExistsError, PermissionError
        No checkpoint to go on from; checkpoints in the way; a folder that cannot be written.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> from ctsigprop.data import digits
    >>> network = ct.sigprop_network([64, 16, 10])
    >>> run = train(ct.ContinuousSigprop(network), digits(), epochs=1)
    >>> len(run.test_accuracy), run.status
    (1, 'complete')
    """
    for what, count in (("epochs", epochs), ("batch", batch)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{what} must be a whole number >= 1; got {count!r}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be >= 0; got {noise}")
    shape: Any = task.train.attrs.get("image_shape")
    if not isinstance(jitter, int) or jitter < 0 or (jitter and shape is None):
        raise ValueError(f"jitter must be a whole number >= 0, and needs images; got {jitter!r}")
    if decay not in ("cosine", "none"):
        raise ValueError(unknown("decay", decay, ("cosine", "none")))
    if resume and checkpoints is None:
        raise ValueError("resume=True needs the folder of the checkpoints")
    x, labels = _tensors(task.train)
    for what, have, need in (
        ("inputs", x.shape[1], learner.inputs),
        ("classes", len(task.classes), learner.classes),
    ):
        if have != need:
            raise ValueError(f"the network has {need} {what}; '{task.name}' has {have}")
    folder = None if checkpoints is None else Path(checkpoints)
    if folder is not None:
        check_folder(folder)
        if not resume and any(folder.glob("step_*.npz")):
            raise StoreExistsError(
                f"{folder} holds checkpoints: resume=True goes on from them; choose another folder "
                "to start anew"
            )
    settings = {
        "epochs": epochs,
        "batch": batch,
        "decay": decay,
        "noise": noise,
        "jitter": jitter,
        "seed": seed,
        "task": task.name,
        "data": _fingerprint(x, labels),
        **learner.settings,
    }
    initial = {name: w.clone() for name, w in learner.weights.items()}
    run = Training(learner, task, initial, settings)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    if folder is not None and resume:
        first = _restore(run, folder, generator)
    x, labels = x.to(learner.device), labels.to(learner.device)
    bar = _bar(progress, epochs * math.ceil(len(x) / batch), first, epochs, label)
    began = time.perf_counter() - run.seconds
    try:
        for epoch in range(first, epochs):
            learner.scale_rates(
                0.5 * (1 + math.cos(math.pi * epoch / epochs)) if decay == "cosine" else 1.0
            )
            right = 0
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for chosen in torch.split(order, batch):
                shown = x[chosen]
                if jitter:
                    shown = _shifted(shown, shape, jitter, generator)
                if noise:
                    drawn = torch.randn(shown.shape, generator=generator)
                    shown = shown + noise * drawn.to(shown.device)
                free = learner.present(shown, labels[chosen])
                right += int((_winners(free) == labels[chosen]).sum())
                bar.update()
            tested = accuracy(learner, task.test)
            run.train_accuracy.append(right / len(x))
            run.test_accuracy.append(tested)
            run.seconds = time.perf_counter() - began
            bar.set_postfix_str(f"test accuracy {run.test_accuracy[-1]:.1%}")
            if folder is not None:
                _keep(run, folder, epoch + 1, generator)
    except KeyboardInterrupt:
        run.status = "interrupted"
        run.seconds = time.perf_counter() - began
    finally:
        bar.close()
        learner.scale_rates(1.0)
    return run


def accuracy(learner: Learner, part: Dataset) -> float:
    """Return the fraction of samples whose strongest output is their label's.

    A tie, such as a row of silent outputs, is never counted as right.
    """
    x, labels = _tensors(part)
    return float((_winners(_in_batches(learner, x)) == labels).double().mean())


def _tensors(part: Dataset) -> tuple[Tensor, Tensor]:
    # copies: torch takes no array that is read-only or runs backwards
    x, labels = (torch.from_numpy(part[name].values.copy()) for name in ("input", "label"))
    return x, labels


def _shifted(x: Tensor, shape: Sequence[int], most: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to `most` pixels along each axis."""
    rows, columns = shape
    wide = torch.nn.functional.pad(x.reshape(-1, rows, columns), (most,) * 4)
    start = torch.randint(2 * most + 1, (2, len(x), 1), generator=generator)
    row, column = start[0] + torch.arange(rows), start[1] + torch.arange(columns)
    sample = torch.arange(len(x))
    places = sample[:, None, None], row[:, :, None], column[:, None, :]
    shifted: Tensor = wide[tuple(place.to(x.device) for place in places)]
    return shifted.reshape(x.shape)


def _winners(outputs: Tensor) -> Tensor:
    """Return the index of the strongest output of each row, or -1 where none is alone."""
    best, first = outputs.max(-1)
    alone = (outputs == best.unsqueeze(-1)).sum(-1) == 1
    return torch.where(alone, first, -1)


def _in_batches(learner: Learner, x: Tensor) -> Tensor:
    parts = torch.split(x.to(learner.device), 1000)
    return torch.cat([learner.respond(part) for part in parts]).cpu()


def _keep(run: Training, folder: Path, epoch: int, generator: torch.Generator) -> None:
    arrays = {
        **{f"weights.{k}": v for k, v in run.learner.snapshot().items()},
        **{f"initial.{k}": v for k, v in run.initial.items()},
        "generator": generator.get_state(),
        "train_accuracy": torch.tensor(run.train_accuracy, dtype=torch.float64),
        "test_accuracy": torch.tensor(run.test_accuracy, dtype=torch.float64),
    }
    save_checkpoint(folder, epoch, arrays, {"settings": run.settings, "seconds": run.seconds})


def _restore(run: Training, folder: Path, generator: torch.Generator) -> int:
    kept = load_checkpoint(folder)
    weights = {k: v for k, v in kept.arrays.items() if k.startswith("weights.")}
    # an optimiser has no state before its first step
    fixed = {k: v for k, v in weights.items() if not k.startswith("weights.optimizer.")}
    match_checkpoint(
        Checkpoint(kept.step, fixed, kept.state),
        {f"weights.{k}": tuple(v.shape) for k, v in run.learner.snapshot().items()},
    )
    theirs = kept.state["settings"]
    differences = [
        f"'{name}' was {theirs.get(name)}, and is {run.settings.get(name)} now"
        for name in {**theirs, **run.settings}
        if theirs.get(name) != run.settings.get(name)
    ]
    if differences:
        raise ValueError("\n  ".join([f"{folder} holds checkpoints of another run:", *differences]))
    run.learner.restore({k.removeprefix("weights."): v for k, v in weights.items()})
    device = run.learner.device
    run.initial = {
        k.removeprefix("initial."): v.to(device)
        for k, v in kept.arrays.items()
        if k.startswith("initial.")
    }
    generator.set_state(kept.arrays["generator"])
    run.train_accuracy = kept.arrays["train_accuracy"].tolist()
    run.test_accuracy = kept.arrays["test_accuracy"].tolist()
    run.seconds = float(kept.state["seconds"])
    return kept.step


def _fingerprint(*arrays: Tensor) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.contiguous().numpy().data)
    return digest.hexdigest()[:16]


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
