"""The scaled model of a candidate's replayed step: it loses no placement within the limits."""

import threading
from itertools import pairwise

import pytest
from ortools.sat.python import cp_model

from enumeration import block_problem, legal_candidates, peak_bytes, placed, random_problem
from moeopt.candidate import Candidate
from moeopt.cpsat import closing
from moeopt.cpsat.closing import Asked, Closing
from moeopt.cpsat.replayed import Outcome
from moeopt.cpsat.scaled import ScaledReplays, step_end_at_least_ns
from moeopt.problem.problem import Problem
from moeopt.schedule.combined import Counts
from moeopt.solving.replayed import Timed
from moeopt.solving.settings import Settings


def timed_placements(candidate: Candidate) -> list[tuple[Timed, int]]:
    """Every placement with its replayed step, and the fullest rank's bytes."""
    every = placed(candidate.ledger)
    return [(Timed.of(candidate, pipeline), peak_bytes(candidate.ledger, pipeline)) for pipeline in every]


def found(model: ScaledReplays) -> set[str]:
    """Every placement of a model, one solve after the other, each forbidden in the next."""
    result: set[str] = set()
    while True:
        outcome = model.solve(cp_model.CpSolver(), Settings(workers=1), 10.0)
        if outcome.pipeline is None:
            assert outcome.status == "none"
            return result
        assert str(outcome.pipeline) not in result
        result.add(str(outcome.pipeline))
        model.forbid(outcome.pipeline)


def check(problem: Problem, seed: int) -> tuple[int, int]:
    """How many placements were within limits, and how many were cut off; fails where one within them is lost."""
    kept = gone = 0
    candidates = [Candidate(problem, ledger.degrees, ledger.choices, 0) for ledger in legal_candidates(problem)]
    for candidate in candidates[seed % 7 :: 7]:
        judged = timed_placements(candidate)
        cuts: list[Counts] = [item.cut for item, _ in judged if item.cut is not None]
        end_ns = step_end_at_least_ns(candidate)
        for item, _ in judged:
            step = candidate.ledger.step_time(item.pipeline)
            assert end_ns <= step.total_ns - step.pipeline_ns, (seed, candidate)
        steps, peaks = sorted({item.step_ns for item, _ in judged}), sorted({peak for _, peak in judged})
        if not steps:
            continue
        for limit_ns, limit_bytes in ((steps[0] - 1, peaks[-1]), (steps[len(steps) // 2], peaks[len(peaks) // 2])):
            left = found(ScaledReplays(candidate, limit_ns, limit_bytes, cuts))
            within = {str(t.pipeline) for t, peak in judged if t.step_ns <= limit_ns and peak <= limit_bytes}
            assert within <= left, (seed, candidate)
            kept, gone = kept + len(within), gone + len(judged) - len(left)
    return kept, gone


def test_no_placement_within_the_limits_is_lost() -> None:
    """With every critical path as a row, each placement whose replay and bytes are within limits (the median ones, and
    just below the best step) is a solution; others are cut off."""
    every = [random_problem(seed).model_copy(update={"objective": "step_time", "then": ()}) for seed in range(10)]
    counted = [check(problem, seed) for seed, problem in enumerate(every)]
    assert sum(kept for kept, _ in counted) > 20
    assert sum(gone for _, gone in counted) > 20


def test_none_is_lost_where_layers_are_recomputed_by_block() -> None:
    """The same where the first layers of every chunk have prices of their own."""
    every = [block_problem(seed).model_copy(update={"objective": "step_time", "then": ()}) for seed in range(12)]
    counted = [check(problem, seed) for seed, problem in enumerate(every)]
    assert sum(kept for kept, _ in counted) > 20


def test_attempts_close_what_enumeration_says() -> None:
    """Attempts at candidates, several at once and without a row to begin with: closed, and the best that they found is
    the best replayed step of the candidate's placements that fit, where that is within the limit."""
    closed = bettered = 0
    for seed in range(8):
        problem = random_problem(seed).model_copy(update={"objective": "step_time", "then": ()})
        candidates = [Candidate(problem, ledger.degrees, ledger.choices, 0) for ledger in legal_candidates(problem)]
        candidates = candidates[seed % 5 :: 5][:8]
        judged = [timed_placements(candidate) for candidate in candidates]
        slow = [max((item.step_ns for item, _ in each), default=0) for each in judged]
        most_bytes = problem.memory_limit
        asked = [Asked(each, limit, most_bytes, (), 0) for each, limit in zip(candidates, slow, strict=True)]
        for attempt, each in zip(Closing(Settings(workers=2)).run(asked), judged, strict=True):
            fitting = [item.step_ns for item, peak in each if peak <= problem.memory_limit]
            assert attempt.better or attempt.status == "loose" or not fitting, seed
            if attempt.status == "closed":
                assert [item.step_ns for item in attempt.better[-1:]] == ([min(fitting)] if fitting else []), seed
                closed += 1
            bettered += len(attempt.better) > 1
    assert closed > 10
    assert bettered


def test_ctrl_c_stops_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while attempts run is passed on, after their solvers were stopped: none goes on."""
    solve = ScaledReplays.solve
    started = threading.Barrier(3)

    def endless(self: ScaledReplays, solver: cp_model.CpSolver, settings: Settings, _: float) -> Outcome:
        self.cp.clear_objective()
        wide = [self.cp.new_int_var(0, 10**6, "") for _ in range(60)]
        for first, second in pairwise(wide):
            self.cp.add_multiplication_equality(self.cp.new_int_var(3, 10**12, ""), [first, second])
        self.cp.add(sum((7 + i) * i * variable for i, variable in enumerate(wide)) == 10**9 + 7)
        self.cp.maximize(sum(wide))
        started.wait()
        return solve(self, solver, settings, 1e9)

    def interrupted(*_: object, **__: object) -> None:
        started.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(ScaledReplays, "solve", endless)
    real, calls = closing.wait, []

    def wait_once(*arguments: object) -> object:
        calls.append(arguments)
        return interrupted() if len(calls) == 1 else real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(closing, "wait", wait_once)
    problem = random_problem(3)
    ledger = next(iter(legal_candidates(problem)))
    asked = Asked(Candidate(problem, ledger.degrees, ledger.choices, 0), 10**12, problem.memory_limit, (), 0)
    with pytest.raises(KeyboardInterrupt):
        Closing(Settings(workers=2)).run([asked, asked, asked])
    assert threading.active_count() == 1
