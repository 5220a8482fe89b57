"""Learning as a flow in the plane: where Oja's rule takes two weights, on average.

The fixed points are the unit eigenvectors of the inputs' covariance. The principal one is stable,
the other one a saddle: only the first principal component can be learned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ctsigprop as ct
from ctsigprop.analyses.phase import portrait
from ctsigprop.analyses.plots import plot_portrait
from ctsigprop.analyses.stability import TYPES
from ctsigprop.models.averaged import AveragedOja


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    covariance = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    learning = ct.System(AveragedOja(covariance))
    tree = portrait(
        learning, {"w[0]": (-1.5, 1.5), "w[1]": (-1.5, 1.5)}, title="Oja's rule, averaged"
    )
    found = tree["fixed_points"]
    for k in found["fp"].values:
        name = TYPES[found["type"].values[k]].replace("_", " ")
        w, rates = found["w"].values[k], found["eigenvalue"].values[k, :, 0]
        print(f"{name:14} at ({w[0]:+.4f}, {w[1]:+.4f}), eigenvalues {rates.round(4)}")
    ct.save(tree, folder / "oja_portrait.zarr", overwrite=True)
    plot_portrait(tree).savefig(folder / "oja_portrait.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
