"""One layout among equals: fewest GPUs, least memory, smaller degrees, fewer layers on earlier stages.

Each goal is one solve with the goals before it fixed, so the answer does not depend on threads, seeds or the order in
which the search met the candidates.
"""

from collections.abc import Sequence

from ortools.sat.python import cp_model

from moeopt.candidate import Candidate
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.solve import Settings, minimise
from moeopt.incumbent import Found
from moeopt.screening import MOST_NS

_LARGEST_WEIGHT = 2**55


def break_tie(best: Found, equals: Sequence[Candidate], settings: Settings) -> tuple[Found, bool]:
    """The canonical layout among those with the best layout's value; and whether every goal was proven."""
    finalists = []
    for candidate in sorted(equals, key=lambda item: item.order):
        encoding = _encode(best, candidate)
        second = encoding.time if best.candidate.problem.objective == "peak_memory" else encoding.peak
        outcome = minimise(encoding, second, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            return best, False
        finalists.append((int(candidate.degrees.gpus), outcome.bound, candidate.order, outcome.found, encoding, second))
    *_, chosen, encoding, second = min(finalists, key=lambda item: item[:3])
    encoding.settle(second, min(finalists, key=lambda item: item[:3])[1], chosen)
    for goal in _placement_goals(encoding, chosen):
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            return chosen, False
        chosen = outcome.found
        encoding.settle(goal, outcome.bound, chosen)
    return chosen, True


def _encode(best: Found, candidate: Candidate) -> Encoding:
    """The model of one candidate held to the best layout's value."""
    problem = candidate.problem
    horizon_ns, limit_bytes = best.time_ns, problem.memory_limit
    if problem.objective == "peak_memory":
        horizon_ns, limit_bytes = MOST_NS, best.peak_bytes
    elif problem.objective == "cost":
        horizon_ns = best.score // int(candidate.degrees.gpus)
    encoding = Encoding(problem, [candidate], horizon_ns, limit_bytes)
    if candidate.order == best.candidate.order:
        encoding.hint(best)
    return encoding


def _placement_goals(encoding: Encoding, chosen: Found) -> list[Expression]:
    """Layers a stage compared lexicographically, as many stages to a goal as exact weights allow."""
    layers = encoding.grids[chosen.candidate.grid].placement.layers
    base = max(chunk.layers for chunk in chosen.pipeline.chunks) + 2
    goals, group, weight = [], [], 1
    for variable in reversed(layers):
        group.append((variable, weight))
        weight *= base
        if weight > _LARGEST_WEIGHT:
            goals.append(group)
            group, weight = [], 1
    goals = [*goals, group] if group else goals
    return [
        cp_model.LinearExpr.weighted_sum([variable for variable, _ in terms], [factor for _, factor in terms])
        for terms in reversed(goals)
    ]
