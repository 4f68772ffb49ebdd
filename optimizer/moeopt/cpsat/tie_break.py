"""The tie-break (`moeopt.solving.ties`) of a candidate whose placements are not all known: each goal is one solve
with the goals before it fixed."""

from fractions import Fraction

from ortools.sat.python import cp_model

from moeopt.candidate import Candidate
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.solve import minimise
from moeopt.screening import MOST_NS
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings
from moeopt.solving.ties import Finalist, Values, further_objectives

_LARGEST_SUM = 2**60
"""Of layers a stage times their weights: what CP-SAT takes with room to spare."""


def settle(best: Found, candidate: Candidate, settings: Settings) -> Finalist | None:
    """One candidate held to the best layout's value, its further objectives settled one after the other; None where the
    time was over before."""
    encoding = _encode(best, candidate)
    reached = _settle_objectives(encoding, settings)
    if reached is None:
        return None
    values, found = reached
    return Finalist(values, found, lambda: _canonical(encoding, found, settings))


def _canonical(encoding: Encoding, chosen: Found, settings: Settings) -> Found:
    """The same values, with fewer layers on earlier stages; the MTP modules as late as they can be."""
    for goal in _placement_goals(encoding, chosen):
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            break
        chosen = outcome.found
        encoding.settle(goal, outcome.bound, chosen)
    return chosen


def _settle_objectives(encoding: Encoding, settings: Settings) -> tuple[Values, Found] | None:
    """One candidate's best values of every objective after the first, each with those before it fixed; None where the
    time was over."""
    candidate, found = encoding.candidates[0], None
    values: list[int | Fraction] = []
    for name in further_objectives(candidate.problem):
        if name == "gpus":
            values.append(int(candidate.degrees.gpus))
            continue
        goal = encoding.peak if name == "peak_memory" else encoding.time
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            return None
        found = outcome.found
        values.append(candidate.value(name, outcome.bound, outcome.bound))
        encoding.settle(goal, outcome.bound, found)
    return (tuple(values), found) if found is not None else None


def _encode(best: Found, candidate: Candidate) -> Encoding:
    """The model of one candidate held to the best layout's value."""
    problem = candidate.problem
    horizon_ns, limit_bytes = MOST_NS, best.peak_bytes
    if problem.objective != "peak_memory":
        horizon_ns, limit_bytes = candidate.step_ns(problem.objective, best.score), problem.memory_limit
    encoding = Encoding(problem, [candidate], horizon_ns, limit_bytes)
    if candidate.key == best.candidate.key:
        encoding.hint(best)
    return encoding


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
