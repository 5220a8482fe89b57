"""Local losses: every layer learns from a loss of its own, and nothing flows between layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.backprop import cost
from ctsigprop.learning.layerwise import SGD, LayerRule, Optimizer
from ctsigprop.models.layers import Layers

__all__ = ["LocalLosses", "similarity_matrix"]

LocalLoss = Literal["pred", "sim", "predsim"]


class LocalLosses(LayerRule):
    """A local classifier and a local similarity matching for each hidden layer.

        pred:     L_k = CE(C_k h_k + d_k, labels)
        sim:      L_k = mean over the pairs of a batch of (S(V_k h_k) − S(c))²,    c one-hot labels
        predsim:  L_k = (1 − beta) pred + beta sim

    with S the `similarity_matrix` of the batch. C_k, d_k and V_k (a linear map, or a 3×3
    convolution where h_k has rows and columns) are learned with the layer, and serve nothing else.
    The output layer learns from CE(y, labels). Each layer steps as soon as the forward pass reaches
    it, and hands on what it computed before it did.

    Parameters
    ----------
    network : Layers
        What learns. Hidden layers give vectors, or channels of rows and columns.
    optimizer : callable or sequence of callable
        Of each layer with its C_k and V_k; plain gradient descent at rate 0.1 by default.
    loss : {"predsim", "pred", "sim"}
        L_k.
    beta : float
        The share of similarity matching in predsim, from 0 to 1.
    pooled : int
        C_k sees rows and columns averaged down until at most so many numbers are left, if it can.
    seed : int
        Of V_k, uniform in ±1/sqrt(fan in); C_k and d_k are zero at first.

    Raises
    ------
    ValueError
        An unknown loss, an option out of its range, a hidden layer of another shape.

    References
    ----------
    Nøkland & Eidnes 2019, Training neural networks with local error signals, ICML (PMLR 97).

    Examples
    --------
    >>> rule = LocalLosses(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: LocalLoss = "predsim",
        beta: float = 0.99,
        pooled: int = 4096,
        seed: int = 0,
    ) -> None:
        if loss not in ("pred", "sim", "predsim"):
            raise ValueError(unknown("loss", loss, ("pred", "sim", "predsim")))
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be from 0 to 1; got {beta}")
        if not isinstance(pooled, int) or pooled < 1:
            raise ValueError(f"pooled must be a whole number >= 1; got {pooled!r}")
        own: list[nn.Module | None] = []
        if isinstance(network, Layers):  # what is not is refused by the base
            generator = torch.Generator().manual_seed(seed)
            like = next(network.parameters(), torch.zeros(()))
            for name, shape in zip(network.names[:-1], network.shapes[:-1], strict=True):
                if len(shape) not in (1, 3):
                    raise ValueError(
                        f"layer {name} must give a vector, or channels of rows and columns; "
                        f"its shape is {shape}"
                    )
                parts = nn.ModuleDict()
                if loss != "sim":
                    parts["classifier"] = _classifier(shape, network.classes, pooled)
                if loss != "pred":
                    parts["map"] = _map(shape, generator)
                own.append(parts.to(like))
        super().__init__(network, optimizer, seed, own)
        self.loss, self.beta, self.pooled = loss, beta, pooled

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        own = {"loss": self.loss, "beta": self.beta, "pooled": self.pooled}
        return {**super().settings, **own}

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        h = x
        for k in range(self.network.depth - 1):
            h = self.activity(k, h)
            self.descend(k, self.loss_of(k, h, labels))
            h = h.detach()
        output = self.activity(self.network.depth - 1, h)
        self.descend(self.network.depth - 1, cost(output, labels, "cross_entropy"))
        return output

    def loss_of(self, k: int, h: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of hidden layer k = 0 … depth − 2 for a batch of its activity."""
        parts: nn.ModuleDict = self.own[k]  # type: ignore[assignment]
        pred = sim = h.new_zeros(())
        if "classifier" in parts:
            pred = functional.cross_entropy(parts["classifier"](h), labels)
        if "map" in parts:
            wanted = functional.one_hot(labels.long(), self.classes).to(h)
            sim = functional.mse_loss(similarity_matrix(parts["map"](h)), similarity_matrix(wanted))
        share = {"pred": 0.0, "sim": 1.0, "predsim": self.beta}[self.loss]
        return (1 - share) * pred + share * sim


def similarity_matrix(h: Tensor) -> Tensor:
    """Return how alike the samples of a batch are, ``(batch, batch)``, each from −1 to 1.

        S_ij = z_i · z_j / (|z_i| |z_j|),    z_i = h_i − its mean over the units

    the adjusted cosine similarity. Of channels of rows and columns, h is first replaced by every
    channel's standard deviation over its positions, where there are more than 3 channels and more
    than one position. A sample without variation is like none, not even itself.

    Parameters
    ----------
    h : Tensor
        ``(batch, units)`` or ``(batch, channels, rows, columns)``.

    Examples
    --------
    >>> similarity_matrix(torch.tensor([[0.0, 2.0], [1.0, 5.0], [3.0, 0.0]])).round()
    tensor([[ 1.,  1., -1.],
            [ 1.,  1., -1.],
            [-1., -1.,  1.]])
    """
    units = h.flatten(1)
    if h.dim() == 4 and h.shape[1] > 3 and h[0, 0].numel() > 1:
        units = h.flatten(2).var(2).clamp_min(torch.finfo(h.dtype).tiny).sqrt()
    z = functional.normalize(units - units.mean(1, keepdim=True), dim=1, eps=1e-8)
    return z @ z.T


def _classifier(shape: tuple[int, ...], classes: int, pooled: int) -> nn.Module:
    """Return C_k: what a hidden layer gives to one number a class, zero at first."""
    steps: list[nn.Module] = []
    size = shape[0]
    if len(shape) == 3:
        sides = list(shape[1:])
        while shape[0] * math.prod(sides) > pooled and max(sides) > 1:
            longer = sides.index(max(sides))
            sides[longer] = math.ceil(sides[longer] / 2)
        steps = [nn.AdaptiveAvgPool2d((sides[0], sides[1])), nn.Flatten()]
        size *= math.prod(sides)
    linear = nn.Linear(size, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(*steps, linear)


def _map(shape: tuple[int, ...], generator: torch.Generator) -> nn.Module:
    """Return V_k, which leaves the shape of what a hidden layer gives."""
    n = shape[0]
    module: nn.Linear | nn.Conv2d = (
        nn.Linear(n, n, bias=False)
        if len(shape) == 1
        else nn.Conv2d(n, n, 3, padding=1, bias=False)
    )
    bound = 1 / math.sqrt(module.weight[0].numel())
    with torch.no_grad():
        module.weight.uniform_(-bound, bound, generator=generator)
    return module
