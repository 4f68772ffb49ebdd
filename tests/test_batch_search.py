"""A search with the global batch left open: the optimum of enumeration, compared by the sequence."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import blocks
from enumeration import brought, freed_problem, legal_candidates, peak_bytes, placed, random_problem
from free_cases import FEW, tiny
from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.explain.why_not import why_not
from moeopt.frontier import pareto
from moeopt.layout import Degrees, Recompute
from moeopt.microbatches import admits, divisible, multiples
from moeopt.problem.problem import Bound, Problem
from moeopt.problem.workload import Workload
from moeopt.report.html import page
from moeopt.screening import Limits, Screening, Share
from moeopt.search import solve
from moeopt.space import row
from moeopt.writers.job import read_solution
from moeopt.writers.write import launch
from optimum import solved_as_enumerated

SEEDS = range(240)
BATCH = 20
PER_SEQUENCE = ("step_time", "cost")
OPEN: tuple[Any, ...] = ((4, 8), {"min": 3, "max": 6}, (2, 3, 12), {"min": 2, "max": 13, "multiple_of": 2}, "5..9")


def open_problem(seed: int) -> Problem:
    """A random problem whose global batch is a list or a range; every third frees other decisions too."""
    rng = random.Random(seed)
    problem = freed_problem(seed) if seed % 3 == 0 else random_problem(seed)
    workload = {**problem.workload.model_dump(), "global_batch_size": rng.choice(OPEN)}
    fields = {**dict(problem), "workload": workload, "objective": rng.choice(["step_time", "cost", problem.objective])}
    if rng.random() < 0.2:
        fields["limits"] = problem.limits.model_copy(update={"num_microbatches": Bound(max=4)})
    return Problem(**fields)


def check(seed: int) -> None:
    problem = open_problem(seed)
    found = solved_as_enumerated(problem, seed)
    if found is None:
        return
    answer, value = found
    objective = answer["objective"]
    scale = problem.workload.batches.most if problem.objective in PER_SEQUENCE else objective.get("sequences", 1)
    assert Fraction(objective["value"] * scale, objective.get("sequences", 1)) == value, seed


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 4))
def test_the_solver_equals_the_sweep(first: int) -> None:
    """With the batch open the optimum is that of enumeration over every batch, among its ties the one that the order
    picks; infeasible means that enumeration is empty; and evaluate says the same integers of the layout (240,
    80 of them always)."""
    for seed in SEEDS[first : first + BATCH]:
        check(seed)


# Bounds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(12), 21, 63])
@pytest.mark.parametrize("problem_of", [open_problem, random_problem])
def test_bounds_hold_for_every_batch(problem_of: Callable[[int], Problem], seed: int) -> None:
    """No row's bound of the first level is above what any batch and placement of it has: on bytes, on the step (the
    ledger's and the replayed one) for every number of micro-batches, and on a sequence's share of the step; and rows
    within limits are not left out."""
    problem = problem_of(seed)
    blocks = {
        (block.mode, _open_row(row(block.degrees, i))): (block, i)
        for block in Screening(problem).blocks
        for i in range(len(block.time))
    }
    ledgers = list(legal_candidates(problem))
    for ledger in random.Random(seed).sample(ledgers, min(len(ledgers), 25)):
        mode = ledger.choices.model_copy(update={"recompute": Recompute()})
        block, i = blocks[mode, _open_row(ledger.degrees)]
        longest, time = block.fastest
        for pipeline in placed(ledger):
            step, bytes_ = ledger.step_time(pipeline), peak_bytes(ledger, pipeline)
            time_ns = step.total_ns
            assert block.time[i] <= min(time_ns, time_ns - step.pipeline_ns + ledger.replay(pipeline).total_ns)
            assert block.memory[i] <= bytes_
            assert time[i] * int(ledger.degrees.batch) <= time_ns * int(longest.batch[i])
            for on_gpus in (False, True):
                value = Fraction(time_ns * (int(ledger.degrees.gpus) if on_gpus else 1), int(ledger.degrees.batch))
                limits = Limits(bytes_, time_ns, shares=(Share(value, on_gpus),))
                assert block.within(limits)[i]
                only = np.arange(len(block.time)) == i
                listed = [int(m) for part in block.batches(problem, only, limits) for m in part.num_microbatches]
                assert ledger.degrees.num_microbatches in listed


def _open_row(degrees: Degrees) -> Degrees:
    return replace(degrees, vpp=1, interleave_group=degrees.pp, num_microbatches=0)


@pytest.mark.parametrize("given", OPEN)
def test_batches_say_what_they_hold(given: Any) -> None:
    """Membership and multiples of a range or list are those of its values one by one, as integers and as
    columns."""
    batches = Workload(global_batch_size=given).batches
    values, numbers = list(batches.values), np.arange(1, 30)
    assert [int(n) for n in numbers[admits(batches, numbers)]] == values
    assert [n for n in range(1, 30) if admits(batches, n)] == values
    divides = [n for n in range(1, 30) if any(value % n == 0 for value in values)]
    assert [int(n) for n in numbers[divisible(batches, numbers)]] == divides
    assert [n for n in range(1, 30) if divisible(batches, n)] == divides
    for unit in range(1, 14):
        assert multiples(batches, unit).tolist() == [value // unit for value in values if value % unit == 0]


# Answers ------------------------------------------------------------------------------------------------------------


def one_by_one(problem: Problem) -> list[dict[str, Any]]:
    """The answer for each batch of a problem."""
    batches = problem.workload.batches
    return [solve(problem.at_batch(batch), workers=1, explained=False) for batch in batches.values]


@pytest.mark.parametrize("objective", ["step_time", "cost", "peak_memory", "gpus"])
def test_an_open_batch_is_the_best_of_its_batches(objective: str) -> None:
    """The answer's objective is the best of those of the batches alone: by the sequence for time and cost."""
    gpus = {"min": 1, "max": 4} if objective == "gpus" else 4
    problem = tiny(gpus=gpus, objective=objective, workload={"global_batch_size": (6, 8, 12)}, fix={"etp": 1})
    answer = solve(problem, workers=1, explained=False)
    each = one_by_one(problem)

    def values(found: dict[str, Any]) -> tuple[Fraction, ...]:
        name, step = found["objective"]["name"], Fraction(found["step_time"]["total_ns"], found["batch"]["sequences"])
        shares = {"step_time": step, "cost": step * found["gpus"]["total"]}
        first = shares.get(name, Fraction(found["objective"]["value"]))
        return (first, step) if name == "gpus" else (first,)

    assert values(answer) == min(map(values, each))
    assert answer["objective"]["value"] == answer["objective"]["bound"]
    assert ("sequences" in answer["objective"]) == (objective in PER_SEQUENCE)
    assert answer["problem"]["workload"]["global_batch_size"] == [6, 8, 12]


