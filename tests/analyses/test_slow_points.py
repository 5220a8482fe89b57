from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.flat import FlatField
from ctsigprop.analyses.slow_points import KINDS, slow_points
from ctsigprop.analyses.stability import TYPES, fixed_points
from ctsigprop.signals import Constant
from ctsigprop.solution import root_attributes

F64 = torch.float64


def text(*lines: str, **parameters: float) -> ct.System:
    return ct.System(ct.TextNeuron("\n".join(lines), **parameters))


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def cubic() -> ct.System:
    return text("dx/dt = x - x**3 : 1", "dy/dt = y - y**3 : 1")


def attractor(n: int) -> tuple[ct.System, torch.Tensor]:
    """Return a linear network whose fixed points are a line, and the direction of the line."""
    v = torch.nn.functional.normalize(draws(n, seed=1), dim=0)
    off = torch.eye(n, dtype=F64) - torch.outer(v, v)
    W = off @ (0.5 / n**0.5 * draws(n, n, seed=2)) @ off + torch.outer(v, v)
    return ct.System(ct.rate("h", n, rho="identity"), ct.Synapse("h", "h", W)), v


def kinds(found: Any) -> list[str]:
    return [KINDS[k] for k in found["kind"].values]


def test_nine_equilibria() -> None:
    starts = {"x": 1.5 * draws(128, 1), "y": 1.5 * draws(128, 1, seed=1)}
    found = slow_points(cubic(), starts)
    at = sorted(np.c_[found["x"].values, found["y"].values].round(8).tolist())
    assert at == [[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)]
    assert set(kinds(found)) == {"fixed_point"}
    names = [TYPES[k] for k in found["type"].values]
    assert [names.count(k) for k in ("saddle", "stable_star", "unstable_star")] == [4, 4, 1]
    assert int(found["starts"].sum()) == 128
    assert found["speed"].values.max() < 1e-12
    assert (np.diff(found["speed"]) >= 0).all()
    np.testing.assert_allclose(found["q"], found["speed"] ** 2 / 2)
    tree = xr.DataTree.from_dict({"/slow_points": found})
    tree.attrs = root_attributes("nine")
    assert ct.validate(tree) == []


@pytest.mark.parametrize("n", [30, 200], ids=["direct", "by conjugate gradients"])
def test_line_attractor(n: int) -> None:
    network, v = attractor(n)
    starts = draws(24, n, seed=3)
    found = slow_points(network, {"s_h": starts}, merge=1e-6)
    y = torch.as_tensor(found["s_h"].values)
    assert set(kinds(found)) == {"fixed_point"}
    assert found.sizes["point"] == 24
    assert (y - torch.outer(y @ v, v)).abs().max() < 1e-8
    # one eigenvalue is zero, along the line, and all others decay
    modes = found["eigenvalue"].values[..., 0]
    assert np.abs(modes[:, -1]).max() < 1e-12
    assert modes[:, -2].max() < -0.3
    assert {TYPES[k] for k in found["type"].values} == {"degenerate"}
    # what ends on the line is where the start, followed by Gauss and Newton, must end
    J = FlatField(network).jacobian(torch.zeros(n, dtype=F64))
    exact = (starts.mT - torch.linalg.pinv(J) @ J @ starts.mT).mT
    order = [int((exact - row).norm(dim=-1).argmin()) for row in y]
    assert sorted(order) == list(range(24))
    np.testing.assert_allclose(y, exact[order], atol=1e-5)


def test_the_ghost_of_a_fold_is_a_slow_point() -> None:
    for gap in (1e-3, 1e-2):
        found = slow_points(
            text("dx/dt = a + x**2 : 1", a=gap),
            {"x": torch.linspace(-1, 1, 41, dtype=F64)[:, None]},
        )
        assert kinds(found) == ["slow_point"]
        assert found["x"].item() == pytest.approx(0, abs=1e-5)
        assert found["speed"].item() == pytest.approx(gap)
    fast = slow_points(text("dx/dt = 1 + x**2 : 1"), {"x": draws(20, 1)}, slowest=0.5)
    assert fast.sizes["point"] == 0
    assert fast.attrs["left_out"] == 20


def test_a_field_that_only_tends_to_zero_is_not_at_a_minimum() -> None:
    found = slow_points(text("dx/dt = exp(-x) : 1"), {"x": draws(10, 1)}, iterations=6)
    assert found.sizes["point"] == 0
    assert found.attrs["unfinished"] == 10


