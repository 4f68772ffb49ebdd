"""Users' constraints in the search against enumeration: same optimum, same verdict, on small random problems.

The enumeration judges each layout with the reader that `evaluate` uses; the search has screening rules, rows of CP-SAT
and a check of heuristic placements.
"""

import random

import pytest

from campaign import blocks
from enumeration import legal_candidates, placed, random_problem
from moeopt.constraints import constrain
from moeopt.constraints.evaluate import Placed, Reader
from moeopt.constraints.rules import trees
from moeopt.constraints.tree import items
from moeopt.evaluation import evaluate
from moeopt.problem.problem import Problem
from moeopt.search import solve

SEEDS = range(120)
BATCH = 20
GIB = 2**30


def random_constraint(rng: random.Random) -> str:
    """One comparison over degrees, choices, layers, memory or time."""
    bytes_ = 6 * GIB + rng.choice([2**26, 2**27, 3 * 2**26, 2**28])
    stage = rng.choice([0, 1, -1, -2])
    return rng.choice(
        [
            f"tp * cp <= {rng.choice([1, 2])}",
            "num_microbatches % pp == 0",
            f"{rng.choice(['tp', 'pp', 'dp', 'ep'])} {rng.choice(['>=', '!=', '<='])} {rng.choice([1, 2])}",
            f"ep > 1 or etp == {rng.choice([1, 2])}",
            "dispatcher == alltoall",
            "recompute == none",
            "not overlap.ep_all_to_all",
            "tp == 1 or recompute != none",
            f"layers[{stage}] <= {rng.choice([1, 2, 3])}",
            f"layers[{stage}] >= {rng.choice([1, 2])}",
            f"layers[0] % 2 == {rng.choice([0, 1])}",
            "max(layers) - min(layers) <= 1",
            "layers[0] < layers[-1]",
            f"layers[0, {rng.choice([0, 1, -1])}] != {rng.choice([0, 1])}",
            f"mtp[{stage}] == 0",
            f"peak_memory[{stage}] <= {bytes_}",
            f"peak_memory <= {bytes_}B",
            f"2 * peak_memory[{stage}] + 1MiB < {2 * bytes_}B",
            f"step_time <= {rng.choice([2, 5, 20, 100])}ms",
            f"pp * peak_memory[{stage}] <= {2 * bytes_}B",
        ]
    )


def random_constraints(seed: int) -> Problem:
    """A small random problem with one or two constraints, some of them joined by or, and, not."""
    rng = random.Random(f"constraints {seed}")
    problem = random_problem(seed + 5000)
    found = []
    for _ in range(rng.choice([1, 1, 2])):
        first, second = random_constraint(rng), random_constraint(rng)
        found.append(rng.choice([first, first, f"({first}) or {second}", f"{first} and ({second})"]))
    return constrain(problem, *found)


def exhaustive(problem: Problem) -> tuple[int, ...] | None:
    """Lowest value of the objective over every layout that obeys rules, memory and constraints."""
    plain = problem.model_copy(update={"constraints": ()})
    wanted = list(trees(problem).values())
    early = [tree for tree in wanted if not items(tree)]
    best: tuple[int, ...] | None = None
    for ledger in legal_candidates(plain):
        at, choices = ledger.degrees, ledger.choices
        if not all(Reader(at, choices).holds(tree) for tree in early):
            continue
        for pipeline in placed(ledger):
            time_ns = ledger.step_time(pipeline).total_ns
            value = {"step_time": time_ns, "cost": time_ns * at.gpus, "gpus": at.gpus}.get(plain.objective, -1)
            if best is not None and value > best[0]:
                continue
            peaks = [stage.total_bytes for stage in ledger.memory(pipeline)]
            reader = Reader(at, choices, Placed.of(pipeline, peaks, time_ns))
            if max(peaks) > plain.memory_limit or not all(reader.holds(tree) for tree in wanted):
                continue
            reached = (max(peaks),) if plain.objective == "peak_memory" else (value, time_ns)
            best = reached if best is None else min(best, reached)
    return best


def check(seed: int) -> str:
    problem = random_constraints(seed)
    expected = exhaustive(problem)
    answer = solve(problem, workers=1, explained=False)
    if expected is None:
        assert answer["status"] == "infeasible", (seed, problem.constraints)
        return "infeasible"
    assert answer["status"] == "optimal", (seed, problem.constraints, expected)
    assert answer["objective"]["value"] == expected[0], (seed, problem.constraints, expected)
    again = evaluate(problem, answer["layout"])
    assert again["status"] == "evaluated", (seed, problem.constraints)
    named = [rule for rule in again["rules"] if rule["rule"].startswith("constraint_")]
    assert len(named) == len(problem.constraints)
    assert again["rules"] == evaluate(problem, answer["layout"])["rules"]
    return "optimal"


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 2))
def test_the_search_obeys_constraints_as_enumeration_does(first: int) -> None:
    """Status and optimum equal those of listing every layout and placement; the answer's rules all hold."""
    seen = [check(seed) for seed in SEEDS[first : first + BATCH]]
    assert "optimal" in seen
