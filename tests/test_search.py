"""The search as a whole: same answer whatever the threads, honest when stopped, K best in order, bounds that hold."""

import random
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from enumeration import random_problem
from moeopt.cpsat.tie_break import stage_weights
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import ub2
from moeopt.schedule.chunk_cap import Surrogate, longest_chunk_ns
from moeopt.schedule.in_flight import in_flight_vectors
from moeopt.screening import Limits, Screening
from moeopt.screening.average import memory_bound
from moeopt.search import solve
from moeopt.solving.branch import Search
from moeopt.solving.first import First
from moeopt.solving.queue import Queue
from moeopt.solving.settings import Settings, Stopped
from moeopt.space import select

SOLVABLE = [seed for seed in range(60) if random_problem(seed).objective == "step_time"][:8]


def answer_of(number: int, **settings: object) -> dict[str, object]:
    answer = solve(random_problem(number), **settings)  # type: ignore[arg-type]
    answer.pop("search")
    return answer


@pytest.mark.parametrize("seed", SOLVABLE)
def test_answer_does_not_depend_on_workers_or_seed(seed: int) -> None:
    """Layout and every integer are the same for one and for two workers, and for another seed of the solver."""
    first = answer_of(seed, workers=1)
    assert answer_of(seed, workers=2) == first
    assert answer_of(seed, workers=1, seed=7) == first


@pytest.mark.parametrize("seed", SOLVABLE[:4])
def test_without_screening_the_optimum_is_the_same(seed: int) -> None:
    """Giving the solver every candidate changes neither the status nor the objective nor the layout."""
    assert answer_of(seed, workers=2, screening=False) == answer_of(seed, workers=2)


@pytest.mark.parametrize("seed", SOLVABLE[:4])
def test_k_best_are_in_order_and_distinct(seed: int) -> None:
    """Alternatives come after the best, none better than the one before, no two alike."""
    answer = solve(random_problem(seed), workers=2, top=4)
    if answer["status"] == "infeasible":
        return
    values = [answer["objective"]["value"], *(item["objective"]["value"] for item in answer["alternatives"])]
    assert values == sorted(values)
    layouts = [str(answer["layout"]), *(str(item["layout"]) for item in answer["alternatives"])]
    assert len(set(layouts)) == len(layouts)


def test_alternatives_of_the_fewest_gpus_count_gpus() -> None:
    """Under objective `gpus` the further layouts are on the same fewest GPUs, and their objective says so."""
    problem = random_problem(1).model_copy(update={"objective": "gpus", "then": ()})
    answer = solve(problem, workers=1, top=3)
    assert answer["status"] == "optimal"
    assert answer["alternatives"]
    for other in answer["alternatives"]:
        assert other["objective"] == {"name": "gpus", "value": answer["objective"]["value"]}


