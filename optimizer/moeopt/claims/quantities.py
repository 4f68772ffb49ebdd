"""A claimed number with the interval that its written digits stand for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.units import decimals_of, parse_bytes, parse_count, parse_duration_ns

if TYPE_CHECKING:
    from moeopt.claims.reading import Reading

_NUMBER = re.compile(r"\s*(\d[\d_,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*(\S*)\s*")


@dataclass(frozen=True)
class Setting:
    """What a claim is judged against: the layout as given, and the evaluation of its nearest legal reading."""

    problem: Problem
    layout: Layout
    evaluation: Mapping[str, Any]
    reading: "Reading"


@dataclass(frozen=True)
class Answer:
    """The computed value, whether the claim holds, why, and the value for people."""

    computed: int | float | None
    """None where the layout cannot be priced."""
    holds: bool
    explanation: str
    text: str


@dataclass(frozen=True)
class Quantity:
    """A claimed value and half a unit of its last written digit."""

    value: Fraction
    half_digit: Fraction


def holds(quantity: Quantity, computed: int | Fraction) -> bool:
    """Whether the computed value rounds to the claim."""
    return abs(Fraction(computed) - quantity.value) <= quantity.half_digit


def _quantity(text: str, field: str, parse: Callable[[object, str], int]) -> Quantity:
    """A number with a suffix that `parse` knows; half its last digit is in that suffix's size."""
    value = parse(text, field)
    match = _NUMBER.fullmatch(text)
    unit = parse(f"1{match[2]}", field) if match is not None else 1
    return Quantity(Fraction(value), decimals_of(text) * unit)


def count_quantity(name: str, text: str) -> Quantity:
    """`30B`, `512` or `3.5`; a number without a suffix may have a fraction."""
    match = _NUMBER.fullmatch(text)
    if match is not None and not match[2]:
        return Quantity(Fraction(match[1].replace("_", "").replace(",", "")), decimals_of(text))
    return _quantity(text, f"claim.{name}", parse_count)


def duration_quantity(name: str, text: str) -> Quantity:
    """`3.2s`, `450 ms`; a plain number is seconds."""
    return _quantity(text, f"claim.{name}", parse_duration_ns)


def bytes_quantity(name: str, text: str) -> Quantity:
    """`149.2GB`, `76GiB`; a plain number is bytes."""
    return _quantity(text, f"claim.{name}", parse_bytes)


def fraction_quantity(name: str, text: str) -> Quantity:
    """`40%` or `0.4`."""
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in ("", "%"):
        raise InputError(f"claim.{name}: {text!r} is not a share; write it like 40% or 0.40")
    scale = Fraction(1, 100) if match[2] else Fraction(1)
    return Quantity(Fraction(match[1].replace("_", "").replace(",", "")) * scale, decimals_of(match[1]) * scale)


def not_priced(name: str, setting: Setting) -> Answer:
    """The answer to a claim about a layout that breaks a rule without which nothing can be added up."""
    broken = [rule for rule in setting.evaluation.get("rules", []) if rule["holds"] is False]
    why = (
        "; ".join(f"{rule['rule']}: {rule['equation']}" for rule in broken) or "its stages do not hold the architecture"
    )
    return Answer(None, False, f"{name} cannot be computed for an illegal layout ({why})", "nothing")
