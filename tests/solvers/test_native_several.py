"""A few samples one after another by the kernel: the numbers, counts and errors of a batch."""

from __future__ import annotations

import pytest
import torch

import ctsigprop as ct
from ctsigprop.solvers.native import several

pytest.importorskip("numba")

F64 = torch.float64


def drawn(*shape, spread=1.0):
    generator = torch.Generator().manual_seed(3)
    return spread * torch.randn(shape, generator=generator, dtype=F64)


def fitzhugh_nagumo():
    neuron = ct.fitzhugh_nagumo("n", size=2, I=0.4)
    return ct.System(ct.Source("u", 1), neuron, ct.Input("u", "n", gain=0.5))


def learning():
    return ct.System(
        ct.Source("x", 6),
        ct.leaky_integrator("y", 3),
        ct.Synapse("x", "y", drawn(3, 6, spread=0.3), plasticity=ct.oja(0.05)),
    )


def oja_of_their_own():
    weights = next(v.name for v in learning().currents[0].variables)
    return {weights: drawn(5, 3, 6, spread=0.3)}


CASES = {
    "two axes": (fitzhugh_nagumo, {"v_n": drawn(2, 3, 2)}, {"u": ct.Constant(0.1 * torch.ones(1))}),
    "a sweep over a current": (fitzhugh_nagumo, {}, {"u": ct.Constant(drawn(5, 1))}),
    "currents that change": (fitzhugh_nagumo, {}, {"u": ct.Held([0.0, 3.0], drawn(2, 5, 1))}),
    "a common rhythm": (fitzhugh_nagumo, {"v_n": drawn(4, 2)}, {"u": ct.Rhythm([1.0], 0.1)}),
    "amplitudes of their own": (fitzhugh_nagumo, {}, {"u": ct.Rhythm(drawn(5, 1), 0.1)}),
    "weights of their own": (learning, oja_of_their_own(), {"x": ct.Constant(drawn(5, 6))}),
}


def compare(system, y0, t, solver, **options):
    fast = ct.solve(system, y0, t, solver=solver, **options)
    slow = ct.solve(system, y0, t, solver=solver.with_options(native=False), **options)
    assert fast.statistics.native
    assert not slow.statistics.native
    for name, value in slow.states.items():
        torch.testing.assert_close(fast.states[name], value, rtol=1e-8, atol=1e-9)
    return fast, slow


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [ct.Tsit5(rtol=1e-7, atol=1e-9), ct.Tsit5(dt=0.05)])
def test_equal_to_a_batch_in_torch(case, method):
    make, y0, inputs = CASES[case]
    fast, slow = compare(make(), y0, [0.0, 2.5, 4.0, 9.0], method, inputs=inputs)
    assert abs(fast.statistics.steps - slow.statistics.steps) <= 2
    assert fast.to_xarray().sizes == slow.to_xarray().sizes


@pytest.mark.parametrize("method", [ct.Tsit5(rtol=1e-7, atol=1e-9), ct.Tsit5(dt=0.05)])
def test_nothing_is_left_of_the_sample_before(method):
    t, system, y0, x = [0.0, 2.5, 9.0], learning(), oja_of_their_own(), drawn(5, 6)
    together = ct.solve(system, y0, t, solver=method, inputs={"x": ct.Constant(x)})
    (weights,) = y0
    for sample in range(5):
        own, held = {weights: y0[weights][sample]}, {"x": ct.Constant(x[sample])}
        alone = ct.solve(system, own, t, solver=method, inputs=held)
        assert alone.statistics.native
        for name, value in alone.states.items():
            assert torch.equal(together[name][:, sample], value)


def test_times_of_their_own():
    t = torch.linspace(0.0, 4.0, 6, dtype=F64) * torch.tensor([[0.5], [1.0], [2.0]], dtype=F64)
    compare(ct.System(ct.fitzhugh_nagumo()), {"v": drawn(3, 1)}, t, ct.Tsit5(rtol=1e-8, atol=1e-9))