def test_a_rate_is_of_the_batch_that_is_chosen() -> None:
    """`tokens_per_second` holds for the layout's own batch, to the nanosecond: the fewest GPUs that reach it are those
    of the batches one by one, and one token a second more than the best rate is reached by none."""
    fields: dict[str, Any] = {"gpus": {"min": 1, "max": 4}, "fix": {**FEW, "ep": 1}}
    workload = {"sequence_length": 1000, "global_batch_size": (4, 6, 8)}
    fastest = solve(tiny(**fields, workload=workload), workers=1, explained=False)
    tokens, step_ns = fastest["batch"]["tokens"], fastest["step_time"]["total_ns"]
    reached = tokens * 10**9 // step_ns // 1000 * 1000

    def fewest(rate: int) -> dict[str, Any]:
        limits = {"tokens_per_second": rate}
        return solve(tiny(**fields, workload=workload, objective="gpus", limits=limits), workers=1, explained=False)

    assert fewest(reached)["status"] == "optimal"
    assert fewest(reached + 1000)["status"] == "infeasible"
    half = fewest(reached // 2000 * 1000)
    assert half["batch"]["tokens"] * 10**9 >= reached // 2000 * 1000 * half["step_time"]["total_ns"]
    limits = {"tokens_per_second": reached // 2000 * 1000}
    alone = [
        tiny(**fields, workload={**workload, "global_batch_size": b}, objective="gpus", limits=limits)
        for b in (4, 6, 8)
    ]
    answers = [solve(each, workers=1, explained=False) for each in alone]
    assert half["gpus"]["total"] == min(a["gpus"]["total"] for a in answers if a["status"] == "optimal")


@pytest.mark.parametrize("screening", [True, False])
def test_without_screening_the_answer_is_the_same(screening: bool) -> None:
    """CP-SAT alone, and duality, give the same layout whatever the seed."""
    problem = tiny(gpus=4, fix={**FEW, "pp": 2}, workload={"global_batch_size": {"min": 5, "max": 9}})
    answers = [solve(problem, workers=1, screening=each, explained=False, seed=each) for each in (True, screening)]
    assert answers[0]["layout"] == answers[1]["layout"]
    assert answers[0]["objective"] == answers[1]["objective"]


def test_alternatives_come_in_the_order_of_their_share() -> None:
    """The K best layouts are the K best candidates of enumeration, compared by the sequence over all batches."""
    problem = tiny(fix=FEW, workload={"global_batch_size": (4, 6, 8)})
    answer = solve(problem, workers=1, top=5, explained=False)
    found = [answer, *answer["alternatives"]]
    shares = [Fraction(each["objective"]["value"], each["objective"]["sequences"]) for each in found]
    best = sorted(
        min(brought(problem, ledger, ledger.step_time(pipeline).total_ns) for pipeline in placed(ledger))
        for ledger in legal_candidates(problem)
    )
    assert [share * 8 for share in shares] == best[:5]


def test_further_objectives_are_proven_beside_an_open_batch() -> None:
    """A chain is settled among the optima of its first, each value of the layout's own step with its bound."""
    fields: dict[str, Any] = {"fix": {**FEW, "pp": 2}, "workload": {"global_batch_size": (4, 6)}}
    answer = solve(tiny(**fields, objective="peak_memory", then=("cost",)), workers=1, explained=False)
    memory, cost = answer["objectives"]
    assert (memory["proven"], cost["proven"]) == (True, True)
    assert cost["value"] == cost["bound"]
    assert ("sequences" in memory, cost["sequences"]) == (False, answer["batch"]["sequences"])
    problem = tiny(**fields)
    listed = [
        (peak_bytes(ledger, pipeline), brought(problem, ledger, ledger.step_time(pipeline).total_ns) * 2)
        for ledger in legal_candidates(problem)
        for pipeline in placed(ledger)
    ]
    assert (memory["value"], Fraction(cost["value"] * 6, cost["sequences"])) == min(listed)


def test_stopped_early_the_bound_holds() -> None:
    """However early a solve is stopped, its bound is at most the optimum's value for as many sequences."""
    problem = Problem(
        architecture="olmoe-1b-7b", cluster="h100-sxm", gpus=32, workload={"global_batch_size": "64..128/32"}
    )
    best = solve(problem, workers=1, explained=False)
    assert best["status"] == "optimal"
    share = Fraction(best["objective"]["value"], best["objective"]["sequences"])
    for seconds in (0.01, 0.3, 0.6):
        early = solve(problem, workers=1, time_limit=seconds, explained=False)
        assert early["objective"]["bound"] <= share * early["objective"]["sequences"]


# What reads an answer again -----------------------------------------------------------------------------------------


def test_a_solution_is_evaluated_and_launched_with_its_batch(tmp_path: Path) -> None:
    """Evaluate reads the problem and the layout of a solution and says the same integers; the launch files carry the
    layout's own batch; the report states it."""
    problem = tiny(gpus=8, workload={"global_batch_size": {"min": 8, "max": 24, "multiple_of": 8}})
    answer = solve(problem, workers=1)
    file, sequences = tmp_path / "solution.json", answer["batch"]["sequences"]
    file.write_text(json.dumps(answer))
    again = evaluate(Problem.load(file), answer["layout"])
    assert again["status"] == "evaluated"
    assert all(again[part] == answer[part] for part in ("gpus", "batch", "memory", "step_time", "cost", "problem"))
    job = read_solution(json.loads(file.read_text()))
    assert job.problem.workload.global_batch_size == sequences
    launch(answer, tmp_path / "run")
    assert f"--global-batch-size {sequences}" in (tmp_path / "run" / "train.sh").read_text()
    assert f"{sequences:,} (of 8 to 24 in multiples of 8)" in page(answer)


def test_a_layout_says_its_batch_or_is_refused() -> None:
    """num_microbatches settles an open batch; without it the sentence says so, and a batch outside is a broken rule."""
    problem = tiny(workload={"global_batch_size": (4, 8)})
    layout: dict[str, Any] = {"micro_batch_size": 2, "num_microbatches": 2, "dispatcher": "alltoall"}
    assert evaluate(problem, layout)["batch"]["equation"] == "8 = micro_batch_size 2 * dp 2 * num_microbatches 2"
    with pytest.raises(InputError, match="num_microbatches: not given, and the problem's global_batch_size is 4 or 8"):
        evaluate(problem, {"micro_batch_size": 2})
    broken = evaluate(problem, {**layout, "num_microbatches": 3})
    rules = {rule["rule"]: rule["equation"] for rule in broken["rules"] if not rule["holds"]}
    assert rules == {
        "batch_allowed": "micro_batch_size 2 * dp 2 * num_microbatches 3 = 12, must be one of global_batch_size 4 or 8"
    }


def test_why_not_compares_by_the_sequence() -> None:
    """A layout with another batch is told worse by its share of the time, and the optimum itself is recognised."""
    problem = tiny(fix={**FEW, "ep": 1}, workload={"global_batch_size": (4, 8)})
    answer = solve(problem, workers=1)
    sequences = answer["batch"]["sequences"]
    assert sequences == 8
    worse = why_not(problem, {"num_microbatches": 2}, answer, workers=1)
    assert worse["verdict"] == "worse"
    assert worse["objective"]["given"] > worse["objective"]["best"] == answer["objective"]["value"]
    alone = solve(problem.at_batch(4), workers=1)["step_time"]["total_ns"]
    assert worse["objective"]["given"] == 2 * alone
    assert "for 8 sequences" in worse["text"]
    assert why_not(problem, {"num_microbatches": 4}, answer, workers=1)["verdict"] == "best"


def test_no_layout_is_explained_at_one_batch() -> None:
    """An infeasible problem says that none of its batches has a layout, and why one of them has none."""
    problem = tiny(limits={"peak_memory": 2**20}, workload={"global_batch_size": (6, 8)})
    answer = solve(problem, workers=1, time_limit=5)
    assert answer["status"] == "infeasible"
    assert answer["explanation"]["global_batch_size"] == 8
    assert answer["explanation"]["text"].startswith("No global_batch_size of 6 or 8 has a layout. With 8: ")
    assert "memory_fits" in answer["explanation"]["conflict"]


def test_what_takes_one_batch_says_so() -> None:
    """A frontier, a certificate and too large a range are refused in one sentence; a frontier of one batch is not."""
    problem = tiny(workload={"global_batch_size": (4, 8)})
    with pytest.raises(InputError, match=r"pareto: a frontier is over layouts of one global_batch_size, not 4 or 8"):
        pareto(problem)
    with pytest.raises(InputError, match=r"certify: .* one global_batch_size, not 4 or 8"):
        solve(problem, certify=True)
    with pytest.raises(
        InputError, match=r"workload.global_batch_size: 1 to 100000 make \d+ combinations .* multiple_of"
    ):
        solve(tiny(gpus={"min": 1, "max": 512}, workload={"global_batch_size": "1..100000"}))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"min": 8, "max": 4}, "workload.global_batch_size: min 8 is above max 4"),
        ({"min": 5, "max": 7, "multiple_of": 4}, "no multiple of 4 lies from min 5 to max 7"),
        ({"min": 1, "max": 10**8}, "more than the 1000000 that a range may have"),
        ({"min": 4}, "workload.global_batch_size: max: this field is required"),
        ({"min": 4, "max": 8, "step": 2}, "workload.global_batch_size: step: no such field"),
        ([4, 4], "workload.global_batch_size: 4 is given twice"),
        ([], "a list of 0 batches"),
        ([4, "many"], "'many' is not a whole number from 1 to 1000000000"),
        ([0], "0 is not a whole number"),
        (2.5, "2.5 is not a whole number"),
        (True, "True is not a whole number"),
        ("9..3", "min 9 is above max 3"),
        ("4..8/0", "'0' is not a whole number"),
    ],
)
def test_a_batch_that_cannot_be_read_is_named(given: Any, sentence: str) -> None:
    """One sentence with the field and the value, in a file as in Python."""
    with pytest.raises(InputError) as refused:
        tiny(workload={"global_batch_size": given})
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("workload.global_batch_size: ")


