from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_section, plot_spectrum
from ctsigprop.analyses.sections import poincare_section, return_map, returns
from ctsigprop.analyses.spectra import power_spectrum, recurrence
from ctsigprop.solution import root_attributes


def text(equations: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron(equations, **parameters))


def valid(**groups: xr.Dataset) -> bool:
    tree = xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs = root_attributes("sections and spectra")
    return ct.validate(tree) == []


SPIRAL = "dx/dt = -y - a*x : 1\ndy/dt = x - a*y : 1"


# sections


def test_crossings_of_a_spiral_are_exact_in_time_and_place() -> None:
    found = poincare_section(text(SPIRAL, a=0.1), {"y": 0.0}, 30.0, start={"x": 1.0})
    times = 2 * math.pi * np.arange(1, 5)
    np.testing.assert_allclose(found["crossing_time"], times, atol=1e-8)
    np.testing.assert_allclose(found["x"].values[:, 0], np.exp(-0.1 * times), atol=1e-9)
    np.testing.assert_allclose(found["y"], 0.0, atol=1e-9)
    np.testing.assert_allclose(found["since_last"].values[1:], 2 * math.pi, atol=1e-8)
    assert np.isnan(found["since_last"].values[0])
    assert valid(section=found)


def test_directions_and_the_transient() -> None:
    circle, start = text(SPIRAL, a=0.0), {"x": 1.0}
    falling = poincare_section(circle, {"y": 0.0}, 10.0, start=start, direction=-1)
    np.testing.assert_allclose(falling["crossing_time"] / math.pi, [1, 3], atol=1e-8)
    both = poincare_section(circle, {"y": 0.0}, 10.0, start=start, direction=0)
    np.testing.assert_allclose(both["crossing_time"] / math.pi, [1, 2, 3], atol=1e-8)
    late = poincare_section(circle, {"y": 0.0}, 10.0, start=start, transient=7.0, t=1.0)
    np.testing.assert_allclose(late["crossing_time"] - 1, [4 * math.pi], atol=1e-8)
    few = poincare_section(circle, {"y": 0.0}, 20.0, start=start, most=2)
    assert few.sizes["crossing"] == 2
    half = poincare_section(circle, {"x": 0.5}, 6.0, start=start, direction=-1)
    np.testing.assert_allclose(half["crossing_time"], [math.pi / 3], atol=1e-8)
    never = poincare_section(circle, {"y": 5.0}, 10.0, start=start)
    assert never.sizes["crossing"] == 0
    assert valid(section=never)


def test_samples_side_by_side_and_a_function_for_the_surface() -> None:
    starts = {"x": torch.tensor([[1.0], [2.0], [0.0]]).double()}

    def diagonal(_t, y):  # type: ignore[no-untyped-def]
        return (y["x"] - y["y"]).squeeze(-1)

    found = poincare_section(text(SPIRAL, a=0.0), diagonal, 10.0, start=starts, direction=-1)
    assert found["crossings"].values.tolist() == [2, 2, 0]
    np.testing.assert_array_equal(found["sample"], [0, 0, 1, 1])
    np.testing.assert_allclose(found["crossing_time"][:2], [math.pi / 4, 9 * math.pi / 4])
    assert np.isnan(found["since_last"].values).tolist() == [True, False, True, False]
    radius = np.hypot(found["x"], found["y"]).values[:, 0]
    np.testing.assert_allclose(radius, [1, 1, 2, 2], rtol=1e-8)
    follow = return_map(found, "x")
    np.testing.assert_allclose(follow["next"], follow["current"], rtol=1e-8)
    assert follow["sample"].values.tolist() == [0, 1]
    assert return_map(found, "since_last").sizes["iterate"] == 0


