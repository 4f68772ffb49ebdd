"""The contract's explanation of an infeasible problem."""

from typing import Any

from moeopt.explain.conflict import Conflict, conflict
from moeopt.explain.degrees import Undecided
from moeopt.explain.members import MEMORY, PEAK_LIMIT, members, variant
from moeopt.explain.placing import Clock, Light, lightest
from moeopt.explain.relaxations import relaxations
from moeopt.explain.sentences import details, paragraph
from moeopt.problem.problem import Problem

SECONDS = 24.0
_AT_ONE = "No global_batch_size of {batches} has a layout. With {batch}:"
_FOR_CONFLICT, _FOR_LIGHTEST, _FOR_RELAXATIONS = 0.33, 0.25, 0.42
"""Shares of the time; what one leaves is not given to the next, so that answers vary little with the machine."""


def explain(
    problem: Problem, *, workers: int = 2, seconds: float | None = None, with_relaxations: bool = True
) -> dict[str, Any]:
    """Why a problem that is known to be infeasible has no layout: the conflict, and changes that give one.

    `conflict` lists names of limits and rules that cannot hold together, `members` says what each is with its numbers;
    `minimal` is false where the time was over before every member was shown to be needed. `relaxations` are single
    changes, cheapest training first, each with the layout that was found for it. `seconds` shortens the usual time.
    Where the problem leaves the batch open, none of the batches has a layout, and all of this is about one of them
    (`global_batch_size`), the one that most numbers divide.
    """
    batches = problem.workload.batches
    if not batches.exact:
        batch = batches.most_divisible
        one = explain(problem.at_batch(batch), workers=workers, seconds=seconds, with_relaxations=with_relaxations)
        return {
            **one,
            "global_batch_size": batch,
            "text": f"{_AT_ONE.format(batch=batch, batches=batches)} {one['text']}",
        }
    whole = SECONDS if seconds is None else min(SECONDS, seconds)
    found = conflict(problem, Clock.after(_FOR_CONFLICT * whole, workers))
    parts = details(problem, found)
    light = _lightest(problem, found, Clock.after(_FOR_LIGHTEST * whole, workers))
    text = paragraph(problem, found, parts, light)
    clock = Clock.after(_FOR_RELAXATIONS * whole, workers)
    changes = relaxations(problem, found, light, clock) if with_relaxations else []
    if changes:
        text += " What would change it: " + "; ".join(str(change["text"]) for change in changes) + "."
    return {
        "conflict": found.names,
        "minimal": found.minimal,
        "members": parts,
        "text": text,
        "relaxations": changes,
    }


def _lightest(problem: Problem, found: Conflict, clock: Clock) -> Light | None:
    """A light layout where memory is in the conflict and would be no limit."""
    if MEMORY not in found.names:
        return None
    kept = {member.name for member in members(problem)} - {MEMORY, PEAK_LIMIT}
    try:
        return lightest(variant(problem, kept), problem.memory_limit, clock)
    except Undecided:
        return None
