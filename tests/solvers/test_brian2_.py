from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.brian2_ import brian2_session
from ctsigprop.errors import BlowUpError, NonFiniteError, StepLimitError
from ctsigprop.solvers.brian2_ import Brian2

EXACT = ct.Tsit5(rtol=1e-10, atol=1e-12)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def errors(system, t, steps, y0=None, **options):
    """Largest error of any variable for each step, relative where its size is above 1."""
    exact = ct.solve(system, y0, t, solver=EXACT, **options)
    found = []
    for dt in steps:
        run = ct.solve(system, y0, t, solver=Brian2(dt=dt), **options)
        found.append(
            max(
                float((run[name] - exact[name]).abs().max() / exact[name].abs().max().clamp(min=1))
                for name in run.states
            )
        )
    return found


CHANGING = "dw/dt = eta*y*(x + dx)"
TRACE = "dw/dt = eta*y*e\nde/dt = (x - e)/tau : 1 (pre)"
WAVE = ct.Rhythm(tensor(0.5, 0.8, 0.3), 0.3, offset=tensor(0.2, 0.1, 0.4))
WEIGHTS = tensor(0.3, 0.5, 0.1, 0.2, 0.6, 0.4).reshape(2, 3)


def learner(*rules, cell=None, **options):
    cell = ct.rate("y", 2, rho="tanh") if cell is None else cell
    synapse = ct.Synapse("x", "y", WEIGHTS, plasticity=rules, **options)
    return ct.System(ct.Source("x", 3, WAVE), cell, synapse)


def recurrent():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    return ct.System(
        ct.Source("x", 3, WAVE),
        ct.rate("h", 4),
        ct.hopfield("y", 2),
        ct.Synapse("x", "h", draw(4, 3)),
        ct.Synapse("h", "y", draw(2, 4), plasticity=ct.TextPlasticity(CHANGING, eta=0.2)),
        ct.Synapse("y", "h", draw(4, 2), plasticity=ct.oja(0.3)),
        ct.Synapse("h", "h", draw(4, 4)),
    )


@pytest.mark.parametrize(
    ("neuron", "end", "dt"),
    [
        (ct.fitzhugh_nagumo("n", 3, a=tensor(0.6, 0.7, 0.8), I=0.5), 10.0, 0.02),
        (ct.hodgkin_huxley(I=10.0), 4.0, 0.01),
        (ct.wilson_cowan(), 10.0, 0.01),
        (ct.TextNeuron("dx/dt = -x + sin(3*t) + int(x > 2) : 1"), 2.0, 0.01),
    ],
    ids=["fitzhugh_nagumo", "hodgkin_huxley", "wilson_cowan", "time in the text"],
)
def test_single_populations_keep_the_order_of_the_method(neuron, end, dt):
    coarse, fine = errors(ct.System(neuron), np.linspace(0, end, 5).tolist(), (2 * dt, dt))
    assert fine < 1e-6
    assert 3.7 < np.log2(coarse / fine) < 4.3


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("rk2", 2)])
def test_other_methods(method, order):
    system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    exact = ct.solve(system, t=[0.0, 2.0], solver=EXACT)["v"]
    coarse, fine = (
        (ct.solve(system, t=[0.0, 2.0], solver=Brian2(method, dt=dt))["v"] - exact).abs().max()
        for dt in (0.04, 0.02)
    )
    assert abs(np.log2(float(coarse / fine)) - order) < 0.15


def test_inputs_that_depend_on_time_alone_keep_the_order():
    held = ct.Held([0.0, 0.33, 1.1], tensor(1.0, 0.0, -1.0, 0.5, 0.2, 0.9).reshape(3, 2))
    system = ct.System(
        ct.Source("u", 2, held),
        ct.Source("x", 3, WAVE),
        ct.Source("c", 2),
        ct.rate("y", 2),
        ct.Input("u", "y", gain=tensor(1.0, 2.0)),
        ct.Synapse("x", "y", WEIGHTS),
        ct.LearningSignal("c", "y", gate=ct.Pulse(0.5, 1.7)),
        ct.LearningSignal("c", "y", gate=ct.Pulse(0.7), error=True, port="J", name="nudge"),
    )
    given = {"c": ct.Sampled([0.0, 0.5, 2.0], tensor(0.0, 1.0, 1.0, 0.3, -1.0, 0.0).reshape(3, 2))}
    coarse, fine = errors(system, [0.0, 0.9, 2.0], (0.05, 0.025), inputs=given)
    assert fine < 1e-7
    assert coarse / fine > 12


