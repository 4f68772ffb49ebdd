"""An answer of the search beside the canonical optimum that enumeration finds."""

from typing import Any

from enumeration import canonical_best
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of
from moeopt.search import solve


def solved_as_enumerated(problem: Problem, seed: int) -> tuple[dict[str, Any], Any] | None:
    """The answer, and the objective's value by enumeration, which is left to the caller to compare; None where there is
    no layout. Checked: status, bound, the layout among ties, and that evaluate says the same integers of it."""
    answer, expected = solve(problem, workers=1, explained=False), canonical_best(problem)
    if expected is None:
        assert answer["status"] == "infeasible", seed
        return None
    key, ledger = expected
    assert answer["status"] == "optimal", seed
    assert answer["objective"]["value"] == answer["objective"]["bound"], (seed, key)
    layout = Layout(**answer["layout"])
    assert degrees_of(layout) == ledger.degrees, (seed, key)
    assert layout.choices == ledger.choices, (seed, key)
    again = evaluate(problem, layout)
    assert again["status"] == "evaluated", seed
    assert all(again[part] == answer[part] for part in ("gpus", "batch", "parameters", "memory", "step_time")), seed
    return answer, key[0]
