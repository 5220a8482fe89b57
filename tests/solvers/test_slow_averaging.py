"""Averaging: beside full runs, closed forms, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import ctsigprop as ct
from ctsigprop.solvers.slow import motion
from ctsigprop.solvers.slow.cycle import Stretch
from ctsigprop.solvers.slow.forward import forward_path
from ctsigprop.solvers.slow.split import Split

F64 = torch.float64
FULL = ct.Tsit5(rtol=1e-7, atol=1e-9, max_steps=10**6)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def wave(n, period=2.0, seed=0):
    return ct.Rhythm(draw(n, seed=seed), 1 / period, offset=draw(n, seed=seed + 1))


def one_layer(rule, signal=None, *, n=4, m=3, **options):
    neurons = ct.rate("y", m, rho=options.pop("rho", "tanh"), tau=options.pop("tau", 1.0))
    weight = options.pop("weight", draw(m, n, seed=7) - 0.3)
    synapse = ct.Synapse("x", "y", weight, plasticity=rule, **options)
    return ct.System(ct.Source("x", n, wave(n) if signal is None else signal), neurons, synapse)


def two_layers(eps):
    return ct.System(
        ct.Source("x", 4, wave(4)),
        ct.rate("h", 3),
        ct.rate("y", 2),
        ct.Synapse("x", "h", draw(3, 4), plasticity=ct.oja(eps)),
        ct.Synapse("h", "y", draw(2, 3, seed=3), plasticity=ct.oja(eps)),
    )


def looped(eps):
    """Neurons that hear each other in turn: the sweeps have to be extrapolated."""
    system = one_layer(ct.oja(eps), rho="identity")
    turn = 0.6 * torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]).double()
    neurons, synapse = system.neurons[0], system.currents[0]
    return ct.System(system.sources[0], neurons, synapse, ct.Synapse("y", "y", turn, name="loop"))


def filtered(eps):
    synapse = ct.Synapse("x", "y", draw(3, 4), plasticity=ct.oja(eps), filter=(2, 0.5))
    return ct.System(ct.Source("x", 4, wave(4)), ct.rate("y", 3), synapse)


def held(eps, **options):
    shown = draw(4, 4, seed=5)
    t = torch.arange(2000, dtype=F64) * 0.5
    return one_layer(ct.oja(eps), ct.Held(t, shown[torch.arange(2000) % 4]), **options)


SYSTEMS = {
    "oja": lambda eps: one_layer(ct.oja(eps)),
    "bcm": lambda eps: one_layer(ct.bcm(eps, tau_theta=2 / eps), rho="relu", weight=draw(3, 4)),
    "bcm, fast threshold": lambda eps: one_layer(
        ct.bcm(eps, tau_theta=1.0), rho="relu", weight=0.5 * draw(3, 4)
    ),
    "covariance": lambda eps: one_layer(ct.covariance(eps, tau=3.0)),
    "differential": lambda eps: one_layer([ct.differential_hebb(eps), ct.weight_decay(0.5 * eps)]),
    "two layers": two_layers,
    "loop": looped,
    "filter": filtered,
    "held": held,
    "gate": lambda eps: one_layer(
        ct.TextPlasticity("dw/dt = e*(x*y - y**2*w)", e=eps, gate=ct.Rhythm(0.5, 1.0, offset=1.0))
    ),
    "bounds": lambda eps: one_layer(ct.hebb(eps), bounds=(-0.4, 0.6), weight=draw(3, 4) * 0.5),
}


def error(run, full, name):
    """Return the largest error of any row, over the largest root mean square of any row."""
    other = full[name].flatten(1)
    apart = (run[name].flatten(1) - other).square().mean(1).sqrt().max()
    return float(apart / other.square().mean(1).sqrt().max())


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_error_is_below_the_estimate(name):
    eps = 1e-2
    system = SYSTEMS[name](eps)
    t = [0.0, 25.0, 50.6]  # the last one is within a period
    full = ct.solve(system, t=t, solver=FULL)
    run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0, rtol=0.1))
    statistics = run.statistics
    assert statistics.slow[0].startswith("W")
    assert ("theta_W_y_x" in statistics.slow) == (name == "bcm")
    for variable in statistics.slow:
        assert error(run, full, variable) < statistics.estimates["total"]
    for variable in set(system.variables) - set(statistics.slow):
        if float(full[variable].abs().max()) > 1e-6:
            assert error(run, full, variable) < 2e-2
    moved = (full["W_y_x" if "W_y_x" in run.states else "W_y_h"].diff(dim=0)).abs().max()
    assert moved > 2 * float(statistics.estimates["total"])


def test_the_error_is_of_the_order_of_the_rate():
    errors = []
    for eps in (2e-2, 5e-3):
        system = one_layer(ct.oja(eps), rho="identity")
        t = [0.0, round(0.5 / eps) * 2.0]
        full = ct.solve(system, t=t, solver=FULL)
        run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0, rtol=0.2, slow=("W_y_x",)))
        errors.append(error(run, full, "W_y_x"))
    assert 0.8 < math.log(errors[0] / errors[1]) / math.log(4) < 1.3


def closed_form(eps):
    """Linear neurons on x = o + a·cos(ωt): <y x> = w M and <y²> = w M w: Oja sees M."""
    signal, period = wave(4), 2.0
    a, o = signal.amplitude, signal.offset
    gain = 1 / (1 + (2 * math.pi / period) ** 2)
    M = torch.outer(o, o) + 0.5 * gain * torch.outer(a, a)
    w = torch.tensor([[0.3, -0.1, 0.2, 0.1]], dtype=F64)
    system = one_layer(ct.oja(eps), signal, m=1, rho="identity", weight=w)
    return system, M, w


def test_against_the_averaged_flow_in_closed_form():
    eps = 1e-7
    system, M, w = closed_form(eps)
    t = [0.0, 0.3 / eps, 1.0 / eps, 150.0 / eps]
    run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0, rtol=1e-5))
    flow = ct.System(ct.AveragedOja(M, initial=w[0]))
    exact = ct.solve(flow, t=[x * eps for x in t], solver=ct.Tsit5(rtol=1e-11, atol=1e-13))
    torch.testing.assert_close(run["W_y_x"][:, 0], exact["w"], rtol=0, atol=1e-5)
    principal = torch.linalg.eigh(M).eigenvectors[:, -1]
    last = run["W_y_x"][-1, 0]
    torch.testing.assert_close(last * last.dot(principal).sign(), principal, rtol=0, atol=1e-5)
    assert run.statistics.evaluations < 3000


def test_constant_inputs_need_no_period():
    eps, x = 1e-5, draw(4)
    system = one_layer(ct.oja(eps), x, rho="identity", m=1, weight=0.2 * draw(1, 4))
    t = [0.0, 5e4, 2e5]
    run = ct.solve(system, t=t, solver=ct.Averaging(rtol=1e-3))
    flow = ct.System(ct.AveragedOja(torch.outer(x, x), initial=0.2 * draw(1, 4)[0]))
    exact = ct.solve(flow, t=[s * eps for s in t], solver=ct.Tsit5(rtol=1e-10))
    torch.testing.assert_close(run["W_y_x"][:, 0], exact["w"], rtol=0, atol=1e-4)
    torch.testing.assert_close(run["s_y"][-1], run["W_y_x"][-1] @ x)


def test_weights_do_not_overshoot_their_bounds():
    eps = 4e-3
    rules = [ct.hebb(eps), ct.weight_decay(0.1 * eps)]
    system = one_layer(rules, rho="identity", bounds=(-0.2, 0.32), weight=0.3 * draw(3, 4))
    t = [0.0, 300.0, 1000.0]
    run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0, rtol=0.1))
    assert run["W_y_x"][-1].max() == 0.32
    assert run["W_y_x"].max() <= 0.32
    full = ct.solve(system, t=t, solver=ct.Tsit5(rtol=1e-4))
    assert error(run, full, "W_y_x") < run.statistics.estimates["total"]


def problem_of(system):
    """Return the problem that a solver is given."""
    got = []

    class Catch(ct.Averaging):
        def integrate(self, problem):
            got.append(problem)
            return super().integrate(problem)

    ct.solve(system, t=[0.0, 50.0], solver=Catch(period=2.0, rtol=0.5))
    return got[0]


def with_branches(eps):
    """Three layers, of which the second is skipped by one way."""
    return ct.System(
        ct.Source("x", 4, wave(4)),
        ct.rate("a", 3, tau=0.5),
        ct.rate("b", 3, tau=torch.full((3,), 2.0)),
        ct.rate("y", 2),
        ct.Synapse("x", "a", draw(3, 4), plasticity=ct.oja(eps)),
        ct.Synapse("a", "b", draw(3, 3, seed=1)),
        ct.Synapse("a", "y", draw(2, 3, seed=2), plasticity=ct.oja(eps)),
        ct.Synapse("b", "y", draw(2, 3, seed=3)),
    )


def test_the_longest_way_of_a_network_without_loops():
    problem = problem_of(with_branches(1e-3))
    fast = [f"s_{name}" for name in "aby"]
    path = forward_path(problem, fast)
    assert (path.depth, path.memory) == (3, 3.5)
    assert forward_path(problem, fast[:2]) is None  # something else is slow
    for name in ("loop", "filter", "bcm, fast threshold"):
        problem = problem_of(SYSTEMS[name](1e-3))
        fast = [name for name in problem.layout.names if not name.startswith("W")]
        assert forward_path(problem, fast) is None
    uneven = ct.rate("y", 3, tau=torch.tensor([1.0, 1.0, 2.0]))
    system = ct.System(ct.Source("x", 4, wave(4)), uneven, one_layer(ct.oja(1e-3)).currents[0])
    assert forward_path(problem_of(system), ["s_y"]) is None


@pytest.mark.parametrize("build", [two_layers, with_branches, held])
def test_a_network_without_loops_goes_the_same_way_as_by_sweeps(build, monkeypatch):
    t = [0.0, 101.0, 200.5]
    solver = ct.Averaging(period=2.0, rtol=0.1)
    run = ct.solve(build(2e-3), t=t, solver=solver)
    monkeypatch.setattr(motion, "forward_path", lambda *_: None)
    other = ct.solve(build(2e-3), t=t, solver=solver)
    for name in run.statistics.slow:
        assert error(run, other, name) < 3e-5  # what the start adds is stepped otherwise
    assert run.statistics.evaluations < 0.7 * other.statistics.evaluations


@pytest.mark.parametrize("build", [two_layers, with_branches])
def test_a_march_errs_by_the_square_of_its_steps(build):
    """All steps of a network without loops at once, and one after the other."""
    problem = problem_of(build(1e-3))
    split = Split(problem, None, 2.0)
    fine = motion.Motion(problem, split, Stretch(0.0, 6.0, 27 * 24), 1e-6)
    slow = split.unpack(split.pack(problem.y0))
    starts = draw(2, fine.width, seed=9)
    exact = fine.march(slow, starts)
    for path in (fine.path, None):
        errors = []
        for refined in (3, 9):
            coarse = fine.on(Stretch(0.0, 6.0, 24 * refined))
            coarse.path = path
            found, apart = coarse.march(slow, starts), 27 // refined
            assert found[0].shape == (24 * refined, 2, fine.width)
            errors.append(
                [  # of the path, and of what drives along it
                    float((one - all_[apart // 2 :: apart]).abs().max())
                    for one, all_ in zip(found, exact, strict=True)
                ]
            )
        for once, thrice in zip(*errors, strict=True):
            assert once < 0.03
            assert thrice < once / 7


def test_the_decay_of_weights_is_no_relaxation_of_neurons():
    system = one_layer([ct.bcm(1e-3, tau_theta=2e3), ct.weight_decay(1e-4)], rho="relu")
    run = ct.solve(system, t=[0.0, 200.0], solver=ct.Averaging(period=2.0, rtol=0.1))
    assert run.statistics.slow == ("W_y_x", "theta_W_y_x")


def test_a_batch_that_shares_its_weights():
    signal = ct.Rhythm(draw(3, 4), 0.5, offset=draw(3, 4, seed=1))
    system = one_layer(ct.oja(1e-2), signal, shared=True)
    t = [0.0, 40.0]
    full = ct.solve(system, t=t, solver=FULL)
    run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0))
    assert run["W_y_x"].shape == (2, 3, 4)
    assert run["s_y"].shape == (2, 3, 3)
    assert error(run, full, "W_y_x") < run.statistics.estimates["total"]


def test_a_batch_of_weights_of_their_own_is_averaged_one_by_one():
    system = one_layer(ct.oja(1e-2))
    start = {"W_y_x": draw(2, 3, 4), "s_y": draw(2, 3)}
    runs = ct.solve(system, start, [0.0, 40.0], solver=ct.Averaging(period=2.0))
    for k in range(2):
        alone = {name: value[k] for name, value in start.items()}
        run = ct.solve(system, alone, [0.0, 40.0], solver=ct.Averaging(period=2.0))
        torch.testing.assert_close(runs["W_y_x"][:, k], run["W_y_x"], rtol=1e-3, atol=1e-3)


def test_single_precision_keeps_small_increments():
    eps = 1e-6
    runs = []
    for dtype in (torch.float64, torch.float32):
        system = one_layer(ct.oja(eps)).to(dtype)
        runs.append(ct.solve(system, t=[0.0, 1 / eps], solver=ct.Averaging(period=2.0)))
    assert runs[1]["W_y_x"].dtype == torch.float32
    assert (runs[0]["W_y_x"][1] - runs[0]["W_y_x"][0]).abs().max() > 0.05
    torch.testing.assert_close(runs[0]["W_y_x"].float(), runs[1]["W_y_x"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_presentations_drawn_at_random(seed):
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 5, generator=generator, dtype=F64)
    shown = patterns[torch.randint(0, 10, (400,), generator=generator)]
    signal = ct.Held(torch.arange(400, dtype=F64), shown)  # as long as the neurons' time constant
    system = one_layer(ct.oja(5e-3), signal, n=5, weight=0.4 * draw(3, 5, seed=seed))
    t = [0.0, 200.0, 400.0]
    full = ct.solve(system, t=t, solver=ct.Tsit5(rtol=1e-5))
    for count in (160, 400):
        run = ct.solve(system, t=t, solver=ct.Averaging(presentations=count, rtol=0.5))
        found = run.statistics.estimates
        assert error(run, full, "W_y_x") < found["total"]
        assert 1e-3 < found["sampling"] < 0.3
        assert error(run, full, "s_y") < 0.1  # the very presentations before the row


def test_the_estimates_are_stored(tmp_path):
    run = ct.solve(SYSTEMS["oja"](1e-2), t=[0.0, 50.0], solver=ct.Averaging(period=2.0))
    tree = run.to_xarray()
    ct.save(tree, tmp_path / "run.zarr")
    kept = ct.open(tmp_path / "run.zarr").attrs["statistics"]
    assert kept["estimates"] == run.statistics.estimates
    assert tuple(kept["slow"]) == ("W_y_x",)
    assert torch.equal(ct.rerun(tree)["W_y_x"], run["W_y_x"])


def bistable(eps=1e-4):
    turn = 3.0 * torch.eye(3, dtype=F64)
    system = one_layer(ct.oja(eps), weight=0.02 * draw(3, 4))
    back = ct.Synapse("y", "y", turn, name="loop")
    return ct.System(system.sources[0], system.neurons[0], system.currents[0], back)


def oscillating(eps=1e-4):
    turn = torch.tensor([[2.0, -3.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    system = one_layer(ct.oja(eps), weight=0.02 * draw(3, 4))
    back = ct.Synapse("y", "y", turn, name="loop")
    return ct.System(system.sources[0], system.neurons[0], system.currents[0], back)


def noisy(eps=1e-3):
    return one_layer(ct.oja(eps), ct.Noise(4, scale=1.0, dt=1.0, duration=100.0))


@pytest.mark.parametrize(
    ("build", "options", "kind", "said"),
    [
        (lambda: SYSTEMS["oja"](0.5), {"period": 2.0}, ct.IntegrationError, "use Tsit5"),
        (bistable, {"period": 2.0}, ct.IntegrationError, "do not forget"),
        (oscillating, {"period": 2.0}, ct.IntegrationError, "do not forget|does not settle"),
        (lambda: SYSTEMS["oja"](2e-2), {"period": 2.0, "rtol": 1e-3}, ct.IntegrationError, "above"),
        (lambda: SYSTEMS["oja"](1e-3), {"period": 1.7}, ValueError, "source 'x' differs"),
        (lambda: SYSTEMS["oja"](1e-3), {}, ValueError, "inputs vary"),
        (lambda: SYSTEMS["gate"](1e-3), {"period": 1.9}, ValueError, "differs"),
        (lambda: SYSTEMS["oja"](1e-3), {"presentations": 64}, ValueError, "hold 1"),
        (noisy, {"period": 1.0}, ValueError, "none of theirs"),
        (lambda: SYSTEMS["oja"](1e-3), {"period": 2.0, "slow": ("W",)}, ValueError, "W_y_x"),
        (lambda: ct.System(ct.leaky_integrator("y")), {}, ValueError, "no variable is slow"),
    ],
)
def test_refusals(build, options, kind, said):
    with pytest.raises(kind, match=said):
        ct.solve(build(), t=[0.0, 100.0], solver=ct.Averaging(**options))


def test_a_rule_that_reads_the_time_has_to_repeat_as_well():
    rule = ct.TextPlasticity("dw/dt = e*(2 + cos(pi*t/2))*x - e*w", e=1e-3)
    with pytest.raises(ValueError, match="the derivative of 'W_y_x' differs"):
        # its period is twice that of the inputs, and the span holds it many times
        ct.solve(one_layer(rule), t=[0.0, 102.0], solver=ct.Averaging(period=2.0))


def test_what_may_read_the_time_is_known():
    """The field is compared unless every term is known to read the time through signals alone."""

    class Clocked(ct.TextPlasticity):
        def forward(self, local):
            pace = 2 + torch.cos(math.pi * local.t / 2)
            return {name: pace * change for name, change in super().forward(local).items()}

    plain, said = ct.oja(1e-3), ct.TextPlasticity("dw/dt = e*exp(-t)*x", e=1e-3)
    system = one_layer(plain)
    assert plain.autonomous
    assert system.autonomous
    assert not any(rule.autonomous for rule in (said, Clocked("dw/dt = x*y"), ct.OjaSubspace(0.1)))
    assert not one_layer([plain, said]).autonomous
    assert not ct.TextNeuron("dv/dt = -v + sin(t) : 1").autonomous
    assert not ct.VectorField(lambda _t, y: -y).autonomous
    system = one_layer(Clocked("dw/dt = e*(x - w)", e=1e-3))
    with pytest.raises(ValueError, match="the derivative of 'W_y_x' differs"):
        ct.solve(system, t=[0.0, 102.0], solver=ct.Averaging(period=2.0))


def test_options_and_abilities():
    for options in ({"period": 0.0}, {"rtol": 0.0}, {"presentations": 3}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ct.Averaging(**options)
    with pytest.raises(ValueError, match="exclude"):
        ct.Averaging(period=1.0, presentations=100)
    system, solver = SYSTEMS["oja"](1e-3), ct.Averaging(period=2.0)
    with pytest.raises(ValueError, match="has no events"):
        ct.solve(system, t=[0.0, 50.0], solver=solver, events=ct.Event(lambda t, _: t - 1.0))
    start = torch.zeros(3, dtype=F64, requires_grad=True)
    with pytest.raises(ValueError, match="no gradients"):
        ct.solve(system, {"s_y": start}, [0.0, 50.0], solver=solver)
    with pytest.raises(ValueError, match="forward in time"):
        ct.solve(system, t=[50.0, 0.0], solver=solver)


def test_rows_reached_are_kept_where_a_run_is_stopped():
    system = closed_form(1e-4)[0]
    seen = []

    def stop(fraction):
        seen.append(fraction)
        if len(seen) == 2:
            raise KeyboardInterrupt

    t = torch.linspace(0, 4e5, 41, dtype=F64)
    run = ct.solve(system, t=t, solver=ct.Averaging(period=2.0), progress=stop)
    assert run.status == "interrupted"
    assert 1 < len(run.t) < 41
    whole = ct.solve(system, t=t, solver=ct.Averaging(period=2.0))
    assert torch.equal(run["W_y_x"], whole["W_y_x"][: len(run.t)])


def test_what_is_averaged_may_be_differentiated_afterwards():
    """Nothing that the run makes, or leaves in the system, is out of autograd's reach."""
    system = two_layers(1e-3)
    run = ct.solve(system, t=[0.0, 101.0, 200.0], solver=ct.Averaging(period=2.0, rtol=0.1))
    gain = torch.ones((), dtype=torch.float64, requires_grad=True)
    (gain * run["W_h_x"][-1]).square().sum().backward()
    assert float(gain.grad) > 0
    system.learn("eta")
    more = ct.solve(system, {k: v[-1] for k, v in run.states.items()}, [0.0, 0.1])
    (more["W_h_x"][-1].sum() + more["W_y_h"][-1].sum()).backward()
    assert all(float(rule.eta.grad.abs()) > 0 for c in system.currents for rule in c.plasticity)


def test_terms_that_differentiate_by_themselves_are_averaged():
    """ds/dt = −dE/ds with E = s²/2 − drive · s, by autograd."""

    class Descent(ct.TextNeuron):
        def forward(self, _t, state, currents):
            with torch.enable_grad():
                s = state["s_y"].detach().requires_grad_()
                energy = (s.square() / 2 - currents["I"] * s).sum()
                return {"s_y": -torch.autograd.grad(energy, s)[0]}

    runs = []
    for kind in (ct.TextNeuron, Descent):
        neuron = kind("ds/dt = -s + I : 1\nI : 1", "y", 3)
        system = ct.System(ct.Source("x", 4, wave(4)), neuron, one_layer(ct.oja(1e-3)).currents[0])
        system.learn("eta")
        solver = ct.Averaging(period=2.0, rtol=0.1)
        run = ct.solve(system, t=[0.0, 200.0], solver=solver, differentiable=False)
        assert not run["W_y_x"].requires_grad
        runs.append(run["W_y_x"][-1])
    torch.testing.assert_close(*runs, rtol=1e-5, atol=0)