def test_the_map_of_the_maxima_of_lorenz_is_a_tent() -> None:
    lorenz = text("dx/dt = 10*(y - x) : 1\ndy/dt = x*(28 - z) - y : 1\ndz/dt = x*y - 8*z/3 : 1")

    def rise(_t, y):  # type: ignore[no-untyped-def]
        return (y["x"] * y["y"] - 8 * y["z"] / 3).squeeze(-1)

    noise = np.random.default_rng(0).normal(size=(2, 16, 1))
    starts = {name: torch.as_tensor(5 + k) for name, k in zip("xy", noise, strict=True)}
    starts["z"] = torch.full((16, 1), 25.0).double()
    found = poincare_section(
        lorenz, rise, 12.0, start=starts, direction=-1, transient=8.0, rtol=1e-7
    )
    tent = return_map(found, "z")
    z, after = tent["current"].values, tent["next"].values
    peak = z[after.argmax()]
    assert tent.sizes["iterate"] > 150
    assert 38 < peak < 39.5
    for side, sign in ((z < peak - 0.5, 1), (z > peak + 0.5, -1)):
        order = np.argsort(z[side])
        slopes = np.diff(after[side][order]) / np.diff(z[side][order])
        wide = np.diff(z[side][order]) > 0.02
        assert (sign * slopes[wide] > 1).all()  # it is steeper than 1 everywhere: no stable cycle


def test_components_and_units() -> None:
    pair = ct.System(ct.fitzhugh_nagumo(size=2, I=torch.tensor([0.5, 0.6]).double()))
    found = poincare_section(pair, {"v[1]": 0.0}, 200.0, transient=50.0, rtol=1e-6)
    assert found["v"].dims == ("crossing", "neuron")
    np.testing.assert_allclose(found["v"].values[:, 1], 0.0, atol=1e-9)
    follow = return_map(found, "w[1]")
    np.testing.assert_allclose(follow["next"], follow["current"], rtol=1e-3)
    cell = ct.System(ct.morris_lecar(I=120.0))
    found = poincare_section(cell, {"v": 0.0}, 300.0, start={"v": 0.0, "w": 0.2}, rtol=1e-6)
    assert found["crossing_time"].attrs["units"] == "ms"
    assert found["v"].attrs["units"] == "mV"


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ({"X": 0.0}, {}, "did you mean 'x'"),
        ({"x[3]": 0.0}, {}, "no component of 'x'"),
        ({"x": math.nan}, {}, "must be finite"),
        ({}, {}, "one component with its value"),
        ({"x": 0.0, "y": 0.0}, {}, "one component with its value"),
        ({"x": 0.0}, {"duration": 0.0}, "duration must be > 0"),
        ({"x": 0.0}, {"direction": 2}, "direction must be -1, 0 or 1"),
    ],
)
def test_refusals_of_sections(section: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        poincare_section(text(SPIRAL, a=0.1), section, **{"duration": 5.0} | options)


def test_refusals_of_maps() -> None:
    pair = ct.System(ct.fitzhugh_nagumo(size=2, I=0.5))
    found = poincare_section(pair, {"v[0]": 0.0}, 100.0, rtol=1e-6)
    with pytest.raises(ValueError, match="'v' has 2 components"):
        return_map(found, "v")
    with pytest.raises(ValueError, match="no variable 'u'; it has v, w"):
        return_map(found, "u")


def test_a_trajectory_that_does_not_come_back_does_not_close() -> None:
    time = np.linspace(0, 60, 6001)
    torus = np.stack([np.cos(time), np.sin(time), np.cos(math.sqrt(2) * time)], -1)
    assert returns(torus, 0.01, 8)[0] == 0
    twice = np.stack([np.cos(time), np.sin(time), np.cos(time / 2)], -1)
    turns, period = returns(twice, 0.01, 8)
    assert (turns, period) == (2, pytest.approx(4 * math.pi, rel=1e-6))
    assert returns(np.zeros((100, 2)), 0.01, 8)[0] == 0


# spectra


def noise(n: int = 2000, step: float = 0.5, scale: float = 3.0) -> xr.DataArray:
    values = scale * np.random.default_rng(0).normal(size=(n, 2))
    time = ("time", step * np.arange(n), {"units": "ms"})
    return xr.DataArray(
        values, dims=("time", "neuron"), coords={"time": time}, name="v", attrs={"units": "mV"}
    )


def test_parseval_holds_exactly_for_one_segment_without_a_window() -> None:
    course = noise()
    found = power_spectrum(course, segment=1000.0, window="boxcar")
    np.testing.assert_allclose(found["power"], found["variance"], rtol=1e-12)
    np.testing.assert_allclose(found["variance"], course.var("time"))
    assert found["density"].attrs["units"] == "mV^2*ms"
    assert found["frequency"].attrs["units"] == "1/ms"
    assert found["frequency"].values[-1] == 1.0  # Nyquist
    assert valid(spectrum=found)


def test_white_noise_is_flat_with_the_density_of_its_variance() -> None:
    found = power_spectrum(noise(40_000), segment=50.0)
    inner = found["density"].isel(frequency=slice(2, -2))
    assert inner.mean().item() == pytest.approx(9.0, rel=0.02)  # variance 9 over 0..1 per ms
    np.testing.assert_allclose(found["power"], found["variance"], rtol=0.05)


def test_the_peak_of_a_simulation_lies_at_its_frequency() -> None:
    circle = text(SPIRAL, a=0.0)
    run = ct.solve(circle, {"x": 2.0}, torch.linspace(0, 200, 2001), rtol=1e-8)
    found = power_spectrum(run, "x", segment=100.0)
    assert found["peak_frequency"].item() == pytest.approx(1 / (2 * math.pi), abs=0.005)
    assert found["power"].item() == pytest.approx(2.0, rel=0.02)  # amplitude² / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_spectrum(noise(), "w"), "unknown variable 'w'"),
        (lambda: power_spectrum(noise(), segment=0.5), "segment must span 2"),
        (lambda: power_spectrum(noise(), segment=2000.0), "segment must span 2"),
        (lambda: power_spectrum(noise(), overlap=1.0), "overlap must lie"),
        (lambda: power_spectrum(noise(), detrend="no"), "detrend must be"),
        (lambda: power_spectrum(noise().isel(time=[0, 1, 3, 4])), "evenly spaced"),
        (lambda: power_spectrum(noise().where(lambda a: a < 3)), "must be finite"),
        (lambda: power_spectrum(noise().rename(time="x")), "needs a dimension 'time'"),
        (lambda: recurrence(noise(), threshold=2.0), "threshold between 0 and 1"),
        (lambda: recurrence(noise(9000)), "2 to 4000 points"),
        (lambda: recurrence(noise() * 0), "it rests|the trajectory rests"),
    ],
)
def test_refusals_of_spectra(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


# figures


def test_figures() -> None:
    found = poincare_section(text(SPIRAL, a=0.1), {"y": 0.0}, 30.0, start={"x": 1.0})
    groups = {"/section": found, "/return_map": return_map(found, "x")}
    points, mapped = plot_section(xr.DataTree.from_dict(groups)).axes
    np.testing.assert_array_equal(points.lines[0].get_xdata(), found["x"].values[:, 0])
    np.testing.assert_array_equal(mapped.lines[1].get_ydata(), groups["/return_map"]["next"])
    spectrum = power_spectrum(noise())
    ax = plot_spectrum(xr.DataTree.from_dict({"/spectrum": spectrum})).axes[0]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), spectrum["density"][1:, 1])
    assert ax.get_ylabel() == "power density (mV^2*ms)"
    with pytest.raises(ValueError, match="no group 'section'"):
        plot_section(xr.DataTree.from_dict({"/spectrum": spectrum}))
    with pytest.raises(ValueError, match="no variable 'q'; it has x, y"):
        plot_section(xr.DataTree.from_dict(groups), "q")


