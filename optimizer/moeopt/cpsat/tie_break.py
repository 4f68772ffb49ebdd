"""The tie-break (`moeopt.solving.ties`) of a candidate whose placements are not all known.

Goals are settled one after the other, each with those before it fixed: by the scaled model, which finds a better
placement or proves that none is (`moeopt.cpsat.descent`), and where that tells too little by one exact solve a goal.
"""

from dataclasses import dataclass
from fractions import Fraction

from ortools.sat.python import cp_model

from moeopt.cpsat.descent import Goal, descend
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.solve import minimise
from moeopt.cpsat.solvers import Solvers
from moeopt.screening import MOST_NS
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings
from moeopt.solving.ties import Finalist, further_objectives

_LARGEST_SUM = 2**60
"""Of layers a stage times their weights: what CP-SAT takes with room to spare."""


def settle(best: Found, settings: Settings) -> Finalist | None:
    """The candidate of a layout held to that layout's value, its further objectives settled one after the other; None
    where the time was over before."""
    reached = _Reached(best, *_limits(best))
    values: list[int | Fraction] = []
    for name in further_objectives(best.candidate.problem):
        if name != "gpus":
            least = _least(name, reached, settings)
            if least is None:
                return None
            reached = least
        values.append(reached.found.value(name))
    return Finalist(tuple(values), reached.found, lambda: _canonical(reached, settings))


@dataclass(frozen=True)
class _Reached:
    """A layout with the best values so far, and the limits that hold others to them."""

    found: Found
    limit_ns: int
    limit_bytes: int

    def encoding(self) -> Encoding:
        """The exact model of the candidate within the limits."""
        candidate = self.found.candidate
        encoding = Encoding(candidate.problem, [candidate], self.limit_ns, self.limit_bytes)
        encoding.hint(self.found)
        return encoding


def _limits(best: Found) -> tuple[int, int]:
    """Of step time and memory, for layouts with the best layout's value."""
    problem = best.candidate.problem
    if problem.objective == "peak_memory":
        return MOST_NS, best.peak_bytes
    return best.candidate.step_ns(problem.objective, best.score), problem.memory_limit


def _least(name: str, reached: _Reached, settings: Settings) -> _Reached | None:
    """The layout of least memory, or (any other objective) of least time, within the limits, which hold others to it
    then; None where the time was over."""
    goal: Goal = "peak_memory" if name == "peak_memory" else "step_time"
    found, limits = reached.found, (reached.limit_ns, reached.limit_bytes)
    descent = descend(found.candidate, *limits, goal, settings, Solvers(), known=found)
    best = descent.found if descent.proven else _least_exactly(goal, reached, settings)
    if best is None:
        return None
    if goal == "peak_memory":
        return _Reached(best, reached.limit_ns, best.peak_bytes)
    return _Reached(best, best.time_ns, reached.limit_bytes)


def _least_exactly(goal: Goal, reached: _Reached, settings: Settings) -> Found | None:
    """The same by one solve of the exact model."""
    encoding = reached.encoding()
    outcome = minimise(encoding, encoding.peak if goal == "peak_memory" else encoding.time, settings, "tie-break")
    return outcome.found if outcome.proven else None


def _canonical(reached: _Reached, settings: Settings) -> Found:
    """The layout within the limits that has fewer layers on earlier stages; the MTP modules as late as they can be."""
    found, limits = reached.found, (reached.limit_ns, reached.limit_bytes)
    descent = descend(found.candidate, *limits, "order", settings, Solvers(), known=found)
    if descent.proven and descent.found is not None:
        return descent.found
    return _canonical_exactly(reached.encoding(), descent.found or found, settings)


def _canonical_exactly(encoding: Encoding, chosen: Found, settings: Settings) -> Found:
    """The same by one solve of the exact model a sum of layers."""
    encoding.hint(chosen)
    for goal in _placement_goals(encoding, chosen):
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            break
        chosen = outcome.found
        encoding.settle(goal, outcome.bound, chosen)
    return chosen


def _placement_goals(encoding: Encoding, chosen: Found) -> list[Expression]:
    """Layers a stage compared lexicographically, then the MTP modules on a later stage."""
    placement = encoding.grids[chosen.candidate.grid].placement
    most = chosen.candidate.problem.architecture.num_hidden_layers
    goals = [
        [(placement.layers[stage], weight) for stage, weight in terms]
        for terms in stage_weights(placement.stages, most)
    ]
    if placement.mtp:
        goals.append([(literal, placement.stages - stage) for stage, literal in placement.mtp.items()])
    return [
        cp_model.LinearExpr.weighted_sum([variable for variable, _ in terms], [factor for _, factor in terms])
        for terms in goals
    ]


def stage_weights(stages: int, most: int) -> list[list[tuple[int, int]]]:
    """(stage, weight) of sums that, one after the other, compare layers a stage lexicographically; as many stages to a
    sum as exact weights allow. No stage holds more than `most` layers, so these are digits to the base `most` + 1."""
    goals: list[list[tuple[int, int]]] = [[]]
    weight = 1
    for stage in reversed(range(stages)):
        if weight * (most + 1) > _LARGEST_SUM:
            goals.append([])
            weight = 1
        goals[-1].append((stage, weight))
        weight *= most + 1
    return goals[::-1]
