"""Predictive coding: units settle between what is predicted of them and the errors above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ctsigprop.errors import ConvergenceError, unknown
from ctsigprop.learning.backprop import Loss, check_loss, cost
from ctsigprop.learning.layerwise import SGD, Optimizer
from ctsigprop.learning.relaxing import RelaxingRule, check_count, one_hot, output_error
from ctsigprop.models.layers import Layers
from ctsigprop.solvers.options import check_positive

__all__ = ["PredictiveCoding"]

Inference = Literal["relaxed", "zero_divergence", "fixed_prediction"]


class PredictiveCoding(RelaxingRule):
    """Predictive coding: hidden units relax, with the output held; errors and rates change weights.

        e_k = z_k − W_k h_{k−1} − b_k,    h_k = rho_k(z_k),  h_0 = x,    k = 1 … N − 1
        e_N = −beta ∂C/∂a_N,              y = rho_N(a_N),  a_N = W_N h_{N−1} + b_N
        tau dz_k/dt = −e_k + rho_k'(z_k) ∘ W_{k+1}ᵀ e_{k+1}
        ΔW_k ∝ e_k ⊗ h_{k−1} / beta

    The units descend F = ½ Σ |e_k|² + beta C, from the forward pass, where e_k = 0. For an output
    without a nonlinearity, C = ½|y − c|² and beta = 1, e_N = c − a_N: the output unit is clamped to
    its target; beta < 1 nudges it, to (1 − beta) a_N + beta c. The prediction is the forward pass,
    which is where F rests without a target.

    "relaxed" is the rule as published. The others are settings in which it has been shown to equal
    backpropagation, as "relaxed" does for small beta:

    - "zero_divergence": steps of dt = 1, and each layer learns at the step at which the error
      reaches it, exactly as by backpropagation;
    - "fixed_prediction": while the units relax, what is predicted of them and rho_k' stay those of
      the forward pass; errors decay to those of backpropagation, with dt = 1 in N − 1 steps.

    Parameters
    ----------
    network : Layers
        W_k, b_k, rho_k; dense.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    inference : {"relaxed", "zero_divergence", "fixed_prediction"}
        How errors are found.
    loss : {"squared_error", "cross_entropy"}
        C of a sample: ½|y − c|², or of the softmax of y.
    beta : float
        How strongly the output is held.
    steps : int
        Of the relaxation; of no effect on "zero_divergence", which takes N.
    dt : float
        Length of a step, in units of tau, up to 1; of no effect on "zero_divergence".

    Raises
    ------
    ValueError
        A layer that is not dense, an option out of its range.
    ConvergenceError, NonFiniteError
        From `present`: a relaxation that climbs F.

    References
    ----------
    Whittington & Bogacz 2017, An approximation of the error backpropagation algorithm in a
    predictive coding network with local Hebbian synaptic plasticity, Neural Computation 29. Song,
    Lukasiewicz, Xu & Bogacz 2020, Can the brain do backpropagation? Exact implementation of
    backpropagation in predictive coding networks, NeurIPS, for zero divergence. Millidge,
    Tschantz & Buckley 2022, Predictive coding approximates backprop along arbitrary computation
    graphs, Neural Computation 34, for fixed predictions.

    Examples
    --------
    >>> rule = PredictiveCoding(Layers.dense([4, 8, 2], rho="tanh"))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        inference: Inference = "relaxed",
        loss: Loss = "squared_error",
        beta: float = 1.0,
        steps: int = 20,
        dt: float = 0.2,
    ) -> None:
        super().__init__(network, optimizer)
        if inference not in get_args(Inference):
            raise ValueError(unknown("inference", inference, get_args(Inference)))
        check_loss(loss)
        check_positive("beta", beta)
        check_count("steps", steps)
        if not 0 < dt <= 1:
            raise ValueError(f"dt must lie in (0, 1], in units of tau; got {dt}")
        self.inference, self.loss, self.beta = inference, loss, beta
        self.steps, self.dt = steps, dt

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        names = ("inference", "loss", "beta", "steps", "dt")
        return super().settings | {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs of the forward pass."""
        target = one_hot(labels, self.classes, x)
        z: list[Tensor] = []
        for k in range(self.network.depth - 1):
            z.append(self.observed(k, self.affine(k, self.rho(k - 1, z[-1]) if k else x)))
        start = self._compare(x, z, target)
        if self.inference == "relaxed":
            self._learn_relaxed(x, z, target, start)
        elif self.inference == "zero_divergence":
            self._learn_on_arrival(x, z, target, start)
        else:
            self._learn_fixed(z, start)
        return start.output

    def _learn_relaxed(self, x: Tensor, z: list[Tensor], target: Tensor, start: _Errors) -> None:
        now = start
        for _ in range(self.steps):
            z = self._moved(z, now.rates, now.errors, self.dt)
            now = self._compare(x, z, target)
        self.check_finite(z, self.steps * self.dt)
        energies = [self._energy(found, target) for found in (start, now)]
        if self.unobserved and not energies[1] <= 2 * energies[0]:
            raise ConvergenceError(
                time=self.steps * self.dt,
                cause=f"the energy climbed from {energies[0]:.3g} to {energies[1]:.3g}: take a "
                "smaller dt, or lower learning rates",
            )
        for k in range(self.network.depth):
            self._learn_layer(k, now.rates[k], now.errors[k])

    def _learn_on_arrival(self, x: Tensor, z: list[Tensor], target: Tensor, start: _Errors) -> None:
        now = start
        for k in reversed(range(self.network.depth)):
            z = self._moved(z, now.rates, now.errors, 1.0)
            self._learn_layer(k, now.rates[k], now.errors[k])
            if k:
                now = self._compare(x, z, target)
        self.check_finite(z, self.network.depth)

    def _learn_fixed(self, z: list[Tensor], start: _Errors) -> None:
        errors, predicted = start.errors, z
        for _ in range(self.steps):
            z = self._moved(z, start.rates, errors, self.dt)
            errors = [*(a - b for a, b in zip(z, predicted, strict=True)), errors[-1]]
        self.check_finite(z, self.steps * self.dt)
        for k in range(self.network.depth):
            self._learn_layer(k, start.rates[k], errors[k])

    def _compare(self, x: Tensor, z: list[Tensor], target: Tensor) -> _Errors:
        """Return the errors of the hidden units' potentials z_1 … z_{N−1}, and of the output."""
        last = len(z)
        rates = [x, *(self.rho(k, potential) for k, potential in enumerate(z))]
        errors = [z[k] - self.affine(k, rates[k]) for k in range(last)]
        output = self.rho(last, self.observed(last, self.affine(last, rates[last])))
        wrong = output_error(output, target, self.loss) * self.slope(last, output)
        return _Errors(rates, [*errors, -self.beta * wrong], output)

    def _moved(
        self, z: list[Tensor], rates: list[Tensor], errors: list[Tensor], dt: float
    ) -> list[Tensor]:
        """Return the hidden units' potentials after one step."""
        moved = []
        for k, potential in enumerate(z):
            pull = self.slope(k, rates[k + 1]) * self.back(k + 1, errors[k + 1]) - errors[k]
            moved.append(self.observed(k, torch.add(potential, pull, alpha=dt)))
        return moved

    def _energy(self, found: _Errors, target: Tensor) -> float:
        """Return F, the mean over the batch."""
        squares = sum(float(e.square().sum()) for e in found.errors[:-1])
        return squares / 2 / len(target) + self.beta * float(cost(found.output, target, self.loss))

    def _learn_layer(self, k: int, h: Tensor, e: Tensor) -> None:
        share = 1 / (self.beta * len(e))
        self.move(k, share * e.T @ h, share * e.sum(0))


@dataclass(frozen=True)
class _Errors:
    """What a network of predictive coding finds in its potentials.

    Attributes
    ----------
    rates : list of Tensor
        x, h_1 … h_{N−1}: what comes into each layer.
    errors : list of Tensor
        e_1 … e_N.
    output : Tensor
        y.
    """

    rates: list[Tensor]
    errors: list[Tensor]
    output: Tensor
