"""Inputs: sources that enter a population as they are, and the learning signal."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ctsigprop.affine import Affine
from ctsigprop.signals import Signal, closed
from ctsigprop.terms import Current, Moment, Population

__all__ = ["Input", "LearningSignal"]


class Input(Current):
    """A source that enters a population as it is: I_i = gain · u_i(t).

    Parameters
    ----------
    source, post : str
        From where to where; both have the same size, or the source has one channel.
    gain : Parameter, Tensor or float
        A number, or one for each unit.
    port, name : str
        As in `Synapse`.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> cell = ct.leaky_integrator("y", size=2, tau=1.0)
    >>> system = ct.System(ct.Source("u", 2, torch.ones(2)), cell, ct.Input("u", "y", gain=2.0))
    >>> system(torch.tensor(0.0), system.initial_state())["s_y"].tolist()
    [2.0, 2.0]
    """

    def __init__(
        self, source: str, post: str, *, gain: Tensor | float = 1.0, port: str = "", name: str = ""
    ) -> None:
        super().__init__()
        self.source, self.post, self.port = source, post, port
        self.name = name or f"I_{post}_{source}"
        self.add_parameters({"gain": gain})

    @property
    def autonomous(self) -> bool:
        """It reads the time through signals alone."""
        return type(self) is Input

    def reads(self) -> tuple[str, ...]:
        """Return the source."""
        return (self.source,)

    def connect(self, populations: Mapping[str, Population]) -> None:
        """Check the sizes."""
        size, channels = populations[self.post].size, populations[self.source].size
        self.same = channels == size
        if channels not in (1, size):
            raise ValueError(
                f"{self.name}: source '{self.source}' must have 1 or {size} channels; "
                f"got {channels}"
            )

    def forward(self, moment: Moment) -> Tensor:
        """Return the input current."""
        gain: Tensor = self.gain
        return gain * moment.activity(self.source)

    def affine(self, moment: Moment) -> Affine | None:
        """Return the gain, where it is one number for units of their own."""
        del moment
        gain: Tensor = self.gain.detach()
        return Affine(self.source, float(gain)) if gain.dim() == 0 and self.same else None


class LearningSignal(Current):
    """The learning signal: one more forward input, never a backward path.

    In its label form it is the context c(t), projected, I = gate(t) · S c(t); with `error`, it is
    what the context lacks in a population's own activity y, I = gate(t) · S (c(t) − y), which is
    the nudge of the output population.

    Parameters
    ----------
    source, post : str
        The source that carries the context, and the population that it enters.
    weight : Tensor, optional
        S, of shape ``(size of post, size of source)``; None is the identity.
    gate : Signal or float
        When and how strongly the signal is on.
    error : bool
        Whether y is subtracted.
    port, name : str
        As in `Synapse`.

    References
    ----------
    Kohan, Rietman & Siegelmann, Signal Propagation, arXiv 2204.01723; the continuous form is
    reconstructed from its abstract and from Error Forward-Propagation, arXiv 1808.03357.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> out = ct.leaky_integrator("y", size=2, tau=1.0)
    >>> nudge = ct.LearningSignal("c", "y", gate=ct.Pulse(1.0), error=True)
    >>> system = ct.System(ct.Source("c", 2, torch.ones(2)), out, nudge)
    >>> system(torch.tensor(2.0), system.initial_state())["s_y"].tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        source: str,
        post: str,
        weight: Tensor | None = None,
        *,
        gate: Signal | float = 1.0,
        error: bool = False,
        port: str = "",
        name: str = "",
    ) -> None:
        super().__init__()
        self.source, self.post, self.port, self.error = source, post, port, error
        self.name = name or f"L_{post}_{source}"
        self.gate = gate if isinstance(gate, Signal) else None
        self.strength = 1.0 if isinstance(gate, Signal) else float(gate)
        self.identity = weight is None
        if weight is not None:
            self.add_parameters({"weight": weight})

    @property
    def autonomous(self) -> bool:
        """It reads the time through signals alone."""
        return type(self) is LearningSignal

    def reads(self) -> tuple[str, ...]:
        """Return the source of the context."""
        return (self.source,)

    def signals(self) -> tuple[Signal, ...]:
        """Return the gate."""
        return () if self.gate is None else (self.gate,)

    def connect(self, populations: Mapping[str, Population]) -> None:
        """Check the sizes."""
        size, channels = populations[self.post].size, populations[self.source].size
        self.size = size
        want = (size, size if self.error else channels)
        got = (size, size) if self.identity else tuple(self.weight.shape)
        if got != want or (channels != size and (self.identity or self.error)):
            raise ValueError(
                f"{self.name}: a context of {channels} channels into '{self.post}' of size {size} "
                f"needs a weight of shape {(size, channels)}; got {got}"
            )

    def forward(self, moment: Moment) -> Tensor:
        """Return the learning signal's current."""
        c, level = moment.activity(self.source), self._level(moment)
        if level is None:
            return c.new_zeros(*c.shape[:-1], self.size)
        if self.error:
            c = c - moment.activity(self.post)
        return level * (c if self.identity else c @ self.weight.T)

    def affine(self, moment: Moment) -> Affine | None:
        """Return −gate(t) S, and gate(t) S c, of a nudge."""
        if not self.error:
            return None
        level = self.strength
        if self.gate is not None:
            value = self.gate(moment.t).detach()
            if value.dim():  # one for each sample
                return None
            level = float(value)
        if not level:
            return Affine(self.post, 0.0)
        c = moment.activity(self.source)
        if self.identity:
            return Affine(self.post, -level, level * c)
        return Affine(self.post, -level * self.weight, level * c @ self.weight.T)

    def _level(self, moment: Moment) -> Tensor | float | None:
        """Return how strongly the signal is on, beside what it multiplies; None: not at all."""
        if self.gate is None:
            return self.strength
        value = self.gate(moment.t)
        if closed(value):
            return None
        level: Tensor = value.to(moment.activity(self.source).dtype)
        return level if level.dim() == 0 else level.unsqueeze(-1)
