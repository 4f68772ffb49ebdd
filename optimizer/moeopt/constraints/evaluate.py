"""One reader of a tree: with Python integers (evaluate), or with int64 columns (the sweep).

Division is whole for every number: x // 0 is 0 and x % 0 is x, so that x = d * (x // d) + x % d always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeopt.arithmetic import Number as Value
from moeopt.arithmetic import both, either, is_column, where
from moeopt.constraints.names import read_choice
from moeopt.constraints.tree import (
    Among,
    Chosen,
    Comparison,
    Every,
    Item,
    Name,
    Number,
    Numeric,
    Truth,
)
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import PipelineLayout

_LARGEST = 2**62
"""Above it columns turn to Python's integers: slower, and never wrong."""


@dataclass(frozen=True)
class Placed:
    """Layers and MTP modules by stage (pipeline rank) and chunk, bytes by stage, and the time of a step."""

    layers: Sequence[Sequence[int]]
    mtp: Sequence[Sequence[int]]
    peak_bytes: Sequence[int]
    step_ns: int

    @classmethod
    def of(cls, pipeline: PipelineLayout, peak_bytes: Sequence[int], step_ns: int) -> "Placed":
        """From a pipeline layout and what the ledger says of it."""
        ranks = [pipeline.of_rank(rank) for rank in range(pipeline.pp)]
        return cls(
            [[chunk.layers for chunk in chunks] for chunks in ranks],
            [[chunk.mtp for chunk in chunks] for chunks in ranks],
            peak_bytes,
            step_ns,
        )

    def read(self, item: Item) -> int:
        """The number that an item asks for; 0 of a stage or a chunk that the layout does not have."""
        if item.name == "step_time":
            return self.step_ns
        by_stage = self.peak_bytes
        if item.name != "peak_memory":
            held = self.layers if item.name == "layers" else self.mtp
            by_stage = [_at(chunks, item.chunk) for chunks in held]
        if item.stage == "min":
            return min(by_stage)
        return max(by_stage) if isinstance(item.stage, str) else pick(by_stage, item.stage)


def _at(chunks: Sequence[int], chunk: int | None) -> int:
    return sum(chunks) if chunk is None else pick(chunks, chunk)


def pick(values: Sequence[Any], index: int) -> Any:
    """The value at an index, counted from the end where negative; 0 where there is none."""
    return values[index] if -len(values) <= index < len(values) else 0


@dataclass(frozen=True)
class Reader:
    """Reads trees for one layout, or for columns of them.

    Without a placement, only trees that ask for none can be read (`intervals.possible` reads the others).
    """

    degrees: Degrees
    choices: Choices
    placed: Placed | None = None

    def holds(self, node: Truth) -> Value:
        """Whether the tree holds: a bool, or a boolean column."""
        if isinstance(node, Comparison):
            return _compared(node.operator, self.number(node.left), self.number(node.right))
        if isinstance(node, Chosen):
            return (read_choice(self.choices, node.name) == node.value) == node.equal
        if isinstance(node, Among):
            return (node.word in read_choice(self.choices, node.name)) == node.inside
        parts = [self.holds(part) for part in node.parts]
        return both(*parts) if isinstance(node, Every) else either(*parts)

    def number(self, node: Numeric) -> Value:
        """The value of a number."""
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Name):
            return self.named(node.name)
        if isinstance(node, Item):
            assert self.placed is not None
            return self.placed.read(node)
        return calculated(node.operator, self.number(node.left), self.number(node.right))

    def named(self, name: str) -> Value:
        """A degree or a number among the choices."""
        if name == "global_batch_size":
            return self.degrees.batch
        if name == "gpus" or name in Degrees.__dataclass_fields__:
            return getattr(self.degrees, name)
        return read_choice(self.choices, name)


def calculated(operator: str, left: Value, right: Value) -> Value:
    """One operation, exact: integers of any size, and columns that turn to Python's integers before they overflow."""
    if is_column(left) or is_column(right):
        left, right = _roomy(operator, left, right)
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    safe = where(right == 0, 1, right)
    if operator == "//":
        return where(right == 0, 0, left // safe)
    return where(right == 0, left, left % safe)


def _roomy(operator: str, left: Value, right: Value) -> tuple[Value, Value]:
    first, second = _magnitude(left), _magnitude(right)
    most = first * second if operator == "*" else first + second
    if most < _LARGEST:
        return left, right
    return _unbounded(left), _unbounded(right)


def _magnitude(value: Value) -> int:
    if not is_column(value):
        return int(abs(value)) + 1
    return max(abs(int(value.min())), abs(int(value.max()))) if value.size else 0


def _unbounded(value: Value) -> Value:
    return value.astype(object) if is_column(value) else value


def _compared(operator: str, left: Value, right: Value) -> Value:
    result = {
        "<=": lambda: left <= right,
        "<": lambda: left < right,
        ">=": lambda: left >= right,
        ">": lambda: left > right,
        "==": lambda: left == right,
        "!=": lambda: left != right,
    }[operator]()
    return np.asarray(result, dtype=bool) if is_column(result) else bool(result)
