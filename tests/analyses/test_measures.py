from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.analyses.energy import PRICES, Price, energy
from ctsigprop.analyses.plots import (
    plot_energy,
    plot_robustness,
    plot_similarity,
    plot_statistics,
)
from ctsigprop.analyses.readings import activities, matrices
from ctsigprop.analyses.robustness import PERTURBATIONS, robustness
from ctsigprop.analyses.similarity import cka, procrustes, rsa, similarity
from ctsigprop.analyses.statistics import activity_statistics, weight_statistics
from ctsigprop.data import digits
from ctsigprop.errors import ConvergenceError
from ctsigprop.learning.catalogue import build

ZEROS = torch.zeros(3, 4)
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.rand(shape, generator=GENERATOR, dtype=torch.float64)


def randn(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def holding(*weights):
    """A learner with these matrices."""
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    network = ct.Layers.dense(sizes)
    with torch.no_grad():
        for k, w in enumerate(weights):
            next(network.layers[k].parameters()).copy_(w)
    return ct.Backpropagation(network)


# --- readings


def test_the_activities_are_those_of_the_answer():
    x = torch.rand(5, 12, generator=GENERATOR)
    rules = ["sigprop", "sigprop-loop", "equilibrium-propagation", "forward-forward"]
    for rule in rules:
        learner = build(rule, [12, 8, 8, 4], 0)
        found = activities(learner, x)
        assert found["x"] is not None
        if rule != "forward-forward":
            torch.testing.assert_close(found["y"], learner.respond(x))
    assert list(matrices(build("sigprop-loop", [12, 8, 8, 4], 0))) == [
        "W_h1_x",
        "W_h2_h1",
        "W_y_h2",
    ]


def test_every_matrix_is_read():
    """A layer of two matrices, whose names are torch's; a network with one input."""
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), nn.Linear(3, 2)
    found = matrices(ct.Backpropagation(ct.Layers(*layers, inputs=4)))
    assert [tuple(w.shape) for w in found.values()] == [(5, 4), (3, 5), (2, 3)]
    loop = build("sigprop-ode", [1, 3, 2], 0)
    assert [*matrices(loop)] == ["W_h1_x", "W_y_h1"]
    assert len(loop.weights) > 2  # biases and traces


# --- statistics


def test_weights_of_known_distributions():
    strengths = (0.7 * randn(400, 50) - 2.0).exp()
    signs = 1 - 2 * (torch.arange(50) % 5 == 0).double()  # every fifth neuron inhibits
    mixed = strengths * (1 - 2 * (rand(400, 50) < 0.5).double())
    lawful, lawless = (
        weight_statistics(holding(w)).isel(weight=0) for w in (strengths * signs, mixed)
    )
    assert float(lawful.dale) == 1
    assert float(lawless.dale) == 0
    assert float(lawless.dale_by_chance) == pytest.approx(2.0**-399)
    for found in (lawful, lawless):
        assert float(found.log_mean) == pytest.approx(-2.0, abs=0.02)
        assert float(found.log_sd) == pytest.approx(0.7, abs=0.02)
        assert float(found.log_normal_distance) < 0.01
    gaussian = weight_statistics(holding(randn(400, 50))).isel(weight=0)
    assert abs(float(gaussian.skewness)) < 0.1
    assert abs(float(gaussian.kurtosis)) < 0.1
    assert float(gaussian.log_normal_distance) > 0.05
    few = torch.zeros(4, 3)
    few[0, 0], few[1, 1], few[2, 1] = 1.0, 1.0, -2.0
    found = weight_statistics(holding(few)).isel(weight=0)
    assert float(found.dale) == 0.5  # of the two that have synapses
    assert float(found.dale_by_chance) == pytest.approx((1 + 0.5) / 2)
    assert float(found.zero) == 0.75
    assert float(found.spectral_norm) == pytest.approx(math.sqrt(5))


def test_dale_in_a_convolution_is_about_channels():
    network = ct.Layers(
        nn.Sequential(nn.Unflatten(1, (2, 3, 3)), nn.Conv2d(2, 4, 3)), nn.Flatten(), inputs=18
    )
    kernel = network.layers[0][1].weight
    with torch.no_grad():
        kernel.abs_()
        kernel[:, 1, 0, 0] *= -1  # of one sign at each place of the kernel, but not for a channel
    found = weight_statistics(ct.Backpropagation(network)).isel(weight=0)
    assert float(found.dale) == 0.5
    assert float(found.dale_by_chance) == 2.0 ** (1 - 4 * 9)


