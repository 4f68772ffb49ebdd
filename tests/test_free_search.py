"""A search with decisions freed: the optimum of enumeration, bounds that hold, a tie-break without ties."""

import random
from dataclasses import replace

import numpy as np
import pytest

from campaign import blocks
from enumeration import exhaustive_best, freed_problem, legal_candidates, peak_bytes, placed
from free_cases import FEW, tiny
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.pieces import Recomputed
from moeopt.candidate import Candidate
from moeopt.configurations import modes, recomputes
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.frameworks.megatron_core import choices_legal
from moeopt.freedom import simplicity
from moeopt.layout import Choices, Degrees, Layout, Recompute
from moeopt.screening import Limits, Screening
from moeopt.screening.table import RecomputeTable
from moeopt.search import solve
from moeopt.space import enumerate_degrees, row, with_chunks
from optimum import solved_as_enumerated

SEEDS = range(140)
BATCH = 20
NO_LIMIT_BYTES = 2**50


# The optimum --------------------------------------------------------------------------------------------------------


def check(seed: int) -> None:
    found = solved_as_enumerated(freed_problem(seed), seed)
    if found is not None:
        answer, value = found
        assert answer["objective"]["value"] == value, seed


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 2))
def test_the_solver_equals_the_sweep(first: int) -> None:
    """With decisions freed the optimum is that of enumeration, among its ties the one that the order picks; infeasible
    means that enumeration is empty; and evaluate says the same integers of the layout (140 problems,
    40 of them always)."""
    for seed in SEEDS[first : first + BATCH]:
        check(seed)


@pytest.mark.parametrize("seed", range(14))
def test_bounds_hold_for_every_placement(seed: int) -> None:
    """No row's bound on time or memory, of either level, is above what any placement of it has, under any setting."""
    problem = freed_problem(seed)
    screening = Screening(problem)
    blocks = {
        (block.mode, _without_chunks(row(block.degrees, i))): (int(block.time[i]), int(block.memory[i]))
        for block in screening.blocks
        for i in range(len(block.time))
    }
    rows = {
        (pair.mode, pair.recompute, row(pair.degrees, i)): (int(pair.time[i]), int(pair.memory[i]))
        for pair in screening.pairs(Limits(NO_LIMIT_BYTES))
        for i in range(pair.size)
    }
    ledgers = list(legal_candidates(problem))
    for ledger in random.Random(seed).sample(ledgers, min(len(ledgers), 25)):
        mode = ledger.choices.model_copy(update={"recompute": Recompute()})
        bounds = blocks[mode, _without_chunks(ledger.degrees)], rows[mode, ledger.choices.recompute, ledger.degrees]
        for pipeline in placed(ledger):
            values = ledger.step_time(pipeline).total_ns, peak_bytes(ledger, pipeline)
            assert all(bound <= value for pair in bounds for bound, value in zip(pair, values, strict=True))