@pytest.mark.parametrize(("stages", "most"), [(1, 9), (4, 3), (3, 5)])
def test_weighted_layers_compare_stage_by_stage(stages: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tie-break's sums, one after the other, put any two placements in the order of their layers from the first
    stage on, also where a stage of one holds many more layers than any of the other; whatever number of stages one sum
    takes."""
    for largest in (2**60, most * (most + 1) ** 2, 1):
        monkeypatch.setattr("moeopt.cpsat.tie_break._LARGEST_SUM", largest)
        goals = stage_weights(stages, most)
        every = list(product(range(most + 1), repeat=stages))
        assert sorted(every, key=lambda c: [sum(c[s] * weight for s, weight in goal) for goal in goals]) == every


def test_weights_are_small_enough_for_the_solver() -> None:
    """For 1,000 layers on 256 stages each sum stays below 2^62."""
    goals = stage_weights(256, 1000)
    assert sorted(stage for goal in goals for stage, _ in goal) == list(range(256))
    assert max(sum(1000 * weight for _, weight in goal) for goal in goals) < 2**62


@pytest.mark.parametrize("place", ["moeopt.solving.branch.break_tie", "moeopt.search.prove_replay"])
def test_an_interrupt_after_the_proof_keeps_the_answer(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while ties are broken or replays are bounded ends with the proven optimum."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    optimum = answer_of(SOLVABLE[0], workers=1)
    monkeypatch.setattr(place, stop)
    answer = answer_of(SOLVABLE[0], workers=1)
    assert answer["status"] == optimum["status"] == "optimal"
    assert answer["objective"] == optimum["objective"]


INTERRUPTED_TWICE = """
import os, signal, threading
from ortools.sat.python import cp_model
from moeopt.cpsat.solve import run

def hard():
    model, n = cp_model.CpModel(), 26
    pigeon = [[model.new_bool_var("") for _ in range(n - 1)] for _ in range(n)]
    for row in pigeon:
        model.add_exactly_one(row)
    for hole in zip(*pigeon):
        model.add(sum(3 * x for x in hole) <= 5)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.max_time_in_seconds = 1, 60
    solver.parameters.cp_model_presolve = False
    solver.parameters.linearization_level = 0
    solver.parameters.symmetry_level = 0
    return solver, model

for keep in (False, True):
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    solver, model = hard()
    try:
        print("kept", solver.status_name(run(solver, model, keep=keep)))
    except KeyboardInterrupt:
        print("raised")
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(5)
except KeyboardInterrupt:
    print("alive")
"""


def test_every_interrupt_reaches_python() -> None:
    """Ctrl-C stops the solver at once and is passed on, or keeps what the solver has; the process is not without a
    handler after it, so that a further one is an exception too and not the end."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_TWICE], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout.split() == ["raised", "kept", "UNKNOWN", "alive"], done.stderr


def test_a_search_without_time_says_so() -> None:
    """With no time at all the answer is feasible with a bound below its value, or unknown: never a proof."""
    answer = solve(random_problem(SOLVABLE[0]), time_limit=1e-9, workers=1)
    assert answer["status"] in {"feasible", "unknown"}
    if answer["status"] == "feasible":
        assert answer["objective"]["bound"] <= answer["objective"]["value"]


def test_listing_stops_at_the_deadline() -> None:
    """Listing rows without a limit on their time asks whether it may go on: it is what took longest of a search that
    had found no layout."""
    asked = 0

    def pause() -> None:
        nonlocal asked
        asked += 1
        raise Stopped

    screening = Screening(random_problem(SOLVABLE[0]), pause=pause)
    with pytest.raises(Stopped):
        screening.pairs(Limits(2**62))
    assert asked == 1


@pytest.mark.parametrize("seed", SOLVABLE)
def test_every_pipeline_length_is_placed(seed: int) -> None:
    """What is placed first of every length are rows of it that fit by their bound and have the lowest ones."""
    problem = random_problem(seed)
    queue = Queue(problem, Screening(problem).pairs(Limits(problem.memory_limit)), lambda pair: pair.time)
    rows = [queue.candidate(at) for at in range(len(queue))]
    limit_bytes = int(np.median(queue.memory)) if rows else 0
    fitting = [at for at in range(len(queue)) if queue.memory[at] <= limit_bytes]
    picked = queue.lowest_by_length(limit_bytes, 2)
    for pp in {rows[at].degrees.pp for at in fitting}:
        bounds = sorted(int(queue.bound[at]) for at in fitting if rows[at].degrees.pp == pp)
        mine = [at for at in picked if rows[at].degrees.pp == pp]
        assert set(mine) <= set(fitting)
        assert [int(queue.bound[at]) for at in mine] == bounds[:2]
    assert len(picked) <= 2 * len({rows[at].degrees.pp for at in fitting})


def test_a_last_chunk_in_flight_means_all_are() -> None:
    """What the memory bounds assume of interleaved schedules is dominated by an exact vector in every case."""
    rng = random.Random(5)
    for _ in range(1500):
        p, v, m = rng.randint(2, 12), rng.randint(2, 6), 0
        m = rng.randint(p, 6 * p)
        group = rng.choice([g for g in range(p, m + 1) if m % g == 0 or m % g >= p])
        rank = rng.randrange(p)
        depth = 2 * (p - 1 - rank) + 1
        wanted = [min(m, group + max(0, depth - group)), *[min(m, group)] * (v - 2), min(m, group, depth)]
        vectors = in_flight_vectors(p, v, m, group, rank)
        assert any(all(a >= b for a, b in zip(vector, wanted, strict=True)) for vector in vectors)
        assert any(min(vector) >= wanted[-1] for vector in vectors)


def test_chunk_cap_never_cuts_a_placement() -> None:
    """UB2 is at least its bound for the longest chunk, and no chunk of a placement within a limit exceeds the cap."""
    rng = random.Random(6)
    for _ in range(1500):
        p, v = rng.choice([2, 3, 4, 8]), rng.choice([2, 3, 4])
        m = p * rng.randint(1, 6)
        times = [rng.randint(0, 50) if rng.random() < 0.5 else rng.randint(20, 30) for _ in range(p * v)]
        upper = ub2(p, v, m, p, times)
        assert Surrogate.of(p, v, m, p, sum(times)).at_least(np.array(float(max(times)))) <= upper
        rows = max(m * sum(times[rank::p]) for rank in range(p))
        limit = -(-(rows + upper) // 2)
        assert int(np.max(longest_chunk_ns(p, v, m, p, sum(times), limit))) >= max(times)


def test_a_row_needs_the_memory_among_others_that_it_needs_alone() -> None:
    """Memory bounds sort the rows by pipeline length on the way; each is of its own row and its overhead."""
    problem = Problem(architecture="qwen3-30b-a3b", cluster="h100-sxm", gpus=64)
    pairs = Screening(problem).pairs(Limits(problem.memory_limit, time_ns=2 * 10**10))
    pair = max(pairs, key=lambda pair: len(set(pair.costs.fixed.tolist())))
    assert len(set(zip(pair.degrees.pp.tolist(), pair.costs.fixed.tolist(), strict=True))) > 3
    together = memory_bound(problem, pair.degrees, pair.costs)
    for row in map(np.atleast_1d, range(0, pair.size, 29)):
        assert memory_bound(problem, select(pair.degrees, row), pair.costs.rows(row)) == together[row]


@pytest.mark.parametrize("modules", [("core_attn", "mlp"), ("core_attn",), ("core_attn", "layernorm")])
def test_first_layouts_are_found_under_any_recompute_that_is_fixed(modules: tuple[str, ...]) -> None:
    """A problem that fixes a set of modules which the search would not choose still starts from a layout, so that its
    proof has a limit to begin with."""
    fixed = {"recompute": {"granularity": "selective", "modules": list(modules)}}
    problem = Problem(architecture="qwen3-30b-a3b", cluster="h100-sxm", gpus=64, fix=fixed)
    search = Search(problem, Settings())
    first = First(search.screening, search.best, lambda: None)
    lowest = first.lowest_score()
    assert lowest is not None
    first.find(lowest)
    assert search.best.pool
