"""Bad input and runs that fail: what is said, and what is kept. Each case asserts for itself."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.errors import (
    BlowUpError,
    NonFiniteError,
    StepLimitError,
    StiffnessError,
    UnitError,
)
from ctsigprop.models.spiking import SpikingNetwork

F64 = torch.float64
ADAPTIVE = (ct.Tsit5(), ct.Dopri5(), ct.TorchDiffEq("dopri5"), ct.SciPy("RK45"), ct.SciPy("LSODA"))
EVERY = (*ADAPTIVE, ct.RK4(dt=0.01), ct.ExponentialEuler(dt=0.01), ct.TorchDiffEq("rk4", dt=0.01))


def neuron():
    return ct.System(ct.fitzhugh_nagumo(size=4, I=0.5))


def decay():
    return ct.System(ct.TextNeuron("dx/dt = -x : 1"))


def refused(error, match, function, *arguments, **options):
    with pytest.raises(error, match=match) as caught:
        function(*arguments, **options)
    return caught.value


# Values


def nan_y0(_request):
    for solver in EVERY:
        y0 = {"v": torch.tensor([[0.0, 0.0, 0.0, torch.nan]], dtype=F64)}
        words = r"initial state 'v' contains 1 non-finite.*index \[0, 3\]; refusing to integrate"
        refused(ValueError, words, ct.solve, neuron(), y0, [0.0, 1.0], solver=solver)


def nan_later(_request):
    end = torch.tensor([10.0, 0.5], dtype=F64)  # of the reals, for the root
    system = ct.System(ct.TextNeuron("dw/dt = -w + 0*sqrt(end - t) : 1", size=2, end=end))
    for solver in EVERY:
        y0, t = {"w": torch.ones(2, dtype=F64)}, [0.0, 0.2, 0.4, 0.6, 1.0]
        error = refused(
            NonFiniteError, r"'w' at index \[1\] at t=0", ct.solve, system, y0, t, solver=solver
        )
        assert (error.variable, error.component) == ("w", (1,))
        assert 0.4 <= error.time < 0.52  # when the state was last good
        kept = error.partial
        assert kept.status == "failed"
        torch.testing.assert_close(kept.t, torch.tensor(t[:3], dtype=F64), rtol=0, atol=0)
        assert torch.isfinite(kept["w"]).all()
        assert (kept["w"][-1] - np.exp(-0.4)).abs().max() < 0.003


def blow_up(_request):
    system = ct.System(ct.TextNeuron("dx/dt = x**2 : 1"))
    for solver in ADAPTIVE:
        error = refused(
            BlowUpError, "blows up in 'x'", ct.solve, system, {"x": 1.0}, [0, 0.5, 2], solver=solver
        )
        assert 0.999 < error.time < 1.0
        assert error.component == (0,)
        torch.testing.assert_close(error.partial["x"][-1].item(), 2.0, rtol=1e-4, atol=0)


def stiff(_request):
    system = ct.System(ct.TextNeuron("dx/dt = lam*(x - cos(t)) : 1", lam=-1e9))
    explicit = (*ADAPTIVE[:4], ct.TorchDiffEq("dopri8"), ct.TorchDiffEq("adaptive_heun"))
    for solver in explicit:
        started = time.process_time()
        error = refused(
            StiffnessError, "implicit method: SciPy", ct.solve, system, t=[0.0, 1.0], solver=solver
        )
        assert time.process_time() - started < 10
        assert (error.variable, error.component) == ("x", (0,))
    for method in ("Radau", "BDF", "LSODA"):
        run = ct.solve(system, t=[0.0, 1.0], solver=ct.SciPy(method))
        assert abs(run["x"][-1].item() - np.cos(1.0)) < 1e-6


def step_limit(_request):
    for solver in ADAPTIVE:
        error = refused(
            StepLimitError, "10 steps did not reach", ct.solve, neuron(), t=[0, 0.01, 100],
            solver=solver, max_steps=10,
        )  # fmt: skip
        assert not isinstance(error, AssertionError)
        assert error.variable in ("v", "w")
        assert 0 < error.time < 100
        assert len(error.partial.t) >= 1
        assert error.partial.status == "failed"


def shape_of_rates(_request):
    system = ct.System(ct.VectorField(lambda _t, _y: torch.zeros(3, dtype=F64), 2))
    for solver in EVERY:
        words = r"returned shape \(3,\) for 'y', the state has shape \(2,\)"
        refused(ValueError, words, ct.solve, system, solver=solver)


def shape_of_y0(_request):
    # documented: (*batch, *dims), or one number for all
    assert ct.solve(neuron(), {"v": torch.zeros(5, 4, dtype=F64)})["v"].shape == (2, 5, 4)
    assert ct.solve(neuron(), {"v": torch.tensor(0.5)})["v"].shape == (2, 4)
    words = r"'v' must have shape \(\*batch, neuron=4\); got \(3,\)"
    refused(ValueError, words, ct.solve, neuron(), {"v": torch.zeros(3, dtype=F64)})
    refused(TypeError, "y0 must map names", ct.solve, neuron(), torch.zeros(4))


def integer_y0(_request):
    words = r"floating point; 'x' has dtype torch.int64: use .double\(\)"
    refused(TypeError, words, ct.solve, decay(), {"x": torch.ones(1, dtype=torch.int64)})
    run = ct.solve(decay(), {"x": 1}, [0, 1])  # a number is a number
    assert run["x"].dtype == F64
    assert abs(run["x"][-1].item() - np.exp(-1)) < 1e-6


def integer_t(_request):
    given = ([0, 1, 2], torch.arange(3), np.arange(3), range(3), [0.0, 1.0, 2.0])
    runs = [ct.solve(decay(), {"x": 1.0}, t) for t in given]
    assert all(run.t.dtype == F64 for run in runs)
    assert all(torch.equal(run["x"], runs[-1]["x"]) for run in runs)


def complex_state(_request):
    y0 = {"x": torch.ones(1, dtype=torch.complex128)}
    words = "state must be real; 'x' has dtype torch.complex128"
    refused(ValueError, words, ct.solve, decay(), y0, solver=ct.SciPy("Radau"))
    refused(ValueError, "'x' must be real", ct.solve, decay(), {"x": 1j})
    refused(ValueError, "t must be real", ct.solve, decay(), t=[0.0, 1j])


def strides(_request):
    wide = torch.linspace(-1, 1, 24, dtype=F64).reshape(4, 6)
    table = np.linspace(-1, 1, 12).reshape(3, 4)
    views = {
        "strided": wide[:, ::2].T,
        "transposed": wide.T,
        "expanded": torch.full((1, 4), 0.3, dtype=F64).expand(3, 4),
        "backward": table[::-1, ::-1],
    }
    for view in views.values():
        whole = torch.tensor(view.tolist(), dtype=F64)
        for solver in (ct.Tsit5(), ct.RK4(dt=0.1), ct.TorchDiffEq(), ct.SciPy()):
            one, two = (
                ct.solve(neuron(), {"v": v}, [0.0, 1.0], solver=solver)["v"] for v in (view, whole)
            )
            assert torch.equal(one, two)
        assert view.tolist() == whole.tolist()  # left as it was


def empty_population(_request):
    system = ct.System(ct.fitzhugh_nagumo(size=0))
    for solver in (*EVERY, ct.SciPy("Radau"), ct.Brian2(dt=0.1)):
        run = ct.solve(system, t=[0.0, 1.0, 2.0], solver=solver)
        assert run["v"].shape == (3, 0)
        assert run.status == "complete"
    source, silent = ct.Source("x", 0, torch.zeros(0)), ct.leaky_integrator("y", 2)
    alone = ct.System(source, silent, ct.Synapse("x", "y", 0.0, plasticity=ct.hebb(0.1)))
    assert ct.solve(alone, {"s_y": 1.0}, [0.0, 1.0])["W_y_x"].shape == (2, 2, 0)


def detached(_request):
    y0 = {"x": torch.ones(1, dtype=F64, requires_grad=True)}
    for solver in (ct.SciPy(), ct.Brian2(dt=0.1)):
        words = "has no gradients.*Tsit5 or TorchDiffEq, or pass differentiable=False"
        refused(ValueError, words, ct.solve, decay(), y0, solver=solver)
    refused(ValueError, "nothing that goes in requires", ct.solve, decay(), differentiable=True)
    with torch.no_grad():
        words = "the graph would be lost"
        refused(ValueError, words, ct.solve, decay(), y0, differentiable=True)
    run = ct.solve(decay(), y0, differentiable=False)
    refused(RuntimeError, "does not require grad", run["x"].sum().backward)


# Models


def negative_tau(_request):
    words = "tau_m must be > 0, got -20 ms"
    text, tau = "dv/dt = -v/tau_m : mV", ct.Parameter(-20.0, "ms")
    refused(ValueError, words, ct.TextNeuron, text, tau_m=tau)
    refused(
        ValueError,
        "tau must be > 0, got -1",
        ct.leaky_integrator,
        tau=torch.tensor([1.0, -1.0]),
        size=2,
    )
    refused(ValueError, "tau_m must be > 0, got -20 ms", SpikingNetwork, tau_m=-20.0)


def zero_tau(_request):
    words = "tau_m must be > 0, got 0 ms"
    text, tau = "dv/dt = -v/tau_m : mV", ct.Parameter(0.0, "ms")
    refused(ValueError, words, ct.TextNeuron, text, tau_m=tau)
    refused(ValueError, words, SpikingNetwork, tau_m=0.0)


def negative_rate(_request):
    refused(ValueError, "rate must be >= 0 Hz, got -5 Hz", SpikingNetwork, rate=-5.0)


def unknown_unit(_request):
    words = r"unknown unit 'mw' for v \(did you mean 'mV'\?\).*mV.*Hz.*nA"
    refused(UnitError, words, ct.TextNeuron, "dv/dt = -v/tau : mw", tau=ct.Parameter(1.0, "ms"))
    refused(UnitError, "unknown unit 'furlong' for v", ct.Variable, "v", unit="furlong")


def inverted_bounds(_request):
    refused(ValueError, "w_min=1 > w_max=0", SpikingNetwork, w_min=1.0, w_max=0.0)
    refused(
        ValueError, "bounds upside down: 1.0 > 0.0", ct.Synapse, "x", "y", 0.5, bounds=(1.0, 0.0)
    )
    refused(
        ValueError, "lower=1.0 must be below upper=0.0", ct.Parameter, 0.5, lower=1.0, upper=0.0
    )


# Options


def unknown_option(_request):
    near = r"unknown option of \w+ 'max_stps' \(did you mean 'max_steps'\?\)"
    for solver in EVERY:
        words = rf"{near}; accepted: .*(rtol|dt)"
        refused(TypeError, words, ct.solve, decay(), solver=solver, max_stps=10)


def unknown_method(_request):
    words = r"unknown method 'dopri9' \(did you mean 'dopri8'\?\); accepted: .*dopri5.*rk4"
    refused(ValueError, words, ct.TorchDiffEq, "dopri9")
    refused(ValueError, r"unknown method 'radau'.*accepted: BDF, DOP853.*Radau", ct.SciPy, "radau")


def unsorted_times(_request):
    words = r"times must be strictly increasing: t\[2\]=1 < t\[1\]=2"
    refused(ValueError, words, ct.solve, decay(), t=[0.0, 2.0, 1.0, 3.0])
    words = r"times must be strictly decreasing: t\[2\]=2 > t\[1\]=1"
    refused(ValueError, words, ct.solve, decay(), t=[3.0, 1.0, 2.0, 0.0])


def duplicate_times(_request):
    words = "duplicate time 1 at index 1,2"
    refused(ValueError, words, ct.solve, decay(), t=[0.0, 1.0, 1.0, 2.0])


def times_outside(_request):
    for solver in (ct.Tsit5(), ct.SciPy(), ct.RK4(dt=0.1)):
        run = ct.solve(decay(), {"x": 1.0}, [0.0, 1.0], solver=solver, dense=True)
        for t in (-0.1, 1.1, torch.tensor([0.5, 2.0])):
            refused(ValueError, r"t=.*(outside the span|no value at)", run, t)
    run = ct.solve(decay(), {"x": 1.0}, [0.0, 1.0])
    refused(ValueError, "pass dense=True", run, 0.5)


def zero_span(_request):
    for solver in (*EVERY, ct.SciPy("Radau"), ct.Brian2(dt=0.1)):
        run = ct.solve(decay(), {"x": 0.3}, [2.0], solver=solver)
        assert run["x"].tolist() == [[0.3]]
        assert (run.statistics.steps, run.status) == (0, "complete")
    refused(ValueError, "duplicate time 2 at index 0,1", ct.solve, decay(), t=[2.0, 2.0])


def zero_tolerance(_request):
    for solver in ADAPTIVE:
        words = "rtol must be (at least|positive)"
        refused(ValueError, words, ct.solve, decay(), solver=solver, rtol=0.0, atol=0.0)


def negative_tolerance(_request):
    for solver in ADAPTIVE:
        for name in ("rtol", "atol"):
            words = f"{name} must be (>= 0|positive).*-1e-06"
            refused(ValueError, words, ct.solve, decay(), solver=solver, **{name: -1e-6})


# Numbers that come back


def seeds(_request):
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1, 1, 0])

    def once(seed):
        noise = ct.Noise(4, scale=0.5, dt=0.1, duration=2.0, seed=seed)
        cell = ct.leaky_integrator("y", 4)
        noisy = ct.System(ct.Source("n", 4, noise), cell, ct.Input("n", "y"))
        run = ct.solve(noisy, t=[0.0, 2.0])
        learner = ct.ContinuousSigprop(ct.sigprop_network([3, 4, 2], seed=seed))
        learner.present(x, labels)
        return [run["s_y"], *learner.weights.values()], run

    (one, run), (two, _), (other, _) = once(3), once(3), once(4)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    # across threads: said with the run, and used to run it again
    tree = run.to_xarray()
    assert json.loads(tree.attrs["recipe"])["threads"] == torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(ct.rerun(tree)["s_y"], run["s_y"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


class Broken:
    """Imports brian2 as Brian2 2.9 is with NumPy 2.4."""

    def find_spec(self, name, *_rest):
        if name == "brian2":
            raise AttributeError("type object 'numpy.ndarray' has no attribute 'ptp'")


def numpy_and_brian2(request):
    patch = request.getfixturevalue("monkeypatch")
    patch.delitem(sys.modules, "brian2", raising=False)
    patch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    patch.setattr(np, "__version__", "2.4.0")
    patch.setattr("ctsigprop.brian2_.version", lambda _name: "2.9.0")
    words = "brian2 backend unavailable: brian2 2.9.0 is incompatible with numpy 2.4"
    refused(ImportError, words, ct.solve, decay(), solver=ct.Brian2(dt=0.1))
    assert abs(ct.solve(decay(), {"x": 1.0})["x"][-1].item() - np.exp(-1)) < 1e-6  # the others work


def warnings_are_errors(request):
    assert request.config.getini("filterwarnings") == ["error"]


CASES = {
    "ROB-NAN-Y0": nan_y0,
    "ROB-NAN-RHS-MID": nan_later,
    "ROB-BLOWUP-ADAPTIVE": blow_up,
    "ROB-STIFF-STEPLIMIT": stiff,
    "ROB-STEP-LIMIT": step_limit,
    "ROB-SHAPE-RHS": shape_of_rates,
    "ROB-SHAPE-Y0-2D": shape_of_y0,
    "ROB-INT-Y0": integer_y0,
    "ROB-INT-T": integer_t,
    "ROB-COMPLEX": complex_state,
    "ROB-NONCONTIG": strides,
    "ROB-EMPTY-POP": empty_population,
    "ROB-GRAD-DETACHED": detached,
    "ROB-TAU-NEG": negative_tau,
    "ROB-TAU-ZERO": zero_tau,
    "ROB-RATE-NEG": negative_rate,
    "ROB-UNITS-UNKNOWN": unknown_unit,
    "ROB-BOUNDS-INVERTED": inverted_bounds,
    "ROB-UNKNOWN-KW": unknown_option,
    "ROB-UNKNOWN-METHOD": unknown_method,
    "ROB-T-UNSORTED": unsorted_times,
    "ROB-T-DUP": duplicate_times,
    "ROB-T-OUTSIDE": times_outside,
    "ROB-T-ZERO-SPAN": zero_span,
    "ROB-TOL-ZERO": zero_tolerance,
    "ROB-TOL-NEG": negative_tolerance,
    "ROB-SEED": seeds,
    "ROB-NUMPY2-BRIAN2": numpy_and_brian2,
    "ROB-WARN-CLEAN": warnings_are_errors,
}
