from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.flat import FlatField
from ctsigprop.analyses.phase import nullclines, portrait, trajectories, vector_field
from ctsigprop.analyses.stability import STABILITIES, TYPES, fixed_points, jacobian
from ctsigprop.provenance import build

CASES = {
    case["id"]: {item["name"]: item for item in case["expected"]}
    for case in json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())[
        "cases"
    ]
}
FHN = {"v": (-2.5, 2.5), "w": (-2.0, 4.0)}


def text(*lines: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron("\n".join(lines), **parameters))


def linear(matrix: list[list[float]]) -> ct.System:
    (a, b), (c, d) = matrix
    return text("dx/dt = a*x + b*y : 1", "dy/dt = c*x + d*y : 1", a=a, b=b, c=c, d=d)


def kinds(found: xr.Dataset) -> list[str]:
    return [TYPES[k] for k in found["type"].values]


def complex_modes(found: xr.Dataset) -> np.ndarray:
    parts = found["eigenvalue"].transpose("fp", "mode", "part").values
    return parts[..., 0] + 1j * parts[..., 1]


def agrees(case: str, name: str, value: Any) -> None:
    item = CASES[case][name]
    np.testing.assert_allclose(value, item["value"], rtol=item["rtol"], atol=item["atol"])


def lotka_volterra() -> ct.System:
    return text("dx/dt = 1.5*x - x*y : 1", "dy/dt = -3*y + x*y : 1")


# published systems


def test_fitzhugh_nagumo_field_and_nullclines() -> None:
    neuron = ct.System(ct.fitzhugh_nagumo(I=0.5))
    case = "PHASE-FHN-FIELD"
    field = vector_field(neuron, {"v": (-2, 1), "w": (0, 1)}, points=7)
    points = {"v": [0.0, 1.0, -2.0], "w": [0.0, 1.0, 0.5]}
    at = {axis: xr.DataArray(values, dims="k") for axis, values in points.items()}
    rates = field.sel(at, method="nearest")
    agrees(case, "field (v',w') at (0,0),(1,1),(-2,.5)", np.c_[rates["dv_dt"], rates["dw_dt"]])
    curves = nullclines(neuron, FHN, points=201)
    for name, cubic in (("v", True), ("w", False)):
        own = curves.where(curves["variable"] == name, drop=True)
        v, w = own["v"].values, own["w"].values
        np.testing.assert_allclose(w, v - v**3 / 3 + 0.5 if cubic else (v + 0.7) / 0.8, atol=1e-12)
        grid = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
        nearest = np.array([w[np.abs(v - x).argmin()] for x in grid])
        agrees(case, f"{name}-nullcline w at v=-2,-1,0,1,2", nearest)
    found = fixed_points(neuron, FHN)
    assert found.sizes["fp"] == CASES[case]["nullcline intersections"]["value"]


def test_fitzhugh_nagumo_rest() -> None:
    found = fixed_points(ct.System(ct.fitzhugh_nagumo()), FHN)
    case = "DYN-FHN-REST"
    agrees(case, "fixed point (v,w)", [found["v"].item(), found["w"].item()])
    mode = complex_modes(found)[0, 1]
    agrees(case, "eigenvalues re,im", [mode.real, mode.imag])
    assert kinds(found) == [CASES[case]["type"]["value"].replace(" ", "_")]
    driven = fixed_points(ct.System(ct.fitzhugh_nagumo(I=0.5)), FHN)
    mode = complex_modes(driven)[0, 1]
    name = "I=0.5 fixed point v and eigenvalues re,im"
    agrees(case, name, [driven["v"].item(), mode.real, mode.imag])


