"""Signals: their values, their jumps, their batches."""

from __future__ import annotations

import math

import pytest
import torch

import ctsigprop as ct
from ctsigprop.provenance import build, describe

f64 = torch.float64
VALUES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], dtype=f64)

SIGNALS = {
    "constant": (ct.Constant(torch.tensor([1.0, 2.0], dtype=f64)), lambda _t: [1.0, 2.0], []),
    "held": (ct.Held([0.0, 1.0, 3.0], VALUES), lambda t: VALUES[(t >= 1) + (t >= 3)], [1.0, 3.0]),
    "pulse": (ct.Pulse(1.0, 3.0, 0.5), lambda t: 0.5 * (1 <= t < 3), [1.0, 3.0]),
    "rhythm": (
        ct.Rhythm(2.0, 0.25, phase=0.3, offset=1.0),
        lambda t: 1 + 2 * math.cos(math.pi / 2 * t + 0.3),
        [],
    ),
    "rhythm that begins": (
        ct.Rhythm(2.0, 0.25, phase=0.3, offset=1.0, onset=1.0),
        lambda t: (t >= 1) * (1 + 2 * math.cos(math.pi / 2 * t + 0.3)),
        [1.0],
    ),
    "sampled": (
        ct.Sampled([0.0, 2.0, 4.0], VALUES),
        lambda t: torch.lerp(VALUES[int(t // 2)], VALUES[int(t // 2) + 1], t / 2 - t // 2),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("t", [0.0, 0.7, 1.0, 2.5, 3.0, 3.9])
def test_values(name: str, t: float) -> None:
    signal, truth, _ = SIGNALS[name]
    value = signal(torch.tensor(t, dtype=f64))
    expected = torch.as_tensor(truth(t), dtype=f64)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", SIGNALS)
def test_times_of_a_batch_are_each_time_alone(name: str) -> None:
    signal, _, _ = SIGNALS[name]
    times = torch.tensor([0.3, 1.5, 3.2], dtype=f64)
    together = signal(times)
    for i, t in enumerate(times):
        alone = signal(t)
        torch.testing.assert_close(together[i] if name != "constant" else together, alone)


@pytest.mark.parametrize("name", SIGNALS)
def test_jumps_are_where_the_value_jumps(name: str) -> None:
    signal, _, jumps = SIGNALS[name]
    assert signal.jumps(0.0, 5.0) == jumps
    assert signal.jumps(5.0, 0.0) == jumps
    for jump in jumps:
        assert signal.jumps(jump, 5.0) == [j for j in jumps if j > jump]
        after, before = (signal(torch.tensor(jump + d, dtype=f64)) for d in (0.0, -1e-9))
        assert not torch.equal(after, before)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_built_again_from_data(name: str) -> None:
    signal, _, _ = SIGNALS[name]
    arrays: dict[str, torch.Tensor] = {}
    again = build(describe(signal, arrays), arrays)
    t = torch.tensor(2.2, dtype=f64)
    assert torch.equal(again(t), signal(t))


def test_held_picks_for_each_sample_its_own_presentation() -> None:
    values = torch.arange(12.0, dtype=f64).reshape(2, 3, 2)  # presentation, sample, channel
    held = ct.Held([0.0, 1.0], values)
    picked = held(torch.tensor([0.5, 1.5, 0.5], dtype=f64))
    assert torch.equal(picked, torch.stack([values[0, 0], values[1, 1], values[0, 2]]))


def test_sampled_traces_of_a_batch_keep_to_their_samples() -> None:
    values = torch.arange(12.0, dtype=f64).reshape(2, 3, 2)
    traces = ct.Sampled([0.0, 1.0], values)
    shares = torch.tensor([0.25, 0.5, 2.0], dtype=f64)
    expected = torch.lerp(values[0], values[1], shares.clamp(max=1.0)[:, None])
    assert torch.equal(traces(shares), expected)
    neuron = ct.leaky_integrator("n", size=2)
    system = ct.System(ct.Source("u", 2), neuron, ct.Input("u", "n"))
    together = ct.solve(system, {}, [0.0, 2.0], inputs={"u": traces})["s_n"]
    for sample in range(3):
        own = {"u": ct.Sampled([0.0, 1.0], values[:, sample])}
        alone = ct.solve(system, {}, [0.0, 2.0], inputs=own)["s_n"]
        torch.testing.assert_close(together[:, sample], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("signal", [ct.Held, ct.Sampled])
def test_a_clock_stays_float64_when_values_are_float32(signal: type[ct.Held]) -> None:
    moved = signal([0.0, 1.0 + 1e-12], VALUES[:2]).float()
    assert moved.values.dtype == torch.float32
    assert moved.times.tolist() == [0.0, 1.0 + 1e-12]
    assert moved(torch.tensor(0.5)).dtype == torch.float32


def test_noise_is_frozen_by_its_seed() -> None:
    a, b, c = (ct.Noise(4, scale=0.5, dt=0.1, duration=100.0, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.values, b.values)
    assert not torch.equal(a.values, c.values)
    assert a.values.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(a.values.mean().item()) < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ct.Held([0.0, 0.0], VALUES[:2]), "increasing"),
        (lambda: ct.Held([0.0, 1.0], VALUES), "one row for each of the 2 times"),
        (lambda: ct.Held([0.0], torch.tensor([float("nan")])), "values must be finite"),
        (lambda: ct.Pulse(2.0, 1.0), "offset must be later"),
        (lambda: ct.Rhythm(1.0, 0.0), "frequency must be > 0"),
        (lambda: ct.Rhythm(1.0, 1.0, onset=math.nan), "onset must be a time; got nan"),
        (lambda: ct.Sampled([0.0], VALUES[:1]), "at least two times"),
        (lambda: ct.Noise(1, scale=-1.0, dt=0.1, duration=1.0), "scale=-1.0"),
        (lambda: ct.Source("x", 2, torch.ones(3)), "must have 2 channels; got 3"),
        (lambda: ct.Source("", 2), "needs a name"),
    ],
)
def test_refusals(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_complex_values_are_refused() -> None:
    with pytest.raises(TypeError, match="must be real"):
        ct.Constant(torch.tensor([1j]))
