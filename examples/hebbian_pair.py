"""Two coupled neurons: a Hebbian weight grows while both are active, and decays afterwards.

tau ds_a/dt = -s_a + tanh(u(t) - 0.5 s_b)      dW_ba/dt = eta s_b s_a - rate W_ba
tau ds_b/dt = -s_b + tanh(W_ba s_a)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_time_courses


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bouts = ct.Held(
        [0.0, 10.0, 30.0, 40.0, 60.0, 70.0, 90.0], torch.tensor([0.0, 1, 0, 1, 0, 1, 0])
    )
    pair = ct.System(
        ct.Source("u", signal=bouts),
        ct.rate("a"),
        ct.rate("b"),
        ct.Input("u", "a"),
        ct.Synapse("b", "a", -0.5),
        ct.Synapse("a", "b", 0.2, plasticity=[ct.hebb(0.2), ct.weight_decay(0.03)]),
    )
    run = ct.solve(pair, t=torch.linspace(0.0, 150.0, 601))
    weight = run["W_b_a"].flatten()
    print(f"weight {weight[0]:.2f} at first, {weight.max():.2f} at most, {weight[-1]:.2f} at last")
    tree = run.to_xarray(title="A Hebbian weight with decay, in three bouts of input")
    ct.save(tree, folder / "hebbian_pair.zarr", overwrite=True)
    names = ["u", "s_a", "s_b", "W_b_a"]
    plot_time_courses(tree, names).savefig(folder / "hebbian_pair.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
