"""What learning rules need of a brain: the plausibility table, measured rule by rule.

Every rule learns digits for a while. Then one presentation is held still, and things are changed
one by one: what an update or an activity does not read leaves it as it was, to the last bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.alignment import alignment
from ctsigprop.analyses.needs import needs, side_by_side, summary
from ctsigprop.analyses.plausibility import report
from ctsigprop.analyses.plots import plot_needs
from ctsigprop.data import digits
from ctsigprop.learning.catalogue import build

SIZES, EPOCHS = [64, 40, 40, 40, 10], 3
RULES = [
    "sigprop-ode",
    "sigprop-loop",
    "sigprop-label",
    "sigprop-hebbian",
    "sigprop",
    "forward-forward",
    "predictive-forward-forward",
    "pepita",
    "local-pred",
    "local-predsim",
    "equilibrium-propagation",
    "continual-equilibrium-propagation",
    "predictive-coding",
    "deep-feedback-control",
    "direct-feedback-alignment",
    "feedback-alignment",
    "backpropagation",
]
WITHOUT_OUTPUT = ("forward-forward",)  # their network has no output that could err


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    task = digits()
    x, labels = (torch.as_tensor(task.train[name].values[:200]) for name in ("input", "label"))
    one_of_each = [int((labels == label).nonzero()[0]) for label in range(10)]
    found = {}
    for name in RULES:
        rule = build(name, SIZES)
        ct.train(rule, task, epochs=EPOCHS, batch=20, noise=0.1)
        measured = [needs(rule, x[one_of_each], labels[one_of_each])]
        if name not in WITHOUT_OUTPUT:
            measured.append(alignment(rule, x, labels))
        found[name] = xr.merge(measured, join="outer")
        print(f"{name}: {summary(found[name])}")
    title = "What learning rules need, measured on digits (64-40-40-40-10, 3 epochs, 1 network)"
    tree = report(side_by_side(found, "rule"), title=title)
    ct.save(tree, folder / "what_rules_need.zarr", overwrite=True)
    plot_needs(tree).savefig(folder / "what_rules_need.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