def test_weights_that_have_no_statistics():
    none, same = (weight_statistics(holding(w)).isel(weight=0) for w in (ZEROS, ZEROS + 2))
    assert np.isnan([float(none[name]) for name in ("dale", "dale_by_chance", "log_mean")]).all()
    assert "NaN where there is no weight" in none.dale.attrs["missing"]
    assert float(none.zero) == 1
    assert float(same.dale) == 1
    assert np.isnan(float(same.kurtosis))
    for read in (weight_statistics, lambda rule: activity_statistics(rule, torch.rand(5, 4))):
        with pytest.raises(ValueError, match="is not finite: learning has diverged"):
            read(holding(ZEROS * math.nan))


def test_statistics_are_drawn():
    learner = build("sigprop", [12, 8, 8, 4], 0)
    weights = weight_statistics(learner)
    panels = plot_statistics(weights).axes
    assert len(panels) == 4
    widths = [bar.get_width() for bar in panels[0].containers[0]]
    np.testing.assert_array_equal(widths, weights.dale.values)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == [
        "W_h1_x",
        "W_h2_h1",
        "W_y_h2",
    ]
    assert len(plot_statistics(activity_statistics(learner, torch.rand(9, 12))).axes) == 3
    with pytest.raises(ValueError, match="no statistics; they come from"):
        plot_statistics(weights.drop_vars(list(weights.data_vars)))


def test_activities_of_known_sparseness():
    """Ones and zeros: S = (1 − a)/(1 − 1/n) for the fraction a of ones."""
    x = torch.zeros(8, 4)
    x[torch.arange(8), torch.arange(8) % 3] = 1.0  # one of four, the last never
    found = activity_statistics(holding(torch.eye(4)), x).sel(layer="x")
    assert float(found.population_sparseness) == 1
    fractions = np.array([3, 3, 2]) / 8
    expected = ((1 - fractions) / (1 - 1 / 8)).mean()
    assert float(found.lifetime_sparseness) == pytest.approx(expected)
    assert float(found.silent) == 0.25
    assert float(found["mean"]) == 0.25


def test_balance_of_excitation_and_inhibition():
    half = torch.rand(6, 10, generator=GENERATOR)
    x = torch.rand(50, 10, generator=GENERATOR)
    balanced = activity_statistics(holding(torch.cat([half, -0.8 * half], 1)), torch.cat([x, x], 1))
    row = balanced.sel(layer="y")
    assert float(row.inhibition) == pytest.approx(0.8, rel=1e-6)
    assert float(row.balance) == pytest.approx(1, abs=1e-6)
    other = activity_statistics(
        holding(torch.cat([half, -0.8 * half], 1)), torch.cat([x, x.roll(7, 0)], 1)
    )
    assert abs(float(other.sel(layer="y").balance)) < 0.4


# --- similarity


def test_cka_by_hand():
    """K = [[1, −1], [−1, 1]] on two pairs of inputs against a contrast of neighbours."""
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    both = torch.cat([x, y], 1)
    assert cka(x, y) == pytest.approx(0)
    assert cka(x, both) == pytest.approx(1 / math.sqrt(2))  # 16 / sqrt(16 · 32)
    assert procrustes(x, y) == pytest.approx(math.pi / 2)
    assert procrustes(x, both) == pytest.approx(math.pi / 4)


@pytest.mark.parametrize("measure", [cka, lambda x, y: cka(x, y, debiased=True), procrustes])
def test_invariances(measure):
    x, y = randn(20, 6), randn(20, 9)
    rotated = 3 * x @ torch.linalg.qr(randn(6, 6))[0] + randn(6)
    same = 0 if measure is procrustes else 1
    assert measure(x, rotated) == pytest.approx(same, abs=1e-6)
    assert measure(x, y) == pytest.approx(measure(y, x))
    assert measure(rotated, y) == pytest.approx(measure(x, y))
    assert abs(measure(x, y) - same) > 0.1


def test_independent_representations():
    """The plain estimator takes many units for likeness; the debiased one does not."""
    plain, debiased = np.transpose(
        [
            [cka(x, y), cka(x, y, debiased=True)]
            for x, y in ((randn(30, 200), randn(30, 200)) for _ in range(40))
        ]
    )
    assert plain.mean() > 0.8
    assert abs(debiased.mean()) < 3 * debiased.std() / math.sqrt(40) + 0.01


def test_procrustes_is_a_metric():
    shapes = [randn(15, 4) for _ in range(4)]
    d = np.array([[procrustes(x, y) for y in shapes] for x in shapes])
    for i, j, k in np.ndindex(4, 4, 4):
        assert d[i, k] <= d[i, j] + d[j, k] + 1e-9


