"""The phase plane: vector field, nullclines, and the linear flow at fixed points."""

from __future__ import annotations

import numpy as np
from dynamics import eigenvalues
from ode import text

import ctsigprop as ct
from ctsigprop.analyses.phase import nullclines, vector_field
from ctsigprop.analyses.stability import TYPES, fixed_points


def measure_fitzhugh_nagumo(_case):
    system, box = ct.System(ct.fitzhugh_nagumo(I=0.5)), {"v": (-3.0, 3.0), "w": (-2.0, 4.0)}
    field = vector_field(system, box, points=13)  # every half unit
    rates = [
        [field[f"d{name}_dt"].sel(v=v, w=w).item() for name in "vw"]
        for v, w in ((0, 0), (1, 1), (-2, 0.5))
    ]
    curves = nullclines(system, box, points=61)  # every tenth

    def on_curve(variable, v):
        here = curves.where((curves["variable"] == variable) & (np.abs(curves.v - v) < 1e-12))
        return np.unique(here.w.dropna("point").values.round(14)).item()

    lines = {name: [on_curve(name, v) for v in (-2, -1, 0, 1, 2)] for name in "vw"}
    cubic = curves.where(curves["variable"] == "v", drop=True)
    inner = cubic.where(np.abs(cubic.v) < 1.5, drop=True)
    extrema = [inner.w.min().item(), inner.w.max().item()]
    crossed = fixed_points(system, box).sizes["fp"]
    return [rates, lines["v"], lines["w"], crossed, extrema]


def measure_index(_case):
    well = text("dx/dt = y : 1\ndy/dt = x - x**3 - 0.1*y : 1")
    found = fixed_points(well, {"x": (-2.0, 2.0), "y": (-1.0, 1.0)})
    kinds = [TYPES[k] for k in found["type"].values]
    assert kinds == ["stable_focus", "saddle", "stable_focus"]
    np.testing.assert_allclose(found.x.values[:, 0], [-1, 0, 1], atol=1e-12)
    hunt = text("dx/dt = 1.5*x - x*y : 1\ndy/dt = -3*y + x*y : 1")
    both = fixed_points(hunt, {"x": (-1.0, 5.0), "y": (-1.0, 4.0)})
    assert [TYPES[k] for k in both["type"].values] == ["saddle", "centre"]
    centre = eigenvalues(hunt, {"x": 3.0, "y": 1.5})[-1]
    return [
        found.eigenvalue.values[1, :, 0],
        found.eigenvalue.values[2, 1],
        [centre.real, abs(centre.imag)],
    ]


CASES = {
    "PHASE-FHN-FIELD": {"": measure_fitzhugh_nagumo},
    "PHASE-INDEX": {"": measure_index},
}
