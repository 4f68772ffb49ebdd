"""What an expression is made of, once its kinds are checked. No node knows how it is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["integer", "fraction", "bytes", "duration"]
"""What a number counts: `duration` in nanoseconds."""
Quantity: TypeAlias = Literal["layers", "mtp", "peak_memory", "step_time"]
"""Numbers that exist only once layers are placed."""
OPPOSITE = {"<=": ">", ">": "<=", "<": ">=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True)
class Number:
    """A number as written, in bytes or nanoseconds where it has a unit."""

    value: int | Fraction
    kind: Kind
    text: str


@dataclass(frozen=True)
class Name:
    """A degree, or a number among the choices (`optimizer.instances`)."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Item:
    """A number of the placement: of one stage (negative: from the last), of one chunk of it, or over all stages.

    `stage` "all" is the layout's own figure (step_time; peak_memory: of the fullest GPU), "max" and "min" are over
    stages.
    """

    name: Quantity
    stage: int | Literal["all", "max", "min"]
    chunk: int | None
    kind: Kind


@dataclass(frozen=True)
class Arithmetic:
    """Two numbers joined by + - * // or %."""

    operator: str
    left: "Numeric"
    right: "Numeric"
    kind: Kind


Numeric: TypeAlias = Number | Name | Item | Arithmetic


@dataclass(frozen=True)
class Comparison:
    """Two numbers compared; `column` is where, for errors."""

    operator: str
    left: Numeric
    right: Numeric
    column: int = field(default=1, compare=False)


@dataclass(frozen=True)
class Chosen:
    """A choice has a value: a word, or true or false for a switch."""

    name: str
    value: str | bool
    equal: bool


@dataclass(frozen=True)
class Among:
    """A word is, or is not, among a choice's several (`"moe_act" in recompute`)."""

    word: str
    name: str
    inside: bool


@dataclass(frozen=True)
class Every:
    """All parts hold."""

    parts: "tuple[Truth, ...]"


@dataclass(frozen=True)
class Some:
    """At least one part holds."""

    parts: "tuple[Truth, ...]"


Truth: TypeAlias = Comparison | Chosen | Among | Every | Some
Node: TypeAlias = Numeric | Truth


def negated(node: Truth) -> Truth:
    """The opposite, with every `not` moved into the comparisons: no tree holds one."""
    if isinstance(node, Comparison):
        return Comparison(OPPOSITE[node.operator], node.left, node.right, node.column)
    if isinstance(node, Chosen):
        return Chosen(node.name, node.value, not node.equal)
    if isinstance(node, Among):
        return Among(node.word, node.name, not node.inside)
    parts = tuple(negated(part) for part in node.parts)
    return Some(parts) if isinstance(node, Every) else Every(parts)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything in it."""
    yield node
    if isinstance(node, (Arithmetic, Comparison)):
        yield from walk(node.left)
        yield from walk(node.right)
    elif isinstance(node, (Every, Some)):
        for part in node.parts:
            yield from walk(part)


def items(node: Node) -> tuple[Item, ...]:
    """The numbers of the placement that it reads, each once."""
    return tuple(dict.fromkeys(part for part in walk(node) if isinstance(part, Item)))


def names(node: Node) -> tuple[str, ...]:
    """The degrees and choices that it reads, each once."""
    return tuple(dict.fromkeys(part.name for part in walk(node) if isinstance(part, (Name, Chosen, Among))))
