"""What a network steps: variables as they are, and weights by their factors."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctsigprop.solvers.native.tape import Value

__all__ = ["Lazy", "Variable", "Weights"]


@dataclass(frozen=True)
class Variable:
    """A variable that is stepped as it is: its place in the state, its length, its kind."""

    name: str
    place: int
    n: int
    matrix: bool


@dataclass
class Weights:
    """A matrix of weights that is stepped by its factors (`explicit.structured`).

    `moving` is the length of d and of the columns of M, `staying` that of the columns of F. Columns
    of F that are held between jumps are needed once, others once for each stage.
    """

    name: str
    post: int
    pre: int
    by_row: bool
    held: list[tuple[Value, Value]] = field(default_factory=list)  # moving and staying factors
    new: list[tuple[Value, Value]] = field(default_factory=list)
    decay: Value | None = None
    known: Value | None = None  # W_0 times the new columns, where the currents took it
    drives: list[tuple[Value, int]] = field(default_factory=list)  # held x, and where W_0 x goes

    @property
    def moving(self) -> int:
        """The length of d."""
        return self.post if self.by_row else self.pre

    @property
    def staying(self) -> int:
        """The length of the columns that stay."""
        return self.pre if self.by_row else self.post


@dataclass(frozen=True)
class Lazy:
    """An instruction that depends on the columns in use: W x, or the factors of the rules."""

    weights: Weights
    x: Value | None = None
    d: int = 0
    u: int = 0