def _without_chunks(degrees: Degrees) -> Degrees:
    return replace(degrees, vpp=1, interleave_group=degrees.pp)


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("mla", [False, True])
def test_the_screening_lets_no_more_pass_than_a_set_does(overlapped: bool, mla: bool) -> None:
    """Under every set of modules a row's price of what passes is at most the ledger's, what it keeps is exactly the
    ledger's, and one element of the lightest costs is at most both; overlapped or not."""
    base = tiny().architecture.model_dump(exclude_defaults=True)
    wide = {"kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64} if mla else {}
    fields = {"architecture": {**base, **wide}, "workload": {"attention_backend": "unfused"}, "free": "block_recompute"}
    problem = tiny(**fields, fix={"dispatcher": "alltoall", "overlap": {"ep_all_to_all": overlapped}, "ep": 2})
    degrees, _ = with_chunks(problem, enumerate_degrees(problem))
    (mode,) = modes(problem)
    table, every = RecomputeTable(problem, degrees, mode), np.arange(len(degrees.tp))
    settings = [each for each in recomputes(problem) if choices_legal(problem, _under(mode, each))]
    lightest = table.lightest(settings)
    for setting in settings:
        terms = memory_terms(problem, degrees, _under(mode, setting))
        # By block every stage that has layers has recomputed ones; `by_layer` has what such a stage costs at least.
        again = {kind: Recomputed.of(kind) if setting.block_layers else kind for kind in problem.architecture.kinds}
        kept = {piece: terms.kept_bytes[again.get(piece, piece)] for piece in table.counts}
        ((_, work, time),) = table.time_bounds([setting])
        costs = table.pair(setting, work, every, time).costs
        below = np.zeros(len(every), dtype=bool)
        for piece, size in costs.passing.items():
            assert (size <= terms.transient_bytes[again.get(piece, piece)]).all()
            assert (costs.kept[piece] - costs.freed_bytes.get(piece, 0) == kept[piece]).all()
        for least in lightest:
            parts = [least.passing[p] <= costs.passing[p] for p in kept] + [least.kept[p] <= kept[p] for p in kept]
            below |= np.logical_and.reduce(parts)
        assert below.all()


def _under(mode: Choices, recompute: Recompute) -> Choices:
    return mode.model_copy(update={"recompute": recompute})


@pytest.mark.parametrize("free", ["recompute", "cuda_graphs", "optimizer.moments", "overlap", "interleave_group"])
def test_freedom_never_costs(free: str) -> None:
    """The optimum with a decision freed is no worse than without, and the answer's problem says what was freed."""
    fix = {name: value for name, value in FEW.items() if name not in free} | {"vpp": 2, "pp": 2}
    freely, usual = (solve(tiny(free=given, fix=fix), workers=1, explained=False) for given in ((free,), ()))
    assert freely["objective"]["value"] <= usual["objective"]["value"]
    assert freely["problem"]["free"] == [free]


def test_a_tight_memory_takes_what_is_free() -> None:
    """Where nothing fits with defaults, freed optimizer types are what makes it fit, and the answer says them."""
    least = solve(tiny(objective="peak_memory", fix=FEW), workers=1, explained=False)["objective"]["value"]
    limits = {"peak_memory": least - 1}
    assert solve(tiny(limits=limits, fix=FEW), workers=1, explained=False)["status"] == "infeasible"
    answer = solve(tiny(limits=limits, fix=FEW, free="optimizer"), workers=1, explained=False)
    assert answer["status"] == "optimal"
    assert answer["layout"]["optimizer"] != Choices().optimizer.model_dump()


# Ties ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(14))
def test_the_tie_break_is_total(seed: int) -> None:
    """No two candidates of a problem share their place in the order, and the defaults are the simplest of all."""
    problem = freed_problem(seed)
    ledgers = list(legal_candidates(problem))
    orders = {Candidate(problem, ledger.degrees, ledger.choices, 0).order for ledger in ledgers}
    assert len(orders) == len(ledgers)
    assert set(simplicity(Choices())) == {0}


def test_gpus_alone_tell_candidates_apart() -> None:
    """Where the number of GPUs is open, candidates that differ in nothing but dp have different places."""
    problem = tiny(gpus={"min": 1, "max": 4}, fix={"dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}})
    ledgers = list(legal_candidates(problem))
    assert len({Candidate(problem, ledger.degrees, ledger.choices, 0).order for ledger in ledgers}) == len(ledgers)


def test_equal_layouts_go_to_the_simpler_choice() -> None:
    """On one GPU nothing is reduced, gathered or sent: the switches that say how keep their defaults, whatever the
    seed and the number of threads."""
    problem = tiny(gpus=1, free=["overlap", "sequence_parallel"])
    answers = [solve(problem, workers=1 + seed, seed=seed, explained=False)["layout"] for seed in (0, 1)]
    assert answers[0] == answers[1]
    assert answers[0]["overlap"] == Choices().overlap.model_dump()
    assert answers[0]["sequence_parallel"] is True


@pytest.mark.parametrize("unit", [2, 4])
def test_units_of_full_recompute_are_searched(unit: int) -> None:
    """A unit of several layers may be fixed: the optimum is that of enumeration over the placements whose largest chunk
    holds one, which evaluate calls legal. More layers than there are are refused."""
    recompute = {"granularity": "full", "method": "uniform", "num_layers": unit}
    fix = {"recompute": recompute, "dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}, "pp": 2}
    for objective in ("step_time", "peak_memory"):
        problem = tiny(fix=fix, gpus=4, objective=objective)
        answer, expected = solve(problem, workers=1, explained=False), exhaustive_best(problem)
        assert expected is not None
        assert answer["objective"]["value"] == answer["objective"]["bound"] == expected[0]
        assert evaluate(problem, Layout(**answer["layout"]))["status"] == "evaluated"
    with pytest.raises(InputError, match="num_layers 5 > num_hidden_layers 4: no chunk holds so many"):
        tiny(fix={**fix, "recompute": {**recompute, "num_layers": 5}})
