"""What a constraint on the placement rules out before anything is placed: the range of each number, for any placement.

A stage that the layout does not have holds 0 layers and 0 bytes; a pipeline of one stage holds all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from moeopt.arithmetic import Number as Value
from moeopt.arithmetic import both, ceil_div, either, maximum, minimum, negate, where
from moeopt.constraints.evaluate import Reader, calculated
from moeopt.constraints.tree import Arithmetic, Comparison, Every, Item, Numeric, Some, Truth, items
from moeopt.problem.problem import Problem

Range: TypeAlias = tuple[Value, Value]
_MOST = 2**50
"""Above any number of bytes or nanoseconds."""


@dataclass(frozen=True)
class Floors:
    """What no placement goes below: bytes of the fullest GPU and nanoseconds of a step."""

    memory_bytes: Value = 0
    time_ns: Value = 0


def possible(problem: Problem, reader: Reader, node: Truth, floors: Floors | None = None) -> Value:
    """Whether some placement may satisfy the tree: a bool or a boolean column, false only where none does."""
    floors = floors or Floors()
    if isinstance(node, (Every, Some)):
        parts = [possible(problem, reader, part, floors) for part in node.parts]
        return both(*parts) if isinstance(node, Every) else either(*parts)
    if not isinstance(node, Comparison) or not items(node):
        return reader.holds(node)
    (low, high), (least, most) = (_range(problem, reader, side, floors) for side in (node.left, node.right))
    answers: dict[str, Callable[[], Value]] = {
        "<=": lambda: low <= most,
        "<": lambda: low < most,
        ">=": lambda: high >= least,
        ">": lambda: high > least,
        "==": lambda: both(low <= most, high >= least),
        "!=": lambda: negate(both(low == most, high == least)),
    }
    return answers[node.operator]()


def degrees_read(node: Truth) -> tuple[str, ...]:
    """The degrees that say which stages and chunks there are, where the tree asks for one."""
    asked = items(node)
    return ("pp", "vpp") if any(item.chunk is not None for item in asked) else ("pp",) if asked else ()


def _range(problem: Problem, reader: Reader, node: Numeric, floors: Floors) -> Range:
    if isinstance(node, Item):
        return _item(problem, reader, node, floors)
    if not isinstance(node, Arithmetic) or not items(node):
        value = reader.number(node)
        return value, value
    left, right = (_range(problem, reader, side, floors) for side in (node.left, node.right))
    operator = node.operator
    if operator == "+":
        return calculated("+", left[0], right[0]), calculated("+", left[1], right[1])
    if operator == "-":
        return calculated("-", left[0], right[1]), calculated("-", left[1], right[0])
    if operator == "*":
        ends = [calculated("*", one, other) for one in left for other in right]
        return minimum(*ends), maximum(*ends)
    return -_MOST, _MOST


def _item(problem: Problem, reader: Reader, item: Item, floors: Floors) -> Range:
    pp, vpp = reader.degrees.pp, reader.degrees.vpp
    if item.name == "step_time":
        return floors.time_ns, _MOST
    if item.name == "peak_memory" and item.stage in ("all", "max"):
        return floors.memory_bytes, _MOST
    whole = {"layers": problem.architecture.num_hidden_layers, "mtp": problem.mtp_layers}.get(item.name, _MOST)
    exact = item.name in ("layers", "mtp")
    if item.stage == "max":
        return (where(pp == 1, whole, ceil_div(whole, pp)), whole) if exact else (0, whole)
    if item.stage == "min":
        return (where(pp == 1, whole, 0), whole // pp) if exact else (0, whole)
    assert isinstance(item.stage, int)
    there, alone = _inside(item.stage, pp), pp == 1
    if item.name == "mtp":  # never on the first stage of several, so on the second of two
        first = either(item.stage == 0, pp == -item.stage)
        there, alone = both(there, either(pp == 1, negate(first))), pp <= 2
    if item.chunk is not None:
        there, alone = both(there, _inside(item.chunk, vpp)), both(alone, vpp == 1)
    return where(both(there, alone), whole if exact else floors.memory_bytes, 0), where(there, whole, 0)


def _inside(index: int, count: Value) -> Value:
    return count > index if index >= 0 else count >= -index
