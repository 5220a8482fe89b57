from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.stability import TYPES, fixed_points
from ctsigprop.models.averaged import AveragedBCM, AveragedOja, AveragedSanger

CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())[
        "cases"
    ]
}
PLANE = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
PATTERNS = torch.tensor([[1.0, 0.2], [0.3, 1.0]], dtype=torch.float64)


def agrees(case: str, name: str, value: Any) -> None:
    item = next(item for item in CASES[case]["expected"] if item["name"] == name)
    np.testing.assert_allclose(value, item["value"], rtol=item["rtol"], atol=item["atol"])


def covariance(case: str) -> torch.Tensor:
    return torch.tensor(CASES[case]["parameters"]["C"], dtype=torch.float64)


def box(shape: tuple[int, ...], size: float) -> dict[str, tuple[float, float]]:
    indices = np.ndindex(*shape)
    return {f"w[{','.join(map(str, index))}]": (-size, size) for index in indices}


def kinds(found: xr.Dataset) -> list[str]:
    return [TYPES[k] for k in found["type"].values]


def run(system: ct.System, start: Any, times: list[float]) -> torch.Tensor:
    w = torch.tensor(start, dtype=torch.float64)
    return ct.solve(system, {"w": w}, times, rtol=1e-11, atol=1e-13)["w"]


