"""Steps kept by where they begin, and repeated in the backward pass: gradients in flat memory.

Up to a limit the graph of every evaluation is kept, which is fastest. Beyond it a step is one node
of the graph, which holds the step's start; its gradient is that of the step taken again. What else
a step depends on (parameters, signals, tensors in a closure) is read off the graph of one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ctsigprop.errors import GradientError
from ctsigprop.solvers.base import Problem

__all__ = ["Checkpoints"]

MIB = 2**20
UNMEASURED = 16  # steps of a small state before their memory is looked at
SMALL = 10_000  # numbers in a state
UPSTREAM = 10_000  # nodes that are searched behind a tensor that was computed before the run

Body = Callable[..., tuple[Any, ...]]


@final
class Checkpoints:
    """Decides for each step of a run whether its graph is kept or the step is repeated.

    Parameters
    ----------
    problem : Problem
        What is integrated.
    limit : float
        Memory of the graph that is kept, in MiB, before steps are repeated.
    """

    def __init__(self, problem: Problem, limit: float) -> None:
        self.problem, self.limit = problem, limit * MIB
        self.statistics = problem.recorder.statistics
        system = problem.system
        if limit == math.inf or not torch.is_grad_enabled() or (system and system.delay):
            self.limit = math.inf  # nothing is kept, or the past is part of the graph
        self.spent = self.limit == 0
        self.large = sum(y.numel() for y in problem.y0.values()) > SMALL
        self.of_step = 0  # bytes, once measured
        self.sources: tuple[Tensor, ...] | None = None
        self.edges: frozenset[tuple[Node, int]] = frozenset()

    def call(self, body: Body, kept: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return ``body(*inputs)``, repeated for its gradient if the limit is reached.

        The first `kept` outputs must come out the same when it is repeated.
        """
        if self.spent and torch.is_grad_enabled():
            if self.sources is None:
                self._find_sources(body, inputs)
            if self.sources is not None:
                self.statistics.repeated += 1
                every = (*inputs, *self.sources)
                outputs: tuple[Tensor, ...] = _Repeated.apply(  # type: ignore[no-untyped-call]
                    self, body, kept, len(inputs), *every
                )
                return outputs
        return body(*inputs)

    def taped(self, evaluations: int, evaluate: Callable[[], object]) -> None:
        """Count a step whose graph is kept; `evaluate` takes one of its evaluations."""
        if self.limit == math.inf:
            return
        self.statistics.taped += 1
        if not self.of_step and (self.large or self.statistics.taped >= UNMEASURED):
            self.of_step = evaluations * max(1, self._measure(evaluate))
        self.spent = self.of_step * self.statistics.taped >= self.limit

    def pull(
        self,
        body: Body,
        inputs: Sequence[Tensor],
        before: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        *,
        again: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients in the inputs and sources; `before` is what came out at first."""
        with torch.enable_grad(), self._uncounted():
            outputs = body(*inputs)
        for new, old in zip(outputs, before, strict=False):
            _require_same(new, old)
        pairs = [
            (output, grad)
            for output, grad in zip(outputs, grads, strict=True)
            if grad is not None and output is not None and output.requires_grad
        ]
        wanted = [*inputs, *(self.sources or ())]
        where = [i for i, x in enumerate(wanted) if x.requires_grad]
        found: list[Tensor | None] = [None] * len(wanted)
        if pairs and where:
            self._require_known([output for output, _ in pairs], inputs)
            values = torch.autograd.grad(
                [output for output, _ in pairs],
                [wanted[i] for i in where],
                [grad for _, grad in pairs],
                create_graph=again,
                allow_unused=True,
            )
            for i, value in zip(where, values, strict=True):
                found[i] = value
        return tuple(found)

    def pulling(self, body: Body, count: int, present: Sequence[bool]) -> Body:
        """Return `pull` as a function of the inputs, and of the gradients that are present."""

        def pulled(*values: Tensor) -> tuple[Tensor | None, ...]:
            again = torch.is_grad_enabled()
            given = iter(values[count:])
            grads = [next(given) if there else None for there in present]
            inputs: Sequence[Tensor] = values[:count]
            if not again:
                inputs = _fresh(inputs, [x.requires_grad for x in inputs])
            return self.pull(body, inputs, (), grads, again=again)

        return pulled

    def _measure(self, evaluate: Callable[[], object]) -> int:
        """Return the bytes that the graph of one evaluation keeps."""
        own = {x.untyped_storage().data_ptr() for x in self._registered()}
        kept: list[list[Tensor]] = []

        def pack(x: Tensor) -> list[Tensor]:
            kept.append([x])
            return kept[-1]

        with torch.enable_grad(), self._uncounted(), saved_tensors_hooks(pack, itemgetter(0)):
            evaluate()
        storages = [x.untyped_storage() for (x,) in kept if not (x.is_leaf and x.requires_grad)]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        for holder in kept:
            holder.clear()  # an output holds on to itself
        return sum(size for place, size in sizes.items() if place not in own)

    def _registered(self) -> Iterator[Tensor]:
        for module in (self.problem.system, *self.problem.inputs.values()):
            if module is not None:
                yield from module.parameters()
                yield from module.buffers()

    def _find_sources(self, body: Body, inputs: Sequence[Tensor]) -> None:
        """Find what a step depends on besides its inputs; without all of it, keep the graph."""
        found = None if _transformed(inputs) else self._probe(body, inputs)
        if found is None:
            self.limit, self.spent = math.inf, False
            return
        self.sources = tuple(found)
        self.edges = frozenset(_edge(x) for x in found if not x.is_leaf)

    def _probe(self, body: Body, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        starts = [x.detach().requires_grad_() for x in inputs]
        born = cast("Node", (starts[0] * 1).grad_fn)._sequence_nr()
        random = _random_states(inputs)
        with torch.enable_grad(), self._uncounted(), _Seen() as seen:
            outputs = body(*starts)
        if any(not torch.equal(a, b) for a, b in zip(random, _random_states(inputs), strict=True)):
            torch.set_rng_state(random[0])
            if inputs[0].is_cuda:
                torch.cuda.set_rng_state(random[1], inputs[0].device)
            return None  # other numbers would be drawn
        leaves, edges = _boundary(outputs, born)
        own = {id(x) for x in starts}
        sources = {id(x): x for x in self._registered() if x.requires_grad and x.is_leaf}
        for leaf in leaves:
            if id(leaf) in own:
                continue
            if id(leaf) in seen.made:
                return None  # a leaf of this evaluation alone
            sources[id(leaf)] = leaf
        computed = {_edge(x): x for x in (*seen.given.values(), *self._registered()) if x.grad_fn}
        if not edges <= computed.keys():
            return None
        behind = _upstream(node for node, _ in edges)
        if behind is None or any(node in behind for node, _ in edges):
            return None  # the way from one source to another would count twice
        used = {id(leaf) for leaf in leaves}
        for node in behind:
            variable = getattr(node, "variable", None)
            if sources.pop(id(variable), None) is not None and id(variable) in used:
                return None
        return [*sources.values(), *(computed[edge] for edge in edges)]

    def _require_known(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Refuse a step that depends on what the first one did not."""
        known = {id(x) for x in (*inputs, *(self.sources or ()))}
        stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
        seen = set(stack)
        while stack:
            node = stack.pop()
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in known:
                raise GradientError(
                    "a step depends on a tensor that requires a gradient, of shape "
                    f"{tuple(leaf.shape)}, that the field did not read at the start, so that its "
                    "gradient would be lost: make it a parameter of a module, or keep the whole "
                    "graph with tape=float('inf')"
                )
            for edge in node.next_functions:
                parent = edge[0]
                if parent is not None and parent not in seen and edge not in self.edges:
                    seen.add(parent)
                    stack.append(parent)

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        evaluations = self.statistics.evaluations
        try:
            yield
        finally:
            self.statistics.evaluations = evaluations


class _Repeated(torch.autograd.Function):
    """A step, or a gradient of one, as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, run: Checkpoints, body: Body, kept: int, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = body(*tensors[:count])
        ctx.run, ctx.body, ctx.count = run, body, count
        ctx.save_for_backward(*tensors, *outputs[:kept])
        ctx.size = len(tensors)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        tensors, before = saved[: ctx.size], saved[ctx.size :]
        needed = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            # derivatives of it are to be taken: it is a body in its turn
            given = [g for g in grads if g is not None]
            body = ctx.run.pulling(ctx.body, ctx.count, [g is not None for g in grads])
            every = (*tensors[: ctx.count], *given, *tensors[ctx.count :])
            found = _Repeated.apply(  # type: ignore[no-untyped-call]
                ctx.run, body, 0, ctx.count + len(given), *every
            )
        else:
            inputs = _fresh(tensors[: ctx.count], needed)
            found = ctx.run.pull(ctx.body, inputs, before, grads)
        return (None, None, None, None, *found)


class _Seen(TorchFunctionMode):
    """Notes the tensors that go into operations, and those that come out."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        kwargs = kwargs or {}
        self.given |= {id(x): x for x in _tensors((args, kwargs)) if x.requires_grad}
        result = func(*args, **kwargs)
        self.made |= {id(x): x for x in _tensors(result) if id(x) not in self.given}
        return result


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        yield from _tensors(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _tensors(item)


def _fresh(tensors: Sequence[Any], needed: Sequence[bool]) -> list[Tensor]:
    return [x.detach().requires_grad_(need) for x, need in zip(tensors, needed, strict=False)]


def _edge(x: Tensor) -> tuple[Any, int]:
    return x.grad_fn, x.output_nr


def _boundary(outputs: Iterable[Tensor], born: int) -> tuple[list[Tensor], set[tuple[Any, int]]]:
    """Return the leaves of a graph, and the edges that lead to what was there before it."""
    leaves = [x for x in outputs if x.is_leaf and x.requires_grad]
    stack = [_edge(x) for x in outputs if x.grad_fn is not None]
    seen, edges = set(stack), set()
    while stack:
        edge = stack.pop()
        node = edge[0]
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        elif node._sequence_nr() < born:
            edges.add(edge)
        else:
            fresh = {e for e in node.next_functions if e[0] is not None} - seen
            seen |= fresh
            stack.extend(fresh)
    return leaves, edges


def _upstream(nodes: Iterable[Node]) -> set[Node] | None:
    """Return every node behind some nodes, or None where there are too many."""
    stack, seen = list(nodes), set()
    while stack:
        for parent, _ in stack.pop().next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
        if len(seen) > UPSTREAM:
            return None
    return seen


def _transformed(inputs: Iterable[Tensor]) -> bool:
    """Tell whether forward-mode or functional derivatives are being taken."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return True
    return any(unpack_dual(x).tangent is not None for x in inputs)  # type: ignore[no-untyped-call]


def _random_states(inputs: Sequence[Tensor]) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if inputs[0].is_cuda:
        states.append(torch.cuda.get_rng_state(inputs[0].device))
    return states


def _require_same(new: Tensor, old: Tensor) -> None:
    """Refuse the gradient of a step that has come out otherwise than before."""
    new = new.detach()
    apart = (new - old).abs().max() if new.numel() else new.new_zeros(())
    if float(apart) == 0:
        return
    size = torch.maximum(old.abs().max(), new.abs().max())
    if not bool(apart <= math.sqrt(torch.finfo(new.dtype).eps) * size):
        raise GradientError(
            "a step came out otherwise when it was repeated for its gradient: the field has "
            "changed since, or draws random numbers; keep the whole graph with tape=float('inf')"
        )
