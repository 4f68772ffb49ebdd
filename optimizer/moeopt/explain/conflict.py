"""The smallest set of limits and rules that cannot hold together: drop any one, and the rest can.

Divide and conquer over the members (QuickXplain, Junker, AAAI 2004). A set without anything on placements is asked of
tables; one with memory or layers in it is asked of the search, and then the framework's rules, the GPU equations and
the batch stand as they are.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from moeopt.explain.degrees import DegreeOracle, Undecided
from moeopt.explain.members import Member, members, variant
from moeopt.explain.placing import Clock, find
from moeopt.problem.problem import Problem

Question = Callable[[Sequence[Member]], bool]
"""Whether these can hold together. Raises Undecided."""


@dataclass(frozen=True)
class Conflict:
    """Members that cannot hold together. `minimal`: each was shown to be needed within the time."""

    members: tuple[Member, ...]
    minimal: bool
    about_placement: bool

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return [member.name for member in self.members]


def conflict(problem: Problem, clock: Clock) -> Conflict:
    """Why the problem, which is known to be infeasible, has no layout."""
    everything = members(problem)
    oracle = DegreeOracle(problem)
    listed = [member for member in everything if not member.placing]
    try:
        legal = oracle.feasible(listed)
    except Undecided:
        legal = True
    if not legal:
        return _smallest(listed, oracle.feasible, False)
    wishes = [member for member in everything if member.kind not in ("fact", "rule")]
    feasible = _placed(problem, clock)
    alone = [member for member in wishes if member.placing]
    with suppress(Undecided):
        wishes = wishes if feasible(alone) else alone
    return _smallest(wishes, feasible, True)


def _placed(problem: Problem, clock: Clock) -> Question:
    known: dict[frozenset[str], bool] = {}

    def feasible(kept: Sequence[Member]) -> bool:
        if not any(member.placing for member in kept):
            return True  # the degrees are legal, and nothing limits the placement
        names = frozenset(member.name for member in kept)
        if names not in known:
            known[names] = find(variant(problem, names), clock) is not None
        return known[names]

    return feasible


def _smallest(everything: Sequence[Member], feasible: Question, about_placement: bool) -> Conflict:
    def holds(kept: Sequence[Member]) -> bool:
        try:
            return feasible(kept)
        except Undecided:
            return True

    found = _explain([], False, list(everything), holds)
    return Conflict(*_verified(found, feasible), about_placement)


def _explain(kept: list[Member], grown: bool, rest: list[Member], holds: Question) -> list[Member]:
    """The members of `rest` that are needed beside `kept`."""
    if not rest or (grown and not holds(kept)):
        return []
    if len(rest) == 1:
        return rest
    half = len(rest) // 2
    second = _explain(kept + rest[:half], True, rest[half:], holds)
    first = _explain(kept + second, bool(second), rest[:half], holds)
    return first + second


def _verified(found: list[Member], feasible: Question) -> tuple[tuple[Member, ...], bool]:
    """Each member dropped once more: those that turn out not to be needed go, and whether all was settled."""
    minimal = True
    for member in list(found):
        others = [other for other in found if other is not member]
        try:
            if not feasible(others):
                found = others
        except Undecided:
            minimal = False
    return tuple(found), minimal