def test_hodgkin_huxley_rest() -> None:
    neuron = ct.System(ct.hodgkin_huxley())
    found = fixed_points(neuron, {"v": (-100, 50), "m": (0, 1), "h": (0, 1), "n": (0, 1)})
    case = "DYN-HH-REST"
    state = [found[name].item() for name in "vmhn"]
    agrees(case, "V,m,h,n at rest (I=0)", [state[0] + 65.0, *state[1:]])
    modes = complex_modes(found)[0]
    agrees(case, "eigenvalues real parts sorted", modes.real)
    agrees(case, "imag of complex pair", np.abs(modes.imag).max())
    assert found["eigenvalue"].attrs["units"] == "1/ms"
    assert found["v"].attrs["units"] == "mV"


def test_lorenz() -> None:
    system = text(
        "dx/dt = s*(y - x) : 1",
        "dy/dt = x*(r - z) - y : 1",
        "dz/dt = x*y - b*z : 1",
        s=10.0,
        r=28.0,
        b=8 / 3,
    )
    found = fixed_points(system, {"x": (-30, 30), "y": (-30, 30), "z": (-10, 50)})
    case = "DYN-LORENZ-FIXED"
    assert kinds(found) == ["saddle_focus", "saddle", "saddle_focus"]
    last = found.isel(fp=2)
    agrees(case, "C+- = (+-sqrt(b(r-1)),same,r-1)", [last[name].item() for name in "xyz"])
    np.testing.assert_allclose(found["x"].values[0], -last["x"].values, rtol=1e-10)
    modes = complex_modes(found)
    agrees(case, "eigenvalues at origin", modes[1].real)
    name = "eigenvalues at C+ (real; complex pair re, im)"
    agrees(case, name, [modes[2, 0].real, modes[2, 2].real, modes[2, 2].imag])


def test_lotka_volterra_has_a_saddle_and_a_centre() -> None:
    found = fixed_points(lotka_volterra(), {"x": (0, 8), "y": (0, 5)})
    np.testing.assert_allclose(found["x"].values[:, 0], [0, 3], atol=1e-12)
    np.testing.assert_allclose(found["y"].values[:, 0], [0, 1.5], atol=1e-12)
    assert kinds(found) == ["saddle", "centre"]
    assert [STABILITIES[k] for k in found["stability"].values] == ["saddle", "marginal"]
    mode = complex_modes(found)[1, 1]
    agrees("PHASE-INDEX", "LV eigenvalues at (3,1.5)", [mode.real, mode.imag])


def test_double_well() -> None:
    found = fixed_points(
        text("dx/dt = y : 1", "dy/dt = x - x**3 - 0.1*y : 1"), {"x": (-2, 2), "y": (-2, 2)}
    )
    assert kinds(found) == ["stable_focus", "saddle", "stable_focus"]
    modes = complex_modes(found)
    agrees("PHASE-INDEX", "double-well eigenvalues at 0", modes[1].real)
    for k in (0, 2):
        agrees("PHASE-INDEX", "at +-1 (re,im)", [modes[k, 1].real, modes[k, 1].imag])


def izhikevich(drive: float) -> ct.System:
    return text(
        "dv/dt = 0.04*v**2 + 5*v + 140 - u + I : 1",
        "du/dt = a*(b*v - u) : 1",
        I=drive,
        a=0.02,
        b=0.2,
    )


def test_izhikevich_at_rest_at_the_hopf_point_and_at_the_fold() -> None:
    case, ranges = CASES["DYN-IZH-FIXED"], {"v": (-90, -30), "u": (-20, 0)}
    found = fixed_points(izhikevich(0.0), ranges)
    assert kinds(found) == ["stable_node", "saddle"]
    rest = [found["v"].values[0, 0], found["u"].values[0, 0]]
    agrees("DYN-IZH-FIXED", "rest state at I=0 (v,u)", rest)
    agrees("DYN-IZH-FIXED", "saddle v at I=0", found["v"].values[1, 0])
    agrees("DYN-IZH-FIXED", "eigenvalues at rest", complex_modes(found)[0].real)
    hopf = fixed_points(izhikevich(case["I_Hopf (trace zero, v=(a-5)/0.08)"]["value"]), ranges)
    assert kinds(hopf)[0] == "centre"
    agrees("DYN-IZH-FIXED", "v_Hopf", hopf["v"].values[0, 0])
    fold = fixed_points(izhikevich(case["I_saddle-node=(5-b)^2/0.16-140"]["value"]), ranges)
    assert kinds(fold) == ["degenerate"]
    assert fold["v"].item() == pytest.approx(case["v_SN"]["value"], rel=1e-7)  # a double root
    assert fixed_points(izhikevich(4.1), ranges).sizes["fp"] == 0


