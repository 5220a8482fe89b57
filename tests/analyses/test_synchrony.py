from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.synchrony import critical_coupling, order_parameter
from ctsigprop.solution import root_attributes


def population(n: int, coupling: float, width: float = 0.5) -> ct.System:
    shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return ct.System(ct.Kuramoto(width * torch.tan(math.pi * (shares - 0.5)), coupling))


def coherence(coupling: float, n: int = 4000) -> xr.Dataset:
    phases = 2 * math.pi * torch.rand(n, generator=torch.Generator().manual_seed(1)).double()
    times = torch.linspace(0, 40, 41)
    run = ct.solve(population(n, coupling), {"theta": phases}, times, solver=ct.RK4(dt=0.05))
    return order_parameter(run)


@pytest.mark.parametrize("coupling", [1.5, 2.0, 4.0])
def test_above_the_critical_coupling_lorentzian_frequencies_lock(coupling: float) -> None:
    found = coherence(coupling)
    late = found["coherence"].sel(time=slice(20, None)).mean().item()
    assert late == pytest.approx(math.sqrt(1 - 1 / coupling), abs=0.03)


def test_below_it_they_do_not() -> None:
    assert coherence(0.5)["coherence"].sel(time=slice(20, None)).mean() < 0.06


def test_the_mean_field_is_the_sum_over_all_pairs() -> None:
    omega = torch.tensor([0.3, -1.0, 0.5, 2.0]).double()
    system = ct.System(ct.Kuramoto(omega, 1.7))
    theta = torch.tensor([0.1, 2.0, -1.0, 4.0]).double()
    rate = system(torch.tensor(0.0), {"theta": theta})["theta"]
    pairs = torch.sin(theta[None] - theta[:, None]).sum(1) * 1.7 / 4
    torch.testing.assert_close(rate, omega + pairs)
    batch = theta.expand(3, 4) + torch.arange(3.0).double()[:, None]
    rates = system(torch.tensor(0.0), {"theta": batch})["theta"]
    torch.testing.assert_close(rates, rate.expand(3, 4))  # a common phase changes nothing


def test_a_kuramoto_run_is_repeated_from_its_data() -> None:
    run = ct.solve(population(5, 2.0), {"theta": torch.arange(5.0).double()}, [0.0, 1.0])
    assert torch.equal(ct.rerun(run.to_xarray())["theta"], run["theta"])


def test_order_parameters_of_known_phases() -> None:
    time = ("time", [0.0, 1.0, 2.0], {"units": "ms"})
    rows = [[0.5, 0.5, 0.5], [0.0, 2 * math.pi / 3, 4 * math.pi / 3], [0.0, 0.0, math.pi]]
    theta = xr.DataArray(rows, dims=("time", "neuron"), coords={"time": time}, name="theta")
    found = order_parameter(theta)
    np.testing.assert_allclose(found["coherence"], [1, 0, 1 / 3], atol=1e-12)
    assert found["mean_phase"].values[0] == pytest.approx(0.5)
    assert found["mean_phase"].attrs["units"] == "rad"
    turned = order_parameter(theta + 2 * math.pi)
    np.testing.assert_allclose(turned["coherence"], found["coherence"], atol=1e-12)
    over = order_parameter(theta, dim="time")
    assert over["coherence"].dims == ("neuron",)
    tree = xr.DataTree.from_dict({"/synchrony": found, "/over_time": over})
    tree.attrs = root_attributes("synchrony")
    assert ct.validate(tree) == []


def test_critical_couplings() -> None:
    assert critical_coupling(1 / (math.pi * 0.5)) == pytest.approx(1.0, rel=1e-12)
    uniform = critical_coupling(lambda w: 0.5 * (abs(w - 3) <= 1), centre=3.0)
    assert uniform == pytest.approx(4 / math.pi)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_coupling(0.0), "density must be > 0"),
        (lambda: critical_coupling(math.inf), "density must be > 0"),
        (lambda: ct.Kuramoto(1.0, 1.0), "one frequency for each oscillator"),
        (lambda: ct.Kuramoto(torch.ones(3).double(), 1.0, size=2), "one for each of the 2"),
        (lambda: order_parameter(xr.DataArray([0.0, math.nan], dims="n")), "must be finite"),
        (lambda: order_parameter(xr.DataArray([0.0], dims="n"), dim="m"), "dim must be an axis"),
        (
            lambda: order_parameter(xr.DataArray([0.0], dims="n", attrs={"units": "degree"})),
            "must be in radians",
        ),
        (lambda: order_parameter(xr.Dataset({"a": ("n", [0.0])}), "b"), "unknown variable 'b'"),
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
