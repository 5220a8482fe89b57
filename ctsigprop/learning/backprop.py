"""Backpropagation, the rule that the others are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.layerwise import SGD, LayerRule, Optimizer
from ctsigprop.models.layers import Layers

__all__ = ["Backpropagation"]

Loss = Literal["cross_entropy", "squared_error"]


class Backpropagation(LayerRule):
    """Backpropagation of the output's error through the transposed weights.

        δ_N = ∂C/∂a_N,    δ_k = W_{k+1}ᵀ δ_{k+1} ∘ f'(a_k),    ΔW_k ∝ −δ_k h_{k−1}ᵀ

    with a_k the input of layer k's nonlinearity f. Each layer steps as soon as the error, on its
    way back, has left it.

    Parameters
    ----------
    network : Layers
        What learns.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    loss : {"cross_entropy", "squared_error"}
        C, the mean over the batch: of the softmax of the output, or ½|y − c|².

    References
    ----------
    Rumelhart, Hinton & Williams 1986, Nature 323:533-536, eqs. 4 to 7.

    Examples
    --------
    >>> rule = Backpropagation(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: Loss = "cross_entropy",
    ) -> None:
        super().__init__(network, optimizer)
        if loss not in ("cross_entropy", "squared_error"):
            raise ValueError(unknown("loss", loss, ("cross_entropy", "squared_error")))
        self.loss = loss

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        activities: list[Tensor] = []
        for k in range(self.network.depth):
            activities.append(self.activity(k, activities[-1] if k else x))
        output = activities[-1]
        error = torch.autograd.grad(cost(output, labels, self.loss), output, retain_graph=True)[0]
        for k in reversed(range(self.network.depth)):
            wanted = self.parameters_of(k)
            if k:
                *gradients, error = torch.autograd.grad(
                    activities[k], [*wanted, activities[k - 1]], error, allow_unused=True
                )
            else:
                gradients = list(
                    torch.autograd.grad(activities[k], wanted, error, allow_unused=True)
                )
            self.step(k, gradients)
        return output


def cost(output: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Return the mean cost of a batch of outputs."""
    if loss == "cross_entropy":
        return functional.cross_entropy(output, labels)
    target = functional.one_hot(labels.long(), output.shape[-1]).to(output)
    return (output - target).square().sum(-1).mean() / 2