def test_an_open_batch_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A range, its multiples and a list by option; the headline says the batch chosen and those allowed; --layout of a
    solution evaluates it; a sweep's comma list stays a grid."""
    file = tmp_path / "p.json"
    problem = tiny(fix={**FEW, "ep": 1}).model_dump(mode="json")
    file.write_text(
        json.dumps({name: problem[name] for name in ("architecture", "cluster", "gpus", "workload", "fix")})
    )
    for text, kept in (
        ("4..8", {"min": 4, "max": 8, "multiple_of": 1}),
        ("4..8/4", {"min": 4, "max": 8, "multiple_of": 4}),
        ("8,4", [4, 8]),
    ):
        out = tmp_path / "s.json"
        assert run(["solve", str(file), "--global-batch-size", text, "-q", "--force", "-o", str(out)]) == 0
        answer = json.loads(out.read_text())
        assert answer["problem"]["workload"]["global_batch_size"] == kept
        assert run(["evaluate", str(out), "--layout", str(out), "-q"]) == 0
        assert f"{answer['batch']['sequences']:,} (of " in capsys.readouterr().out
    assert run(["solve", str(file), "--global-batch-size", "x..y"]) == 2
    assert "global_batch_size: 'x' is not a whole number" in capsys.readouterr().err
    assert run(["sweep", str(file), "--global-batch-size", "4,8", "--format", "json", "-q"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(each["global_batch_size"], each["sequences"]) for each in rows] == [(4, 4), (8, 8)]