def test_counts_are_those_of_the_sample_that_took_most():
    system, v = ct.System(ct.fitzhugh_nagumo(I=0.5)), drawn(4, 1)
    counts = [
        ct.solve(system, {"v": v[list(which)]}, [0.0, 30.0]).statistics
        for which in ((0, 1, 2, 3), (0,), (1,), (2,), (3,))
    ]
    for name in ("steps", "rejections", "evaluations"):
        together, *alone = (getattr(statistics, name) for statistics in counts)
        assert together == max(alone)
    assert len({statistics.steps for statistics in counts}) > 1


def test_a_sample_in_trouble_is_told_as_in_torch():
    system = ct.System(ct.TextNeuron("dx/dt = x**2 : 1"))
    x = torch.tensor([[0.1], [2.0], [0.2]], dtype=F64)
    errors = []
    for native in (None, False):
        with pytest.raises(ct.IntegrationError) as caught:
            ct.solve(system, {"x": x}, [0.0, 0.25, 1.0], native=native)
        errors.append(caught.value)
    first, second = errors
    assert str(first) == str(second)
    assert type(first) is type(second)
    kept = [error.partial.states["x"] for error in errors]
    torch.testing.assert_close(*kept, rtol=0, atol=0, equal_nan=True)


def test_an_interruption_keeps_what_ended():
    seen = []

    def progress(share):
        seen.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    system, v, t = ct.System(ct.fitzhugh_nagumo(I=0.5)), drawn(3, 1), [0.0, 1.0, 8.0]
    whole = ct.solve(system, {"v": v}, t)
    run = ct.solve(system, {"v": v}, t, progress=progress)
    assert run.status == "interrupted"
    assert run.statistics.native
    assert seen == sorted(seen)
    assert run.lengths.tolist() == [3, 2, 1]
    for name, value in run.states.items():
        for sample, reached in enumerate(run.lengths.tolist()):
            assert torch.equal(value[:reached, sample], whole[name][:reached, sample])
            assert bool(value[reached:, sample].isnan().all())


def test_signals_that_move_stay_in_torch():
    inputs = {"u": ct.Sampled([0.0, 1.0], drawn(2, 4, 1))}
    assert not ct.solve(fitzhugh_nagumo(), {}, [0.0, 1.0], inputs=inputs).statistics.native


def test_chosen_by_itself_up_to_some_samples_and_weights():
    system = ct.System(ct.fitzhugh_nagumo())
    for samples, native in ((several.MOST, True), (several.MOST + 1, False)):
        run = ct.solve(system, {"v": drawn(samples, 1)}, [0.0, 0.1])
        assert run.statistics.native is native
    most = several.MOST_EQUAL
    few, enough = 0.04 * most, 0.06 * most  # Euler's method has one stage
    for samples, end, native in (
        (most, enough, True),
        (most, few, False),
        (most + 1, 2 * enough, False),
    ):
        y0, solver = {"v": drawn(samples, 1)}, ct.Euler(dt=0.02)
        assert ct.solve(system, y0, [0.0, end], solver=solver).statistics.native is native
    run = ct.solve(learning(), {}, [0.0, 1.0], dt=0.05, inputs={"x": ct.Constant(drawn(20, 6))})
    assert run.statistics.native  # samples that learn, each its own weights
    resting = ct.System(ct.leaky_integrator("r"), ct.Synapse("r", "r", 0.5))
    for solver, native in ((ct.Euler(dt=0.05), False), (ct.RK4(dt=0.05), True)):
        run = ct.solve(resting, {"s_r": drawn(2, 1)}, [0.0, 1.0], solver=solver)
        assert run.statistics.native is native
    size = 600
    wide = ct.System(ct.leaky_integrator("r", size), ct.Synapse("r", "r", drawn(size, size)))
    for samples, native in ((1, True), (2, False)):
        run = ct.solve(wide, {"s_r": drawn(samples, size)}, [0.0, 0.1])
        assert run.statistics.native is native
