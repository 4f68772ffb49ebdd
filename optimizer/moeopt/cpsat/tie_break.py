"""One layout among equals: fewest GPUs, least memory, smaller degrees, fewer layers on earlier stages.

Each goal is one solve of a joint model over all candidates that reach the best value, with the goals before it fixed;
the answer does not depend on threads or on the order in which the search met the candidates.
"""

from collections.abc import Sequence

from ortools.sat.python import cp_model

from moeopt.candidate import Candidate
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.solve import Settings, minimise
from moeopt.incumbent import Found
from moeopt.screening import MOST_NS

_LARGEST_WEIGHT = 2**55


def break_tie(best: Found, equals: Sequence[Candidate], settings: Settings) -> tuple[Found, bool]:
    """The canonical layout among those with the best layout's value; and whether every goal was proven."""
    candidates = sorted({candidate.order: candidate for candidate in equals}.values(), key=lambda item: item.order)
    problem = best.candidate.problem
    by_memory = problem.objective == "peak_memory"
    horizon_ns = MOST_NS if by_memory else max(best.score // int(item.degrees.gpus) for item in candidates)
    horizon_ns = best.time_ns if problem.objective == "step_time" else horizon_ns
    limit_bytes = best.peak_bytes if by_memory else problem.memory_limit
    encoding = Encoding(problem, candidates, horizon_ns, limit_bytes)
    encoding.hint(best)
    if problem.objective == "cost":
        encoding.limit_cost(best.score)
    ranks = cp_model.LinearExpr.weighted_sum(encoding.chosen, list(range(len(candidates))))
    second = encoding.time if by_memory else encoding.peak
    chosen = best
    for goal in (encoding.degrees["gpus"], second, ranks):
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            return chosen, False
        chosen = outcome.found
        encoding.settle(goal, outcome.bound, chosen)
    for goal in _placement_goals(encoding, chosen):
        outcome = minimise(encoding, goal, settings, "tie-break")
        if outcome.found is None or not outcome.proven:
            return chosen, False
        chosen = outcome.found
        encoding.settle(goal, outcome.bound, chosen)
    return chosen, True


def _placement_goals(encoding: Encoding, chosen: Found) -> list[cp_model.LinearExprT]:
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
