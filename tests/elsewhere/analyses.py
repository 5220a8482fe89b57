"""Analyses of systems that were moved, and fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import xarray as xr
from torch import Tensor

import ctsigprop as ct
from ctsigprop.analyses import basins, lyapunov, phase, slow_points, stability
from ctsigprop.analyses.bifurcations import bifurcation_diagram
from ctsigprop.analyses.sections import poincare_section
from ctsigprop.models.catalogue import WINDOWS

F64 = torch.float64


def fhn() -> ct.System:
    return ct.System(ct.fitzhugh_nagumo(I=0.5))


ANALYSES: dict[str, Callable[[ct.System], xr.Dataset | xr.DataTree]] = {
    "portrait": lambda s: phase.portrait(s, WINDOWS["fitzhugh-nagumo"]),
    "fixed points": lambda s: stability.fixed_points(s, WINDOWS["fitzhugh-nagumo"]),
    "jacobian": lambda s: stability.jacobian(s, {"v": 0.1, "w": 0.2}),
    "slow points": lambda s: slow_points.slow_points(
        s, {"v": torch.linspace(-2, 2, 9, dtype=F64)[:, None], "w": torch.zeros(9, 1, dtype=F64)}
    ),
    "lyapunov": lambda s: lyapunov.lyapunov_spectrum(s, 4.0, ensemble=2),
    "basins": lambda s: basins.basins(s, {"v": (-2, 2), "w": (-1, 1)}, 20.0, points=3),
    "section": lambda s: poincare_section(s, {"v": 0.0}, 40.0),
    "bifurcations": lambda s: bifurcation_diagram(
        s, "I", (0.2, 0.5), ranges=WINDOWS["fitzhugh-nagumo"]
    ),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_of_a_system(name: str, device: torch.device) -> None:
    here, there = ANALYSES[name](fhn()), ANALYSES[name](fhn().to(device))
    xr.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)  # type: ignore[call-overload]


def test_a_fit(device: torch.device) -> None:
    found = []
    data = xr.Dataset({"x": ("time", [0.5, 0.25], {"units": "1"})}, {"time": [1.0, 2.0]})
    for where in (torch.device("cpu"), device):
        tau = ct.Parameter(1.0, lower=0.0)
        decay = ct.System(ct.TextNeuron("dx/dt = -x/tau : 1", tau=tau)).to(where)

        def predict(decay: ct.System = decay) -> Tensor:
            return ct.solve(decay, {"x": 1.0}, [0.0, 1.0, 2.0])["x"][1:, 0]

        found.append(ct.fit(decay, predict, data, "x", ["tau"], starts=2)["fit"]["tau"].values)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
