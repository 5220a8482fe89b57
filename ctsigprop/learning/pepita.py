"""PEPITA: the output's error, added to the input, in a second forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctsigprop.learning.backprop import Loss, check_loss
from ctsigprop.learning.layerwise import SGD, Optimizer
from ctsigprop.learning.relaxing import RelaxingRule, one_hot, output_error
from ctsigprop.models.layers import Layers
from ctsigprop.solvers.options import check_positive

__all__ = ["Pepita"]


class Pepita(RelaxingRule):
    """Present the error to perturb the input to modulate activity: two passes, the same weights.

        h_k = f_k(W_k h_{k−1} + b_k),    h_0 = x,                e = ∂C/∂y of the first pass
        g_k = f_k(W_k g_{k−1} + b_k),    g_0 = x + F e
        ΔW_k ∝ −(h_k − g_k) g_{k−1}ᵀ,    ΔW_N ∝ −e' g_{N−1}ᵀ,    e' = ∂C/∂y of the second pass

    with e = softmax(y) − c for "cross_entropy", y − c for "squared_error". F is fixed. A layer
    steps as soon as the second pass reaches it; nothing goes backward but the error, once, from the
    output to the input. Learning turns the forward weights until W_N … W_1 F opposes the error.

    Parameters
    ----------
    network : Layers
        W_k, b_k, f_k; dense.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    loss : {"cross_entropy", "squared_error"}
        C.
    gain : float
        F is uniform in ±gain·sqrt(6/inputs).
    dropout : float
        The chance of a hidden unit to be silent for a sample, in both passes; the others are
        1/(1 − dropout) times as active.
    seed : int
        Of F and of which units are silent.

    Raises
    ------
    ValueError
        A layer that is not dense, an option out of its range.

    References
    ----------
    Dellaferrera & Kreiman 2022, Error-driven input modulation: solving the credit assignment
    problem without a backward pass, ICML (PMLR 162), algorithm 1; the scale of F and the dropout
    as in the authors' code.

    Examples
    --------
    >>> rule = Pepita(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> rule.F.shape
    torch.Size([4, 2])
    """

    F: Tensor

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: Loss = "cross_entropy",
        gain: float = 0.05,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        check_loss(loss)
        check_positive("gain", gain)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1; got {dropout}")
        self.loss, self.gain, self.dropout = loss, gain, dropout
        drawn = torch.rand(
            network.inputs,
            network.classes,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )
        bound = gain * math.sqrt(6 / network.inputs)
        self.register_buffer("F", ((2 * drawn - 1) * bound).to(next(network.parameters())))

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        own = {"loss": self.loss, "gain": self.gain, "dropout": self.dropout}
        return super().settings | own

    @torch.no_grad()
    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs of the first pass."""
        target, last = one_hot(labels, self.classes, x), self.network.depth - 1
        masks = [self._mask(x, *shape) for shape in self.network.shapes[:-1]]
        first, h = [], x
        for k in range(last):
            h = self.activity(k, h) * masks[k]
            first.append(h)
        output = self.activity(last, h)

        before = self.observed(-1, x + output_error(output, target, self.loss) @ self.F.T)
        for k in range(last):
            h = self.activity(k, before) * masks[k]
            self._learn_layer(k, first[k] - h, before)
            before = h
        again = self.activity(last, before)
        self._learn_layer(last, output_error(again, target, self.loss), before)
        return output

    def _learn_layer(self, k: int, error: Tensor, before: Tensor) -> None:
        self.move(k, -error.T @ before / len(error), -error.mean(0))

    def _mask(self, x: Tensor, units: int) -> Tensor:
        """Return 0 for the silent units, 1/(1 − dropout) for others; 1 where there is none."""
        if not self.dropout:
            return x.new_ones(())
        drawn = torch.rand(len(x), units, generator=self.generator).to(x.device)
        return (drawn >= self.dropout).to(x) / (1 - self.dropout)
