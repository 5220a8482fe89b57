"""Dense output: the interpolants of all steps of a run as one function of time."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsigprop.solvers.base import Layout, State
from ctsigprop.solvers.explicit.onestep import Step, interpolate

__all__ = ["Interpolant"]


class Interpolant:
    """The solution at any time of the span, differentiable in the time.

    Parameters
    ----------
    layout : Layout
        How the state packs into rows.
    y0 : Tensor
        The start, ``(samples, size)``.
    steps : list of Step
        In order; a step that a sample had to repeat is followed by one from the same time.
    start, end, sign : Tensor
        Where each sample began, how far it came, and in which direction, ``(samples,)``.
    """

    def __init__(
        self,
        layout: Layout,
        y0: Tensor,
        steps: list[Step],
        start: Tensor,
        end: Tensor,
        sign: Tensor,
    ) -> None:
        self.layout = layout
        self.y0 = y0
        self.dense = steps[0].dense if steps else None
        self.start, self.end, self.sign = start.detach(), end.detach(), sign
        if steps:
            self.t = torch.stack([step.t for step in steps])
            self.h = torch.stack([step.h for step in steps])
            self.y = torch.stack([step.y for step in steps])
            self.stages = torch.stack([step.stages for step in steps], dim=1)
            self.knots = (self.t.detach() * sign).T.contiguous()

    def __call__(self, t: Tensor) -> State:
        """Return every variable at times `t`, as ``(k, *batch, *dims)``.

        Parameters
        ----------
        t : Tensor
            float64, ``(k,)``, or ``(*batch, k)`` for times of each sample's own.

        Raises
        ------
        ValueError
            If a time lies outside the span, or after the end of a sample that an event stopped.
        """
        samples = len(self.y0)
        own = (*self.layout.batch, t.shape[-1]) if t.dim() else ()
        if t.dim() != 1 and (t.shape != own or self.layout.coupled):
            raise ValueError(f"t must be of shape (k,) or (*batch, k), got {tuple(t.shape)}")
        times = t.to(device=self.y0.device, dtype=torch.float64).reshape(-1, t.shape[-1])
        times = times.expand(samples, -1)
        self._require_inside(times.detach())
        if self.dense is None:
            return self.layout.unpack(self.y0.expand(t.shape[-1], *self.y0.shape))
        wanted = (times.detach() * self.sign[:, None]).contiguous()
        index = (torch.searchsorted(self.knots, wanted) - 1).clamp(min=0)
        sample = torch.arange(samples, device=times.device)[:, None].expand_as(index)
        index, sample = index.reshape(-1), sample.reshape(-1)
        h = self.h[index, sample]
        theta = (times.reshape(-1) - self.t[index, sample]) / torch.where(h == 0, 1.0, h)
        stages = self.stages[:, index, sample]
        values = interpolate(self.y[index, sample], h, stages, theta, self.dense)
        return self.layout.unpack(values.reshape(samples, t.shape[-1], -1).transpose(0, 1))

    def _require_inside(self, times: Tensor) -> None:
        sign = self.sign[:, None]
        inside = (times * sign >= (self.start * self.sign)[:, None]) & (
            times * sign <= (self.end * self.sign)[:, None]
        )
        if not bool(inside.all()):
            sample, k = (int(i) for i in torch.nonzero(~inside)[0])
            raise ValueError(
                f"t={float(times[sample, k]):g} is outside the span that was integrated, "
                f"[{float(self.start[sample]):g}, {float(self.end[sample]):g}]"
                + (f" in sample {sample}" if len(times) > 1 else "")
            )