@pytest.mark.parametrize("drive", [0, 2, 3.25])
def test_hindmarsh_rose(drive: float) -> None:
    found = fixed_points(
        ct.System(ct.hindmarsh_rose(I=drive)), {"x": (-3, 3), "y": (-30, 2), "z": (-5, 15)}
    )
    name = "unique fixed point x at I=0 (root of x^3+2x^2+4x+5.4-I)" if not drive else ""
    agrees("DYN-HR-FIXED", name or f"x at I={drive}", found["x"].values.item())


def test_cubic_lattice_has_nine() -> None:
    cubic = text("dx/dt = x - x**3 : 1", "dy/dt = y - y**3 : 1")
    found = fixed_points(cubic, {"x": (-2, 2), "y": (-2, 2)})
    places = np.c_[found["x"].values, found["y"].values]
    expected = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    np.testing.assert_allclose(places, expected, atol=1e-12)
    assert kinds(found).count("saddle") == 4
    assert kinds(found).count("stable_star") == 4
    assert found["residual"].max() < 1e-14


def test_only_what_lies_inside_the_ranges() -> None:
    cubic = text("dx/dt = x - x**3 : 1", "dy/dt = y - y**3 : 1")
    found = fixed_points(cubic, {"x": (0.5, 1.5), "y": (-0.5, 1.0)})  # the edge is inside
    np.testing.assert_allclose(found["x"].values.ravel(), [1, 1], rtol=1e-12)
    np.testing.assert_allclose(found["y"].values.ravel(), [0, 1], atol=1e-12)
    assert fixed_points(cubic, {"x": (0.5, 0.9), "y": (-0.5, 1.0)}).sizes["fp"] == 0


# types


ROTATION = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
SHEAR = np.array([[1.0, 0.37], [0.0, 2.3]])

LINEAR = [
    ([[-1, 0], [0, -3]], "stable_node", "stable"),
    ([[1, 0], [0, 3]], "unstable_node", "unstable"),
    ([[-1, -2], [2, -1]], "stable_focus", "stable"),
    ([[1, -2], [2, 1]], "unstable_focus", "unstable"),
    ([[-1e-4, -2], [2, -1e-4]], "stable_focus", "stable"),
    ([[0, -2], [2, 0]], "centre", "marginal"),
    ([[1, 0], [0, -2]], "saddle", "saddle"),
    ([[-2, 0], [0, -2]], "stable_star", "stable"),
    ([[2, 0], [0, 2]], "unstable_star", "unstable"),
    ([[-2, 1], [0, -2]], "stable_improper_node", "stable"),
    ([[2, 1], [0, 2]], "unstable_improper_node", "unstable"),
    ([[0, 0], [0, -1]], "degenerate", "marginal"),
    ([[0, 0], [0, 1]], "degenerate", "unstable"),
    ([[0, 1], [0, 0]], "degenerate", "marginal"),
    ([[-1e-6, 0], [0, -1]], "stable_node", "stable"),
]


