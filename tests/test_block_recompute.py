"""Full recompute by block in a search: the first layers of every chunk are recomputed, whatever the placement."""

import random
from typing import Any

import pytest

import test_certify
import test_frontier_brute_force
from campaign import blocks
from enumeration import (
    block_problem,
    canonical_best,
    exhaustive_best,
    legal_candidates,
    peak_bytes,
    placed,
    random_problem,
)
from free_cases import tiny
from moeopt.evaluation import evaluate
from moeopt.layout import Degrees, Layout, Recompute
from moeopt.problem.problem import Problem
from moeopt.screening import Limits, Screening
from moeopt.search import solve
from moeopt.space import row


def check(problem: Problem, seed: int, **how: Any) -> None:
    """The solve's optimum is enumeration's, and evaluate says the same of its layout."""
    answer, expected = solve(problem, workers=1, explained=False, **how), exhaustive_best(problem)
    if expected is None:
        assert answer["status"] == "infeasible", seed
        return
    assert answer["status"] == "optimal", seed
    assert answer["objective"]["value"] == answer["objective"]["bound"] == expected[0], seed
    again = evaluate(problem, Layout(**answer["layout"]))
    assert again["status"] == "evaluated", seed
    assert all(again[part] == answer[part] for part in ("gpus", "memory", "step_time")), seed


def freed(seed: int) -> Problem:
    """A random problem on few GPUs with recompute freed, blocks included."""
    problem = random_problem(seed)
    fix = {name: value for name, value in problem.fix.items() if name != "recompute"}
    fix = {"dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}, **fix}
    return Problem(**{**dict(problem), "gpus": 2, "fix": fix, "free": ("block_recompute",)})


def test_fixed_blocks_equal_the_sweep() -> None:
    """With block recompute fixed the optimum is that of enumeration, kinds of layers in any order, any objective (30
    problems)."""
    for seed in range(30):
        check(block_problem(seed), seed)


def test_the_solver_alone_equals_the_sweep() -> None:
    """The same without first layouts and duality: CP-SAT counts the recomputed layers of each kind (10 problems)."""
    for seed in range(10):
        check(block_problem(seed), seed, screening=False)


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(30, 330, 60), 1))
def test_more_fixed_blocks_equal_the_sweep(first: int) -> None:
    """The same laws on 300 further problems, 60 of them always."""
    for seed in range(first, first + 60):
        check(block_problem(seed), seed, screening=seed % 3 > 0)


def test_freed_blocks_equal_the_sweep() -> None:
    """With blocks freed the optimum is that of enumeration over every setting, and among its ties the one that the
    order picks (6 problems)."""
    for seed in range(6):
        problem = freed(seed)
        check(problem, seed)
        expected = canonical_best(problem)
        if expected is not None:
            answer = solve(problem, workers=1, explained=False)
            assert Layout(**answer["layout"]).choices == expected[1].choices, seed


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(6, 126, 20), 1))
def test_more_freed_blocks_equal_the_sweep(first: int) -> None:
    """The same on 120 further problems, 20 of them always."""
    for seed in range(first, first + 20):
        check(freed(seed), seed)


def test_certificates_and_frontiers_take_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates and frontiers of problems with blocks fixed are those of enumeration."""
    monkeypatch.setattr(test_certify, "random_problem", block_problem)
    monkeypatch.setattr(test_frontier_brute_force, "random_problem", block_problem)
    monkeypatch.setattr(test_frontier_brute_force, "BATCH", 6)
    assert sum(test_certify.check(seed) for seed in range(5)) >= 3
    test_frontier_brute_force.test_the_frontier_equals_enumeration(0)


def test_a_block_of_whole_chunks_is_full() -> None:
    """Without MTP modules a block as long as the longest chunk costs what full recompute of one layer a unit does; a
    shorter one costs less time and no fewer bytes."""
    fields = {"tp": 2, "ep": 2, "etp": 1, "pp": 1, "micro_batch_size": 1}

    def of(**recompute: Any) -> tuple[int, int]:
        answer = evaluate(tiny(), Layout(**fields, recompute={"granularity": "full", **recompute}))
        return answer["step_time"]["total_ns"], answer["memory"]["peak_bytes"]

    full = of()
    assert of(method="block", num_layers=4) == full
    times, sizes = zip(*(of(method="block", num_layers=layers) for layers in (1, 2, 3, 4)), strict=True)
    assert list(times) == sorted(set(times))
    assert list(sizes) == sorted(sizes, reverse=True)


def test_what_memory_asks_for_is_a_bound() -> None:
    """Where long sequences fill memory, bounds on the time of rows by block rise with what must be recomputed to fit;
    no placement that fits is below them, and a row that is dropped has none within the limits (12 problems, ten pairs
    of limits each, those of placements)."""
    rose = sum(rows_risen(seed) for seed in range(24))
    assert rose > 5


def rows_risen(seed: int) -> int:
    """Rows of a problem whose bound memory raised, compared with all their placements."""
    rng, problem = random.Random(seed), block_problem(seed)
    workload = problem.workload.model_copy(update={"sequence_length": 32768})
    problem = Problem(
        **{**dict(problem), "workload": workload, "limits": {**dict(problem.limits), "peak_memory": None}}
    )
    values = {
        ledger.degrees: [(ledger.step_time(at).total_ns, peak_bytes(ledger, at)) for at in placed(ledger)]
        for ledger in legal_candidates(problem)
    }
    screening, every = Screening(problem), sorted(each for of_row in values.values() for each in of_row)
    return sum(risen(screening, values, rng.choice(every)[0], rng.choice(every)[1]) for _ in range(10))


def risen(screening: Screening, values: dict[Degrees, list[tuple[int, int]]], most_ns: int, most_bytes: int) -> int:
    """The same under limits; `values` are time and bytes of every placement of each row."""
    loose, tight = (
        {
            row(pair.degrees, index): int(pair.time[index])
            for pair in screening.pairs(Limits(memory, time_ns=most_ns))
            for index in range(pair.size)
        }
        for memory in (2**50, most_bytes)
    )
    for degrees, of_row in values.items():
        for time_ns, size in of_row:
            if time_ns <= most_ns and size <= most_bytes:
                assert tight[degrees] <= time_ns, degrees
    return sum(loose[degrees] < bound for degrees, bound in tight.items())


def test_full_recompute_is_no_part_of_a_set() -> None:
    """Where nothing recomputed is ruled out, sets of modules still count beside full recompute: no bound is above the
    optimum."""
    problem = tiny(constraints=["recompute.granularity != none"], gpus=1)
    best = exhaustive_best(problem)
    assert best is not None
    screening = Screening(problem)
    assert all(int(block.time.min()) <= best[0] for block in screening.blocks)
    assert {setting.granularity for setting in screening.recomputes} == {"none", "selective", "full"}
    assert Recompute() in screening.recomputes
