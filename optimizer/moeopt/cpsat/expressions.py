"""The type of a linear expression over CP-SAT variables."""

from typing import Any, TypeAlias

Expression: TypeAlias = Any
"""A variable, a linear expression or an integer. (Any: OR-tools' own alias also admits numpy's narrow integer types,
whose sums with an expression no checker accepts.)"""