@pytest.mark.parametrize("basis", [np.eye(2), ROTATION, SHEAR], ids=["plain", "rotated", "sheared"])
@pytest.mark.parametrize(("matrix", "kind", "stability"), LINEAR, ids=lambda x: str(x))
def test_types_of_linear_flows_in_any_basis(
    matrix: list[list[float]], kind: str, stability: str, basis: np.ndarray
) -> None:
    moved = basis @ np.array(matrix, float) @ np.linalg.inv(basis)
    found = fixed_points(linear(moved.tolist()), {"x": (-1, 2), "y": (-1, 2)}, starts=20)
    assert kind in kinds(found)
    assert STABILITIES[found["stability"].values[kinds(found).index(kind)]] == stability
    if kind != "degenerate":
        assert found.sizes["fp"] == 1
        np.testing.assert_allclose([found["x"].item(), found["y"].item()], 0, atol=1e-12)


def test_types_in_three_dimensions() -> None:
    def flow(real: float) -> ct.System:
        return text("dx/dt = a*x - y : 1", "dy/dt = x + a*y : 1", "dz/dt = -z : 1", a=real)

    box = dict.fromkeys("xyz", (-1.0, 1.0))
    assert kinds(fixed_points(flow(-0.1), box)) == ["stable_focus"]
    assert kinds(fixed_points(flow(0.1), box)) == ["saddle_focus"]
    assert kinds(fixed_points(flow(0.0), box)) == ["marginal"]


@pytest.mark.parametrize("power", [2, 3])
@pytest.mark.parametrize("root", [0.0, 0.3])
def test_multiple_roots_are_found_once_and_called_degenerate(power: int, root: float) -> None:
    found = fixed_points(text(f"dx/dt = -(x - r)**{power} : 1", r=root), {"x": (-2, 2)})
    assert found["x"].values.ravel() == pytest.approx([root], abs=1e-6)
    assert kinds(found) == ["degenerate"]


def test_a_field_that_only_tends_to_zero_has_no_fixed_point() -> None:
    found = fixed_points(text("dx/dt = exp(-x) : 1"), {"x": (-2, 300)})
    assert found.sizes["fp"] == 0
    assert dict(found.sizes) == {"fp": 0, "neuron": 1, "mode": 1, "part": 2}


def test_fixed_points_do_not_depend_on_units() -> None:
    small = ct.System(ct.TextNeuron("dx/dt = k*(x - 3e-9) : 1", k=-2e6))
    found = fixed_points(small, {"x": (-1e-8, 1e-8)})
    assert found["x"].item() == pytest.approx(3e-9, rel=1e-12)
    large = ct.System(ct.TextNeuron("dx/dt = -k*(x - 3e9)*(x + 1e9) : 1", k=2e-6))
    found = fixed_points(large, {"x": (-1e10, 1e10)})
    np.testing.assert_allclose(found["x"].values.ravel(), [-1e9, 3e9], rtol=1e-12)
    assert kinds(found) == ["unstable_node", "stable_node"]


# what is held, what is free


def test_others_are_held_or_free() -> None:
    neuron = ct.System(ct.hindmarsh_rose(I=2.0))
    plane = {"x": (-3.0, 3.0), "y": (-30.0, 2.0)}
    fast = fixed_points(neuron, plane, at={"z": 1.0})
    roots = np.roots([1.0, 2.0, 0.0, 1.0 - 1.0 - 2.0])
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    np.testing.assert_allclose(fast["x"].values.ravel(), real, rtol=1e-12)
    assert set(fast["z"].values.ravel()) == {1.0}
    assert fast.sizes["mode"] == 2
    free = fixed_points(neuron, plane)
    assert free.sizes == {**free.sizes, "fp": 1, "mode": 3}
    agrees("DYN-HR-FIXED", "x at I=2", free["x"].values.item())
    field = vector_field(neuron, {"x": (-1, 1), "z": (0, 2)}, at={"y": 0.5}, points=3)
    x, z = field["x"].values[:, None], field["z"].values[None]
    np.testing.assert_allclose(field["dx_dt"], 0.5 + 3 * x**2 - x**3 - z + 2.0)
    np.testing.assert_allclose(field["dz_dt"], 0.006 * (4 * (x + 1.6) - z))
    assert list(field.dims) == ["x", "z"]


