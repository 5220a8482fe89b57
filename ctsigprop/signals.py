"""Functions of time with known jumps: inputs, gates, modulators, the learning signal."""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctsigprop.provenance import Recorded

__all__ = [
    "Constant",
    "Held",
    "Noise",
    "Pulse",
    "Rhythm",
    "Sampled",
    "Signal",
    "as_signal",
    "closed",
]


class Signal(Recorded, abc.ABC):
    """A function of time, u(t), whose jumps are known.

    `solve` ends a step at every jump and starts the next one with the value on the other side, so
    that a held input costs no accuracy.

    Attributes
    ----------
    stepwise : bool
        Whether the value changes at its jumps only.
    """

    stepwise: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """How many numbers the signal has at one time (0 for a scalar gate)."""
        return 0

    @abc.abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        """Return the value at times `t` of shape ``()`` or ``batch``."""

    def jumps(self, start: float, stop: float) -> list[float]:
        """Return the times strictly between `start` and `stop` at which the value jumps."""
        del start, stop
        return []

    def quiet(self, start: float, stop: float) -> bool:
        """Tell whether the value is exactly zero all through ``(start, stop)``."""
        del start, stop
        return False


def _last(t: Tensor, value: Tensor) -> Tensor:
    """Shape times so that they broadcast against values of shape ``(..., size)``."""
    t = t.to(value.dtype)
    return t.unsqueeze(-1) if value.dim() and t.dim() else t


class Constant(Signal):
    """u(t) = value.

    Parameters
    ----------
    value : Tensor or float
        Shape ``(*batch, size)``, or a number.

    Examples
    --------
    >>> Constant(2.0)(torch.tensor(0.0)).item()
    2.0
    """

    stepwise: ClassVar[bool] = True

    value: Tensor

    def __init__(self, value: Tensor | float) -> None:
        super().__init__()
        self.register_buffer("value", as_values(value, "value"))

    @property
    def size(self) -> int:
        """The length of the last axis."""
        return self.value.shape[-1] if self.value.dim() else 0

    def forward(self, t: Tensor) -> Tensor:
        """Return the value, whatever the time."""
        del t
        return self.value

    def quiet(self, start: float, stop: float) -> bool:
        """Tell whether the value is zero."""
        del start, stop
        return not bool(self.value.detach().any())


class _Tabulated(Signal):
    """Values at times."""

    times: Tensor
    values: Tensor

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # times stay float64: a float32 clock moves the jumps
        times = self.times
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.times = times.to(self.values.device)
        return self

    @property
    def size(self) -> int:
        """The length of the last axis."""
        return self.values.shape[-1] if self.values.dim() > 1 else 0

    def _row(self, k: Tensor) -> Tensor:
        """Return the values number `k`; where there is a batch of both, each sample its own."""
        if k.dim() == 0 or self.values.dim() <= 2:
            return self.values[k]
        samples = torch.arange(k.numel(), device=k.device)
        picked = self.values.flatten(1, -2)[k.reshape(-1), samples]
        return picked.reshape(*k.shape, self.size)


class Held(_Tabulated):
    """Presentations held one after another: u(t) = values[k] for times[k] <= t < times[k + 1].

    Before the first time the first value holds, after the last time the last one.

    Parameters
    ----------
    times : sequence of float
        When each presentation begins, increasing, shape ``(k,)``.
    values : Tensor
        One value for each time, shape ``(k, *batch, size)`` or ``(k,)``.

    Examples
    --------
    >>> u = Held([0.0, 1.0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> u(torch.tensor(1.0)).tolist(), u.jumps(0.0, 2.0)
    ([0.0, 1.0], [1.0])
    """

    stepwise: ClassVar[bool] = True

    def __init__(self, times: Tensor | list[float], values: Tensor) -> None:
        super().__init__()
        when = as_times(times)
        what = as_values(values, "values")
        if what.dim() == 0 or what.shape[0] != when.numel():
            raise ValueError(
                f"values must have one row for each of the {when.numel()} times; "
                f"got shape {tuple(what.shape)}"
            )
        self.register_buffer("times", when)
        self.register_buffer("values", what)

    def forward(self, t: Tensor) -> Tensor:
        """Return the presentation that is on at `t`."""
        k = torch.searchsorted(self.times, t.detach().to(self.times).contiguous(), right=True) - 1
        return self._row(k.clamp(min=0))

    def jumps(self, start: float, stop: float) -> list[float]:
        """Return the beginnings of the presentations inside the span, but for the first."""
        low, high = min(start, stop), max(start, stop)
        return [x for x in self.times[1:].tolist() if low < x < high]


