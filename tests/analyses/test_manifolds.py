from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.manifolds import ENDS, MANIFOLDS, manifolds
from ctsigprop.analyses.phase import portrait
from ctsigprop.analyses.plots import plot_portrait
from ctsigprop.analyses.stability import fixed_points
from ctsigprop.solution import root_attributes

BOX = {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}


def text(*lines: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron("\n".join(lines), **parameters))


def well(damping: float = 0.0) -> ct.System:
    return text("dx/dt = y : 1", "dy/dt = x - x**3 - d*y : 1", d=damping)


def places(curves: xr.Dataset, *names: str) -> np.ndarray:
    return np.stack([curves[name].values[:, 0] for name in names], -1)


def branch(curves: xr.Dataset, k: int) -> xr.Dataset:
    return curves.isel(point=curves["curve"].values == k)


def ends(curves: xr.Dataset) -> list[str]:
    return [ENDS[k] for k in curves["ended"].values]


def test_homoclinic_orbits_of_the_double_well() -> None:
    curves = manifolds(well(), fixed_points(well(), BOX), BOX)
    xy = places(curves, "x", "y")
    # ±(√2 sech t, −√2 sech t tanh t): the nearest point of the orbit, by sections of an interval
    folded = xy * np.sign(xy[:, :1])
    folded = folded[np.linalg.norm(folded, axis=-1) > 1e-6]

    def distance(t: np.ndarray) -> np.ndarray:
        x = np.sqrt(2) / np.cosh(t)
        return np.linalg.norm(np.stack([x, -np.tanh(t) * x], -1) - folded[:, None], axis=-1)

    coarse = np.linspace(-16, 16, 3201)
    near = coarse[distance(coarse).argmin(-1)][:, None]
    low, high = near - 0.02, near + 0.02
    for _ in range(80):
        a, b = low + (high - low) * 0.382, low + (high - low) * 0.618
        left = distance(a) < distance(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    assert distance(low).max() < 1e-6
    assert np.abs(xy[:, 1] ** 2 - xy[:, 0] ** 2 + xy[:, 0] ** 4 / 2).max() < 1e-9
    # both stable and both unstable branches come back to the saddle
    assert ends(curves) == ["fixed_point"] * 4
    assert (curves["saddle"].values == 1).all()
    assert (curves["end"].values == 1).all()
    assert [MANIFOLDS[k] for k in curves["manifold"].values] == ["stable"] * 2 + ["unstable"] * 2
    np.testing.assert_allclose(curves["rate"], [-1, -1, 1, 1], rtol=1e-12)


def test_points_lie_at_their_arc_length() -> None:
    curves = manifolds(well(), {"x": 0.0, "y": 0.0}, BOX, spacing=0.002)
    loop = branch(curves, 0)
    step = np.linalg.norm(np.diff(places(loop, "x", "y") / 4.0, axis=0), axis=-1)
    np.testing.assert_allclose(np.cumsum(step), loop["arc_length"].values[1:], rtol=2e-5)
    assert loop["arc_length"].values[0] == 0
    assert step.max() <= 0.002 * (1 + 1e-6)
    t = np.linspace(-30, 30, 2_000_001)
    speed = np.hypot(
        np.sqrt(2) / np.cosh(t) * np.tanh(t), np.sqrt(2) * (2 / np.cosh(t) ** 3 - 1 / np.cosh(t))
    )
    exact = np.trapezoid(speed, t) / 4.0
    np.testing.assert_allclose(curves["length"], exact, rtol=1e-8)


def test_separatrix_of_a_bistable_system() -> None:
    # u' = u − u³ and v' = −v + c u²; the stable manifold of 0 is u = 0, and the unstable one
    # v = c ∫₀¹ …, of which the series is v = c u²/3 + …; turned by 30 degrees
    c, s = math.cos(0.5), math.sin(0.5)
    system = text(
        "dx/dt = c*du - s*dv : 1",
        "dy/dt = s*du + c*dv : 1",
        "du = u - u**3 : 1",
        "dv = -3*v : 1",
        "u = c*x + s*y : 1",
        "v = -s*x + c*y : 1",
        c=c,
        s=s,
    )
    curves = manifolds(system, fixed_points(system, BOX), BOX)
    xy = places(curves, "x", "y")
    own = curves["manifold"].values[curves["curve"].values] == MANIFOLDS.index("stable")
    assert np.abs(xy[own] @ [c, s]).max() < 1e-10
    assert np.abs(xy[~own] @ [-s, c]).max() < 1e-10
    assert ends(curves) == ["left_ranges"] * 2 + ["fixed_point"] * 2
    assert sorted(curves["end"].values[2:]) == [0, 2]
    last = [places(branch(curves, k), "x", "y")[-1] for k in (0, 1)]
    np.testing.assert_allclose(np.abs(last).max(-1), 2.0, rtol=1e-12)  # on the edge itself


def test_curved_unstable_manifold_with_a_known_series() -> None:
    # x' = x, y' = −y + x²: W^u is y = x²/3 exactly, and W^s is x = 0
    system = text("dx/dt = x : 1", "dy/dt = -y + x**2 : 1")
    curves = manifolds(system, {"x": 0.0, "y": 0.0}, BOX)
    xy = places(curves, "x", "y")
    grows = curves["manifold"].values[curves["curve"].values] == MANIFOLDS.index("unstable")
    assert np.abs(xy[grows, 1] - xy[grows, 0] ** 2 / 3).max() < 1e-10
    assert np.abs(xy[~grows, 0]).max() < 1e-10
    # the quadratic local manifold is exact here, so that it starts as far out as is allowed
    assert curves["start"].values[-1] > 0.005


def test_damped_well_falls_into_the_foci() -> None:
    found = fixed_points(well(0.5), BOX)
    curves = manifolds(well(0.5), found, BOX)
    falls = curves["manifold"].values == MANIFOLDS.index("unstable")
    assert sorted(curves["end"].values[falls]) == [0, 2]
    for k in np.flatnonzero(falls):
        last = np.abs(places(branch(curves, k), "x", "y")[-1])
        np.testing.assert_allclose(last, [1, 0], atol=1e-12)
    # forward orbits from both sides of the stable manifold go to different wells
    k = int(np.flatnonzero(~falls)[0])
    own = branch(curves, k)
    row = own.sizes["point"] // 2
    x, y = places(own, "x", "y")[row]
    ahead = places(own, "x", "y")[row + 1] - [x, y]
    side = 1e-3 * np.array([-ahead[1], ahead[0]]) / np.linalg.norm(ahead)
    settled = [
        ct.solve(well(0.5), {"x": x + z * side[0], "y": y + z * side[1]}, [0.0, 80.0])["x"][-1]
        for z in (1, -1)
    ]
    assert settled[0] * settled[1] < 0


def test_one_dimensional_manifolds_in_space() -> None:
    lorenz = text(
        "dx/dt = 10*(y - x) : 1", "dy/dt = x*(r - z) - y : 1", "dz/dt = x*y - 8/3*z : 1", r=10.0
    )
    box = {"x": (-20.0, 20.0), "y": (-20.0, 20.0), "z": (-10.0, 30.0)}
    found = fixed_points(lorenz, box)
    curves = manifolds(lorenz, found, box)
    # r = 10 < 13.926: each branch of the origin's unstable manifold goes to the focus of its side
    assert (curves["saddle"].values == 1).all()
    assert [MANIFOLDS[k] for k in curves["manifold"].values] == ["unstable"] * 2
    for k in (0, 1):
        own = branch(curves, k)
        x = own["x"].values[:, 0]
        assert x[-1] == found["x"].values[curves["end"].values[k], 0]
        assert x[-1] * x[5] > 0
    # the z axis of a system with a two-dimensional unstable manifold, where z' = −2 z
    spiral = text("dx/dt = x - y : 1", "dy/dt = x + y : 1", "dz/dt = -2*z : 1")
    line = manifolds(spiral, {"x": 0.0, "y": 0.0, "z": 0.0}, dict.fromkeys("xyz", (-1.0, 1.0)))
    assert [MANIFOLDS[k] for k in line["manifold"].values] == ["stable"] * 2
    np.testing.assert_allclose(places(line, "x", "y"), 0, atol=1e-12)


def test_a_curve_that_stays_ends_at_its_length() -> None:
    # the unstable manifold of the saddle winds onto a limit cycle
    system = text("dx/dt = y : 1", "dy/dt = x - x**3 + (0.2 - 0.25*x**2 + 0.1*x**4)*y : 1")
    found = fixed_points(system, BOX)
    curves = manifolds(system, found, {"x": (-4, 4), "y": (-4, 4)}, length=1.5)
    over = curves["ended"].values == ENDS.index("length")
    assert over.any()
    beyond = curves["length"].values[over] - curves["start"].values[over]
    np.testing.assert_allclose(beyond, 1.5, rtol=1e-9)


def test_a_field_that_ends_stops_the_curve() -> None:
    system = text("dx/dt = x : 1", "dy/dt = -y*sqrt(1 - x) : 1")
    curves = manifolds(system, {"x": 0.0, "y": 0.0}, BOX)
    assert "stopped" in ends(curves)
    assert np.isfinite(places(curves, "x", "y")).all()


def test_a_field_that_jumps_against_itself_stops_one_curve_only() -> None:
    system = text("dx/dt = x - 2*x*(1 + sign(x - 1)) : 1", "dy/dt = -y : 1")
    curves = manifolds(system, {"x": 0.0, "y": 0.0}, BOX)
    assert ends(curves) == ["left_ranges", "left_ranges", "stopped", "left_ranges"]
    assert branch(curves, 2)["x"].values[-1].item() == pytest.approx(1.0, abs=1e-6)


def test_a_fixed_point_that_is_passed_in_a_straight_line_is_not_missed() -> None:
    system = text("dx/dt = x*(1 - x)**2 : 1", "dy/dt = -y : 1")
    curves = manifolds(system, fixed_points(system, BOX), BOX)
    assert ends(curves) == ["left_ranges", "left_ranges", "fixed_point", "left_ranges"]
    assert branch(curves, 2)["x"].values[-1].item() == pytest.approx(1.0, abs=1e-6)


def test_portraits_hold_separatrices() -> None:
    cubic = text("dx/dt = x - x**3 : 1", "dy/dt = y - y**3 : 1")
    tree = portrait(cubic, BOX)
    assert ct.validate(tree) == []
    curves = tree["manifolds"].to_dataset()
    assert curves.sizes["branch"] == 16
    xy = places(curves, "x", "y")
    on_line = np.abs(xy[..., None] - np.array([-1.0, 0.0, 1.0])).min(-1).min(-1)
    assert on_line.max() < 1e-6
    assert "manifolds" not in portrait(text("dx/dt = y : 1", "dy/dt = -x : 1"), BOX).children
    fast = {"x": (-3, 3), "y": (-30, 2)}
    held = portrait(ct.System(ct.hindmarsh_rose(I=2.0)), fast, at={"z": 2.0})
    assert ct.validate(held) == []
    assert set(held["manifolds"]["z"].values.ravel()) == {2.0}


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: manifolds(well(), {"x": 0.5, "y": 0.0}, BOX), "point must be a fixed point"),
    (lambda: manifolds(well(0.1), {"x": 1.0, "y": 0.0}, BOX), "it is a stable focus with 0"),
    (lambda: manifolds(well(), {"x": 0.0, "y": 0.0}, BOX, spacing=0.0), "0 < spacing <= length"),
    (lambda: manifolds(well(), {"x": 0.0, "y": 0.0}, BOX, close=1.0), "close < 0.1"),
    (lambda: manifolds(well(), {"x": 0.0, "z": 0.0}, BOX), "'z'"),
    (lambda: manifolds(well(), {"x": 0.0, "y": 0.0}, {"x": (1, 0)}), "range of 'x'"),
    (lambda: manifolds(well(), xr.Dataset(), BOX), "lacks x, y"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_four_dimensions_with_two_of_each_have_no_curve() -> None:
    system = ct.System(
        ct.VectorField(lambda _, y: y * torch.tensor([1.0, 2.0, -1.0, -2.0]).double(), size=4)
    )
    with pytest.raises(ValueError, match="2 unstable and 2 stable"):
        manifolds(system, {"y": torch.zeros(4).double()}, {"y[0]": (-1, 1)})


def test_picture_of_the_manifolds(tmp_path: Path) -> None:
    box = {"x": (-2.0, 2.0), "y": (-1.5, 1.5)}
    trees = {
        name: portrait(well(damping), box, orbits=4, title=name)
        for name, damping in (("closed", 0.0), ("damped", 0.3))
    }
    ax = plot_portrait(trees["damped"]).axes[0]
    drawn: dict[str, list[Any]] = {"stable manifold": [], "unstable manifold": []}
    for line in ax.lines:
        if line.get_label() in drawn:
            drawn[str(line.get_label())].append(line)
    looks = [
        {(line.get_color(), line.get_linestyle() != "-") for line in drawn[name]} for name in drawn
    ]
    assert [len(lines) for lines in drawn.values()] == [2, 2]
    assert [len(look) for look in looks] == [1, 1]
    assert not looks[0] & looks[1]
    assert [dashed for look in looks for _, dashed in look] == [False, True]
    curves = trees["damped"]["manifolds"].to_dataset()
    xy = places(branch(curves, 0), "x", "y")
    np.testing.assert_array_equal(drawn["stable manifold"][0].get_xydata(), xy)
    both = xr.DataTree(children=trees)
    both.attrs = root_attributes("two portraits")
    assert ct.validate(both) == []
    again = ct.open(ct.save(both, tmp_path / "two.zarr"))
    assert [ax.get_title() for ax in plot_portrait(again).axes] == ["closed", "damped"]