def test_units_of_fields() -> None:
    field = vector_field(ct.System(ct.morris_lecar(I=90.0)), {"v": (-70, 40), "w": (0, 1)})
    units = {name: field[name].attrs["units"] for name in ("v", "w", "dv_dt", "dw_dt")}
    assert units == {"v": "mV", "w": "1", "dv_dt": "mV/ms", "dw_dt": "1/ms"}


def test_signals_stand_still_at_the_time() -> None:
    cell = ct.leaky_integrator("y", tau=2.0)
    system = ct.System(ct.Source("u"), cell, ct.Input("u", "y"))
    inputs = {"u": ct.Held([0.0, 5.0], torch.tensor([1.0, 3.0]))}
    for time, rest in ((0.0, 1.0), (6.0, 3.0)):
        found = fixed_points(system, {"s_y": (-5, 5)}, t=time, inputs=inputs)
        assert found["s_y"].item() == pytest.approx(rest)
        assert complex_modes(found).ravel() == pytest.approx([-0.5])


def test_shared_weights_are_one_state() -> None:
    def oja(shared: bool) -> ct.System:
        return ct.System(
            ct.Source("x", 2, torch.tensor([0.6, 0.8]).double()),
            ct.leaky_integrator("y"),
            ct.Synapse("x", "y", 0.1, plasticity=ct.oja(0.5), shared=shared),
        )

    box = {"s_y": (-2, 2), "W_y_x[0,0]": (-2, 2), "W_y_x[0,1]": (-2, 2)}
    alone, together = (fixed_points(oja(shared), box, starts=64) for shared in (False, True))
    stable = [k for k, kind in enumerate(kinds(together)) if kind.startswith("stable")]
    np.testing.assert_allclose(together["W_y_x"].values[stable, 0], [[-0.6, -0.8], [0.6, 0.8]])
    np.testing.assert_allclose(*(d["W_y_x"].values[[0, -1]] for d in (alone, together)), atol=1e-12)


# Jacobians


@pytest.mark.parametrize(
    "system",
    [
        ct.System(ct.hodgkin_huxley(I=5.0)),
        ct.System(ct.wilson_cowan(size=2)),
        ct.System(ct.NeuralField(3, hidden=(8,))),
    ],
    ids=["hodgkin_huxley", "wilson_cowan", "neural_field"],
)
def test_jacobian_against_finite_differences(system: ct.System) -> None:
    field = FlatField(system)
    shifts = torch.rand(5, len(field.names), generator=torch.Generator().manual_seed(0)).double()
    y = field.initial + 0.1 * shifts
    J = field.jacobian(y)
    step = 1e-6 * torch.eye(len(field.names)).double()
    columns = [(field(y + h) - field(y - h)) / 2e-6 for h in step]
    torch.testing.assert_close(J, torch.stack(columns, -1), rtol=1e-5, atol=1e-6)


def test_labelled_jacobian() -> None:
    neuron = ct.System(ct.hodgkin_huxley())
    J = jacobian(neuron, {"v": -50.0})
    assert J.dims == ("row", "column")
    assert J["row"].values.tolist() == ["v[0]", "m[0]", "h[0]", "n[0]"]
    assert J["row_unit"].values.tolist() == ["mV/ms", "1/ms", "1/ms", "1/ms"]
    m, h, g = 0.0529, 0.5961, 120.0
    expected = -3 * g * m**2 * h * (-50.0 - 50.0)
    assert J.sel(row="v[0]", column="m[0]").item() == pytest.approx(expected, rel=1e-6)
    weights = ct.System(
        ct.Source("x", 2, torch.ones(2)),
        ct.leaky_integrator("y"),
        ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(0.5)),
    )
    J = jacobian(weights, {"s_y": 2.0})
    assert J["column"].values.tolist() == ["s_y[0]", "W_y_x[0,0]", "W_y_x[0,1]"]
    np.testing.assert_allclose(J, [[-1, 1, 1], [0.5, 0, 0], [0.5, 0, 0]])
    assert jacobian(text("dx/dt = x**2 : 1"), {"x": 3.0}).item() == 6.0


