"""The contract's explanation of an infeasible problem."""

from typing import Any

from moeopt.explain.conflict import conflict
from moeopt.explain.placing import Clock
from moeopt.explain.relaxations import relaxations
from moeopt.explain.sentences import details, paragraph
from moeopt.problem.problem import Problem

SECONDS_FOR_CONFLICT = 8.0
SECONDS_IN_WORDS = 3.0
SECONDS_FOR_RELAXATIONS = 12.0


def explain(problem: Problem, *, workers: int = 2, with_relaxations: bool = True) -> dict[str, Any]:
    """Why a problem that is known to be infeasible has no layout: the conflict, and changes that give one.

    `conflict` lists names of limits and rules that cannot hold together, `members` says what each is with its numbers;
    `minimal` is false where the time was over before every member was shown to be needed. `relaxations` are single
    changes, cheapest training first, each with the layout that was found for it.
    """
    found = conflict(problem, Clock.after(SECONDS_FOR_CONFLICT, workers))
    parts = details(problem, found)
    text = paragraph(problem, found, parts, Clock.after(SECONDS_IN_WORDS, workers))
    changes = relaxations(problem, found, Clock.after(SECONDS_FOR_RELAXATIONS, workers)) if with_relaxations else []
    if changes:
        text += " What would change it: " + "; ".join(str(change["text"]) for change in changes) + "."
    return {
        "conflict": found.names,
        "minimal": found.minimal,
        "members": parts,
        "text": text,
        "relaxations": changes,
    }