class Pulse(Signal):
    """A gate: u(t) = amplitude for onset <= t < offset, else 0.

    Parameters
    ----------
    onset, offset : float
        Beginning and end, in the system's time unit.
    amplitude : float
        The value while it is on.

    Examples
    --------
    >>> gate = Pulse(1.0, 2.0)
    >>> [gate(torch.tensor(x)).item() for x in (0.5, 1.0, 2.0)], gate.jumps(0.0, 3.0)
    ([0.0, 1.0, 0.0], [1.0, 2.0])
    """

    stepwise: ClassVar[bool] = True

    def __init__(self, onset: float, offset: float = math.inf, amplitude: float = 1.0) -> None:
        super().__init__()
        if not onset < offset:
            raise ValueError(f"offset must be later than onset={onset}; got {offset}")
        self.onset, self.offset, self.amplitude = float(onset), float(offset), float(amplitude)

    def forward(self, t: Tensor) -> Tensor:
        """Return the amplitude while the gate is on, else zero."""
        on = (t >= self.onset) & (t < self.offset)
        return on.to(t.dtype) * self.amplitude

    def jumps(self, start: float, stop: float) -> list[float]:
        """Return onset and offset where they lie inside the span."""
        low, high = min(start, stop), max(start, stop)
        return [x for x in (self.onset, self.offset) if low < x < high]

    def quiet(self, start: float, stop: float) -> bool:
        """Tell whether the gate is closed all through the span."""
        low, high = min(start, stop), max(start, stop)
        return high <= self.onset or low >= self.offset


class Rhythm(Signal):
    """u(t) = offset + amplitude · cos(2π·frequency·t + phase) for t >= onset, else 0.

    Parameters
    ----------
    amplitude : Tensor or float
        Of shape ``(*batch, size)``, or a number.
    frequency : float
        Cycles in a time unit.
    phase : float
        In radians.
    offset : Tensor or float
        The mean.
    onset : float
        When it begins; there is no beginning by default.

    Examples
    --------
    >>> round(Rhythm(1.0, 0.25)(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
    0.0
    """

    amplitude: Tensor
    offset: Tensor

    def __init__(
        self,
        amplitude: Tensor | float,
        frequency: float,
        phase: float = 0.0,
        offset: Tensor | float = 0.0,
        onset: float = -math.inf,
    ) -> None:
        super().__init__()
        if not frequency > 0:
            raise ValueError(f"frequency must be > 0; got {frequency}")
        if math.isnan(onset):
            raise ValueError("onset must be a time; got nan")
        wave, mean = as_values(amplitude, "amplitude"), as_values(offset, "offset")
        wave, mean = torch.broadcast_tensors(wave, mean)  # type: ignore[no-untyped-call]
        self.register_buffer("amplitude", wave.contiguous())
        self.register_buffer("offset", mean.contiguous())
        self.frequency, self.phase, self.onset = float(frequency), float(phase), float(onset)

    @property
    def size(self) -> int:
        """The length of the last axis."""
        return self.amplitude.shape[-1] if self.amplitude.dim() else 0

    def forward(self, t: Tensor) -> Tensor:
        """Return the value at `t`."""
        angle = self.angular * t.to(torch.float64) + self.phase
        wave, begun = (_last(v, self.amplitude) for v in (torch.cos(angle), t >= self.onset))
        return begun * (self.offset + self.amplitude * wave)

    @property
    def angular(self) -> float:
        """The angular frequency, 2π·frequency."""
        return 2 * math.pi * self.frequency

    def jumps(self, start: float, stop: float) -> list[float]:
        """Return the onset where it lies inside the span."""
        low, high = min(start, stop), max(start, stop)
        return [self.onset] if low < self.onset < high else []

    def quiet(self, start: float, stop: float) -> bool:
        """Tell whether the rhythm has not begun all through the span."""
        return max(start, stop) <= self.onset