# nullclines


CURVES: list[tuple[str, tuple[str, str], str, Callable[[xr.Dataset], xr.DataArray]]] = [
    ("horizontal", ("dx/dt = y - 0.3 : 1", "dy/dt = -1 : 1"), "x", lambda p: p["y"] - 0.3),
    ("vertical", ("dx/dt = x - 0.1 : 1", "dy/dt = -1 : 1"), "x", lambda p: p["x"] - 0.1),
    ("on a grid line", ("dx/dt = y : 1", "dy/dt = 1 : 1"), "x", lambda p: p["y"]),
    ("on the edge", ("dx/dt = x - 1 : 1", "dy/dt = 1 : 1"), "x", lambda p: p["x"] - 1),
    ("on the lower edge", ("dx/dt = 1 : 1", "dy/dt = y + 1 : 1"), "y", lambda p: p["y"] + 1),
    (
        "steep",
        ("dx/dt = tanh(1e4*(y - 0.123)) : 1", "dy/dt = 1 : 1"),
        "x",
        lambda p: p["y"] - 0.123,
    ),
    (
        "closed",
        ("dx/dt = 1 : 1", "dy/dt = x**2 + y**2 - 0.5 : 1"),
        "y",
        lambda p: (p["x"] ** 2 + p["y"] ** 2) ** 0.5 - 0.5**0.5,
    ),
]


