from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.attractors import KINDS
from ctsigprop.analyses.basins import basin_fractions, basins, wilson_interval
from ctsigprop.analyses.plots import plot_basins
from ctsigprop.solution import root_attributes


def text(equations: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron(equations, **parameters))


def valid(found: xr.Dataset) -> bool:
    tree = xr.DataTree.from_dict({"/basins": found})
    tree.attrs = root_attributes("basins")
    return ct.validate(tree) == []


def kinds(found: xr.Dataset) -> list[str]:
    return [KINDS[k] for k in found["kind"].values]


WELL = "dx/dt = x - x**3 : 1"


def test_half_of_a_symmetric_double_well() -> None:
    found = basin_fractions(text(WELL), {"x": (-2, 2)}, 40.0, samples=2000)
    low, high = found["fraction_low"].values[2:], found["fraction_high"].values[2:]
    assert ((low < 0.5) & (high > 0.5)).all()
    np.testing.assert_allclose(found["x_mean"].values.ravel(), [-1, 1], atol=1e-10)
    np.testing.assert_array_equal(found["basin"], (found["x_start"].values[:, 0] > 0).astype(int))
    assert found["count"].sum() == 2000
    assert found["outcome"].values.tolist() == [
        *("diverged", "undecided", "fixed_point_0", "fixed_point_1")
    ]
    np.testing.assert_allclose(found["eigenvalue"].sel(part="re").values.ravel(), [-2, -2])
    assert found["stability"].attrs["flag_meanings"].split()[found["stability"][0].item()] == (
        "stable"
    )
    assert valid(found)


def test_the_boundary_of_a_cubic_is_its_middle_root() -> None:
    cubic = text("dx/dt = -(x + 1)*(x - r)*(x - 2) : 1", r=0.313)
    found = basins(cubic, {"x": (-2.5, 3.5)}, 30.0, points=601)
    labels, x = found["basin"].values, found["x"].values
    np.testing.assert_array_equal(labels, (x > 0.313).astype(int))
    assert (found.attrs["undecided"], found.attrs["diverged"]) == (0, 0)
    assert valid(found)


def test_the_boundary_of_a_turned_double_well_is_a_line() -> None:
    a = math.pi / 6  # u = x cos a + y sin a, v = y cos a - x sin a
    turned = text(
        """
        dx/dt = c*(u - u**3) + s*v : 1
        dy/dt = s*(u - u**3) - c*v : 1
        u = c*x + s*y : 1
        v = c*y - s*x : 1
        """,
        c=math.cos(a),
        s=math.sin(a),
    )
    found = basins(turned, {"x": (-2, 2), "y": (-1.9, 2.1)}, 30.0, points=41)
    x, y = np.meshgrid(found["x"], found["y"], indexing="ij")
    right = x * math.cos(a) + y * math.sin(a)
    clear = abs(right) > 1e-9
    np.testing.assert_array_equal(found["basin"].values[clear], (right > 0)[clear])
    assert found["basin"].dims == ("x", "y")


def test_a_ball_with_friction_stays_in_the_well_whose_rim_it_cannot_climb() -> None:
    ball = text("dx/dt = y : 1\ndy/dt = x - x**3 - 0.25*y : 1")
    found = basins(ball, {"x": (-2.02, 2.0), "y": (-2.02, 2.0)}, 150.0, points=36)
    x, y = np.meshgrid(found["x"], found["y"], indexing="ij")
    labels, energy = found["basin"].values, y**2 / 2 - x**2 / 2 + x**4 / 4
    below = energy < -1e-3
    assert below.sum() > 50
    np.testing.assert_array_equal(labels[below], (x > 0)[below])
    mixed = labels[energy > 0.5]
    assert {0, 1} <= set(mixed.tolist())
    again = basin_fractions(ball, {"x": (-2, 2), "y": (-2, 2)}, 150.0, samples=1500)
    assert (again["fraction_low"][2:] < 0.5).all()
    assert (again["fraction_high"][2:] > 0.5).all()
    assert found.attrs["undecided"] == 0


HOPF = """
    dx/dt = x*(mu + r2 - r2**2) - y : 1
    dy/dt = y*(mu + r2 - r2**2) + x : 1
    r2 = x**2 + y**2 : 1
"""


def test_a_cycle_beside_a_fixed_point_with_its_radius_and_the_radius_of_the_boundary() -> None:
    mu = -0.2
    root = math.sqrt(1 + 4 * mu)
    inner, outer = math.sqrt((1 - root) / 2), math.sqrt((1 + root) / 2)
    found = basins(text(HOPF, mu=mu), {"x": (-1.2, 1.2), "y": (-1.2, 1.2)}, 120.0, points=41)
    assert kinds(found) == ["fixed_point", "cycle"]
    radius = np.hypot(*np.meshgrid(found["x"], found["y"], indexing="ij"))
    np.testing.assert_array_equal(found["basin"].values, (radius > inner).astype(int))
    assert found["period"].values[1] == pytest.approx(2 * math.pi, rel=1e-4)
    assert np.isnan(found["period"].values[0])
    assert found["x_high"].values[1, 0] == pytest.approx(outer, rel=1e-3)
    assert found["x_low"].values[1, 0] == pytest.approx(-outer, rel=1e-3)
    assert np.isnan(found["eigenvalue"].values[1]).all()
    np.testing.assert_allclose(found["eigenvalue"].values[0, :, 0], mu, rtol=1e-9)
    assert valid(found)


