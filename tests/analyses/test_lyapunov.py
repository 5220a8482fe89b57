from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.analyses.lyapunov import kaplan_yorke, lyapunov_spectrum
from ctsigprop.analyses.plots import plot_lyapunov
from ctsigprop.errors import IntegrationError
from ctsigprop.solution import root_attributes

LORENZ = "dx/dt = s*(y - x) : 1\ndy/dt = x*(r - z) - y : 1\ndz/dt = x*y - b*z : 1"


def text(equations: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron(equations, **parameters))


def lorenz(r: float = 28.0) -> ct.System:
    return text(LORENZ, s=10.0, r=r, b=8 / 3)


def valid(found: xr.Dataset) -> bool:
    tree = xr.DataTree.from_dict({"/lyapunov": found})
    tree.attrs = root_attributes("exponents")
    return ct.validate(tree) == []


def test_the_sum_of_the_exponents_of_lorenz_is_exact_and_their_spread_their_error() -> None:
    start = {"x": 1.0, "y": 1.0, "z": 1.0}
    found = lyapunov_spectrum(lorenz(), 4.0, start=start, transient=6.0, ensemble=256)
    assert found["exponent_sum"].item() == pytest.approx(-41 / 3, abs=2e-5)
    assert found["divergence"].item() == pytest.approx(-41 / 3, abs=1e-12)
    # the transient is too short for the start, beside an unstable focus, and the drift says so
    assert abs(found["drift"][0]) > 5 * found["standard_error"][0]
    members = found["member_exponent"]
    assert members.dims == ("member", "order")
    np.testing.assert_allclose(members.mean("member"), found["exponent"])
    error = members.std("member", ddof=1) / 16
    np.testing.assert_allclose(error, found["standard_error"])
    np.testing.assert_allclose(found["finite_time_exponent"][-1], found["exponent"])
    assert found["time"].values[-1] == 4.0
    assert found.sizes == {"order": 3, "member": 256, "time": 50}
    assert valid(found)


@pytest.mark.parametrize("options", [{}, {"count": 2}, {"ensemble": 1}, {"transient": 0.0}])
def test_a_linear_flow_has_the_real_parts_of_its_eigenvalues(options: dict[str, float]) -> None:
    flow = text("dx/dt = -x + 5*y : 1\ndy/dt = -2*y + z : 1\ndz/dt = -4*z : 1")
    found = lyapunov_spectrum(flow, 60.0, start={"x": 1.0, "y": 1.0}, **{"ensemble": 3} | options)
    expected = [-1.0, -2.0, -4.0][: options.get("count", 3)]
    atol = 0.1 if "transient" in options else 5e-5  # a frame turns for a while
    np.testing.assert_allclose(found["exponent"], expected, atol=atol)
    assert ("divergence" in found) == ("count" not in options)
    assert valid(found)


def test_fewer_tangents_than_components_move_as_all_of_them_do() -> None:
    start = {"x": 1.0, "y": 1.0, "z": 1.0}
    every, few = (
        lyapunov_spectrum(lorenz(20.0), 10.0, start=start, count=count, ensemble=4)
        for count in (None, 2)
    )
    pair = every["exponent"].values[:2].sum()
    assert few["exponent"].values.sum() == pytest.approx(pair, abs=1e-3)
    assert np.isnan(few["kaplan_yorke"]) != (few["exponent"].values.sum() < 0)


def test_a_cycle_has_a_zero_exponent_and_dimension_one() -> None:
    cycle = ct.System(ct.stuart_landau(mu=1.0, omega=2.0, c=0.5))
    found = lyapunov_spectrum(cycle, 30.0, transient=10.0, ensemble=4)
    np.testing.assert_allclose(found["exponent"], [0.0, -2.0], atol=1e-4)
    assert found["kaplan_yorke"].item() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(found["drift"]).max() < 1e-4


def test_fields_that_change_in_time_and_inputs_that_jump() -> None:
    wave = ct.System(ct.VectorField(lambda t, y: -(1 + torch.sin(t)) * y))
    found = lyapunov_spectrum(wave, 2 * math.pi, start={"y": torch.ones(1).double()}, transient=0.0)
    assert found["exponent"].item() == pytest.approx(-1.0, abs=1e-5)
    half = lyapunov_spectrum(wave, math.pi, start={"y": torch.ones(1).double()}, transient=0.0)
    assert half["exponent"].item() == pytest.approx(-1.0 - 2 / math.pi, abs=1e-5)
    gated = ct.System(
        ct.Source("u"), ct.TextNeuron("dx/dt = I*x : 1\nI : 1", "n"), ct.Synapse("u", "n", 1.0)
    )
    inputs = {"u": ct.Held([0.0, 1.0], torch.tensor([[-1.0], [-3.0]]).double())}
    found = lyapunov_spectrum(gated, 2.0, transient=0.0, ensemble=2, inputs=inputs)
    assert found["exponent"].item() == pytest.approx(-2.0, abs=1e-6)


@pytest.mark.parametrize("count", [None, 1])
def test_a_turning_flow_grows_although_its_eigenvalues_decay(count: int | None) -> None:
    def rates(t, y):  # type: ignore[no-untyped-def]
        c, s = torch.cos(t), torch.sin(t)
        x, y = y[..., :1], y[..., 1:]
        first = (-1 + 1.5 * c**2) * x + (1 - 1.5 * s * c) * y
        second = (-1 - 1.5 * s * c) * x + (-1 + 1.5 * s**2) * y
        return torch.cat([first, second], -1)

    # Markus & Yamabe 1960: (-cos t, sin t) exp(t/2) and (sin t, cos t) exp(-t)
    system = ct.System(ct.VectorField(rates, 2))
    found = lyapunov_spectrum(
        system, 8 * math.pi, transient=4 * math.pi, ensemble=2, count=count, spread=0.0
    )
    np.testing.assert_allclose(found["exponent"], [0.5, -1.0][:count], atol=1e-4)