def test_oja_flow() -> None:
    case = CASES["PL-OJA-FLOW"]
    C = covariance("PL-OJA-FLOW")
    start = case["initial_state"]
    w = run(ct.System(AveragedOja(C)), start, [0.0, 0.5, 2.0, 40.0])
    agrees("PL-OJA-FLOW", "w(0.5)", w[1])
    agrees("PL-OJA-FLOW", "w(2)", w[2])
    agrees("PL-OJA-FLOW", "|w(inf)|", w[3].norm())
    agrees("PL-OJA-FLOW", "w(inf)=+-top eigenvector", w[3])
    first = torch.tensor(start, dtype=torch.float64)
    for time, row in zip((0.5, 2.0), w[1:3], strict=True):  # the flow in closed form
        grown = torch.linalg.matrix_exp(time * C) @ first
        exact = grown / (1 - first @ first + grown @ grown).sqrt()
        torch.testing.assert_close(row, exact, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("C", [PLANE, covariance("PL-OJA-FLOW")], ids=["plane", "space"])
def test_equilibria_of_oja_in_closed_form(C: torch.Tensor) -> None:
    n = len(C)
    found = fixed_points(ct.System(AveragedOja(C)), box((n,), 1.5))
    rates, axes = torch.linalg.eigh(C)
    assert found.sizes["fp"] == 2 * n + 1
    for w, modes, kind in zip(
        found["w"].values, found["eigenvalue"].values, kinds(found), strict=True
    ):
        if np.abs(w).max() < 1e-9:
            np.testing.assert_allclose(modes[:, 0], rates, rtol=1e-9)
            assert kind == "unstable_node"
            continue
        overlap = np.abs(axes.T.numpy() @ w)
        k = int(overlap.argmax())
        np.testing.assert_allclose(overlap, np.eye(n)[k], atol=1e-9)
        expected = sorted([-2 * rates[k], *(rates[j] - rates[k] for j in range(n) if j != k)])
        np.testing.assert_allclose(modes[:, 0], expected, rtol=1e-8, atol=1e-12)
        np.testing.assert_array_equal(modes[:, 1], 0)
        assert kind == ("stable_node" if k == n - 1 else "saddle")


def test_oja_of_equal_variances_has_a_circle_of_marginal_equilibria() -> None:
    found = fixed_points(ct.System(AveragedOja(torch.eye(2))), box((2,), 1.5), starts=40)
    lengths = np.linalg.norm(found["w"].values, axis=1)
    on_circle = lengths > 0.5
    np.testing.assert_allclose(lengths[on_circle], 1, rtol=1e-9)
    circle = found.isel(fp=on_circle)
    assert set(kinds(circle)) == {"degenerate"}
    assert set(kinds(found.isel(fp=~on_circle))) == {"unstable_star"}


def test_bcm_becomes_selective() -> None:
    case = "PL-BCM-SELECTIVITY"
    patterns = torch.tensor(CASES[case]["parameters"]["patterns"], dtype=torch.float64)
    system = ct.System(AveragedBCM(patterns))
    found = fixed_points(system, box((2,), 3.0))
    responses = found["w"].values @ patterns.numpy().T
    table = dict(zip(map(tuple, responses.round(6) + 0.0), kinds(found), strict=True))
    assert table == {
        (0.0, 0.0): "degenerate",
        (1.0, 1.0): "saddle",
        (2.0, 0.0): "stable_node",
        (0.0, 2.0): "stable_node",
    }
    by_response = {
        tuple(y.round(6) + 0.0): w for y, w in zip(responses, found["w"].values, strict=True)
    }
    agrees(case, "w for y=(2,0)", by_response[2.0, 0.0])
    agrees(case, "w for y=(0,2)", by_response[0.0, 2.0])
    last = run(system, CASES[case]["initial_state"], [0.0, 400.0])[-1]
    agrees(case, "w(inf) from given w0", last)


def test_bcm_of_three_patterns() -> None:
    patterns = torch.tensor([[1.0, 0.2, 0.1], [0.1, 1.0, 0.3], [0.2, 0.0, 1.0]]).double()
    found = fixed_points(ct.System(AveragedBCM(patterns)), box((3,), 4.0), starts=600)
    responses = found["w"].values @ patterns.numpy().T
    chosen = np.abs(responses) > 1e-6
    number = chosen.sum(1)
    assert sorted(number) == [0, 1, 1, 1, 2, 2, 2, 3]
    np.testing.assert_allclose(responses, chosen * (3 / np.maximum(number, 1))[:, None], atol=1e-6)
    stable = [kind.startswith("stable") for kind in kinds(found)]
    np.testing.assert_array_equal(stable, number == 1)


def test_sanger_finds_the_components_in_order() -> None:
    case = CASES["PL-SANGER"]
    system = ct.System(AveragedSanger(covariance("PL-SANGER"), components=2))
    w = run(system, case["initial_state"], [0.0, 60.0])[-1]
    for k, name in enumerate(("row1 = +-v1", "row2 = +-v2")):
        expected = next(item["value"] for item in case["expected"] if item["name"] == name)
        agrees("PL-SANGER", name, w[k] * torch.sign(w[k] @ torch.tensor(expected).double()))


def test_one_row_of_sanger_is_oja() -> None:
    C, w = covariance("PL-OJA-FLOW"), torch.rand(4, 3).double()
    oja = ct.System(AveragedOja(C))(torch.tensor(0.0), {"w": w})["w"]
    sanger = ct.System(AveragedSanger(C, 1))(torch.tensor(0.0), {"w": w[:, None]})["w"]
    torch.testing.assert_close(sanger[:, 0], oja)


def test_averages_are_those_of_the_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(3, generator=generator, dtype=torch.float64)
    y = x @ w
    t = torch.tensor(0.0)
    oja = ct.System(AveragedOja(x.T @ x / 7))(t, {"w": w})["w"]
    torch.testing.assert_close(oja, (y[:, None] * x - (y**2)[:, None] * w).mean(0))
    bcm = ct.System(AveragedBCM(x))(t, {"w": w})["w"]
    torch.testing.assert_close(bcm, ((y * (y - (y**2).mean()))[:, None] * x).mean(0))


def test_linear_neuron_with_a_constant_input() -> None:
    neuron = ct.TextNeuron(
        """
        dw1/dt = eta*(y*x1 - y**2*w1) : 1
        dw2/dt = eta*(y*x2 - y**2*w2) : 1
        y = w1*x1 + w2*x2 : 1
        x1 : 1
        x2 : 1
        """,
        "n",
        eta=1.0,
    )
    system = ct.System(
        ct.Source("a", signal=0.6),
        ct.Source("b", signal=0.8),
        neuron,
        ct.Input("a", "n", port="x1"),
        ct.Input("b", "n", port="x2"),
    )
    found = fixed_points(system, {"w1_n": (-2, 2), "w2_n": (-2, 2)}, starts=60)
    w = np.c_[found["w1_n"].values, found["w2_n"].values]
    stable = [kind.startswith("stable") for kind in kinds(found)]
    np.testing.assert_allclose(w[stable], [[-0.6, -0.8], [0.6, 0.8]], atol=1e-12)
    np.testing.assert_allclose(found["eigenvalue"].values[stable][0, :, 0], [-2, -1], rtol=1e-12)
    np.testing.assert_allclose(w[np.logical_not(stable)] @ [0.6, 0.8], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("neuron", "shape"),
    [
        (AveragedOja(PLANE), (2,)),
        (AveragedSanger(PLANE, 2), (2, 2)),
        (AveragedBCM(PATTERNS), (2,)),
    ],
    ids=["oja", "sanger", "bcm"],
)
def test_contract(neuron: Any, shape: tuple[int, ...]) -> None:
    system = ct.System(neuron)
    assert system.variables["w"].shape == shape
    batch = 0.3 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).double()
    rate = system(torch.tensor(0.0), {"w": batch})["w"]
    for k in range(5):
        torch.testing.assert_close(system(torch.tensor(0.0), {"w": batch[k]})["w"], rate[k])
    assert system.activity({"w": batch}, "").shape == (5, neuron.size)
    assert torch.autograd.gradcheck(
        lambda w: system(torch.tensor(0.0), {"w": w})["w"], batch.requires_grad_()
    )
    run = ct.solve(system, {"w": batch.detach()}, [0.0, 0.5, 1.0])
    again = ct.rerun(run.to_xarray())
    assert torch.equal(again["w"], run["w"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AveragedOja(torch.ones(2, 3)), r"square matrix; got shape \(2, 3\)"),
        (lambda: AveragedOja(torch.tensor([[1.0, 0.5], [0.4, 1.0]])), "symmetric"),
        (lambda: AveragedOja(torch.tensor([[torch.nan]])), "C must be finite"),
        (lambda: AveragedSanger(PLANE, 3), "between 1 and the 2 inputs; got 3"),
        (lambda: AveragedBCM(torch.ones(3)), r"patterns must be a matrix.*\(3,\)"),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