def test_hopfield_memories_are_attractors_with_their_mirror_images() -> None:
    patterns = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1, 1, -1]]).double()
    weights = patterns.T @ patterns / 8
    network = ct.System(ct.hopfield("m", 8, beta=4.0), ct.Synapse("m", "m", weights))
    found = basin_fractions(network, {"u_m": (-1, 1)}, 60.0, samples=400)
    assert set(kinds(found)) == {"fixed_point"}
    signs = {tuple(row) for row in np.sign(found["u_m_mean"].values).astype(int).tolist()}
    for pattern in patterns.int().tolist():
        assert {tuple(pattern), tuple(-i for i in pattern)} <= signs
    nearest = found["u_m_start"].values @ patterns.numpy().T
    which = abs(nearest).argmax(1)
    clear = np.abs(np.diff(abs(nearest), axis=1)[:, 0]) > 1.5
    ends = np.sign(found["u_m_mean"].values)[found["basin"].values[clear]]
    expected = (np.sign(nearest)[:, :, None] * patterns.numpy())[np.arange(400), which][clear]
    np.testing.assert_array_equal(ends, expected)


def test_chaos_is_one_attractor() -> None:
    lorenz = text("dx/dt = 10*(y - x) : 1\ndy/dt = x*(28 - z) - y : 1\ndz/dt = x*y - 8*z/3 : 1")
    box = {"x": (-10, 10), "y": (-10, 10), "z": (10, 40)}
    found = basin_fractions(lorenz, box, 30.0, samples=24, tolerance=0.05)
    assert kinds(found) == ["other"]
    assert found["count"].values.tolist() == [0, 0, 24]


def test_what_goes_to_infinity_in_finite_time_diverges() -> None:
    found = basins(text("dx/dt = x**2 - 1 : 1"), {"x": (-3, 3)}, 20.0, points=60)
    x = found["x"].values
    np.testing.assert_array_equal(found["basin"], np.where(x > 1, -2, 0))
    assert found.attrs["diverged"] == (x > 1).sum()
    np.testing.assert_allclose(found["x_mean"].values, [[-1]])
    everywhere = basins(text("dx/dt = 1 + x**2 : 1"), {"x": (-3, 3)}, 20.0, points=4)
    assert everywhere.sizes["attractor"] == 0
    assert valid(everywhere)


def test_what_is_not_decided_is_said() -> None:
    found = basins(text(WELL), {"x": (-1.5, 1.5)}, 60.0, points=31)
    middle = found["basin"].sel(x=0.0, method="nearest")
    assert middle.item() == -1  # it rests on an unstable fixed point, which attracts nothing
    assert found.attrs["undecided"] == found["count"].values[1] == 1
    meanings = found["basin"].attrs["flag_meanings"].split()
    assert meanings[:2] == ["diverged", "undecided"]
    centre = text("dx/dt = y : 1\ndy/dt = -x : 1")
    orbits = basins(centre, {"x": (0.1, 2), "y": (-1, 1)}, 20.0, points=8, most=3)
    assert orbits.attrs["note"].startswith("more than 3 attractors")
    assert orbits.attrs["undecided"] > 20


def test_a_start_that_is_only_slow_is_followed_further() -> None:
    found = basins(text(WELL), {"x": (-1.5, 1.5)}, 12.0, points=30)
    assert found.sizes["attractor"] == 2
    slow = basins(text(WELL), {"x": (1e-4, 1.5)}, 12.0, points=30)
    assert slow["count"].values.tolist() == [0, 0, 30]


def test_two_cycles_of_one_shape_apart_are_two() -> None:
    wells = text(
        "dx/dt = k - k**3 : 1\ndy/dt = m*y*(1 - y**2 - z**2) - z : 1\n"
        "dz/dt = m*z*(1 - y**2 - z**2) + y : 1\nk = x : 1",
        m=1.0,
    )
    box = {"x": (-2, 2), "y": (-2, 2), "z": (-2, 2)}
    found = basin_fractions(wells, box, 40.0, samples=200)
    assert kinds(found) == ["cycle", "cycle"]
    np.testing.assert_allclose(found["x_mean"].values.ravel(), [-1, 1], atol=1e-6)
    np.testing.assert_array_equal(found["basin"], (found["x_start"].values[:, 0] > 0).astype(int))