class Sampled(_Tabulated):
    """A recorded trace, linear between its samples, and held before the first and after the last.

    Parameters
    ----------
    times : sequence of float
        Increasing, shape ``(k,)``.
    values : Tensor
        Shape ``(k, *batch, size)`` or ``(k,)``.

    Examples
    --------
    >>> Sampled([0.0, 2.0], torch.tensor([0.0, 1.0]))(torch.tensor(0.5)).item()
    0.25
    """

    def __init__(self, times: Tensor | list[float], values: Tensor) -> None:
        super().__init__()
        when = as_times(times)
        what = as_values(values, "values")
        if when.numel() < 2 or what.dim() == 0 or what.shape[0] != when.numel():
            raise ValueError(
                "a sampled signal takes at least two times and one value for each; "
                f"got {when.numel()} times and values of shape {tuple(what.shape)}"
            )
        self.register_buffer("times", when)
        self.register_buffer("values", what)

    def forward(self, t: Tensor) -> Tensor:
        """Return the value interpolated at `t`."""
        t = t.to(self.times).clamp(self.times[0], self.times[-1])
        k = torch.searchsorted(self.times, t.detach().contiguous(), right=True)
        k = k.clamp(1, self.times.numel() - 1)
        left, right = self.times[k - 1], self.times[k]
        share = _last((t - left) / (right - left), self.values[0])
        return torch.lerp(self._row(k - 1), self._row(k), share.to(self.values.dtype))


class Noise(Held):
    """Frozen Gaussian noise held over steps of `dt`: the same seed gives the same noise.

    Parameters
    ----------
    size : int
        How many independent channels.
    scale : float
        Standard deviation.
    dt : float
        How long each draw is held.
    duration : float
        The noise covers ``[0, duration)``.
    seed : int
        Seed of its own generator.

    Examples
    --------
    >>> noise = Noise(2, scale=0.1, dt=1.0, duration=3.0, seed=0)
    >>> noise.values.shape, noise.jumps(0.0, 3.0)
    (torch.Size([3, 2]), [1.0, 2.0])
    """

    def __init__(
        self, size: int, *, scale: float, dt: float, duration: float, seed: int = 0
    ) -> None:
        if not (scale >= 0 and dt > 0 and duration > 0 and size >= 0):
            raise ValueError(
                "noise takes size >= 0, scale >= 0, dt > 0 and duration > 0; "
                f"got size={size}, scale={scale}, dt={dt}, duration={duration}"
            )
        count = math.ceil(duration / dt - 1e-9)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(count, size, generator=generator, dtype=torch.float64)
        super().__init__([k * dt for k in range(count)], scale * draws)


def as_signal(value: Signal | Tensor | float) -> Signal:
    """Return a signal: a tensor or a number becomes a `Constant`."""
    return value if isinstance(value, Signal) else Constant(value)


def as_values(value: Any, name: str) -> Tensor:
    """Return numbers as a floating tensor (float64 unless they are a tensor), or refuse them."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if not tensor.is_floating_point():
        if tensor.is_complex():
            raise TypeError(f"{name} must be real; got dtype {tensor.dtype}")
        tensor = tensor.to(torch.float64)
    elif not isinstance(value, Tensor):
        tensor = torch.as_tensor(value, dtype=torch.float64)
    if not all_finite(tensor):
        raise ValueError(f"{name} must be finite; got NaN or an infinity")
    return tensor


def all_finite(values: Tensor) -> bool:
    """Tell whether no value is NaN or infinite."""
    values = values.detach()
    # a sum is cheaper than a mask, and finite only if every term is
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


def as_times(times: Tensor | list[float]) -> Tensor:
    """Return increasing float64 times, or refuse them."""
    when = torch.as_tensor(times, dtype=torch.float64)
    if when.dim() != 1 or when.numel() == 0 or not bool((when.diff() > 0).all()):
        raise ValueError(f"times must be a list of strictly increasing numbers; got {times!r}")
    return when


def closed(gate: Tensor) -> bool:
    """Tell whether the value of a gate is exactly zero, and is not differentiated there."""
    return gate.dim() == 0 and not gate.requires_grad and float(gate) == 0.0
