from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.analyses.propagation import propagation
from ctsigprop.data import digits
from ctsigprop.learning.context import Overlay

X, LABELS = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def rule(**options):
    return ct.Sigprop(ct.Layers.dense([6, 9, 8, 3], seed=1), **options)


def test_correlations_and_places_are_those_of_the_states():
    learner = rule()
    measured = propagation(learner, X, LABELS)
    assert measured.layer.values.tolist() == ["h1", "h2"]  # the readout has no context
    h = learner.network.layers[0](X).detach().numpy()
    t = torch.relu(learner.own[0].S.weight.T + learner.own[0].S.bias).detach().numpy()
    for k in range(2):
        if k:
            f = learner.network.layers[1]
            h, t = (f(torch.as_tensor(v)).detach().numpy() for v in (h, t))
        table = np.array([[np.corrcoef(a, b)[0, 1] for b in t] for a in h])
        mine = np.eye(3, dtype=bool)[LABELS]
        assert float(measured.own[k]) == pytest.approx(table[mine].mean(), abs=1e-5)
        assert float(measured.other[k]) == pytest.approx(table[~mine].mean(), abs=1e-5)
        unit = h / np.linalg.norm(h, axis=1, keepdims=True)
        spread = np.linalg.eigvalsh(np.cov(unit.T))[::-1]
        assert float(measured.spread[k]) == pytest.approx(spread[:2].sum() / spread.sum(), rel=1e-4)
        place = measured.sample_place[k].values
        np.testing.assert_allclose(place.var(0, ddof=1), spread[:2], rtol=1e-3)


def test_learning_brings_samples_to_their_own_context_and_no_other():
    task = digits()
    x, labels = (torch.as_tensor(task.test[name].values) for name in ("input", "label"))
    learner = ct.Sigprop(ct.Layers.dense([64, 40, 40, 10], seed=0))
    before = propagation(learner, x, labels)
    ct.train(learner, task, epochs=2)
    after = propagation(learner, x, labels)
    assert ((after.own - after.other) > (before.own - before.other) + 0.2).all()


def test_contexts_of_single_samples_are_refused():
    network = ct.Layers.dense([9, 9, 8, 3], seed=1)
    learner = ct.Sigprop(network, transform=partial(Overlay), predict="nearest")
    with pytest.raises(ValueError, match="Overlay has contexts for each sample"):
        propagation(learner, X, LABELS)
