"""Systems that were moved to another device: the same answers, and nothing left behind.

On a machine with a GPU they run there; elsewhere a device stands for it, that refuses what a GPU
refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr
from elsewhere import another_device, no_inference
from torch import Tensor

import ctsigprop as ct
from ctsigprop.analyses import alignment, basins, lyapunov, phase, slow_points, stability
from ctsigprop.analyses.bifurcations import bifurcation_diagram
from ctsigprop.analyses.cost import cost
from ctsigprop.analyses.cycles import limit_cycle
from ctsigprop.analyses.energy import energy
from ctsigprop.analyses.needs import needs
from ctsigprop.analyses.robustness import robustness
from ctsigprop.analyses.sections import poincare_section
from ctsigprop.analyses.statistics import activity_statistics, weight_statistics
from ctsigprop.compare import compare
from ctsigprop.data import digits
from ctsigprop.learning.catalogue import RULES, build
from ctsigprop.learning.learner import Learner
from ctsigprop.models.catalogue import NEURONS, WINDOWS

F64 = torch.float64
X = torch.tensor([1.0, -0.5, 2.0], dtype=F64)


@pytest.fixture(scope="module")
def device() -> torch.device:
    return another_device()[0]


@pytest.fixture(autouse=True)
def _no_inference(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type != "cuda":
        monkeypatch.setattr(torch, "inference_mode", no_inference)


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


SIZES = [64, 20, 20, 10]


def shown(count: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, SIZES[0], generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % SIZES[-1]


def assert_alike(there: Learner, here: Learner, device: torch.device) -> None:
    for name, values in here.weights.items():
        assert there.weights[name].device.type == device.type
        torch.testing.assert_close(there.weights[name].cpu(), values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_there_as_here(rule: str, device: torch.device) -> None:
    x, labels = shown()
    here, there = build(rule, SIZES), build(rule, SIZES).to(device)
    for learner, where in ((here, "cpu"), (there, device)):
        learner.present(x.to(where), labels.to(where))
        learner.present(x.flip(0).to(where), labels.flip(0).to(where))
    assert_alike(there, here, device)
    torch.testing.assert_close(
        there.respond(x.to(device)).cpu(), here.respond(x), rtol=1e-3, atol=1e-4
    )


def loop(**options: Any) -> ct.ContinuousSigprop:
    return ct.ContinuousSigprop(ct.sigprop_network(SIZES, eta=0.5, seed=0), **options)


LEARNERS: dict[str, Callable[[], Learner]] = {
    "sigprop": lambda: build("sigprop", SIZES),
    "backpropagation": lambda: build("backpropagation", SIZES),
    "steps": lambda: loop(update="delta", solver=ct.Euler(dt=0.6, native=False)),
    "at rest": lambda: loop(update="contrastive", solver=ct.Steady()),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_moves_between_presentations(name: str, device: torch.device) -> None:
    if name != "steps" and device.type != "cuda":
        pytest.skip("moving back replaces parameters of what stands for a GPU, and keeps its own")
    x, labels = shown()
    here, moved = LEARNERS[name](), LEARNERS[name]()
    for learner in (here, moved):
        learner.present(x, labels)
    moved.to(device).present(x.to(device), labels.to(device))
    here.present(x, labels)
    assert_alike(moved, here, device)
    moved.to("cpu").present(x, labels)
    here.present(x, labels)
    assert_alike(moved, here, torch.device("cpu"))


@pytest.mark.parametrize("name", LEARNERS)
def test_training_and_going_on_from_a_checkpoint(
    name: str, device: torch.device, tmp_path: Any
) -> None:
    accuracies = []
    for where in (torch.device("cpu"), device):
        folder = tmp_path / where.type
        options = {"batch": 100, "noise": 0.1, "jitter": 1, "seed": 0, "checkpoints": folder}
        run = ct.train(LEARNERS[name]().to(where), digits(), epochs=1, **options)
        again = ct.train(LEARNERS[name]().to(where), digits(), epochs=1, resume=True, **options)
        for weight, values in run.learner.weights.items():
            torch.testing.assert_close(again.learner.weights[weight], values, rtol=0, atol=0)
        accuracies.append(run.test_accuracy[0])
        run.to_xarray()
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.01)


def test_an_integrated_presentation(device: torch.device) -> None:
    x, labels = shown(4)
    here, there = loop(update="integrated"), loop(update="integrated").to(device)
    here.present(x, labels)
    there.present(x.to(device), labels.to(device))
    assert_alike(there, here, device)


MEASURES: dict[str, Callable[[Learner, Tensor, Tensor], xr.Dataset]] = {
    "needs": needs,
    "alignment": alignment.alignment,
    "cost": lambda learner, x, labels: cost(learner, x, labels, repeats=1).drop_vars("seconds"),
    "energy": energy,
    "weights": lambda learner, *_: weight_statistics(learner),
    "activities": lambda learner, x, _: activity_statistics(learner, x),
    "robustness": lambda learner, x, labels: robustness(learner, x, labels, "noise", [0.0, 0.5]),
}


@pytest.mark.parametrize("rule", ["sigprop", "backpropagation", "steps"])
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_of_a_learner(name: str, rule: str, device: torch.device) -> None:
    x, labels = shown()
    here = MEASURES[name](LEARNERS[rule](), x, labels)
    there = MEASURES[name](LEARNERS[rule]().to(device), x.to(device), labels.to(device))
    xr.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)


def test_a_comparison(device: torch.device) -> None:
    rules = {
        name: lambda seed, name=name: build(name, SIZES, seed).to(device)
        for name in ("sigprop", "pepita")
    }
    table = compare(rules, digits, seeds=[0], epochs=1, batch=100).to_xarray()
    assert not table.attrs["failures"]
    assert table["comparison/test_accuracy"].notnull().all()


ANALYSES: dict[str, Callable[[ct.System], xr.Dataset | xr.DataTree]] = {
    "portrait": lambda s: phase.portrait(s, WINDOWS["fitzhugh-nagumo"]),
    "fixed points": lambda s: stability.fixed_points(s, WINDOWS["fitzhugh-nagumo"]),
    "jacobian": lambda s: stability.jacobian(s, {"v": 0.1, "w": 0.2}),
    "slow points": lambda s: slow_points.slow_points(
        s, {"v": torch.linspace(-2, 2, 9, dtype=F64)[:, None], "w": torch.zeros(9, 1, dtype=F64)}
    ),
    "lyapunov": lambda s: lyapunov.lyapunov_spectrum(s, 4.0, ensemble=2),
    "basins": lambda s: basins.basins(s, {"v": (-2, 2), "w": (-1, 1)}, 20.0, points=3),
    "section": lambda s: poincare_section(s, {"v": 0.0}, 40.0),
    "bifurcations": lambda s: bifurcation_diagram(
        s, "I", (0.2, 0.5), ranges=WINDOWS["fitzhugh-nagumo"]
    ),
}


@pytest.mark.slow
def test_a_limit_cycle(device: torch.device) -> None:
    xr.testing.assert_allclose(limit_cycle(fhn().to(device)), limit_cycle(fhn()), rtol=1e-4)


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_of_a_system(name: str, device: torch.device) -> None:
    here, there = ANALYSES[name](fhn()), ANALYSES[name](fhn().to(device))
    if isinstance(here, xr.DataTree):
        xr.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    else:
        xr.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_a_fit(device: torch.device) -> None:
    found = []
    data = xr.Dataset({"x": ("time", [0.5, 0.25], {"units": "1"})}, {"time": [1.0, 2.0]})
    for where in (torch.device("cpu"), device):
        tau = ct.Parameter(1.0, lower=0.0)
        decay = ct.System(ct.TextNeuron("dx/dt = -x/tau : 1", tau=tau)).to(where)

        def predict(decay: ct.System = decay) -> Tensor:
            return ct.solve(decay, {"x": 1.0}, [0.0, 1.0, 2.0])["x"][1:, 0]

        found.append(ct.fit(decay, predict, data, "x", ["tau"], starts=2)["fit"]["tau"].values)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