def test_two_unit_hopfield_against_the_search_in_a_box() -> None:
    W = torch.tensor([[1.5, -0.8], [0.6, 1.2]], dtype=F64)
    network = ct.System(ct.hopfield("h", 2), ct.Synapse("h", "h", W))
    box = {"u_h[0]": (-4.0, 4.0), "u_h[1]": (-4.0, 4.0)}
    there = fixed_points(network, box)
    found = slow_points(network, {"u_h": 2 * draws(200, 2)}, count=200)
    zeros = found.isel(point=found["kind"].values == KINDS.index("fixed_point"))
    assert zeros.sizes["point"] == there.sizes["fp"]
    for row in there["u_h"].values:
        assert np.abs(zeros["u_h"].values - row).max(-1).min() < 1e-9


@pytest.mark.parametrize("n", [40, 120], ids=["direct", "by conjugate gradients"])
def test_starts_from_a_run_of_a_random_network(n: int) -> None:
    network = ct.System(
        ct.rate("h", n, rho="tanh"), ct.Synapse("h", "h", 1.6 / n**0.5 * draws(n, n, seed=4))
    )
    run = ct.solve(network, {"s_h": draws(6, n, seed=5)}, torch.linspace(0, 20, 21))
    found = slow_points(network, run, count=24, slowest=0.5)
    field = FlatField(network)
    y = torch.as_tensor(found["s_h"].values)
    f, J = field(y), field.jacobian(y)
    np.testing.assert_allclose(f.norm(dim=-1), found["speed"], atol=1e-12)
    gradient = (J.mT @ f.unsqueeze(-1)).norm(dim=(-2, -1))
    scale = J.norm(dim=(-2, -1)) * f.norm(dim=-1)
    slow = np.array(kinds(found)) == "slow_point"
    assert (gradient[slow] < 1e-5 * scale[slow]).all()
    assert f[~slow].abs().max() < 1e-8
    assert (~slow).any()
    modes = torch.linalg.eigvals(J)
    np.testing.assert_allclose(
        modes.real.max(-1).values, found["eigenvalue"].values[:, -1, 0], rtol=1e-7, atol=1e-9
    )
    assert int(found["starts"].sum()) + found.attrs["left_out"] + found.attrs["unfinished"] == 24


def test_learned_weights_are_held() -> None:
    network = ct.sigprop_network([4, 6, 3])
    held = {k: torch.zeros(v.shape).double() for k, v in network.variables.items() if k[0] != "s"}
    held |= {"W_h1_x": draws(6, 4), "W_y_h1": draws(3, 6, seed=1)}
    inputs = {"x": draws(4, seed=2), "c": torch.zeros(3).double()}
    starts = {"s_h1": draws(20, 6).abs(), "s_y": draws(20, 3).abs()}
    found = slow_points(network, starts, at=held, inputs=inputs)
    for k in np.flatnonzero(np.array(kinds(found)) == "fixed_point"):
        state = {name: torch.as_tensor(found[name].values[k]) for name in ("s_h1", "s_y")}
        signals = {name: Constant(value) for name, value in inputs.items()}
        rates = network(torch.tensor(0.0).double(), held | state, inputs=signals)
        assert max(float(rates[name].abs().max()) for name in state) < 1e-9
    assert found["W_h1_x"].dims[0] == "point"


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: slow_points(cubic(), {"x": draws(3, 1)}), "lacks y"),
    (lambda: slow_points(cubic(), {"x": draws(3, 1), "y": draws(4, 1)}), "same leading axes"),
    (lambda: slow_points(cubic(), {"x": draws(3, 2), "y": draws(3, 2)}), r"'x' must be \(..., 1\)"),
    (lambda: slow_points(cubic(), {"x": draws(3, 1), "y": draws(3, 1)}, count=0), "count >= 1"),
    (
        lambda: slow_points(cubic(), {"x": draws(3, 1) * torch.nan, "y": draws(3, 1)}),
        "at least one finite",
    ),
    (lambda: slow_points(ct.System(ct.hodgkin_huxley()), {"v": draws(3, 1)}), "one unit"),
    (
        lambda: slow_points(text("dx/dt = log(x) : 1"), {"x": -draws(3, 1).abs()}),
        "not finite at any start",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_refusal_of_types() -> None:
    with pytest.raises(TypeError, match="Solution or a mapping"):
        slow_points(cubic(), draws(3, 2))  # type: ignore[arg-type]