NETWORKS = {
    "hebb": learner(ct.hebb(0.1)),
    "oja": learner(ct.oja(0.3)),
    "bcm": learner(ct.bcm(0.2, tau_theta=1.0, theta=0.3)),
    "eligibility": learner(ct.eligibility(0.3, tau_e=1.0, modulator=ct.Rhythm(1.0, 0.2))),
    "differential": learner(ct.differential_hebb(0.5, gate=ct.Pulse(0.2, 0.8))),
    "gated trace": learner(ct.TextPlasticity(TRACE, gate=ct.Pulse(0.2, 0.8), eta=0.5, tau=1.0)),
    "two rules": learner(
        ct.TextPlasticity(CHANGING, eta=0.3), ct.weight_decay(0.2), cell=ct.hopfield("y", 2)
    ),
    "mask": learner(ct.hebb(0.3), mask=torch.tensor([[1, 0, 1], [0, 1, 1]])),
    "bounds": learner(ct.TextPlasticity("dw/dt = eta*x**2", eta=0.9), bounds=(0.0, 0.65)),
    "sign": learner(ct.TextPlasticity("dw/dt = -eta*x**2", eta=0.9), sign=1),
    "filter": learner(ct.hebb(0.3), filter=(2, 0.5)),
    "recurrent": recurrent(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_converge_with_order_one(name):
    coarse, fine = errors(NETWORKS[name], [0.0, 0.5, 1.0], (0.008, 0.004))
    assert fine < 1e-3
    assert 1.85 < coarse / fine < 2.2


def test_bounds_and_signs_are_kept():
    for name, bound in (("bounds", 0.65), ("sign", 0.0)):
        w = ct.solve(NETWORKS[name], t=[0.0, 1.0], solver=Brian2(dt=0.02))["W_y_x"][-1]
        assert bool(((w >= 0.0) & (w <= 0.65)).all())
        assert 0 < int((w == bound).sum()) < 6


def test_a_network_that_learns_from_a_forward_signal():
    network = ct.sigprop_network([3, 4, 2], onset=0.5)
    given = {"x": tensor(0.2, 0.7, 0.5), "c": tensor(1.0, 0.0)}
    exact = ct.solve(network, t=[0.0, 1.0], inputs=given, solver=EXACT)
    run = ct.solve(network, t=[0.0, 1.0], inputs=given, solver=Brian2(dt=0.002))
    for name, values in run.states.items():
        torch.testing.assert_close(values, exact[name], rtol=0, atol=1e-3)


def test_a_batch_is_its_samples_one_by_one():
    system = NETWORKS["bcm"]
    start = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
    given = {"x": torch.linspace(0, 1, 9, dtype=torch.float64).reshape(3, 3)}
    solver = Brian2(dt=0.05)
    together = ct.solve(system, {"s_y": start}, [0.0, 1.0], inputs=given, solver=solver)
    assert together["W_y_x"].shape == (2, 3, 2, 3)
    for k in range(3):
        alone = {"s_y": start[k]}, [0.0, 1.0]
        run = ct.solve(system, *alone, inputs={"x": given["x"][k]}, solver=solver)
        for name, values in run.states.items():
            torch.testing.assert_close(together[name][:, k], values, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("t", [[-1.0, -0.987, 0.4321, 1 / 3 + 1], [1.0, 0.3, -0.7]])
def test_outputs_are_exactly_where_they_are_asked_for(t):
    system = ct.System(ct.TextNeuron("dx/dt = -x + cos(2*t) : 1"))
    assert errors(system, t, (0.05,), {"x": 1.0})[0] < 1e-6


def test_float32_states_stay_float32():
    system = ct.System(ct.fitzhugh_nagumo(I=0.5)).to(torch.float32)
    start = {"v": torch.zeros(1), "w": torch.zeros(1)}
    run = ct.solve(system, start, [0.0, 1.0], solver=Brian2(dt=0.1))
    assert run["v"].dtype == torch.float32


def test_statistics_and_rerun():
    system = ct.System(ct.wilson_cowan())
    run = ct.solve(system, t=[0.0, 0.25, 1.0], solver=Brian2(dt=0.1))
    assert (run.statistics.steps, run.statistics.evaluations) == (3 + 8, 4 * 11)
    assert torch.equal(ct.rerun(run.to_xarray())["E"], run["E"])


OJA_SUBSPACE = learner(ct.OjaSubspace(0.1))


@pytest.mark.parametrize(
    ("system", "y0", "message"),
    [
        (ct.System(ct.VectorField(lambda _t, y: -y, name="f")), None, "VectorField 'f' is not"),
        (ct.System(ct.NeuralField(2, (4,))), None, "NeuralField is not; Tsit5, RK4"),
        (OJA_SUBSPACE, None, "OjaSubspace of 'W_y_x' is not"),
        (learner(ct.Sanger(0.1)), None, "Sanger of 'W_y_x' is not"),
        (learner(ct.hebb(0.1), delay=1.0), None, "cannot look back"),
        (
            learner(ct.hebb(0.1), shared=True),
            {"s_y": torch.zeros(3, 2, dtype=torch.float64)},
            "cannot share W_y_x among the samples",
        ),
        (
            learner(ct.differential_hebb(0.1), cell=ct.hopfield("y", 2)),
            None,
            "derivative of the activity of 'y'",
        ),
        (
            ct.System(
                ct.Source("c", 1, 1.0),
                ct.rate("y"),
                ct.LearningSignal("c", "y", tensor([1.0]), error=True, name="L"),
            ),
            None,
            "cannot take 'L', an error through a matrix",
        ),
        (
            ct.System(
                ct.Source("x", 1, 1.0),
                ct.rate("y"),
                ct.rate("r"),
                ct.Synapse("x", "y", 1.0, plasticity=ct.eligibility(0.1, tau_e=1.0, modulator="r")),
            ),
            None,
            "neurons 'r' as the modulator",
        ),
    ],
)
def test_what_brian2_cannot_say_is_refused_by_name(system, y0, message):
    with pytest.raises(ValueError, match=message):
        ct.solve(system, y0, [0.0, 1.0], solver=Brian2(dt=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk5", "dt": 0.1}, "did you mean 'rk"),
        ({"codegen": "cpython", "dt": 0.1}, "did you mean 'cython'"),
        ({"dt": 0.0}, "dt must be > 0"),
        ({"dt": 0.1, "max_steps": 0}, "max_steps must be"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Brian2(**options)
    with pytest.raises(TypeError, match="dt"):
        Brian2()


def test_too_many_steps_are_refused():
    with pytest.raises(StepLimitError, match="100 steps"):
        ct.solve(ct.System(ct.wilson_cowan()), solver=Brian2(dt=0.01, max_steps=99))


@pytest.mark.parametrize(
    ("text", "kind"),
    [("dx/dt = -sqrt(x - 0.5) : 1", NonFiniteError), ("dx/dt = 60*x : 1", BlowUpError)],
)
def test_numbers_that_are_not_finite_end_the_run_and_rows_are_kept(text, kind, capfd):
    system = ct.System(ct.TextNeuron(text, "n", 2))
    with pytest.raises(kind, match="'x_n' at index") as caught:
        ct.solve(system, {"x_n": tensor(1.0, 1.1)}, [0.0, 0.2, 14.0], solver=Brian2(dt=0.05))
    assert caught.value.partial["x_n"].shape == (2, 2)
    assert 0.2 < caught.value.time < 14.0
    assert capfd.readouterr().err == ""


def press_at(fraction, press):
    return lambda done: press() if done > fraction else None


def by_signal():
    os.kill(os.getpid(), signal.SIGINT)


def by_brian2():
    with brian2_session() as brian2:
        brian2.stop()


@pytest.mark.parametrize("press", [by_signal, by_brian2])
def test_an_interruption_keeps_what_was_reached(press):
    t = torch.linspace(0, 10, 11, dtype=torch.float64)
    run = ct.solve(
        ct.System(ct.wilson_cowan()), t=t, solver=Brian2(dt=0.1), progress=press_at(0.449, press)
    )
    assert run.status == "interrupted"
    assert run["E"].shape == (5, 1)
    assert ct.solve(ct.System(ct.wilson_cowan()), t=t, solver=Brian2(dt=0.1)).status == "complete"


def test_preferences_and_handlers_are_left_as_they_were():
    script = """
import signal, sys
import ctsigprop as ct
assert "brian2" not in sys.modules
handler, hook = signal.getsignal(signal.SIGINT), sys.excepthook
ct.solve(ct.System(ct.wilson_cowan()), solver=ct.Brian2(dt=0.1))
assert (signal.getsignal(signal.SIGINT), sys.excepthook) == (handler, hook)
import brian2
assert brian2.prefs.codegen.target == "auto"
brian2.set_device("cpp_standalone")
try:
    ct.solve(ct.System(ct.wilson_cowan()), solver=ct.Brian2(dt=0.1))
except ImportError as error:
    assert "set_device('runtime')" in str(error)
else:
    raise AssertionError
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


class Broken:
    """Import brian2 as Brian2 2.9 is with NumPy 2.4."""

    def find_spec(self, name, *_):
        if name == "brian2":
            raise AttributeError("type object 'numpy.ndarray' has no attribute 'ptp'")


def test_a_brian2_that_does_not_import_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "brian2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(np, "__version__", "2.4.1")
    with pytest.raises(
        ImportError,
        match=r"brian2 backend unavailable: brian2 2[.\d]+ is incompatible with numpy 2.4",
    ):
        ct.solve(ct.System(ct.wilson_cowan()), solver=Brian2(dt=0.1))


def test_gradients_are_refused():
    system = ct.System(ct.wilson_cowan()).learn("P")
    with pytest.raises(ValueError, match="Brian2 has no gradients"):
        ct.solve(system, solver=Brian2(dt=0.1))
    run = ct.solve(system, solver=Brian2(dt=0.1), differentiable=False)
    assert not run["E"].requires_grad
