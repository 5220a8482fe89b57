from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plots import plot_reduced_flow
from ctsigprop.analyses.reduced import fit_rotation, reduced_flow
from ctsigprop.analyses.slow_points import slow_points

F64 = torch.float64


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def field(matrix: torch.Tensor) -> ct.System:
    return ct.System(ct.VectorField(lambda _, y: y @ matrix.T, size=len(matrix)))


def rotating(n: int, turns: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a skew matrix with these frequencies, and the orthonormal basis of its planes."""
    Q = torch.linalg.qr(draws(n, n, seed=3))[0]
    K = torch.zeros(n, n, dtype=F64)
    for k, w in enumerate(turns):
        K[2 * k + 1, 2 * k], K[2 * k, 2 * k + 1] = w, -w
    return Q @ K @ Q.T, Q


def angle(A: np.ndarray, B: np.ndarray) -> float:
    """Return the sine of the largest angle between two planes."""
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


def test_jpca_recovers_a_rotation() -> None:
    M, Q = rotating(8, (2.5, 1.0, 0.3))
    start = {"y": (Q[:, :6] @ draws(6, 5, seed=4)).mT.contiguous()}
    run = ct.solve(field(M), start, torch.linspace(0, 30, 301), rtol=1e-11, atol=1e-12)
    tree = reduced_flow(run, "jpca")
    plane = tree["plane"]
    assert plane["frequency"].item() == pytest.approx(2.5, rel=1e-8)
    assert angle(plane["basis"].values, Q[:, :2].numpy()) < 1e-8
    assert plane["fit_rotation"].item() == pytest.approx(1.0, abs=1e-8)
    assert ct.validate(tree) == []
    # the rotation of the plane is anticlockwise, about the mean of the other planes
    B, mean = plane["basis"].values, run["y"].mean((0, 1)).numpy()
    np.testing.assert_allclose(B.T @ M.numpy() @ B, [[0, -2.5], [2.5, 0]], atol=1e-7)
    u, v = np.meshgrid(plane["first"], plane["second"], indexing="ij")
    flow = (mean + np.stack([u, v], -1) @ B.T) @ M.numpy().T
    np.testing.assert_allclose(plane["first_rate"], flow @ B[:, 0], atol=1e-9)
    np.testing.assert_allclose(plane["second_rate"], flow @ B[:, 1], atol=1e-9)
    inside = tree["trajectories"]["place"].values
    np.testing.assert_allclose(inside, (run["y"].numpy() - mean) @ B, atol=1e-12)


def test_fit_rotation_is_the_least_squares_solution() -> None:
    x, velocity = draws(60, 5).numpy(), draws(60, 5, seed=1).numpy()
    M, rotation, linear = fit_rotation(x, velocity)
    np.testing.assert_allclose(M, -M.T, atol=1e-13)
    # least squares over the ten free numbers, written out
    pairs = [(i, j) for i in range(5) for j in range(i)]
    columns = []
    for i, j in pairs:
        K = np.zeros((5, 5))
        K[i, j], K[j, i] = 1, -1
        columns.append((x @ K.T).ravel())
    best = np.linalg.lstsq(np.array(columns).T, velocity.ravel(), rcond=None)[0]
    np.testing.assert_allclose([M[i, j] for i, j in pairs], best, atol=1e-12)
    total = (velocity**2).sum()
    assert rotation == pytest.approx(1 - ((velocity - x @ M.T) ** 2).sum() / total)
    assert rotation < linear < 1
    assert fit_rotation(x, 0 * velocity)[1:] == (0.0, 0.0)
    with pytest.raises(ValueError, match="samples, k"):
        fit_rotation(x, velocity[:5])


def test_principal_components_of_known_variance() -> None:
    Q = torch.linalg.qr(draws(6, 6, seed=5))[0]
    sizes = torch.tensor([4.0, 2.0, 0.5, 0.2, 0.1, 0.05], dtype=F64)
    white = draws(400, 6, seed=6)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.mT @ white / 400)).mT
    y = 3.0 + white * sizes @ Q.T
    network = field(-torch.eye(6, dtype=F64))
    tree = reduced_flow(network, states={"y": y})
    plane = tree["plane"]
    assert angle(plane["basis"].values, Q[:, :2].numpy()) < 1e-8
    share = (sizes**2 / (sizes**2).sum()).numpy()
    np.testing.assert_allclose(plane["variance"], share[:2], rtol=1e-10)
    np.testing.assert_allclose(plane["mean"], 3.0, atol=1e-12)
    apart = tree["trajectories"]["distance"].values
    np.testing.assert_allclose((apart**2).mean(), share[2:].sum(), rtol=1e-10)
    # f = −y: the share of |f| out of the plane at ȳ + B z
    B, mean = plane["basis"].values, plane["mean"].values
    out = np.linalg.norm(mean - B @ (B.T @ mean))
    u, v = np.meshgrid(plane["first"], plane["second"], indexing="ij")
    whole = np.linalg.norm(mean + np.stack([u, v], -1) @ B.T, axis=-1)
    np.testing.assert_allclose(plane["left_out"], out / whole, rtol=1e-10)
    assert ct.validate(tree) == []


def test_a_given_basis_and_what_is_slaved_to_it() -> None:
    # z' = −10 (z − x²): slaved, z = x² and x' = −x + z has a fixed point at x = 1
    system = ct.System(
        ct.VectorField(
            lambda _, y: torch.stack(
                [-y[..., 0] + y[..., 2], -y[..., 1], -10 * (y[..., 2] - y[..., 0] ** 2)], -1
            ),
            size=3,
        )
    )
    states = {"y": draws(50, 3)}
    columns = torch.eye(3, dtype=F64)[:, :2] @ torch.tensor([[2.0, 1.0], [0.0, 3.0]]).double()
    tree = reduced_flow(system, columns, states=states, outside="slaved", points=9)
    plane = tree["plane"]
    np.testing.assert_allclose(plane["basis"], np.eye(3)[:, :2], atol=1e-15)
    mean = plane["mean"].values
    x = plane["first"].values[:, None] + mean[0]
    np.testing.assert_allclose(plane["first_rate"], np.broadcast_to(-x + x**2, (9, 9)), atol=1e-9)
    np.testing.assert_allclose(plane["left_out"], 0, atol=1e-9)
    np.testing.assert_allclose(
        plane["distance"], np.abs(np.broadcast_to(x**2, (9, 9)) - mean[2]), atol=1e-9
    )
    flat = reduced_flow(system, columns, states=states, points=9)["plane"]
    np.testing.assert_allclose(flat["first_rate"], np.broadcast_to(-x + mean[2], (9, 9)))
    assert ct.validate(tree) == []


def test_where_nothing_can_be_slaved_is_said() -> None:
    system = ct.System(
        ct.VectorField(lambda _, y: torch.stack([y[..., 1], y[..., 0], 1 + y[..., 2] ** 2], -1), 3)
    )
    tree = reduced_flow(system, np.eye(3)[:, :2], states={"y": draws(9, 3)}, outside="slaved")
    assert np.isnan(tree["plane"]["first_rate"]).all()
    assert "slaved" in tree["plane"]["first_rate"].attrs["missing"]
    assert ct.validate(tree) == []


def test_runs_of_a_network_with_inputs_survive_the_disk(tmp_path: Path) -> None:
    network = ct.System(
        ct.Source("u"),
        ct.rate("h", 12, rho="tanh"),
        ct.Synapse("h", "h", 0.4 * draws(12, 12)),
        ct.Synapse("u", "h", draws(12, 1, seed=1)),
    )
    held = ct.Held([0.0, 5.0], torch.tensor([0.0, 1.0]).double())
    run = ct.solve(
        network, {"s_h": draws(4, 12, seed=2)}, torch.linspace(0, 10, 41), inputs={"u": held}
    )
    tree = reduced_flow(run, points=8)
    assert tree.attrs["time"] == 10.0
    assert tree["trajectories"].sizes == {"time": 41, "sample": 4, "axis": 2}
    # velocities along the run are those of its own times
    y, t = run["s_h"][10, 2], run.t[10]
    B = torch.as_tensor(tree["plane"]["basis"].values)
    f = network(t, {"s_h": y}, inputs={"u": held})["s_h"]
    share = (f - B @ (B.T @ f)).norm() / f.norm()
    assert tree["trajectories"]["left_out"].values[10, 2] == pytest.approx(float(share))
    again = ct.open(ct.save(tree, tmp_path / "flow.zarr"))
    assert again.identical(tree)


def test_picture_of_a_flow_with_its_slow_points(tmp_path: Path) -> None:
    n = 12
    network = ct.System(
        ct.rate("h", n, rho="tanh"), ct.Synapse("h", "h", 1.5 / n**0.5 * draws(n, n, seed=8))
    )
    run = ct.solve(network, {"s_h": draws(5, n, seed=9)}, torch.linspace(0, 15, 31))
    tree = reduced_flow(run, title="a network")
    found = slow_points(network, run, slowest=0.5)
    found["label"] = ("point", np.arange(found.sizes["point"]), {"units": "1"})
    tree["slow_points"] = xr.DataTree(found)
    assert ct.validate(tree) == []
    figure = plot_reduced_flow(ct.open(ct.save(tree, tmp_path / "flow.zarr")))
    ax, bar = figure.axes
    assert (ax.get_title(), bar.get_ylabel()) == (
        "a network",
        "share of the speed out of the plane",
    )
    basis, mean = tree["plane"]["basis"].values, tree["plane"]["mean"].values
    marks = [line for line in ax.lines if line.get_marker() not in (".", "None", "")]
    assert len(marks) == found.sizes["point"]
    np.testing.assert_allclose(
        np.concatenate([line.get_xydata() for line in marks]),
        (found["s_h"].values - mean) @ basis,
        atol=1e-12,
    )
    orbits = [line for line in ax.lines if line.get_label() == "trajectories"]
    np.testing.assert_array_equal(
        orbits[2].get_xydata(), tree["trajectories"]["place"].values[:, 2]
    )
    with pytest.raises(ValueError, match=r"no group 'plane'.*reduced_flow"):
        plot_reduced_flow(xr.DataTree())


def line() -> ct.System:
    return field(torch.eye(3, dtype=F64))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: reduced_flow(line()), "states must be given with a System"),
    (lambda: reduced_flow(line(), "pac", states={"y": draws(9, 3)}), r"'pac' \(did you mean 'pca'"),  # type: ignore[arg-type]
    (lambda: reduced_flow(line(), draws(3, 3), states={"y": draws(9, 3)}), r"\(3, 2\)"),
    (lambda: reduced_flow(line(), torch.ones(3, 2), states={"y": draws(9, 3)}), "independent"),
    (lambda: reduced_flow(line(), states={"y": torch.ones(9, 3)}), "span no plane"),
    (lambda: reduced_flow(line(), states={"y": draws(9, 3)}, points=1), "points >= 2"),
    (lambda: reduced_flow(line(), states={"y": draws(9, 3)}, outside="men"), "'mean'"),  # type: ignore[arg-type]
    (
        lambda: reduced_flow(ct.System(ct.hodgkin_huxley()), states={"v": draws(3, 1)}),
        "one unit",
    ),
    (lambda: reduced_flow(field(torch.eye(1)), states={"y": draws(3, 1)}), "at least two"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_refusal_of_types() -> None:
    with pytest.raises(TypeError, match="System or a Solution"):
        reduced_flow(draws(3, 2))  # type: ignore[arg-type]
