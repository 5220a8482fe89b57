"""Transforms of the context: how what a sample belongs to enters the network beside the sample."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.rows import Kind
from ctsigprop.models.layers import Layers, activation

__all__ = [
    "Loop",
    "Overlay",
    "Place",
    "TargetInput",
    "TargetOnly",
    "Transform",
    "TransformMaker",
]

Signal = Literal["error", "gated"]
Place = Literal["append", "overlay"]


class Transform(nn.Module, abc.ABC):
    """What a context c and a sample x send into the network: h_0 and t_0, or t_1 at once.

    Attributes
    ----------
    inputs : int
        Channels of x.
    rows : {"classes", "batch", "candidates"}
        What t has a row for: each class; each sample; each sample with each candidate class.
    through : bool
        Whether the result is t_0, which then passes layer 1 as x does, or t_1 already.
    loops : bool
        Whether it wants the network's answer to x, hence a whole forward pass first.
    """

    rows: ClassVar[Kind]
    through: ClassVar[bool] = True
    loops: ClassVar[bool] = False

    def __init__(self, network: Layers, inputs: int | None = None) -> None:
        super().__init__()
        self.inputs = network.inputs if inputs is None else inputs

    def front(self, x: Tensor) -> Tensor:
        """Return h_0, what enters layer 1 for x: x itself unless a transform says otherwise."""
        return x

    @abc.abstractmethod
    def forward(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return t_0 (or t_1) for contexts c, ``(rows, channels of c)``.

        Parameters
        ----------
        c : Tensor
            Contexts, of unit length.
        x, y : Tensor
            Of each row the sample, and the network's answer to it, as probabilities; transforms
            with a row for each class do not look at them.
        """


TransformMaker = Callable[[Layers, int, torch.Generator], Transform]
"""Makes a transform for a network, the channels of its contexts, and a source of randomness:
a class of this module, or ``functools.partial(Loop, signal="gated")``."""


