"""A layered network from a list of torch modules: one description, run in three ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from ctsigprop.errors import unknown
from ctsigprop.models.rate import leaky_integrator
from ctsigprop.system import System
from ctsigprop.terms import Current, Moment, Population, Source

__all__ = ["ACTIVATIONS", "Drive", "Layers", "activation"]

#: Activation functions of dense networks by name, as `rate` calls its nonlinearities.
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "hard": nn.Hardtanh,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "softplus": nn.Softplus,
}


class Layers(nn.Module):
    """A layered network: h_0 = x, h_k = f_k(h_{k−1}), each f_k a torch module.

    The same weights run in the instantaneous limit (`forward`), and in continuous time
    (`system`), tau dh_k/dt = −h_k + f_k(h_{k−1}), whose steady state is the instantaneous answer.

    Parameters
    ----------
    *layers : torch.nn.Module
        f_1 … f_N; a layer is a linear map or a convolution with what belongs to it (activation,
        pooling, normalisation, reshaping), so usually a ``torch.nn.Sequential``. The first takes
        ``(batch, inputs)``; the last gives ``(batch, classes)``.
    inputs : int
        Channels of x.

    Attributes
    ----------
    layers : ModuleList
        f_1 … f_N.
    names : tuple of str
        "h1" … "y".
    shapes : tuple of tuple of int
        Of each layer's activity for one sample.

    Raises
    ------
    ValueError
        No layer, a layer that does not take what the one before gives, an output that is no vector.

    Examples
    --------
    >>> network = Layers.dense([64, 32, 10], rho="relu", seed=0)
    >>> network(torch.rand(5, 64)).shape, network.shapes
    (torch.Size([5, 10]), ((32,), (10,)))
    >>> conv = Layers(
    ...     nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.ReLU()),
    ...     nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 10)),
    ...     inputs=64,
    ... )
    >>> conv.shapes, list(conv.weights)
    (((4, 6, 6), (10,)), ['W_h1_x', 'b_h1', 'W_y_h1', 'b_y'])
    """

    def __init__(self, *layers: nn.Module, inputs: int) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a layered network needs at least one layer")
        for layer in layers:
            if not isinstance(layer, nn.Module):
                raise TypeError(f"layers must be torch modules; got {type(layer).__name__}")
        if not isinstance(inputs, int) or inputs < 1:
            raise ValueError(f"inputs must be a whole number >= 1; got {inputs!r}")
        self.layers = nn.ModuleList(layers)
        self.inputs = inputs
        self.names = (*(f"h{k}" for k in range(1, len(layers))), "y")
        self.shapes = self._probe()

    @classmethod
    def dense(
        cls,
        sizes: Sequence[int],
        *,
        rho: str = "relu",
        output: str = "identity",
        bias: bool = True,
        seed: int = 0,
    ) -> Self:
        """Return h_k = rho(W_k h_{k−1} + b_k), and y = output(W_N h_{N−1} + b_N).

        Parameters
        ----------
        sizes : sequence of int
            Channels of x, units of each layer.
        rho, output : str
            Nonlinearities, keys of `ACTIVATIONS`.
        bias : bool
            Whether there is b_k, zero at first.
        seed : int
            Of the weights, uniform in ±sqrt(6/(fan in + fan out)).

        References
        ----------
        Glorot & Bengio 2010, AISTATS, eq. 16, for the initial weights.
        """
        if len(sizes) < 2 or not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise ValueError(
                f"sizes needs an input and an output, each a whole number >= 1; got {list(sizes)}"
            )
        for name in (rho, output):
            if name not in ACTIVATIONS:
                raise ValueError(unknown("nonlinearity", name, ACTIVATIONS))
        generator = torch.Generator().manual_seed(seed)
        layers = []
        for k, (n, m) in enumerate(pairwise(sizes)):
            with torch.random.fork_rng(devices=[]):  # what torch draws is overwritten
                linear = nn.Linear(n, m, bias=bias)
            bound = math.sqrt(6 / (n + m))
            with torch.no_grad():
                linear.weight.uniform_(-bound, bound, generator=generator)
                if bias:
                    linear.bias.zero_()
            name = output if k == len(sizes) - 2 else rho
            layers.append(nn.Sequential(linear, activation(name)))
        return cls(*layers, inputs=sizes[0])

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    @property
    def classes(self) -> int:
        """How many units the last layer has."""
        return self.shapes[-1][0]

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Every parameter: ``W_<layer>_<layer before>``, ``b_<layer>``, or its name in torch."""
        return {
            name: parameter
            for k in range(self.depth)
            for name, parameter in self.weights_of(k).items()
        }

    def weights_of(self, k: int) -> dict[str, nn.Parameter]:
        """Return the parameters of layer k = 0 … depth − 1 by name."""
        post, pre = self.names[k], "x" if k == 0 else self.names[k - 1]
        found = dict(self.layers[k].named_parameters())
        matrices = [n for n in found if n.rpartition(".")[2] == "weight" and found[n].dim() > 1]
        if len(matrices) == 1:
            stem = matrices[0].rpartition(".")[0]
            short = {matrices[0]: f"W_{post}_{pre}", f"{stem}.bias".lstrip("."): f"b_{post}"}
        else:
            short = {}
        return {short.get(n, f"{post}_{n.replace('.', '_')}"): p for n, p in found.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the output in the instantaneous limit, ``(batch, classes)``."""
        for layer in self.layers:
            x = layer(x)
        return x

    def activities(self, x: Tensor) -> list[Tensor]:
        """Return h_1 … h_N in the instantaneous limit."""
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found

    def system(self, tau: float = 1.0) -> System:
        """Return the network in continuous time, tau dh_k/dt = −h_k + f_k(h_{k−1}).

        Parameters
        ----------
        tau : float
            Time constant of every unit.

        Returns
        -------
        System
            A source ``x``, and populations ``h1`` … ``y`` of leaky integrators; the parameters
            are this network's own, not copies.

        Examples
        --------
        >>> import ctsigprop as ct
        >>> network = Layers.dense([3, 4, 2], rho="tanh", seed=1).double()
        >>> x = torch.rand(5, 3, dtype=torch.float64)
        >>> run = ct.solve(network.system(), t=[0.0, 60.0], inputs={"x": x})
        >>> torch.allclose(run["s_y"][-1], network(x), atol=1e-6)
        True
        """
        terms: list[Population | Current] = [Source("x", self.inputs)]
        for k, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True)):
            pre = self.names[k - 1] if k else "x"
            before = self.shapes[k - 1] if k else (self.inputs,)
            terms.append(leaky_integrator(name, math.prod(shape), tau=tau))
            terms.append(Drive(pre, name, self.layers[k], before))
        return System(*terms).to(self._like.device)

    @property
    def _like(self) -> Tensor:
        return next(self.parameters(), torch.zeros(()))

    @torch.no_grad()
    def _probe(self) -> tuple[tuple[int, ...], ...]:
        training = self.training
        self.eval()  # batch statistics are not to see the probe
        h, shapes = self._like.new_zeros(2, self.inputs), []
        for k, layer in enumerate(self.layers, 1):
            try:
                h = layer(h)
            except RuntimeError as error:
                raise ValueError(
                    f"layer {k} does not take what comes before it, {tuple(h.shape[1:])} a sample: "
                    f"{error}"
                ) from error
            shapes.append(tuple(h.shape[1:]))
        self.train(training)
        if len(shapes[-1]) != 1:
            raise ValueError(f"the last layer must give one vector a sample; got {shapes[-1]}")
        return tuple(shapes)


class Drive(Current):
    """The current f(activity of another population), f a torch module of any shape.

    Parameters
    ----------
    pre, post : str
        Populations.
    module : torch.nn.Module
        f, from ``(batch, *shape)``.
    shape : sequence of int
        The shape in which f sees the presynaptic activity of one sample.
    name : str
        "F_<post>_<pre>" by default.
    """

    def __init__(
        self, pre: str, post: str, module: nn.Module, shape: Sequence[int], *, name: str = ""
    ) -> None:
        super().__init__()
        self.pre, self.post, self.port = pre, post, ""
        self.module, self.shape = module, tuple(shape)
        self.name = name or f"F_{post}_{pre}"

    def reads(self) -> tuple[str, ...]:
        """Return the presynaptic population."""
        return (self.pre,)

    def forward(self, moment: Moment) -> Tensor:
        """Return f(activity), ``(*batch, size of post)``."""
        h = moment.activity(self.pre)
        lead = h.shape[:-1]
        value: Tensor = self.module(h.reshape(-1, *self.shape))
        return value.reshape(*lead, -1)


def activation(name: str) -> nn.Module:
    """Return an activation by its name, a key of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown("nonlinearity", name, ACTIVATIONS))
    return nn.Hardtanh(0.0, 1.0) if name == "hard" else ACTIVATIONS[name]()
