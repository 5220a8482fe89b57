"""Learning as a dynamical system: what rules make of weights, on average and as they are presented.

    dw/dt = E[rule(x, y, w)],    y = rho(w x + S c)

Oja's rule goes to the first principal component, BCM to one of two patterns; presented in turn, the
weights keep to the averaged flow to the order of the learning rate. Hebb's rule with decay forgets
or grows, two synapses share or compete, and a learning signal rewrites what the weights remember.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import findings
from ctsigprop.analyses.learning_portraits import learning_portrait, portraits_along
from ctsigprop.analyses.plots import plot_learning_portraits
from ctsigprop.models.averaged import patterns_of

ONE = torch.eye(2, dtype=torch.float64)


def box(low: float, high: float, *names: str) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(names or ("w[0,0]", "w[0,1]"), (low, high))


def presented(title, rule, patterns, ranges, field=None) -> xr.DataTree:
    return learning_portrait(
        ct.System(ct.AveragedLearning(patterns, rule)),
        ranges,
        {r: ct.presented(patterns, rule, rate=r, duration=4 / r) for r in (0.2, 0.1, 0.05)},
        {"w[0,0]": [0.6, 0.4, -0.6, 1.2], "w[0,1]": [0.3, 0.8, 0.3, -0.4]},
        4.0,
        field=field,
        solver=ct.RK4(dt=0.1),
        title=title,
    )


def along(title, parameter, values, bounds, rules, **settings) -> xr.DataTree:
    averaged = ct.System(ct.AveragedLearning(patterns_of(ONE), rules, **settings))
    tree = portraits_along(averaged, parameter, values, box(*bounds), title=title)
    print(findings(tree["diagram"]))
    return tree


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
    hebb = ct.TextPlasticity("dw/dt = eta*x*y - decay*w", eta=1.0, decay=0.5)
    share = ct.subtractive_hebb(1.0, decay=0.1)
    bcm, plane = ct.System(ct.AveragedBCM(ONE)), box(-0.9, 2.6, "w[0]", "w[1]")
    label = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    tanh = {"rho": "tanh", "correlation": 0.5}
    told = {"rho": "tanh", "correlation": 0.15, "context": label}
    trees = {
        "oja": presented("Oja", ct.oja(1.0), patterns_of(covariance), box(-1.5, 1.5)),
        "bcm": presented("BCM", ct.bcm(1.0, tau_theta=0.2), ONE, plane, bcm),
        "hebb": along("Hebb with decay", "decay", [0.7, 1.8], (-2.5, 2.5), hebb, **tanh),
        "competition": along(
            "Competition", "correlation", [0.2, 0.8], (0, 1), share, modulator="mean"
        ),
        "signal": along("Learning signal", "strength", [0.0, 1.5], (-3, 3), hebb, **told),
    }
    tree = xr.DataTree(children=trees)
    tree.attrs = trees["oja"].attrs | {"title": "portraits of learning"}
    ct.save(tree, folder / "learning_portraits.zarr", overwrite=True)
    plot_learning_portraits(tree).savefig(folder / "learning_portraits.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
