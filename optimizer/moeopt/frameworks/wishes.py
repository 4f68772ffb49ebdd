"""The problem's own rules: what its `fix`, `limits` and `constraints` say about a layout. (Memory is the ledger's to
judge, and so are constraints on the placement of layers.)"""

from collections.abc import Mapping

from moeopt.arithmetic import Number, both
from moeopt.constraints.rules import constraint_rules
from moeopt.frameworks.rules import Rule
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import DEGREES, Bound, Problem

_BY_FIELD = ("overlap", "optimizer")
"""Decisions of several switches: a mapping fixes those that it names."""


def wish_rules(problem: Problem) -> tuple[Rule, ...]:
    """One rule a limited degree, one a fixed degree, one a fixed choice and one a constraint."""
    limited = [name for name in DEGREES if problem.bound(name) != Bound()]
    fixed = [name for name in problem.fix if name in Degrees.__dataclass_fields__]
    chosen = [name for name in problem.fix if name in Choices.model_fields]
    return (*map(_limit, limited), *map(_fixed, fixed), *map(_chosen, chosen), *constraint_rules(problem))


def _limit(name: str) -> Rule:
    def holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
        bound, value = problem.bound(name), getattr(degrees, name)
        lowest = 0 if bound.min is None else bound.min
        return value >= lowest if bound.max is None else both(value >= lowest, value <= bound.max)

    def sentence(problem: Problem, degrees: Degrees, choices: Choices) -> str:
        bound = problem.bound(name)
        low = "" if bound.min is None else f"{bound.min} <= "
        high = "" if bound.max is None else f" <= {bound.max}"
        text = f"{low}{name} {getattr(degrees, name)}{high}"
        return text if holds(problem, degrees, choices) else f"{text} does not hold"

    return Rule(f"limit_{name}", f"the problem limits {name}", (name,), holds, sentence, f"limits.{name}", "moeopt")


def _fixed(name: str) -> Rule:
    return Rule(
        f"fix_{name}",
        f"the problem fixes {name}",
        (name,),
        lambda problem, degrees, _: getattr(degrees, name) == problem.fix[name],
        lambda problem, degrees, _: f"{name} {getattr(degrees, name)}, fixed to {problem.fix[name]}",
        f"fix.{name}",
        "moeopt",
    )


def _chosen(name: str) -> Rule:
    def wanted(problem: Problem) -> object:
        return getattr(Choices.model_validate({name: problem.fix[name]}), name)

    def holds(problem: Problem, _degrees: Degrees, choices: Choices) -> bool:
        given, value = problem.fix[name], getattr(choices, name)
        if name in _BY_FIELD and isinstance(given, Mapping):
            return all(getattr(value, field) == getattr(wanted(problem), field) for field in given)
        return bool(value == wanted(problem))

    return Rule(
        f"fix_{name}",
        f"the problem fixes {name}",
        (),
        holds,
        lambda problem, _d, choices: f"{name} {getattr(choices, name)}, fixed to {wanted(problem)}",
        f"fix.{name}",
        "moeopt",
    )
