"""A constraint with a layout's numbers written into it: what a verdict shows."""

from fractions import Fraction
from typing import Any

from moeopt.constraints.evaluate import Reader
from moeopt.constraints.names import read_choice
from moeopt.constraints.tree import (
    Among,
    Chosen,
    Comparison,
    Every,
    Item,
    Kind,
    Name,
    Number,
    Numeric,
    Truth,
)
from moeopt.units import format_bytes, format_ns


def equation(node: Truth, reader: Reader, inner: bool = False) -> str:
    """`tp 4 * cp 4 <= 8`: every name followed by its value."""
    if isinstance(node, Comparison):
        return f"{_numeric(node.left, reader)} {node.operator} {_numeric(node.right, reader)}"
    if isinstance(node, Chosen):
        value = _plain(read_choice(reader.choices, node.name))
        wanted = _plain(node.value)
        return f"{node.name} {value}, must {'be' if node.equal else 'not be'} {wanted}"
    if isinstance(node, Among):
        held = read_choice(reader.choices, node.name)
        return f"recompute [{', '.join(held)}], must {'' if node.inside else 'not '}hold {node.word}"
    joined = (" and " if isinstance(node, Every) else " or ").join(equation(part, reader, True) for part in node.parts)
    return f"({joined})" if inner else joined


def _numeric(node: Numeric, reader: Reader, inner: bool = False) -> str:
    if isinstance(node, Number):
        return node.text
    if isinstance(node, Name):
        return f"{node.name} {_plain(reader.named(node.name))}"
    if isinstance(node, Item):
        return item_text(node) + ("" if reader.placed is None else f" {_shown(reader.placed.read(node), node.kind)}")
    if node.operator == "-" and node.left == Number(0, node.kind, "0"):
        return f"-{_numeric(node.right, reader, True)}"
    text = f"{_numeric(node.left, reader, True)} {node.operator} {_numeric(node.right, reader, True)}"
    return f"({text})" if inner else text


def item_text(item: Item) -> str:
    """`layers[0, 1]`, `max(layers)`, `step_time`."""
    if item.stage == "all":
        return item.name
    if isinstance(item.stage, str):
        return f"{item.stage}({item.name})"
    return f"{item.name}[{item.stage}{'' if item.chunk is None else f', {item.chunk}'}]"


def _shown(value: int, kind: Kind) -> str:
    if kind == "bytes":
        return f"{value} bytes ({format_bytes(value)})"
    return f"{value} ns ({format_ns(value)})" if kind == "duration" else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, Fraction):
        return f"{float(value):g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