# recurrences


def test_recurrences_of_a_circle_are_its_turns() -> None:
    angle = 2 * math.pi * np.arange(400) / 50
    data = {"x": ("time", np.cos(angle)), "y": ("time", np.sin(angle))}
    circle = xr.Dataset(data, {"time": ("time", 0.1 * np.arange(400), {"units": "ms"})})
    found = recurrence(circle, threshold=0.1)
    matrix = found["recurrent"].values
    assert matrix[0, 50]
    assert matrix[0, 350]
    assert not matrix[0, 25]
    np.testing.assert_array_equal(matrix, matrix.T)
    # the chord of an angle a is sin(a/2) of the diameter
    inside = 2 * int(math.asin(0.1) * 2 / (2 * math.pi / 50)) + 1
    assert found["recurrence_rate"].item() == pytest.approx(inside / 50, abs=0.005)
    assert found["determinism"].item() > 0.999
    assert found["size"].item() == pytest.approx(1.0, abs=0.01)
    assert valid(recurrence=found)


def test_noise_is_less_determined_than_a_cycle() -> None:
    white = recurrence(noise(500))
    assert white["determinism"].item() < 0.4
    wide = recurrence(noise(500), threshold=0.3)
    assert wide["recurrence_rate"] > white["recurrence_rate"]
    with_neighbours = recurrence(noise(500), apart=1)
    assert (
        recurrence(noise(500), apart=490)["recurrence_rate"] != with_neighbours["recurrence_rate"]
    )