def test_dissimilarities():
    pytest.importorskip("rsatoolbox")
    from scipy.stats import spearmanr

    x, y = randn(8, 20), randn(8, 5)
    upper = np.triu_indices(8, 1)
    ours = [1 - np.corrcoef(v)[upper] for v in (x, y)]
    assert rsa(x, y) == pytest.approx(spearmanr(*ours).statistic, abs=1e-6)
    assert rsa(x, 2 * x + 1) == pytest.approx(1)


def test_the_table_of_similarities():
    a = {"h1": randn(9, 4), "h2": randn(9, 3)}
    b = {"V1": randn(9, 7), "V2": a["h2"] * 2, "IT": randn(9, 5)}
    table = similarity(a, b)
    assert dict(table.sizes) == {"layer_a": 2, "layer_b": 3}
    assert float(table.cka.sel(layer_a="h2", layer_b="V2")) == pytest.approx(1)
    assert len(plot_similarity(table).axes) == 3


def test_the_table_may_hold_dissimilarities_and_gaps():
    pytest.importorskip("rsatoolbox")
    a = {"h1": randn(9, 4), "dead": torch.zeros(9, 3)}
    table = similarity(a, a, ["rsa", "cka", "cka_debiased", "procrustes"])
    for values in table.data_vars.values():
        assert values.isnull().values.tolist() == [[False, True], [True, True]]
        assert "tells no two inputs apart" in values.attrs["missing"]
    assert float(table.rsa[0, 0]) == pytest.approx(1)
    assert math.isnan(rsa(a["h1"], torch.ones(9, 3), rdm="euclidean"))
    assert len(plot_similarity(table).axes) == 4


def test_similarity_refuses():
    with pytest.raises(ValueError, match="did you mean 'procrustes'"):
        similarity({}, {}, ["procrust"])
    with pytest.raises(ValueError, match="must be finite"):
        cka(randn(5, 2), randn(5, 2) / 0)
    with pytest.raises(ValueError, match="the same four inputs or more"):
        cka(randn(5, 2), randn(6, 2))
    with pytest.raises(ValueError, match="the same four inputs or more"):
        procrustes(randn(3, 2), randn(3, 2))
    with pytest.raises(ValueError, match="'spearman'"):
        rsa(randn(5, 2), randn(5, 2), compare="spearmann")


# --- robustness


@pytest.fixture(scope="module")
def trained():
    task = digits(seed=0)
    learners = {}
    for rule in ("sigprop", "sigprop-loop"):
        learners[rule] = build(rule, [64, 64, 64, 10], 0)
        ct.train(learners[rule], task, epochs=8, batch=20, noise=0.1)
    x, labels = (torch.as_tensor(task.test[name].values) for name in ("input", "label"))
    return learners, x, labels


@pytest.mark.parametrize("rule", ["sigprop", "sigprop-loop"])
@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_strong_perturbations_hurt_more_than_weak_ones(trained, rule, perturbation):
    learners, x, labels = trained
    learner = learners[rule]
    before = {name: w.clone() for name, w in learner.weights.items()}
    clean = float((learner.respond(x).argmax(1) == labels).double().mean())
    found = robustness(learner, x, labels, perturbation, draws=4)
    mean = found.accuracy.mean("draw").values
    assert abs(mean[0] - clean) < 0.03
    assert mean[-1] < mean[0] - 0.1
    assert all(torch.equal(before[name], w) for name, w in learner.weights.items())
    again = robustness(learner, x, labels, perturbation, draws=4)
    assert found.equals(again)
    assert plot_robustness(found).axes[0].get_ylabel() == "accuracy (%)"


def test_a_draw_without_a_rest_answers_nothing(trained, monkeypatch):
    learners, x, labels = trained
    learner = learners["sigprop-loop"]
    respond, calls = learner.respond, [0]

    def amplifies(shown):
        calls[0] += 1
        if calls[0] == 4:
            raise ConvergenceError(time=0.0, variable="s_h1", cause="a loop with a gain above 1")
        return respond(shown)

    monkeypatch.setattr(learner, "respond", amplifies)
    found = robustness(learner, x, labels, "mismatch", [0.0, 0.1], draws=3)
    assert found.settled.values.tolist() == [[True] * 3, [False, True, True]]
    assert found.accuracy[1, 0] == 0.0
    assert found.accuracy.values[found.settled.values].min() > 0.5


