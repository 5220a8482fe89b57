"""A network learns handwritten digits from a learning signal that travels only forward.

The error enters in front, as one more current into the first layer; every synapse learns from its
own two neurons. Beside it, the same network with frozen hidden weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_learning
from ctsigprop.data import digits


def main(out: Path) -> None:
    torch.set_num_threads(1)
    runs = {}
    for learning in ("all", "output"):
        network = ct.sigprop_network([64, 128, 128, 10], eta=[0.5, 0.25, 0.1], learning=learning)
        runs[learning] = ct.train(ct.ContinuousSigprop(network), digits(), epochs=5)
        print(f"learning {learning}: test accuracy {runs[learning].test_accuracy[-1]:.1%}")
    tree = runs["all"].to_xarray("sigprop on digits, 64-128-128-10", control=runs["output"])
    out.mkdir(parents=True, exist_ok=True)
    ct.save(tree, out / "sigprop_digits.zarr", overwrite=True)
    plot_learning(tree).savefig(out / "sigprop_digits.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
