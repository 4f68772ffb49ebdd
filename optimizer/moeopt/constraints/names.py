"""The names that a constraint may use: degrees, choices (read off the layout's fields), numbers of the placement."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, get_args, get_origin

from moeopt.constraints.tree import Kind, Quantity
from moeopt.layout import Choices, Degrees
from moeopt.problem.base import Input, is_input

PRODUCTS = {"gpus": ("tp", "cp", "dp", "pp"), "global_batch_size": ("micro_batch_size", "dp", "num_microbatches")}
"""What some names are the product of."""
DEGREES = (*PRODUCTS, *Degrees.__dataclass_fields__)
QUANTITIES: dict[str, Kind] = {"layers": "integer", "mtp": "integer", "peak_memory": "bytes", "step_time": "duration"}
"""Numbers of the placement and their kinds."""


@dataclass(frozen=True)
class Choice:
    """One field of the choices: a number of some kind, a switch, one word of `words`, or several of them."""

    name: str
    type: Kind | Literal["switch", "word", "words"]
    words: tuple[str, ...] = ()


@cache
def choices() -> dict[str, Choice]:
    """Every choice by its dotted name, and `recompute` for its granularity or, after `in`, its modules."""
    found = {choice.name: choice for choice in _fields(Choices, "")}
    return {**found, "recompute": Choice("recompute", "word", found["recompute.granularity"].words)}


def modules() -> tuple[str, ...]:
    """What can stand before `in recompute`."""
    return choices()["recompute.modules"].words


def known() -> list[str]:
    """Every name, for suggestions."""
    return [*DEGREES, *choices(), *QUANTITIES]


def degree_scope(names: tuple[str, ...]) -> tuple[str, ...]:
    """The degrees among the names, products taken apart."""
    read = [part for name in names for part in PRODUCTS.get(name, (name,))]
    return tuple(dict.fromkeys(name for name in read if name in Degrees.__dataclass_fields__))


def read_choice(values: Choices, name: str) -> Any:
    """A choice's value as constraints compare it: fractions exactly, what is not given as 0 or `none`."""
    path = {"recompute": "recompute.granularity"}.get(name, name)
    value: Any = values
    for part in path.split("."):
        value = getattr(value, part)
    if value is None:
        return "none" if choices()[name].type == "word" else 0
    return Fraction(str(value)) if isinstance(value, float) else value


def is_quantity(name: str) -> bool:
    """Whether the name is a number of the placement."""
    return name in QUANTITIES


def quantity(name: str) -> Quantity:
    """The name of a number of the placement, typed."""
    found: dict[str, Quantity] = {each: each for each in get_args(Quantity)}
    return found[name]


def _fields(kind: type[Input], prefix: str) -> list[Choice]:
    found: list[Choice] = []
    for name, field in kind.model_fields.items():
        inner = _base(field.annotation)
        if is_input(inner):
            found += _fields(inner, f"{prefix}{name}.")
        else:
            found += _choice(prefix + name, field.annotation, inner)
    return found


def _choice(name: str, annotation: Any, inner: Any) -> list[Choice]:
    if get_origin(inner) is tuple:
        return [Choice(name, "words", get_args(_base(get_args(inner)[0])))]
    if get_origin(inner) is Literal:
        words = get_args(inner)
        optional = type(None) in get_args(annotation) and "none" not in words
        return [Choice(name, "word", (*words, "none") if optional else words)]
    if inner is bool:
        return [Choice(name, "switch")]
    if inner is int:
        return [Choice(name, "integer")]
    return [Choice(name, "fraction")] if inner is float else []


def _base(annotation: Any) -> Any:
    """The type inside Optional and Annotated."""
    if hasattr(annotation, "__metadata__"):
        return _base(annotation.__origin__)
    if get_origin(annotation) in (Literal, tuple):
        return annotation
    inner = [each for each in get_args(annotation) if each is not type(None)]
    return _base(inner[0]) if inner else annotation
