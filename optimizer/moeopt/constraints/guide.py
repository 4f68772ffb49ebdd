"""What constraints on the placement tell a search beforehand: plain ceilings, and how far a placement is from obeying.

Neither is trusted by a proof: a ceiling is the constraint itself, and a placement is judged by `placements.obeys`.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import maximum, minimum
from moeopt.constraints.evaluate import Placed, Reader, calculated, pick
from moeopt.constraints.intervals import Floors, possible
from moeopt.constraints.rules import trees
from moeopt.constraints.tree import Arithmetic, Comparison, Every, Item, Name, Number, Numeric, Some, Truth, items
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

Array = NDArray[Any]
_UNIT = 2**26
"""Weight of one layer too many beside bytes too many."""


def ceilings(problem: Problem) -> tuple[int, int | None]:
    """(bytes of the fullest GPU, nanoseconds of a step) that no layout may exceed: memory, and constraints that say it
    in so many words."""
    memory, time = problem.memory_limit, None
    for tree in trees(problem).values():
        for name, value in _plain_ceilings(tree):
            if name == "peak_memory":
                memory = min(memory, value)
            else:
                time = value if time is None else min(time, value)
    return memory, time


def _plain_ceilings(node: Truth) -> Iterator[tuple[str, int]]:
    """`peak_memory <= 60GiB` or `step_time < 12s`, alone or joined by `and`."""
    if isinstance(node, Every):
        for part in node.parts:
            yield from _plain_ceilings(part)
    if not isinstance(node, Comparison):
        return
    item, value = (node.left, node.right) if node.operator in ("<", "<=") else (node.right, node.left)
    whole = isinstance(item, Item) and item.stage in ("all", "max") and item.name in ("peak_memory", "step_time")
    if whole and isinstance(item, Item) and isinstance(value, Number):
        yield item.name, int(value.value) - (node.operator in ("<", ">"))


def sequence_ceilings(problem: Problem) -> list[Fraction]:
    """Where the batch is open: nanoseconds that no step may exceed for each sequence of its batch, by constraints that
    say it in so many words, as a least number of tokens a second does (`problem.targets`)."""
    if problem.workload.batches.exact:
        return []
    found = [_sequence_ceiling(tree) for tree in trees(problem).values()]
    return [ns for ns in found if ns is not None]


def _sequence_ceiling(node: Truth) -> Fraction | None:
    """`step_time * 3 <= global_batch_size * 5ms`, with or without the first factor."""
    if not isinstance(node, Comparison) or node.operator != "<=":
        return None
    (step, times), (batch, each) = _product(node.left), _product(node.right)
    timed = isinstance(step, Item) and step.name == "step_time"
    if not timed or batch != Name("global_batch_size", "integer") or times <= 0:
        return None
    return each / times


def _product(node: Numeric) -> tuple[Numeric, Fraction]:
    """Something times a plain number."""
    if isinstance(node, Arithmetic) and node.operator == "*" and isinstance(node.right, Number):
        return node.left, Fraction(node.right.value)
    return node, Fraction(1)


def allowed(problem: Problem, degrees: Degrees, choices: Choices, time_ns: Array, memory_bytes: Array) -> Array:
    """Rows (columns of degrees) for which some placement may satisfy the constraints, given bounds on its time and on
    the bytes of its fullest GPU."""
    mask = np.ones(len(degrees.pp), dtype=bool)
    reader, floors = Reader(degrees, choices), Floors(memory_bytes, time_ns)
    for tree in trees(problem).values():
        if items(tree):
            mask &= np.asarray(possible(problem, reader, tree, floors))
    return mask & _on_possible_grids(problem, degrees)


def _on_possible_grids(problem: Problem, degrees: Degrees) -> Array:
    """Rows whose grid has a placement under the constraints on layers alone: one small solve a grid."""
    from moeopt.cpsat.constraints import grid_possible, on_layers_alone

    if not on_layers_alone(problem):
        return np.ones(len(degrees.pp), dtype=bool)
    grids, origin = np.unique(np.stack([degrees.pp, degrees.vpp], axis=1), axis=0, return_inverse=True)
    answers = np.array([grid_possible(problem, int(pp), int(vpp)) for pp, vpp in grids], dtype=bool)
    return np.asarray(answers[origin.reshape(-1)])


class Excess:
    """How far placements of one candidate are from obeying the constraints, as bytes: 0 where they do (time apart)."""

    def __init__(self, problem: Problem, degrees: Degrees, choices: Choices) -> None:
        self.wanted = [tree for tree in trees(problem).values() if items(tree)]
        self.reader = Reader(degrees, choices)
        self.pp = degrees.pp

    def __bool__(self) -> bool:
        return bool(self.wanted)

    def of(self, counts: Array, mtp_counts: Sequence[int], rank_bytes: Array) -> Array:
        """A column: one row of `counts` (layers a stage, in model order) and of `rank_bytes` a placement."""
        by_chunk: list[Any] = [
            [counts[:, stage] for stage in range(rank, counts.shape[1], self.pp)] for rank in range(self.pp)
        ]
        by_rank: list[Any] = list(rank_bytes.T)
        mtp = [list(mtp_counts[rank :: self.pp]) for rank in range(self.pp)]
        values = _Columns(by_chunk, mtp, by_rank, 0)
        total = np.zeros(len(counts), dtype=np.int64)
        for tree in self.wanted:
            total = total + self._beyond(tree, values)
        return total

    def _beyond(self, node: Truth, values: "_Columns") -> Any:
        if isinstance(node, Comparison) and items(node):
            if any(item.name == "step_time" for item in items(node)):
                return 0
            distance = _distance(node.operator, self._number(node.left, values), self._number(node.right, values))
            return distance if node.left.kind == "bytes" else distance * _UNIT
        if isinstance(node, Every):
            return sum(self._beyond(part, values) for part in node.parts)
        if isinstance(node, Some):
            first, *rest = (self._beyond(part, values) for part in node.parts)
            return minimum(first, *rest)
        return 0 if self.reader.holds(node) else 2**40

    def _number(self, node: Numeric, values: "_Columns") -> Any:
        if isinstance(node, Item):
            return values.read(node)
        if not isinstance(node, Arithmetic) or not items(node):
            return self.reader.number(node)
        return calculated(node.operator, self._number(node.left, values), self._number(node.right, values))


class _Columns(Placed):
    """A placement's numbers as columns."""

    def read(self, item: Item) -> Any:
        """The column that an item asks for."""
        by_stage: Sequence[Any] = self.peak_bytes
        if item.name != "peak_memory":
            held = self.layers if item.name == "layers" else self.mtp
            by_stage = [sum(chunks) if item.chunk is None else pick(chunks, item.chunk) for chunks in held]
        if isinstance(item.stage, int):
            return pick(by_stage, item.stage)
        first, *rest = by_stage
        return minimum(first, *rest) if item.stage == "min" else maximum(first, *rest)


def _distance(operator: str, left: Any, right: Any) -> Any:
    if operator in (">", ">="):
        left, right, operator = right, left, {">": "<", ">=": "<="}[operator]
    above = left - right
    if operator == "<":
        above = above + 1
    if operator in ("<", "<="):
        return maximum(above, 0)
    return abs(above) if operator == "==" else np.asarray(above == 0, dtype=np.int64)
