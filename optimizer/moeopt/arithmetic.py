"""Integer arithmetic that works on one layout and on a column of layouts alike.

Every formula of the accounting is written once, with `+ - * //` and the functions below. Given Python integers it is
exact at any size; given int64 columns it evaluates a whole sweep at once. That is how the exact reader and the sweep
stay one formula.
"""

import math
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

Number: TypeAlias = Any
"""An `int`, or an int64 array with one entry a layout. (Any, because the two share operators but no static type.)"""


def is_column(value: Number) -> bool:
    """Whether the value is a column of layouts rather than one integer."""
    return isinstance(value, np.ndarray)


def ceil_div(numerator: Number, denominator: Number) -> Number:
    """Quotient rounded up: money is rounded once, and pessimistically."""
    return -(-numerator // denominator)


def times(value: Number, share: Fraction) -> Number:
    """A multiple or a part of the value, rounded up."""
    return ceil_div(value * share.numerator, share.denominator)


def round_up(value: Number, multiple: Number) -> Number:
    """The smallest multiple that is not below the value."""
    return ceil_div(value, multiple) * multiple


def maximum(first: Number, *others: Number) -> Number:
    """Elementwise maximum."""
    for other in others:
        first = np.maximum(first, other) if is_column(first) or is_column(other) else max(first, other)
    return first


def minimum(first: Number, *others: Number) -> Number:
    """Elementwise minimum."""
    for other in others:
        first = np.minimum(first, other) if is_column(first) or is_column(other) else min(first, other)
    return first


def where(condition: Number, if_true: Number, if_false: Number) -> Number:
    """Elementwise choice. Both branches are evaluated: keep divisions in them safe."""
    if is_column(condition):
        return np.where(condition, if_true, if_false)
    return if_true if condition else if_false


def lcm(first: Number, second: Number) -> Number:
    """Least common multiple."""
    if is_column(first) or is_column(second):
        return np.lcm(first, second)
    return math.lcm(int(first), int(second))


def both(*conditions: Number) -> Number:
    """Logical and, for booleans and boolean columns."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = (
            np.logical_and(result, condition)
            if is_column(result) or is_column(condition)
            else (bool(result) and bool(condition))
        )
    return result


def either(*conditions: Number) -> Number:
    """Logical or, for booleans and boolean columns."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = (
            np.logical_or(result, condition)
            if is_column(result) or is_column(condition)
            else (bool(result) or bool(condition))
        )
    return result


def negate(condition: Number) -> Number:
    """Logical not, for booleans and boolean columns."""
    return np.logical_not(condition) if is_column(condition) else not condition
