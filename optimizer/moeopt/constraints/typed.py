"""Kinds: what may be compared with, added to or multiplied by what. Bytes are not seconds, and a word is no number."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from moeopt.constraints.names import DEGREES, QUANTITIES, Choice, choices, known, modules
from moeopt.constraints.tokens import refusal
from moeopt.constraints.tree import (
    Among,
    Arithmetic,
    Chosen,
    Comparison,
    Every,
    Item,
    Kind,
    Name,
    Number,
    Numeric,
    Some,
    Truth,
    negated,
)
from moeopt.errors import InputError
from moeopt.problem.base import nearest, shown

_NAMED = {
    "integer": "a count",
    "fraction": "a fraction",
    "bytes": "bytes (write a unit: 60GiB)",
    "duration": "a time (write a unit: 12s)",
}


@dataclass(frozen=True)
class Word:
    """A word that is no name: the value of a choice, if one is compared with it."""

    text: str


@dataclass(frozen=True)
class Selected:
    """A choice that is a switch, a word, or several words."""

    choice: Choice


@dataclass(frozen=True)
class Listed:
    """Values in brackets after `in`."""

    values: "tuple[Operand, ...]"


@dataclass(frozen=True)
class Operand:
    """Something read, and the column where it starts."""

    node: "Numeric | Truth | Word | Selected | Listed"
    column: int


Compared: TypeAlias = tuple[Operand, Operand]


def plain_number(text: str) -> Number:
    """A number without a unit."""
    value = Fraction(text.replace("_", ""))  # which Python 3.10 does not read
    whole = value.denominator == 1
    return Number(int(value) if whole else value, "integer" if whole else "fraction", text)


def truth(text: str, operand: Operand) -> Truth:
    """The operand as something that holds or does not; a switch alone means that it is on."""
    node = operand.node
    if isinstance(node, (Comparison, Chosen, Among, Every, Some)):
        return node
    if isinstance(node, Selected) and node.choice.type == "switch":
        return Chosen(node.choice.name, True, True)
    if isinstance(node, Selected):
        raise refusal(
            text, operand.column, f"{node.choice.name} is not true or false: compare it, like {_example(node.choice)}"
        )
    if isinstance(node, Word):
        raise _refused_word(text, operand.column, node)
    raise refusal(text, operand.column, "this is not true or false: compare it with something, like tp <= 8")


def arithmetic(text: str, sign: str, left: Operand, right: Operand, column: int) -> Operand:
    """Two numbers joined, their kinds checked."""
    first, second = number(text, left), number(text, right)
    if sign in ("+", "-"):
        first, second = _alike(text, first, second, column, sign)
        kind: Kind | None = first.kind
    elif sign == "*":
        kind = second.kind if first.kind == "integer" else first.kind if second.kind == "integer" else None
    elif sign == "//":
        kind = first.kind if second.kind == "integer" else "integer" if first.kind == second.kind else None
    else:
        kind = first.kind if first.kind == second.kind else None
    if kind is None or (kind == "fraction" and sign in ("//", "%")):
        raise refusal(text, column, f"{sign!r} does not join {_NAMED[first.kind]} and {_NAMED[second.kind]}")
    if sign in ("//", "%") and isinstance(second, Number) and second.value == 0:
        raise refusal(text, column, "a division by zero")
    return Operand(Arithmetic(sign, first, second, kind), left.column)


def number(text: str, operand: Operand) -> Numeric:
    """The operand as a number."""
    node = operand.node
    if isinstance(node, (Number, Name, Item, Arithmetic)):
        return node
    if isinstance(node, Word):
        raise _refused_word(text, operand.column, node)
    if isinstance(node, Selected):
        raise refusal(
            text, operand.column, f"{node.choice.name} is no number: compare it, like {_example(node.choice)}"
        )
    raise refusal(text, operand.column, "this holds or does not, and is no number")


def compare(text: str, sign: str, left: Operand, right: Operand, column: int) -> Truth:
    """Two numbers compared, or a choice with one of its values."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one.node, Selected):
            return _chosen(text, sign, one.node.choice, other, column)
    first, second = _alike(text, number(text, left), number(text, right), column, sign)
    return Comparison(sign, first, second, column)


def among(text: str, left: Operand, right: Operand, column: int, inside: bool) -> Truth:
    """`left in right`: a module of a set, or a value of a list."""
    node: Truth
    if isinstance(right.node, Listed):
        node = Some(tuple(compare(text, "==", left, value, column) for value in right.node.values))
    else:
        node = _module(text, left, right)
    return node if inside else negated(node)


def _module(text: str, left: Operand, right: Operand) -> Truth:
    if not isinstance(right.node, Selected) or right.node.choice.name not in ("recompute", "recompute.modules"):
        raise refusal(text, right.column, "in takes recompute, or a list like [1, 2, 4]")
    if not isinstance(left.node, Word):
        raise refusal(text, left.column, f"recompute holds modules: one of {', '.join(modules())}")
    word = left.node.text
    if word not in modules():
        hint = nearest(word, list(modules()))
        raise refusal(text, left.column, f"{word!r} is no module of recompute ({', '.join(modules())}){hint}")
    return Among(word, "recompute.modules", True)


def _chosen(text: str, sign: str, choice: Choice, other: Operand, column: int) -> Truth:
    if choice.type == "words":
        raise refusal(
            text, column, f'{choice.name} holds several: ask for one, like "{choice.words[0]}" in {choice.name}'
        )
    if sign not in ("==", "!="):
        raise refusal(text, column, f"{sign!r} does not compare {choice.name}: only == and != do")
    word = other.node.text if isinstance(other.node, Word) else None
    allowed = ("true", "false") if choice.type == "switch" else choice.words
    if word is None or word.lower() not in allowed:
        given = "this" if word is None else repr(word)
        hint = "" if word is None else nearest(word, list(allowed))
        raise refusal(text, other.column, f"{given} is no value of {choice.name} ({', '.join(allowed)}){hint}")
    value: str | bool = word.lower() == "true" if choice.type == "switch" else word.lower()
    return Chosen(choice.name, value, sign == "==")


def _alike(text: str, first: Numeric, second: Numeric, column: int, sign: str) -> tuple[Numeric, Numeric]:
    """Both of one kind: a plain number beside bytes counts bytes, a whole number beside a fraction is one."""
    first, second = _adapted(first, second.kind), _adapted(second, first.kind)
    if first.kind == second.kind:
        return first, second
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Number) and one.kind == "fraction" and other.kind == "integer":
            raise refusal(text, column, f"{one.text} is not a whole number")
    raise refusal(text, column, f"{sign!r} does not join {_NAMED[first.kind]} and {_NAMED[second.kind]}")


def _adapted(node: Numeric, kind: Kind) -> Numeric:
    if isinstance(node, Number) and node.kind == "integer" and kind in ("bytes", "fraction"):
        return Number(node.value, kind, node.text)
    return node


def _refused_word(text: str, column: int, word: Word) -> InputError:
    owners = [choice.name for choice in choices().values() if word.text in choice.words and choice.type == "word"]
    if owners:
        return refusal(
            text,
            column,
            f"{word.text} is a value, not a name: compare {owners[0]} with it ({owners[0]} == {word.text})",
        )
    return refusal(text, column, f"unknown name {shown(word.text)}{nearest(word.text, known())}")


def _example(choice: Choice) -> str:
    if choice.type == "words":
        return f'"{choice.words[0]}" in {choice.name}'
    return f"{choice.name} == {choice.words[0] if choice.words else 'true'}"


assert not {*DEGREES, *QUANTITIES} & {word for choice in choices().values() for word in choice.words}
