"""What rules share whose units relax before the weights move: dense layers, used both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctsigprop.errors import NonFiniteError
from ctsigprop.learning.backprop import Loss
from ctsigprop.learning.layerwise import SGD, LayerRule, Optimizer
from ctsigprop.models.layers import Layers
from ctsigprop.signals import all_finite

__all__ = ["SLOPES", "RelaxingRule", "check_count", "one_hot", "output_error"]

#: rho' of the nonlinearities that relaxing rules take, from the module and h = rho(a).
SLOPES: Mapping[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Identity: lambda _, h: torch.ones_like(h),
    nn.ReLU: lambda _, h: (h > 0).to(h),
    nn.Hardtanh: lambda rho, h: ((h > rho.min_val) & (h < rho.max_val)).to(h),
    nn.Tanh: lambda _, h: 1 - h * h,
    nn.Sigmoid: lambda _, h: h * (1 - h),
    nn.Softplus: lambda rho, h: -torch.expm1(-rho.beta * h),
}


class RelaxingRule(LayerRule):
    """A rule over dense layers, h_k = rho_k(W_k h_{k−1} + b_k), whose units move before weights do.

    Parameters
    ----------
    network : Layers
        Each layer a ``torch.nn.Linear``, alone or in a ``torch.nn.Sequential`` with one
        nonlinearity of `SLOPES` behind it.
    optimizer : callable or sequence of callable
        Of each layer.
    seed : int
        Of what the rule draws.

    Raises
    ------
    ValueError
        Another kind of layer.
    """

    def __init__(
        self, network: Layers, optimizer: Optimizer | Sequence[Optimizer] = SGD, seed: int = 0
    ) -> None:
        super().__init__(network, optimizer, seed)
        for k, name in enumerate(network.names):
            linear, rho = self._parts(k)
            known = type(rho) in SLOPES and not getattr(rho, "inplace", False)
            if not isinstance(linear, nn.Linear) or not known:
                raise ValueError(
                    f"layer {name} is {network.layers[k]}; {type(self).__name__} takes dense "
                    "layers: a torch.nn.Linear, and one nonlinearity (not in place) of "
                    f"{', '.join(module.__name__ for module in SLOPES)}"
                )

    @property
    def unobserved(self) -> bool:
        """Whether the units relax by themselves; an observer may hold them where they are."""
        return self.observer is None

    def affine(self, k: int, h: Tensor) -> Tensor:
        """Return W_k h + b_k for what comes from the layer before."""
        value: Tensor = self._parts(k)[0](h)
        return value

    def back(self, k: int, e: Tensor) -> Tensor:
        """Return W_kᵀ e, what the units of layer k send to the layer before."""
        weight: Tensor = self._parts(k)[0].weight  # type: ignore[assignment]
        return e @ weight

    def rho(self, k: int, a: Tensor) -> Tensor:
        """Return rho_k(a)."""
        value: Tensor = self._parts(k)[1](a)
        return value

    def slope(self, k: int, h: Tensor) -> Tensor:
        """Return rho_k'(a) where h = rho_k(a)."""
        rho = self._parts(k)[1]
        return SLOPES[type(rho)](rho, h)

    def move(self, k: int, weight: Tensor, bias: Tensor) -> None:
        """Let layer k step along ΔW_k and Δb_k."""
        self.step(k, [-weight] if self._parts(k)[0].bias is None else [-weight, -bias])

    def check_finite(self, states: Sequence[Tensor], time: float) -> None:
        """Refuse states of the layers that are not finite."""
        for name, state in zip(self.network.names, states, strict=False):
            if not all_finite(state):
                raise NonFiniteError(
                    time=time,
                    variable=name,
                    component=tuple((~torch.isfinite(state)).nonzero()[0].tolist()),
                    cause="the relaxation runs away: take a smaller dt, a bounded nonlinearity, or "
                    "lower learning rates",
                )

    def _parts(self, k: int) -> tuple[nn.Module, nn.Module]:
        layer = list(self.network.layers.children())[k]
        parts = list(layer.children()) if isinstance(layer, nn.Sequential) else []
        if len(parts) not in (1, 2):
            return layer, nn.Identity()
        return parts[0], parts[1] if len(parts) == 2 else nn.Identity()


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return the targets c of labels, ``(batch, classes)``, in the type of another tensor."""
    empty = like.new_zeros(*labels.shape, classes)  # half of the time of torch's own
    return empty.scatter_(-1, labels.long().unsqueeze(-1), 1.0)


def output_error(output: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Return ∂C/∂y of each sample: y − c, or softmax(y) − c for "cross_entropy".

    Examples
    --------
    >>> output_error(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), "squared_error")
    tensor([[-1.,  2.]])
    """
    return (output.softmax(-1) if loss == "cross_entropy" else output) - target


def check_count(name: str, value: int) -> None:
    """Refuse an option that is not a whole number above zero."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1; got {value!r}")