def test_other_variables_start_where_they_are_told_and_need_no_range() -> None:
    pair = text("dx/dt = x - x**3 : 1\ndy/dt = 5*(3*x - y) : 1")
    found = basins(pair, {"x": (0.1, 2.0)}, 30.0, points=12, at={"y": -4.0})
    assert found["count"].values.tolist() == [0, 0, 12]
    np.testing.assert_allclose(found["y_mean"].values, [[3.0]], atol=1e-9)
    twice = text("dx/dt = x - x**3 + 0*y : 1\ndy/dt = y - y**3 : 1")
    for start, end in ((0.5, 1.0), (-0.5, -1.0)):
        found = basins(twice, {"x": (0.1, 2.0)}, 30.0, points=5, at={"y": start})
        np.testing.assert_allclose(found["y_mean"].values, [[end]], atol=1e-9)


def test_inputs_count_at_the_end() -> None:
    cell = ct.System(ct.Source("u"), ct.leaky_integrator("y"), ct.Synapse("u", "y", 1.0))
    step = {"u": ct.Held([0.0, 5.0], torch.tensor([[1.0], [3.0]]).double())}
    found = basins(cell, {"s_y": (-5, 5)}, 60.0, points=5, inputs=step)
    assert found["count"].values.tolist() == [0, 0, 5]
    np.testing.assert_allclose(found["s_y_mean"].values, [[3.0]], atol=1e-9)


def test_many_that_find_no_home_end_the_search() -> None:
    line = text("dx/dt = 1e-3*x : 1")  # slow, and away from its only fixed point
    found = basins(line, {"x": (0.5, 1.0)}, 1.0, points=40, most=2)
    assert found.attrs["undecided"] == 40
    assert "without a home" in found.attrs["note"]


@pytest.mark.parametrize("axes", [1, 2])
def test_figures(axes: int) -> None:
    pair = text("dx/dt = x - x**3 : 1\ndy/dt = -y : 1")
    box = dict(list({"x": (-2.0, 2.0), "y": (-1.0, 1.0)}.items())[:axes])
    tree = xr.DataTree.from_dict({"/basins": basins(pair, box, 30.0, points=10)})
    figure = plot_basins(tree)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["fixed point 0 (50.0 %)", "fixed point 1 (50.0 %)"]
    shown = np.asarray(figure.axes[0].collections[0].get_array())
    assert shown.shape == (10 if axes == 2 else 1, 10)
    assert (shown[0] == [0] * 5 + [1] * 5).all()
    parts = xr.DataTree.from_dict({"/basins": basin_fractions(pair, box, 30.0, samples=50)})
    bars = plot_basins(parts).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(100)
    with pytest.raises(ValueError, match="no group 'basins'"):
        plot_basins(xr.DataTree.from_dict({"/other": parts["basins"].to_dataset()}))


def test_units_of_periods_and_rates() -> None:
    cell = ct.System(ct.morris_lecar(I=90.0))
    found = basins(cell, {"v": (-60, 20), "w": (0.0, 0.5)}, 600.0, points=8)
    assert sorted(kinds(found)) == ["cycle", "fixed_point"]
    assert found["period"].attrs["units"] == "ms"
    assert found["eigenvalue"].attrs["units"] == "1/ms"
    assert found["v_mean"].attrs["units"] == found["v"].attrs["units"] == "mV"


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (3, 10), (500, 1000)])
def test_wilson_interval_solves_its_equation(count: int, total: int) -> None:
    z, p = 1.959963984540054, count / total
    for end in map(float, wilson_interval(count, total)):
        assert (p - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / total, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": {"q": (0, 1)}}, "no component 'q'"),
        ({"ranges": {"x": (1, 0)}}, "low < high"),
        ({"duration": -1.0}, "duration must be > 0"),
        ({"tolerance": 0.0}, "tolerance must lie"),
        ({"escape": 0.5}, "escape be > 1"),
        ({"points": 1}, "points must be >= 2"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        basins(text(WELL), **{"ranges": {"x": (-1, 1)}, "duration": 5.0} | options)


def test_refusals_of_samples_and_shared_weights() -> None:
    with pytest.raises(ValueError, match="samples must be >= 1"):
        basin_fractions(text(WELL), {"x": (-1, 1)}, 5.0, samples=0)
    with pytest.raises(ValueError, match="confidence must lie"):
        basin_fractions(text(WELL), {"x": (-1, 1)}, 5.0, confidence=1.0)
    shared = ct.System(
        ct.Source("x", 1, torch.ones(1).double()),
        ct.leaky_integrator("y"),
        ct.Synapse("x", "y", 0.5, plasticity=ct.oja(0.5), shared=True),
    )
    with pytest.raises(ValueError, match="'W_y_x' is shared"):
        basins(shared, {"s_y": (-1, 1)}, 5.0)