def test_shared_weights_and_held_variables() -> None:
    def oja(shared: bool) -> ct.System:
        return ct.System(
            ct.Source("x", 1, torch.ones(1).double()),
            ct.leaky_integrator("y"),
            ct.Synapse("x", "y", 0.5, plasticity=ct.oja(0.5), shared=shared),
        )

    alone, together = (
        lyapunov_spectrum(oja(shared), 20.0, ensemble=2)["exponent"].values
        for shared in (False, True)
    )
    np.testing.assert_allclose(alone, together, atol=1e-6)
    pair = text("dx/dt = -x + y : 1\ndy/dt = 3*y : 1")
    held = lyapunov_spectrum(pair, 10.0, at={"y": 0.5}, ensemble=2)
    np.testing.assert_allclose(held["exponent"], [-1.0], atol=1e-6)
    assert held.attrs["held"] == {"y[0]": 0.5}


def test_exponents_are_rates_in_the_unit_of_time() -> None:
    cell = ct.System(
        ct.TextNeuron("dv/dt = (E - v)/tau : mV\nE : mV", tau=ct.Parameter(20.0, "ms"), E=-70.0)
    )
    found = lyapunov_spectrum(cell, 100.0, ensemble=2)
    assert found["exponent"].attrs["units"] == "1/ms"
    assert found["time"].attrs["units"] == "ms"
    assert found["exponent"].item() == pytest.approx(-0.05, abs=1e-7)


def test_a_batch_of_starts_is_the_ensemble_and_a_short_transient_drifts() -> None:
    starts = {"x": torch.tensor([[0.0], [2.0]]).double()}
    flow = text("dx/dt = x - x**3 : 1")
    found = lyapunov_spectrum(flow, 10.0, start=starts, transient=0.0)
    members = found["member_exponent"].values[:, 0]
    assert members[0] == pytest.approx(1.0, abs=1e-6)  # it rests at the top
    assert members[1] == pytest.approx(-2.0 - 0.1 * math.log(8), abs=1e-4)  # exact
    assert abs(found["drift"].item()) > 0.05


def test_trajectories_that_cannot_go_on_are_errors_with_the_component() -> None:
    with pytest.raises(IntegrationError, match=r"'y\[0\]'"):
        lyapunov_spectrum(text("dx/dt = -x : 1\ndy/dt = y**2 : 1"), 5.0, start={"y": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 0.0}, "duration must be > 0"),
        ({"transient": -1.0}, "transient >= 0"),
        ({"interval": 20.0}, "interval must lie between"),
        ({"count": 4}, "count must be 1 to 3"),
        ({"ensemble": 0}, "ensemble must be >= 1"),
        ({"spread": -1.0}, "spread must be >= 0"),
        ({"start": {"X": 1.0}}, "did you mean 'x'"),
        ({"start": {"x": 1.0}, "at": {"x": 1.0}}, "'x' is in start and in at"),
        ({"start": {"x": torch.ones(3, 1).double()}, "ensemble": 2}, "3 members"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(lorenz(), **{"duration": 10.0} | options)
    with pytest.raises(TypeError, match="did you mean 'rtol'"):
        lyapunov_spectrum(lorenz(), 10.0, rtoll=1e-3)


def test_figure_of_the_spectrum() -> None:
    flow = text("dx/dt = -x : 1\ndy/dt = -2*y : 1")
    found = lyapunov_spectrum(flow, 5.0, ensemble=2)
    figure = plot_lyapunov(xr.DataTree.from_dict({"/lyapunov": found}))
    course, bars = figure.axes
    np.testing.assert_allclose(course.lines[1].get_ydata()[-1], -2.0, atol=0.02)
    assert [round(bar.get_height(), 1) for bar in bars.patches] == [-1.0, -2.0]
    with pytest.raises(ValueError, match="no group 'lyapunov'"):
        plot_lyapunov(xr.DataTree.from_dict({"/other": found}))


# Kaplan and Yorke


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.9056, 0.0, -14.5723], 2.06215),  # Sprott 2003, Lorenz
        ([0.0714, 0.0, -5.3943], 2.0132),  # Rössler
        ([-1.0, -2.0], 0.0),
        ([1.0, 0.5], 2.0),
        ([0.0, -2.0], 1.0),
        ([-2.0, 1.0], 1.5),
    ],
)
def test_kaplan_yorke(exponents: list[float], dimension: float) -> None:
    assert kaplan_yorke(exponents) == pytest.approx(dimension, abs=5e-5)


def test_kaplan_yorke_counts_as_zero_what_is_within_the_tolerance() -> None:
    assert kaplan_yorke([-1e-7, -2.0]) == 0.0
    assert kaplan_yorke([-1e-7, -2.0], 1e-6) == 1.0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_the_dimension_lies_between_zero_and_the_number_of_exponents(values: list[float]) -> None:
    dimension = kaplan_yorke(values)
    assert 0 <= dimension <= len(values)
    assert kaplan_yorke([2 * value for value in values]) == pytest.approx(dimension)
    assert (dimension == 0) == (max(values) < 0)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -1.0]])
def test_kaplan_yorke_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite exponents, at least one"):
        kaplan_yorke(values)