@pytest.mark.parametrize(
    ("lines", "name", "distance"), [c[1:] for c in CURVES], ids=[c[0] for c in CURVES]
)
def test_nullclines_of_every_direction(
    lines: tuple[str, str], name: str, distance: Callable[[xr.Dataset], xr.DataArray]
) -> None:
    system, box = text(*lines), {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    curves = nullclines(system, box, points=101)
    assert set(curves["variable"].values) == {name}
    x, y = curves["x"].values, curves["y"].values
    np.testing.assert_allclose(distance(curves), 0, atol=1e-12)
    rates = FlatField(system)(torch.as_tensor(np.c_[x, y])).numpy()[:, "xy".index(name)]
    assert np.abs(rates).max() < 1e-10
    for _, curve in curves.groupby("curve"):  # in order, without gaps
        assert np.hypot(np.diff(curve["x"]), np.diff(curve["y"])).max() < 0.04
    assert np.ptp(x).round(6) in (0.0, 2.0, round(2 * 0.5**0.5, 6))
    assert max(np.ptp(x), np.ptp(y)) > 1.4
    assert ((np.abs(x) <= 1) & (np.abs(y) <= 1)).all()


def test_nullclines_on_the_axes_of_lotka_volterra() -> None:
    curves = nullclines(lotka_volterra(), {"x": (0.0, 6.0), "y": (0.0, 4.0)})
    for name, zero, other, value in (("x", "x", "y", 1.5), ("y", "y", "x", 3.0)):
        own = curves.where(curves["variable"] == name, drop=True)
        on_axis = own[zero].values == 0
        assert (on_axis | (np.abs(own[other].values - value) < 1e-12)).all()
        along = np.sort(own[other].values[on_axis])
        assert along[0] == 0
        assert along[-1] == (4.0 if other == "y" else 6.0)
        assert np.diff(along).max() < 0.1


def test_no_nullcline_where_the_field_jumps_over_zero_or_has_no_value() -> None:
    box = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    pole = text("dx/dt = 1/(x - 0.1234) : 1", "dy/dt = sign(y - 0.1) + 0.5 : 1")
    assert nullclines(pole, box).sizes["point"] == 0
    half = text("dx/dt = log(x) - y : 1", "dy/dt = 1 : 1")
    curves = nullclines(half, box)
    np.testing.assert_allclose(curves["y"], np.log(curves["x"]), atol=1e-12)
    field = vector_field(half, box, points=10)
    assert np.isnan(field["dx_dt"].sel(x=slice(None, 0))).all()
    assert np.isfinite(field["dx_dt"].sel(x=slice(0.01, None))).all()
    assert field["dx_dt"].attrs["missing"]


# orbits and portraits


def test_trajectories_are_those_of_solve() -> None:
    neuron, times = ct.System(ct.fitzhugh_nagumo()), torch.linspace(0, 20, 5)
    orbits = trajectories(neuron, {"v": [-1.0, 0.5, 2.0]}, times, at={"w": 0.25})
    alone = ct.solve(neuron, {"v": 0.5, "w": 0.25}, times)
    np.testing.assert_allclose(orbits["v"].isel(sample=1), alone["v"], rtol=1e-12)
    assert orbits["v"].dims == ("time", "sample", "neuron")


def test_orbits_end_where_they_leave() -> None:
    grows = text("dx/dt = x : 1", "dy/dt = -y : 1")
    orbits = trajectories(
        grows,
        {"x": [0.1, 0.0], "y": [1.0, 1.0]},
        torch.linspace(0, 10, 101),
        within={"x": (-1, 1), "y": (-2, 2)},
    )
    first, second = orbits["x"].values[..., 0].T
    leaves = math.log(10)
    np.testing.assert_array_equal(np.isnan(first), orbits["time"].values > leaves)
    assert orbits["x"].attrs["missing"]
    assert (second == 0).all()


def test_a_portrait_is_valid_and_survives_the_disk(tmp_path: Path) -> None:
    tree = portrait(ct.System(ct.morris_lecar(I=100.0)), {"v": (-80, 60), "w": (0, 0.6)})
    assert ct.validate(tree) == []
    for name in ("portrait.zarr", "portrait.nc"):
        again = ct.open(ct.save(tree, tmp_path / name))
        assert again.identical(tree)
    assert list(tree.children) == ["vector_field", "nullclines", "fixed_points", "trajectories"]
    assert tree["nullclines"]["v"].attrs["units"] == "mV"
    written = json.loads(tree.attrs["system"])
    arrays = {key: torch.tensor(value) for key, value in written["arrays"].items()}
    rebuilt = build(written["recipe"], arrays)
    assert [v.name for v in rebuilt.variables.values()] == ["v", "w"]
    assert 100.0 in written["values"].values()
    fp = tree["fixed_points"]
    field = FlatField(ct.System(ct.morris_lecar(I=100.0)))
    y = torch.tensor([[fp["v"].item(), fp["w"].item()]], dtype=torch.float64)
    assert field(y).abs().max() == pytest.approx(fp["residual"].item())


def test_a_portrait_of_a_slice_and_of_a_line() -> None:
    slice_ = portrait(ct.System(ct.hodgkin_huxley()), {"v": (-90, 50), "n": (0, 1)}, points=8)
    assert "trajectories" not in slice_.children
    assert slice_.attrs["held"] == {"m[0]": 0.0529, "h[0]": 0.5961}
    assert ct.validate(slice_) == []
    line = portrait(text("dx/dt = x - x**3 : 1"), {"x": (-1.5, 1.5)}, duration=2.0)
    assert list(line.children) == ["vector_field", "fixed_points", "trajectories"]
    assert kinds(line["fixed_points"].to_dataset()) == [
        "stable_node",
        "unstable_node",
        "stable_node",
    ]
    assert line["trajectories"]["time"].values[-1] == 2.0
    assert ct.validate(line) == []


def test_a_portrait_with_inputs_given_by_name() -> None:
    cell = ct.fitzhugh_nagumo("n")
    system = ct.System(ct.Source("u"), cell, ct.Input("u", "n"))
    tree = portrait(system, {"v_n": (-2, 2), "w_n": (-1, 2)}, points=5, inputs={"u": 0.5})
    found = tree["fixed_points"]
    agrees(
        "DYN-FHN-REST",
        "I=0.5 fixed point v and eigenvalues re,im",
        [found["v_n"].item(), *found["eigenvalue"].values[0, 1]],
    )
    assert np.isfinite(tree["trajectories"]["v_n"]).all()


def test_a_portrait_of_a_function() -> None:
    turning = ct.VectorField(lambda _, y: torch.stack([-y[..., 1], y[..., 0]], -1), size=2)
    tree = portrait(ct.System(turning), {"y[0]": (-1, 1), "y[1]": (-1, 1)}, points=5)
    assert tree.attrs["axes"] == ["y_0", "y_1"]
    assert "function" in json.loads(tree.attrs["system"])["opaque"]
    np.testing.assert_allclose(tree["vector_field"]["dy_1_dt"][:, 0], np.linspace(-1, 1, 5))
    assert kinds(tree["fixed_points"].to_dataset()) == ["centre"]
    assert ct.validate(tree) == []


# refusals


def delayed() -> ct.System:
    return ct.System(ct.leaky_integrator("y"), ct.Synapse("y", "y", -1.0, delay=1.0))


REFUSED = [
    (lambda: vector_field(ct.System(ct.fitzhugh_nagumo()), {"V": (0, 1)}), r"'V' \(did you mean"),
    (lambda: vector_field(ct.System(ct.rate(size=2)), {"s": (0, 1)}), r"s\[0\], s\[1\]"),
    (lambda: vector_field(lotka_volterra(), {"x": (1, 0)}), "range of 'x'.*low < high"),
    (lambda: vector_field(lotka_volterra(), {"x": (0, math.nan)}), "range of 'x'"),
    (lambda: vector_field(lotka_volterra(), {"x": 3.0}), r"range of 'x' must be \(low, high\)"),
    (lambda: vector_field(lotka_volterra(), {}), "at least one variable"),
    (lambda: vector_field(lotka_volterra(), {"x": (0, 1)}, points=1), "points must be >= 2"),
    (lambda: vector_field(lotka_volterra(), {"x": (0, 1)}, at={"z": 1.0}), "'z'"),
    (lambda: vector_field(lotka_volterra(), {"x": (0, 1)}, at={"x": 1.0}), "free and held"),
    (lambda: vector_field(lotka_volterra(), {"x": (0, 1)}, at={"y": math.inf}), "non-finite"),
    (lambda: vector_field(text("dx/dt = log(x) : 1"), {"x": (-2, -1)}), "finite nowhere"),
    (lambda: fixed_points(text("dx/dt = log(x) : 1"), {"x": (-2, -1)}), "not finite at any"),
    (lambda: fixed_points(lotka_volterra(), {"x": (0, 1)}, at={"x": 1.0}), "free and held"),
    (lambda: fixed_points(lotka_volterra(), {"x": (0, 1)}, starts=0), "starts >= 1"),
    (lambda: fixed_points(lotka_volterra(), {"x": (0, 1)}, inputs={"u": 1.0}), "source 'u'"),
    (lambda: fixed_points(delayed(), {"s_y": (0, 1)}), "delays"),
    (lambda: nullclines(lotka_volterra(), {"x": (0, 1)}), "two ranges"),
    (lambda: portrait(ct.System(ct.hindmarsh_rose()), dict.fromkeys("xyz", (0, 1))), "1 to 2"),
    (lambda: trajectories(lotka_volterra(), {"x": [1.0], "y": [1.0, 2.0]}, [0, 1]), "one length"),
    (lambda: jacobian(lotka_volterra(), {"x": torch.ones(3, 1).double()}), "batch"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_refusals_of_types() -> None:
    with pytest.raises(TypeError, match="System"):
        vector_field(ct.fitzhugh_nagumo(), {"v": (0, 1)})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="float64"):
        fixed_points(ct.System(ct.rate(tau=torch.ones(1))).float(), {"s": (0, 1)})
