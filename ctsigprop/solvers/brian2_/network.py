"""Brian2's objects for a system: groups of neurons, and synapses between them.

Everything is dimensionless. Brian2's clock counts steps: one step is one second of Brian2, and the
derivatives are multiplied by the length h of the step in the system's time unit, so that steps may
have any length and outputs are landed on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Group", "Link", "Network", "Place"]

_CLOCK = """\
h : 1 (shared)
begin : 1 (shared)
step : 1 (shared)
c = t/second - step : 1
time = begin + h*c : 1"""

# Brian2's methods look at c = 0, 1/2 and 1, where the parabola is exact
_PARABOLA = "{0} = {0}_0*(1 - c)*(1 - 2*c) + {0}_1*4*c*(1 - c) + {0}_2*c*(2*c - 1) : 1"


@dataclass
class Equated:
    """What groups and links have in common: lines of equations, and values at the start."""

    text: list[str] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)

    def declare(self, name: str, value: Tensor) -> None:
        """Add a constant: a number, or one for each element."""
        self.text.append(f"{name} : 1 ({'constant' if value.dim() else 'constant, shared'})")
        self.values[name] = value

    def fill(self, made: Any) -> None:
        """Set the values of the object that Brian2 has made."""
        for name, value in self.values.items():
            made.variables[name].get_value()[:] = value.detach().cpu().reshape(-1).numpy()


@dataclass
class Group(Equated):
    """A NeuronGroup, with the samples of a batch side by side; values are ``(samples, size)``.

    Attributes
    ----------
    size : int
        Units of one sample.
    driven : dict of str to callable
        Functions of time alone, ``(samples, size)``; their values at the three points of a step
        are called ``<name>_0``, ``<name>_1`` and ``<name>_2``.
    """

    size: int = 1
    driven: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def drive(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        """Add a quantity that depends on time alone."""
        self.text += [f"{name}_{i} : 1" for i in range(3)] + [_PARABOLA.format(name)]
        self.driven[name] = function

    def build(self, brian2: Any, name: str, samples: int, **options: Any) -> Any:
        """Return the NeuronGroup."""
        model = "\n".join([_CLOCK, *self.text])
        made = brian2.NeuronGroup(samples * self.size, model, name=name, namespace={}, **options)
        self.fill(made)
        return made


@dataclass
class Link(Equated):
    """A Synapses object, all to all within each sample; values are ``(samples, post, pre)``."""

    pre: str = ""
    post: str = ""
    shape: tuple[int, int, int] = (1, 1, 1)

    def put(self, name: str, value: Tensor) -> None:
        """Start a state variable; constants are declared."""
        self.values[name] = value.expand(self.shape)

    def build(self, brian2: Any, name: str, groups: dict[str, Any], **options: Any) -> Any:
        """Return the Synapses object, connected in the order of the values."""
        pair = groups[self.pre], groups[self.post]
        made = brian2.Synapses(*pair, "\n".join(self.text), name=name, namespace={}, **options)
        _, size, width = self.shape
        sample, post, pre = np.indices(self.shape).reshape(3, -1)
        made.connect(i=pre + width * sample, j=post + size * sample)
        self.fill(made)
        return made


@dataclass(frozen=True)
class Place:
    """Where a state variable lives: an object's variables, stacked if they are several.

    A variable of one side is kept at every synapse; `index` picks one copy.
    """

    owner: str
    variables: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[slice | int, ...] = ()


@dataclass
class Network:
    """All objects by name, and where each state variable is found."""

    samples: int
    groups: dict[str, Group] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def build(self, brian2: Any, **options: Any) -> dict[str, Any]:
        """Return Brian2's objects by name."""
        groups = {
            name: group.build(brian2, name, self.samples, **options)
            for name, group in self.groups.items()
        }
        return groups | {
            name: link.build(brian2, name, groups, **options) for name, link in self.links.items()
        }