class TargetOnly(Transform):
    """t_1 = rho(S_1 c + d_1): a learned code of the class, of the shape of layer 1's activity.

    It works for every first layer, since it goes around it; S_1 and d_1 learn with layer 1.

    Parameters
    ----------
    network, channels, generator
        What it is made for; see `TransformMaker`.
    rho : str
        Layer 1's nonlinearity, a key of `ctsigprop.models.layers.ACTIVATIONS`.
    spread : float
        Standard deviation of the entries of S_1 at first. Small codes are soon learned, large ones
        stay what they were drawn as; `Hebbian`, which does not learn S_1, wants 1.

    Examples
    --------
    >>> network = Layers.dense([4, 8, 3])
    >>> transform = TargetOnly(network, 3, torch.Generator())
    >>> transform(torch.eye(3), torch.empty(0), torch.empty(0)).shape
    torch.Size([3, 8])
    """

    rows = "classes"
    through = False

    def __init__(
        self,
        network: Layers,
        channels: int,
        generator: torch.Generator,
        *,
        rho: str = "relu",
        spread: float = 0.1,
    ) -> None:
        super().__init__(network)
        _check_positive("spread", spread)
        self.shape = network.shapes[0]
        self.S = _linear(network, channels, math.prod(self.shape), generator, spread)
        self.rho = activation(rho)

    def forward(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return t_1, ``(rows, *shape)``."""
        t: Tensor = self.rho(self.S(c))
        return t.reshape(-1, *self.shape)


class TargetInput(Transform):
    """t_0 = S_1 c + d_1 and h_0 = P x: context and sample brought to one shape, then one network.

    Parameters
    ----------
    network, channels, generator
        What it is made for; see `TransformMaker`.
    inputs : int, optional
        Channels of x, if it is to be projected by a learned P; by default h_0 = x.
    spread : float
        Standard deviation of the entries of S_1 at first.
    """

    rows = "classes"

    def __init__(
        self,
        network: Layers,
        channels: int,
        generator: torch.Generator,
        *,
        inputs: int | None = None,
        spread: float = 0.1,
    ) -> None:
        _check_positive("spread", spread)
        if inputs is not None and (not isinstance(inputs, int) or inputs < 1):
            raise ValueError(f"inputs must be a whole number >= 1; got {inputs!r}")
        super().__init__(network, inputs)
        self.S = _linear(network, channels, network.inputs, generator, spread)
        self.P = None
        if inputs is not None:
            self.P = _linear(network, inputs, network.inputs, generator, inputs**-0.5)

    def front(self, x: Tensor) -> Tensor:
        """Return h_0, ``(batch, network's inputs)``."""
        return x if self.P is None else self.P(x)

    def forward(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return t_0, ``(rows, network's inputs)``."""
        t: Tensor = self.S(c)
        return t


class Loop(Transform):
    """t_0 = x + B e: the output's error fed to the front, as Error Forward-Propagation has.

        e = c − y ("error"),    e = y (c − y) ("gated")

    with y = softmax(output). The error passes layer 1 with the sample, so that S_1 = W_1 B for any
    module as the first layer. It rides on x because an error alone fades as learning succeeds, and
    with it all that t would say. t has a row for each sample; the output must come first, so that
    the whole network answers before anything is learned.

    This is one turn of the loop of `sigprop_network`, in which the output comes to the front all
    the time, and its nudge brings the error.

    Parameters
    ----------
    network, channels, generator
        What it is made for; see `TransformMaker`.
    signal : {"error", "gated"}
        e.
    learned : bool
        Whether B learns with layer 1, or stays as it was drawn.
    strength : float
        Standard deviation of the entries of B.
    """

    rows = "batch"
    loops = True

    def __init__(
        self,
        network: Layers,
        channels: int,
        generator: torch.Generator,
        *,
        signal: Signal = "error",
        learned: bool = False,
        strength: float = 1.0,
    ) -> None:
        super().__init__(network)
        if signal not in get_args(Signal):
            raise ValueError(unknown("signal", signal, get_args(Signal)))
        _check_positive("strength", strength)
        if channels != network.classes:
            raise ValueError(
                f"the error is that of the output, {network.classes} units; contexts have "
                f"{channels} channels"
            )
        self.signal, self.learned, self.strength = signal, learned, strength
        drawn = _draw(network, network.inputs, channels, generator, strength)
        if learned:
            self.B = nn.Parameter(drawn)
        else:
            self.register_buffer("B", drawn)

    def forward(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return t_0, ``(batch, inputs)``."""
        error = c - y if self.signal == "error" else y * (c - y)
        return x + functional.linear(error, self.B)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"signal={self.signal!r}, learned={self.learned}, strength={self.strength}"


class Overlay(Transform):
    """t_0 = (x, c) and h_0 = (x, mean c): sample and context side by side, as Forward-Forward has.

    Each sample is shown with its own context and with one other.

    Parameters
    ----------
    network, channels, generator
        What it is made for; see `TransformMaker`.
    strength : float
        What c is multiplied by.
    place : {"append", "overlay"}
        Where c goes: behind the last channel of x, or in the place of the first ones.

    Examples
    --------
    >>> transform = Overlay(Layers.dense([5, 8]), 2, torch.Generator())
    >>> transform(torch.eye(2), torch.ones(2, 3), torch.empty(0))
    tensor([[1., 1., 1., 3., 0.],
            [1., 1., 1., 0., 3.]])
    """

    rows = "candidates"

    def __init__(
        self,
        network: Layers,
        channels: int,
        generator: torch.Generator,  # noqa: ARG002
        *,
        strength: float = 3.0,
        place: Place = "append",
    ) -> None:
        if place not in get_args(Place):
            raise ValueError(unknown("place", place, get_args(Place)))
        if network.inputs <= channels:
            raise ValueError(
                f"layer 1 takes {network.inputs} inputs; Overlay needs more than the {channels} "
                "channels of the context"
            )
        _check_positive("strength", strength)
        super().__init__(network, network.inputs - (channels if place == "append" else 0))
        self.channels, self.strength, self.place = channels, strength, place

    def front(self, x: Tensor) -> Tensor:
        """Return h_0, ``(batch, network's inputs)``."""
        return self._joined(x, x.new_full((*x.shape[:-1], self.channels), 1 / self.channels))

    def forward(self, c: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return t_0, ``(rows, network's inputs)``."""
        return self._joined(x, c)

    def extra_repr(self) -> str:
        """Return the options."""
        return (
            f"inputs={self.inputs}, channels={self.channels}, strength={self.strength}, "
            f"place={self.place!r}"
        )

    def _joined(self, x: Tensor, c: Tensor) -> Tensor:
        c = self.strength * c
        if self.place == "append":
            return torch.cat([x, c], -1)
        return torch.cat([c, x[..., self.channels :]], -1)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be > 0; got {value}")


def _linear(
    network: Layers, inputs: int, outputs: int, generator: torch.Generator, spread: float
) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):  # what torch draws is overwritten
        linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.bias.zero_()
    linear.weight = nn.Parameter(_draw(network, outputs, inputs, generator, spread))
    return linear.to(linear.weight)


def _draw(
    network: Layers, rows: int, columns: int, generator: torch.Generator, spread: float
) -> Tensor:
    like = next(network.parameters(), torch.zeros(()))
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * spread
    return drawn.to(like)
