"""Feedback alignment: fixed random weights carry the error back, from layer to layer or at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ctsigprop.learning.backprop import Loss, check_loss, cost, send_back
from ctsigprop.learning.layerwise import SGD, LayerRule, Optimizer
from ctsigprop.models.layers import Layers

__all__ = ["DirectFeedbackAlignment", "FeedbackAlignment"]

_MAPS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class FeedbackAlignment(LayerRule):
    """Backpropagation with fixed random weights in place of the transposed ones.

        δ_N = ∂C/∂a_N,    δ_k = B_{k+1}ᵀ δ_{k+1} ∘ f'(a_k),    ΔW_k ∝ −δ_k h_{k−1}ᵀ

    B_k has the shape of W_k, dense or a convolution's kernels, and never moves. The forward pass,
    the derivatives f'(a_k) of whatever else belongs to a layer, and the output layer's update are
    those of backpropagation. Each layer steps as soon as the error, on its way back, has left it.

    Parameters
    ----------
    network : Layers
        What learns. Each layer but the first holds at most one linear map or convolution of torch,
        and no other parameter of more than one axis.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    loss : {"cross_entropy", "squared_error"}
        C, as in `Backpropagation`.
    gain : float
        B_k is uniform in ±gain·sqrt(6/(fan in + fan out)).
    seed : int
        Of B_2 … B_N.

    Raises
    ------
    ValueError
        A layer through which the error cannot pass, a gain that is not positive, an unknown loss.

    References
    ----------
    Lillicrap, Cownden, Tweed & Akerman 2016, Random synaptic feedback weights support error
    backpropagation for deep learning, Nature Communications 7:13276.

    Examples
    --------
    >>> rule = FeedbackAlignment(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> rule.B_y_h1.shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: Loss = "cross_entropy",
        gain: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        check_loss(loss)
        _check_gain(gain)
        self.loss, self.gain = loss, gain
        generator = torch.Generator().manual_seed(seed)
        for k in range(1, network.depth):
            weight = self._weight(k)
            if weight is not None:
                self.register_buffer(self._name(k), _random(weight.detach(), gain, generator))

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        return {**super().settings, "loss": self.loss, "gain": self.gain}

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        activities = [self.activity(0, x)]
        for k in range(1, self.network.depth):
            with self._feedback(k):
                activities.append(self.activity(k, activities[-1]))
        send_back(self, activities, labels, self.loss)
        return activities[-1]

    @contextmanager
    def _feedback(self, k: int) -> Iterator[None]:
        """Let the backward pass of what layer k does in this context find B_k in place of W_k.

        The gradient by what comes in is the only one for which autograd keeps W_k.
        """
        weight, kept = self._weight(k), []

        def keep(saved: Tensor) -> Tensor:
            if weight is None or saved.data_ptr() != weight.data_ptr():
                return saved.detach()  # without its graph: the graph keeps it
            kept.append(k)
            feedback: Tensor = getattr(self, self._name(k))
            return feedback.as_strided(saved.shape, saved.stride())  # transposed if W_k is

        with saved_tensors_hooks(keep, lambda saved: saved):
            yield
        if weight is not None and not kept:
            raise RuntimeError(
                f"layer {self.network.names[k]} works with a copy of its weight (under autocast?), "
                "through which the error would flow back"
            )

    def _name(self, k: int) -> str:
        return f"B_{self.network.names[k]}_{self.network.names[k - 1]}"

    def _weight(self, k: int) -> nn.Parameter | None:
        """Return W_k, or None for a layer without one."""
        layer = self.network.layers[k]
        maps = [module for module in layer.modules() if type(module) in _MAPS]
        arrays = {id(p) for p in layer.parameters() if p.dim() > 1}
        if len(maps) > 1 or arrays != {id(module.weight) for module in maps}:
            raise ValueError(
                f"layer {self.network.names[k]} must hold one linear map or convolution, and no "
                f"other parameter of more than one axis, for an error to pass: {layer!r}"
            )
        return maps[0].weight if maps else None  # type: ignore[return-value]


class DirectFeedbackAlignment(LayerRule):
    """The error of the output, carried straight to every hidden layer by fixed random weights.

        δ_N = e,    δ_k = B_k e ∘ f'(a_k),    ΔW_k ∝ −δ_k h_{k−1}ᵀ,    e = ∂C/∂y

    In a layer of several steps, such as convolution, nonlinearity and pooling, B_k e stands in for
    the error of what comes out, and goes back through the steps of this layer alone. Once e is
    known the layers step one without the other, the output's first.

    Parameters
    ----------
    network : Layers
        What learns.
    optimizer : callable or sequence of callable
        Of each layer; plain gradient descent at rate 0.1 by default.
    loss : {"cross_entropy", "squared_error"}
        C, as in `Backpropagation`.
    gain : float
        B_k is uniform in ±gain·sqrt(6/(fan in + fan out)).
    seed : int
        Of B_1 … B_{N−1}.

    Raises
    ------
    ValueError
        A gain that is not positive, an unknown loss.

    References
    ----------
    Nøkland 2016, Direct feedback alignment provides learning in deep neural networks, NeurIPS 29.

    Examples
    --------
    >>> rule = DirectFeedbackAlignment(Layers.dense([4, 8, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> rule.B_h1_y.shape
    torch.Size([8, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = SGD,
        *,
        loss: Loss = "cross_entropy",
        gain: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        check_loss(loss)
        _check_gain(gain)
        self.loss, self.gain = loss, gain
        generator = torch.Generator().manual_seed(seed)
        like = next(network.parameters(), torch.zeros(()))
        for name, shape in zip(network.names[:-1], network.shapes[:-1], strict=True):
            weight = like.new_empty(math.prod(shape), network.classes)
            self.register_buffer(f"B_{name}_y", _random(weight, gain, generator))

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        return {**super().settings, "loss": self.loss, "gain": self.gain}

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        activities: list[Tensor] = []
        for k in range(self.network.depth):
            activities.append(self.activity(k, activities[-1].detach() if k else x))
        output = activities.pop()
        y = output.detach().requires_grad_()
        error = torch.autograd.grad(cost(y, labels, self.loss), y)[0]
        self._step_along(self.network.depth - 1, output, error)
        for k, h in enumerate(activities):
            feedback: Tensor = getattr(self, f"B_{self.network.names[k]}_y")
            self._step_along(k, h, (error @ feedback.T).reshape(h.shape))
        return output

    def _step_along(self, k: int, h: Tensor, error: Tensor) -> None:
        """Let layer k step down the gradient that an error of its activity gives."""
        parameters = self.parameters_of(k)
        if parameters:
            self.step(k, torch.autograd.grad(h, parameters, error, allow_unused=True))


def _check_gain(gain: float) -> None:
    if not 0 < gain < math.inf:
        raise ValueError(f"gain must be positive and finite; got {gain}")


def _random(like: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Return fixed feedback weights of the shape, type and device of a weight."""
    drawn = torch.empty(like.shape, dtype=torch.float64)
    nn.init.xavier_uniform_(drawn, gain=gain, generator=generator)
    return torch.empty_like(like).copy_(drawn)
