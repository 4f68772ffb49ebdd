"""Constraints as legality rules: evaluate, the sweep and the search obey them as they obey the framework's."""

from moeopt.arithmetic import Number
from moeopt.constraints.evaluate import Placed, Reader
from moeopt.constraints.intervals import degrees_read, possible
from moeopt.constraints.names import degree_scope
from moeopt.constraints.parse import parse
from moeopt.constraints.tree import Truth, items, names
from moeopt.constraints.words import equation
from moeopt.frameworks.rules import Rule, Verdict
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_MEANING = "a constraint of the problem"


def rule_name(number: int) -> str:
    """The rule of a problem's constraint, counted from 0: `constraint_1` is the first."""
    return f"constraint_{number + 1}"


def trees(problem: Problem) -> dict[str, Truth]:
    """Every constraint's tree by its rule's name."""
    return {rule_name(number): parse(text) for number, text in enumerate(problem.constraints)}


def constraint_rules(problem: Problem) -> tuple[Rule, ...]:
    """The constraints that read degrees and choices only, as rules."""
    return tuple(_rule(name, tree) for name, tree in trees(problem).items() if not items(tree))


def screening_rules(problem: Problem) -> tuple[Rule, ...]:
    """What the constraints on a placement say about degrees and choices before anything is placed."""
    return tuple(_rule(name, tree) for name, tree in trees(problem).items() if items(tree))


def _rule(name: str, tree: Truth) -> Rule:
    read = (*names(tree), *degrees_read(tree))

    def holds(problem: Problem, degrees: Degrees, choices: Choices) -> Number:
        return possible(problem, Reader(degrees, choices), tree)

    def sentence(_problem: Problem, degrees: Degrees, choices: Choices) -> str:
        return _sentence(tree, Reader(degrees, choices))

    return Rule(
        name,
        _MEANING,
        degree_scope(read),
        holds,
        sentence,
        _source(name),
        "moeopt",
        waits=any(each.partition(".")[0] == "recompute" for each in read),
    )


def _source(name: str) -> str:
    """Where in the problem a rule's constraint stands."""
    return f"constraints[{int(name.rpartition('_')[2]) - 1}]"


def _sentence(tree: Truth, reader: Reader) -> str:
    text = equation(tree, reader)
    return text if reader.holds(tree) else f"{text}: does not hold"


def placement_verdicts(problem: Problem, degrees: Degrees, choices: Choices, placed: Placed) -> list[Verdict]:
    """The constraints that read the placement, judged on a layout whose bytes and time are known."""
    reader = Reader(degrees, choices, placed)
    return [
        Verdict(name, bool(reader.holds(tree)), _sentence(tree, reader), _MEANING, _source(name), "moeopt")
        for name, tree in trees(problem).items()
        if items(tree)
    ]
