"""Runs, gradients and steady states of systems that were moved, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor

import ctsigprop as ct
from ctsigprop.models.catalogue import NEURONS

F64 = torch.float64
X = torch.tensor([1.0, -0.5, 2.0], dtype=F64)


def fhn() -> ct.System:
    return ct.System(ct.fitzhugh_nagumo(I=0.5))


def oja(eta: float = 0.1) -> ct.System:
    return ct.System(
        ct.Source("x", 3, X),
        ct.leaky_integrator("y", tau=1.0),
        ct.Synapse("x", "y", [[0.1, 0.3, 0.2]], plasticity=ct.oja(eta)),
    )


def rhythmic() -> ct.System:
    source = ct.Source("x", 3, ct.Rhythm(X, 2.0, offset=X / 4))
    w = torch.tensor([[0.1, 0.3, 0.2]])
    return ct.System(
        source, ct.leaky_integrator("y"), ct.Synapse("x", "y", w, plasticity=ct.oja(1e-3))
    )


def pulsed() -> ct.System:
    gate = ct.Source("g", 1, ct.Pulse(3.0))
    return ct.System(gate, ct.leaky_integrator("y", tau=2.0), ct.Input("g", "y"))


def delayed() -> ct.System:
    return ct.System(ct.leaky_integrator("y"), ct.Synapse("y", "y", [[-1.5]], delay=1.0))


RUNS: dict[str, tuple[Callable[[], ct.System], Any, float]] = {
    "Tsit5": (fhn, ct.Tsit5(), 20.0),
    "Dopri5": (fhn, ct.Dopri5(), 20.0),
    "BogackiShampine": (fhn, ct.BogackiShampine(), 20.0),
    "together": (pulsed, ct.Tsit5(together=True), 6.0),
    "RK4": (fhn, ct.RK4(dt=0.1), 20.0),
    "Heun": (pulsed, ct.Heun(dt=0.1), 6.0),
    "Euler": (pulsed, ct.Euler(dt=0.1), 6.0),
    "fixed Tsit5": (fhn, ct.Tsit5(dt=0.1), 20.0),
    "torchdiffeq": (pulsed, ct.TorchDiffEq("dopri5"), 6.0),
    "torchdiffeq, fixed": (pulsed, ct.TorchDiffEq("rk4", dt=0.1), 6.0),
    "SciPy": (pulsed, ct.SciPy("RK45", rtol=1e-8), 6.0),
    "LSODA": (fhn, ct.SciPy("LSODA"), 20.0),
    "low rank": (oja, ct.Tsit5(), 100.0),
    "low rank, fixed": (oja, ct.RK4(dt=0.1), 30.0),
    "dense": (oja, ct.Tsit5(low_rank=False), 100.0),
    "averaging": (rhythmic, ct.Averaging(period=0.5), 2000.0),
    "projective": (lambda: oja(1e-4), ct.Projective(period=1.0), 300.0),
    "delay": (delayed, ct.RK4(dt=0.1), 6.0),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_same_run_on_another_device(name: str, device: torch.device) -> None:
    make, solver, end = RUNS[name]
    here = ct.solve(make(), t=[0.0, end / 3, end], solver=solver)
    there = ct.solve(make().to(device), t=[0.0, end / 3, end], solver=solver)
    for variable, values in there.states.items():
        assert values.device.type == device.type
        torch.testing.assert_close(values.cpu(), here[variable], rtol=1e-6, atol=1e-8)
    assert there.statistics.low_rank == here.statistics.low_rank
    there.to_xarray()


@pytest.mark.parametrize("solver", [ct.Tsit5(), ct.RK4(dt=0.1), ct.TorchDiffEq("dopri5")])
@pytest.mark.parametrize("given", ["there", "here"])
def test_a_batch_with_a_start_from_either_place(
    solver: Any, given: str, device: torch.device
) -> None:
    v = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    start = v.to(device) if given == "there" else v
    there = ct.solve(fhn().to(device), {"v": start}, [0.0, 5.0, 20.0], solver=solver)
    here = ct.solve(fhn(), {"v": v}, [0.0, 5.0, 20.0], solver=solver)
    torch.testing.assert_close(there["v"].cpu(), here["v"], rtol=1e-6, atol=1e-8)


def test_each_sample_with_times_of_its_own_and_events(device: torch.device) -> None:
    times = torch.tensor([[0.0, 5.0, 20.0], [0.0, 3.0, 9.0]], dtype=F64)
    start = {"v": torch.tensor([[-1.0], [1.5]], dtype=F64)}
    event = ct.Event(lambda _, y: y["v"][..., 0])
    here = ct.solve(fhn(), start, times, events=[event])
    there = ct.solve(fhn().to(device), start, times, events=[event])
    torch.testing.assert_close(there["v"].cpu(), here["v"], rtol=1e-6, atol=1e-8)
    xr.testing.assert_allclose(there.to_xarray().to_dataset(), here.to_xarray().to_dataset())


def test_the_solution_between_steps(device: torch.device) -> None:
    at = torch.tensor([1.0, 2.0], dtype=F64)
    here = ct.solve(fhn(), t=[0.0, 20.0], dense=True)
    there = ct.solve(fhn().to(device), t=[0.0, 20.0], dense=True)
    torch.testing.assert_close(there(at)["v"].cpu(), here(at)["v"])


@pytest.mark.parametrize("solver", [ct.Tsit5(), ct.Tsit5(tape=0.01), ct.RK4(dt=0.1, tape=0.01)])
def test_the_same_gradient(solver: Any, device: torch.device) -> None:
    def gradient(system: ct.System) -> Tensor:
        system.learn("tau")
        loss = ct.solve(system, t=[0.0, 20.0], solver=solver)["v"][-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        (found,) = [p.grad for p in system.parameters() if p.grad is not None]
        return found

    here, there = gradient(fhn()), gradient(fhn().to(device))
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), here)


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron(name: str, device: torch.device) -> None:
    here, there = (ct.System(NEURONS[name]()), ct.System(NEURONS[name]()).to(device))
    a, b = (ct.solve(system, t=[0.0, 2.0]) for system in (here, there))
    for variable in a.states:
        torch.testing.assert_close(b[variable].cpu(), a[variable], rtol=1e-6, atol=1e-6)


def test_a_steady_state_and_its_gradient(device: torch.device) -> None:
    x = torch.rand(4, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = []
    for where in (torch.device("cpu"), device):
        shown = x.clone().to(where).detach().requires_grad_()
        inputs = {"x": shown, "c": torch.zeros(4, 3, dtype=F64).to(where)}
        network = ct.sigprop_network([6, 5, 3], rho="tanh", seed=0)
        rest = ct.steady_state(network.to(where), inputs=inputs)
        rest["s_y"].square().sum().backward()  # type: ignore[no-untyped-call]
        found.append((rest["s_y"].detach().cpu(), shown.grad.cpu()))
        rest.to_xarray()
    torch.testing.assert_close(found[1], found[0])