def test_the_weights_come_back_after_an_interruption(trained, monkeypatch):
    learners, x, labels = trained
    learner, calls = learners["sigprop"], [0]
    before = {name: w.clone() for name, w in learner.weights.items()}

    def stop(shown):
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return torch.zeros(len(shown), 10)

    monkeypatch.setattr(learner, "respond", stop)
    with pytest.raises(KeyboardInterrupt):
        robustness(learner, x, labels, "lesion")
    assert all(torch.equal(before[name], w) for name, w in learner.weights.items())


def test_what_is_done_to_weights():
    seen = []
    learner = holding(torch.tensor([[0.9, -0.4, 0.1, 0.05], [-1.0, 0.2, 0.0, 0.3]]))
    answer = learner.respond
    learner.respond = lambda x: seen.append(learner.weights["W_y_x"].clone()) or answer(x)
    batch = torch.rand(4, 4), torch.arange(4) % 2
    robustness(learner, *batch, "bits", [2, 3], draws=1)
    np.testing.assert_allclose(seen[0], [[1, 0, 0, 0], [-1, 0, 0, 0]])
    np.testing.assert_allclose(seen[1] * 3, [[3, -1, 0, 0], [-3, 1, 0, 1]], atol=1e-6)
    seen.clear()
    robustness(learner, *batch, "lesion_units", [0.5], draws=20)
    columns = torch.stack(seen) != 0
    whole = holding(torch.ones(2, 4)).weights["W_y_x"]
    assert whole.shape == seen[0].shape
    for w in columns:
        assert set(w.any(0).tolist()) <= {True, False}
        assert torch.equal(w[:, :2].any(0), w[:, :2].all(0))


def test_robustness_refuses():
    learner, batch = holding(torch.eye(4)), (torch.rand(4, 4), torch.arange(4) % 2)
    for name, levels, match in (
        ("noize", [0.1], "did you mean 'noise'"),
        ("noise", [-0.1], "must be 0 or more; got -0.1"),
        ("lesion", [1.5], "fractions, from 0 to 1; got 1.5"),
        ("bits", [2.5], "whole, 2 or more; got 2.5"),
        ("bits", [math.inf], "whole, 2 or more; got inf"),
        ("noise", [], "a level and a draw"),
    ):
        with pytest.raises(ValueError, match=match):
            robustness(learner, *batch, name, levels)


# --- energy


def test_energy_is_counted_events_at_their_prices():
    learner = holding(torch.ones(3, 8), torch.ones(2, 3))
    x = torch.zeros(4, 8)
    x[:, :2] = 1.0  # a quarter of the inputs, and all three hidden units, are active
    price = {
        "digital": [Price("operation", 2e-12, 3e-12, "a"), Price("word", 1e-12, 1e-12, "b")],
        "brain": [Price("active", 1e-15, 1e-15, "c")],
    }
    found = energy(learner, x, torch.arange(4) % 2, prices=price)
    assert found.operations.values.tolist() == [30, 30 + 30 + 6]  # 8·3 + 3·2; no error goes to x
    assert float(found.active) == pytest.approx((0.25 * 24 + 6) / 30)
    joule, words = found.energy.sel(phase="inference"), float(found.words[0])
    # biases, activities before, weights, activities after; twice the hidden ones for their relu
    assert words == ((3 + 32 + 24 + 12) + 24 + (2 + 12 + 6 + 8)) / 4
    np.testing.assert_allclose(
        joule.sel(hardware="digital"), [(60 + words) * 1e-12, (90 + words) * 1e-12]
    )
    np.testing.assert_allclose(joule.sel(hardware="brain"), 12e-15)
    assert found.energy.attrs["source_1"] == "a; b"


def test_learning_is_undone_and_prices_have_ranges_and_sources():
    for rule in ("sigprop", "sigprop-loop"):
        learner = build(rule, [12, 8, 8, 4], 0)
        before = {name: w.clone() for name, w in learner.weights.items()}
        table = energy(learner, torch.rand(5, 12), torch.arange(5) % 4)
        assert all(torch.equal(before[name], w) for name, w in learner.weights.items())
        assert float(table.operations[1]) > float(table.operations[0]) > 0
        assert float(table.words[1]) > float(table.words[0]) > 0
        (ax,) = plot_energy(table).axes
        assert ax.get_xlim()[0] < float(table.energy.min()) <= float(table.energy.max())
        assert float(table.energy.max()) < ax.get_xlim()[1]
        assert bool((table.energy.sel(bound="low") < table.energy.sel(bound="high")).all())
    assert all(price.source for prices in PRICES.values() for price in prices)


def test_prices_refuse():
    with pytest.raises(ValueError, match="did you mean 'word'"):
        Price("words", 1.0, 2.0, "")
    with pytest.raises(ValueError, match="0 <= low <= high joule"):
        Price("word", 2.0, 1.0, "")
