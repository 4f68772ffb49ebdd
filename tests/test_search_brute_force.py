"""CP-SAT against enumeration on small random problems: same optimum, and every "infeasible" is an empty sweep."""

from collections.abc import Sequence
from typing import Any

import pytest

from campaign import blocks
from enumeration import exhaustive_best, random_problem
from moeopt.candidate import Candidate
from moeopt.cpsat.descent import Descent, descend
from moeopt.cpsat.proof import Proof
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.search import solve
from moeopt.solving.incumbent import Found, placed_side_by_side
from moeopt.solving.raising import Raising

SEEDS = range(2000)
BATCH = 50


def check(seed: int) -> None:
    compare(random_problem(seed), seed)


def compare(problem: Problem, seed: int) -> None:
    answer = solve(problem, workers=1, explained=False)
    expected = exhaustive_best(problem)
    if expected is None:
        assert answer["status"] == "infeasible", (seed, answer["status"])
        return
    assert answer["status"] == "optimal", (seed, answer["status"], expected)
    assert answer["objective"]["value"] == answer["objective"]["bound"] == expected[0], (seed, expected)
    if len(expected) > 1:
        assert answer["step_time"]["total_ns"] == expected[1], (seed, expected)
    again = evaluate(problem, Layout(**answer["layout"]))
    assert again["status"] == "evaluated", seed
    for part in ("gpus", "parameters", "memory", "step_time"):
        assert again[part] == answer[part], (seed, part)


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 14))
def test_the_solver_equals_the_sweep(first: int) -> None:
    """The optimum of CP-SAT is that of enumeration, and infeasible means that enumeration is empty (2,000 problems,
    700 of them always)."""
    for seed in SEEDS[first : first + BATCH]:
        check(seed)


@pytest.mark.parametrize("first", range(0, 150, BATCH))
def test_the_solver_equals_the_sweep_in_8_bits(first: int) -> None:
    """The same problems in fp8, every other one with 8-bit parameters."""
    for seed in SEEDS[first : first + BATCH]:
        problem = random_problem(seed)
        given = {"precision": "fp8", "fp8_param_gather": seed % 2 == 0}
        compare(problem.model_copy(update={"workload": problem.workload.model_copy(update=given)}), seed)


@pytest.mark.parametrize("first", range(0, 150, BATCH))
def test_heuristic_placements_change_no_optimum(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where every problem counts as one whose memory is tight, and as one whose kinds of layers alternate, so
    that candidates are placed by heuristics before their bounds are raised, and by longer ones right after."""
    placed: list[Candidate] = []
    wandered: list[Candidate] = []

    def counted(candidates: Sequence[Candidate], limit_bytes: int, steps: int = 0) -> list[Found | None]:
        (wandered if steps else placed).extend(candidates)
        return placed_side_by_side(candidates, limit_bytes, steps)

    def both(raising: Raising) -> None:
        place(raising)
        raising._wander()

    place = Raising._place
    monkeypatch.setattr(Raising, "_place", both)
    monkeypatch.setattr("moeopt.solving.raising._FAR", 0)
    monkeypatch.setattr("moeopt.solving.raising._RUNS", 0)
    monkeypatch.setattr("moeopt.solving.raising.placed_side_by_side", counted)
    for seed in SEEDS[first : first + BATCH]:
        check(seed)
    assert len(placed) >= 20
    assert len(wandered) >= 5


@pytest.mark.parametrize("first", range(0, 150, BATCH))
def test_what_the_scaled_model_settles_is_as_enumeration_says(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where duality settles nothing, so that CP-SAT is asked of every candidate that matters."""
    proven: list[bool] = []

    def counted(*given: Any, known: Found | None) -> Descent:
        proven.append((descent := descend(*given, known=known)).proven)
        return descent

    for name in ("_ROUNDS", "_FURTHER"):
        monkeypatch.setattr(f"moeopt.solving.raising.{name}", ())
    monkeypatch.setattr("moeopt.cpsat.proof.descend", counted)
    for seed in SEEDS[first : first + BATCH]:
        check(seed)
    assert sum(proven) > 0.8 * len(proven) > 40


@pytest.mark.parametrize("first", range(0, 150, BATCH))
def test_what_the_smaller_models_leave_is_as_enumeration_says(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where neither duality nor the smaller models settle anything at first: duality is asked again, in many
    rounds, and then the full model."""
    again: list[int] = []
    solved: list[Candidate] = []

    def further(raising: Raising) -> None:
        again.append(len(raising.queue))

    def counted(proof: Proof, candidate: Candidate) -> None:
        solved.append(candidate)
        solve_one(proof, candidate)

    solve_one = Proof._solve
    monkeypatch.setattr("moeopt.solving.raising._ROUNDS", ())
    for module in ("moeopt.solving.raising", "moeopt.cpsat.proof"):
        monkeypatch.setattr(f"{module}.FEW", 0)
    monkeypatch.setattr(Raising, "further", further)
    monkeypatch.setattr(Proof, "_possible", lambda _, batch: list(batch))
    monkeypatch.setattr(Proof, "_solve", counted)
    for seed in SEEDS[first : first + BATCH]:
        check(seed)
    assert len(again) >= 10
    assert len(solved) > 40


@pytest.mark.parametrize("first", range(0, 150, BATCH))
def test_linear_programs_change_no_optimum(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where linear programs look at every candidate before duality does."""
    looked: list[int] = []

    def counted(raising: Raising) -> None:
        looked.append(len(raising.queue))
        relax(raising)

    relax = Raising._relax
    monkeypatch.setattr(Raising, "_relax", counted)
    monkeypatch.setattr("moeopt.solving.raising._ROUNDS", (2, 12))
    monkeypatch.setattr("moeopt.solving.raising.FEW", 0)
    monkeypatch.setattr(Raising, "_is_tight", property(lambda raising: len(raising.queue) > 0))
    monkeypatch.setattr("moeopt.solving.raising._IN_VAIN", 0)
    for seed in SEEDS[first : first + BATCH]:
        check(seed)
    assert sum(looked) > 50


def test_steps_that_the_clock_cuts_short_change_no_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a long step leaves open because the time is over is open, and no more: the same optima where every such step
    finds the time to be over."""
    asked: list[bool] = []

    def over() -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr("moeopt.dual.bounds._BY_RANK_FROM", 0)
    monkeypatch.setattr("moeopt.clock.is_over", over)
    for seed in range(60):
        check(seed)
    assert len(asked) >= 10
