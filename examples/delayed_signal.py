"""A signal that comes late teaches less: learning falls linearly with the delay.

An input is held for a while; its error, or its learning signal, comes some time after it began.
What continuous-time feedback alignment and phase-free signal propagation learn in one presentation
is in proportion to the time that input and signal overlap.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.delay import delay_law
from ctsigprop.analyses.plots import plot_delay
from ctsigprop.data import digits
from ctsigprop.solution import root_attributes

SIZES = [64, 50, 50, 10]
DURATION = 48.0  # in time constants of the neurons
DELAYS = np.linspace(0, DURATION, 9)


def feedback(direct: bool, seed: int) -> ct.ContinuousFeedbackAlignment:
    """Return a network whose error comes back by random weights; plasticity is far slower."""
    network = ct.feedback_network(SIZES, direct=direct, tau_w=50 * DURATION, seed=seed)
    return ct.ContinuousFeedbackAlignment(network)


def sigprop(seed: int) -> ct.ContinuousSigprop:
    """Return a network whose forward signal rides on a rhythm."""
    network = ct.sigprop_network(
        SIZES, rule="rhythmic", rho="tanh", eta=1e-3, onset=6.0, period=6.0, seed=seed
    )
    return ct.ContinuousSigprop(network)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    part = digits().train.isel(sample=slice(20))
    x, labels = (torch.as_tensor(part[name].values) for name in ("input", "label"))
    rules = {
        "direct feedback alignment": partial(feedback, True),
        "feedback alignment": partial(feedback, False),
        "signal propagation, rhythmic": sigprop,
    }
    found = delay_law(rules, x, labels, duration=DURATION, delays=DELAYS.tolist())
    for rule in rules:
        line = found.sel(rule=rule)
        print(f"{rule}: slope {float(line.slope):.3f}, R² {float(line.r_squared):.4f}")
    tree = xr.DataTree.from_dict({"delay": found})
    tree.attrs = root_attributes("Learning falls linearly with the delay of the signal")
    ct.save(tree, folder / "delayed_signal.zarr", overwrite=True)
    plot_delay(tree).savefig(folder / "delayed_signal.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
