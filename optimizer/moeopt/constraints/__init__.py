"""Users' own constraints: expressions over the decisions of a layout, read by a small grammar and never run as code.

    tp * cp <= 8        ep >= 16 or etp == 1        peak_memory[0] <= 60GiB        "moe_act" in recompute

tokens.py reads characters, parse.py builds the tree of tree.py from the names of names.py, typed.py and linear.py check
what it may say; evaluate.py reads a tree with integers or columns, rules.py makes it a legality rule, placements.py
judges a placement of layers, and `moeopt.cpsat.constraints` makes rows of it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moeopt.problem.problem import Problem

MOST = 200
"""Constraints of one problem."""


def constrain(problem: "Problem", *expressions: str) -> "Problem":
    """The problem with further constraints: `constrain(problem, "tp * cp <= 8", "peak_memory[0] <= 60GiB")`.

    Raises InputError with one sentence for an expression that cannot be read.
    """
    from moeopt.problem.base import read_fields
    from moeopt.problem.problem import Problem

    return read_fields(Problem, {**dict(problem), "constraints": (*problem.constraints, *expressions)}, "problem")


def check_all(expressions: tuple[str, ...]) -> None:
    """Raise InputError for the first expression that cannot be read, or for too many of them."""
    from moeopt.constraints.parse import parse
    from moeopt.errors import InputError

    if len(expressions) > MOST:
        raise InputError(f"constraints: {len(expressions)} given, at most {MOST} are read")
    for expression in expressions:
        parse(expression)
