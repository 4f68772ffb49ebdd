"""Duality over whole layers: bounds, placements and lists against every placement of small problems.

Walks are compared with all placements for weights drawn at random, bounds and lists with the exact reader.
"""

import random
from itertools import pairwise, product

import numpy as np
import pytest

from campaign import blocks
from enumeration import block_problem, peak_bytes, placed, placements, random_problem
from moeopt.accounting.ledger import Ledger
from moeopt.dual import NARROW, Answer, paired, raised, sampled
from moeopt.dual.grid import Grid, first_of_each, grid_of
from moeopt.dual.pairs import ask_pairs
from moeopt.dual.prices import MEASURES, Prices, Rows, sums_over_layers
from moeopt.dual.tables import Tables
from moeopt.dual.tops import base_times, deepest_stage, tops_of
from moeopt.dual.walks import Dual, Walks, Weights
from moeopt.pipeline import PipelineLayout
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import ub2
from moeopt.screening import Limits, Pair, Screening
from moeopt.search import solve
from moeopt.space import row
from schedule_cases import random_shape

DENSE, MOE, WINDOW = LayerKind("dense"), LayerKind("moe"), LayerKind("moe", 128)


def every_placement(grid: Grid) -> list[tuple[list[int], int]]:
    """(layers of each stage, stage of the MTP modules), as the grid's rules say."""
    found = []

    def extend(counts: list[int], left: int) -> None:
        stage = len(counts)
        if stage == grid.stages:
            return
        if grid.may_end(stage):
            found.append(([*counts, left] + [0] * (grid.stages - stage - 1), stage))
        if stage < grid.stages - 1:
            for layers in range(grid.fewest(stage), left + 1):
                extend([*counts, layers], left - layers)

    extend([], len(grid.layers))
    return found


def random_case(rng: random.Random, by_block: bool = True) -> tuple[Grid, Rows, Prices]:
    """A grid of a few stages, an order of operations, and prices of one candidate; `by_block`: which may recompute the
    first layers of every stage."""
    while True:
        shape = random_shape(rng, 3)
        layers = rng.choice([(DENSE, MOE, MOE, MOE, MOE), (MOE, WINDOW) * 3, (DENSE,) * 5, (DENSE, DENSE, *(MOE,) * 4)])
        if shape[0] * shape[1] <= 6:
            break
    grid = grid_of(layers, shape[0], shape[1], rng.choice([0, 0, 1, 2]))
    block = np.array([rng.choice([0, 0, 1, 2, 3] if by_block else [0])])
    rows = Rows.of((*shape, rng.random() < 0.3), replayed=rng.random() < 0.2)
    kinds = np.array([[[rng.randint(20, 90), rng.randint(40, 180), 5, 3, 0] for _ in grid.kinds]], dtype=float)
    kinds[0, grid.kinds.index(max(grid.kinds, key=layers.count)), 4] = 1
    again = np.array([[[0, rng.randint(10, 60), 0, -rng.randint(0, 3), 0] for _ in grid.kinds]], dtype=float)

    def special(most: int) -> np.ndarray:
        return np.array([[rng.randint(0, most), rng.randint(0, most), 7, 2, 0]], dtype=float)

    hop, whole = np.array([float(rng.choice([0, 3]))]), np.array([1e9])
    room = np.full((1, len(rows.resident)), 60.0)
    mtp = special(150) if grid.mtp_layers else np.zeros((1, MEASURES))
    sums = sums_over_layers(grid, kinds), sums_over_layers(grid, again)
    prices = Prices(kinds, again, *sums, block, special(30), mtp, special(120), hop, 0 * hop, room, whole, whole, whole)
    return grid, rows, prices


def measured(grid: Grid, prices: Prices, counts: list[int], ending: int) -> np.ndarray:
    """Measures of every stage, layer by layer: 1 x stages x measures."""
    held, layers = np.zeros((1, grid.stages, MEASURES)), iter(grid.layers)
    for stage, count in enumerate(counts):
        for place in range(count):
            kind = grid.kinds.index(next(layers))
            held[0, stage] += prices.kinds[0, kind] + (prices.again[0, kind] if place < prices.block_layers[0] else 0)
    held[0, 0] += prices.embedding[0]
    held[0, -1] += prices.loss[0]
    held[0, ending] += prices.mtp[0]
    assert (held == prices.held(np.array([counts]), np.array([ending]))).all()
    return held


@pytest.mark.parametrize("seed", range(60))
def test_a_walk_is_the_cheapest_placement(seed: int) -> None:
    """For any weights and base time: the walk's value is the least of the weighted rows, UB2 and bytes over all
    placements, the placement read from it has that value, and so has the best way through every stage."""
    rng = random.Random(seed)
    grid, rows, prices = random_case(rng)
    deepest = deepest_stage(grid, prices)
    of, bases = base_times(grid, rows, prices, deepest, one=False)
    chosen = rng.randrange(len(of))
    base = bases[chosen : chosen + 1]
    tops = [tops_of(grid, rows, prices, chunk, deepest, base) for chunk in range(grid.vpp)]
    generator = np.random.default_rng(seed)
    rho = generator.random((1, len(rows.time)))
    mu, nu = generator.random((1, len(rows.resident))), generator.random((1, grid.pp))
    dual = Dual(rho / rho.sum(), mu, nu, np.full((1, grid.pp), 2.0))
    tables = Tables.of(grid, rows, prices, base, tops, deepest)
    open_ = [np.ones((1, high - low + 1), dtype=bool) for low, high in zip(tables.low, tables.high, strict=True)]
    walks = Walks(tables, Weights.of(rows, prices, dual), open_)

    def value(counts: list[int], ending: int) -> float:
        held = measured(grid, prices, counts, ending)
        total = (dual.rho * rows.values(held, prices.hop_ns)).sum() + (mu * (rows.bytes(held) - prices.room)).sum()
        total += (nu * (held[:, :, 4] @ rows.ranks.T - dual.most)).sum()
        times = held[0, :, 0] + held[0, :, 1]
        excess = np.maximum(times - base[0], 0).reshape(grid.vpp, grid.pp)
        return float(total + rows.span * base[0] + rows.waves * excess.max(axis=1).sum() + rows.rounds * excess.sum())

    least = min(value(*each) for each in every_placement(grid))
    assert walks.values[0] == pytest.approx(least, rel=1e-10)
    found = walks.placements()
    assert value(found.counts[0].tolist(), int(found.ending[0])) == pytest.approx(least, rel=1e-12)
    through = walks.reached()
    for stage in range(grid.final + 1):
        assert through[stage].min() == pytest.approx(least, rel=1e-10)


def test_base_times_hold_the_least_ub2() -> None:
    """The least UB2 of every placement is at one of the base times listed (300 random placements)."""
    rng = random.Random(3)
    for _ in range(60):
        grid, rows, prices = random_case(rng)
        if not rows.surrogate:
            continue
        _, bases = base_times(grid, rows, prices, deepest_stage(grid, prices), one=False)
        for counts, ending in rng.sample(every_placement(grid), 5):
            held = measured(grid, prices, counts, ending)[0]
            times = [int(f + b) for f, b in held[:, :2]]
            exact = ub2(*rows.schedule[:4], times)
            at = [ub2_value(rows, times, int(base)) for base in bases]
            assert min(at) == exact


def ub2_value(rows: Rows, times: list[int], base: int) -> int:
    """UB2 with one base time, from its definition."""
    pp, vpp, microbatches, group, _ = rows.schedule
    rounds = -(-microbatches // group)
    total = (microbatches * vpp + pp - 1) * base
    for chunk in range(vpp):
        excess = [max(0, time - base) for time in times[chunk * pp : (chunk + 1) * pp]]
        total += (microbatches - rounds) * max(excess) + rounds * sum(excess)
    return total


def candidates(problem: Problem, pairs: list[Pair]) -> list[Ledger]:
    """Every row as a ledger, one after the other."""
    return [
        Ledger(problem, row(pair.degrees, index), pair.mode.model_copy(update={"recompute": pair.recompute}))
        for pair in pairs
        for index in range(pair.size)
    ]


def check(seed: int, problem: Problem | None = None) -> int:
    """Rows compared with all their placements."""
    problem = problem or random_problem(seed)
    screening = Screening(problem)
    everything = screening.pairs(Limits(problem.memory_limit, time_ns=10**12))
    if not everything:
        return 0
    shortest = min(int(pair.time.min()) for pair in everything)
    replayed = seed % 3 == 0
    limits = Limits(problem.memory_limit, time_ns=shortest * (5 + seed % 5) // 4, replayed=replayed)
    pairs = screening.pairs(limits)
    if not pairs:
        return 0
    rounds = (1, 7, 12)[seed % 3]
    answer = ask_pairs(problem, pairs, limits, lambda question: raised(question, rounds))
    quick = ask_pairs(problem, pairs, limits, lambda question: sampled(question, rounds))
    ledgers = candidates(problem, pairs)
    answers = [answer]
    if replayed:
        answers.append(ask_pairs(problem, pairs, limits, lambda question: paired(question, NARROW)))
    for index, ledger in enumerate(ledgers):
        for each in answers:
            compare(ledger, limits, each, index, seed)
        every = placements(problem, ledger.degrees.pp, ledger.degrees.vpp)
        assert all(layout in every for layout in quick.placed[index]), seed
    return len(ledgers)


def compare(ledger: Ledger, limits: Limits, answer: Answer, index: int, seed: int) -> None:
    assert limits.time_ns is not None
    for pipeline in placed(ledger):
        if peak_bytes(ledger, pipeline) > limits.memory_bytes:
            continue
        step = ledger.step_time(pipeline)
        total_ns = step.total_ns
        if limits.replayed:
            total_ns += ledger.replay(pipeline).total_ns - step.pipeline_ns
        if total_ns <= limits.time_ns:
            assert answer.bound_ns[index] <= total_ns, (seed, index, str(pipeline))
            if answer.complete[index]:
                assert pipeline in answer.placed[index], (seed, index, str(pipeline))


def test_bounds_and_lists_hold_for_every_placement() -> None:
    """No placement that fits is below its candidate's bound, and a complete list has every placement within the
    limits: of the ledger's step, and of the replayed one, there by duality and rank by rank (40 problems)."""
    assert sum(check(seed) for seed in range(40)) > 200


def test_they_hold_where_the_first_layers_are_recomputed() -> None:
    """The same law with full recompute by block, layers of several kinds in any order (60 problems)."""
    assert sum(check(seed, block_problem(seed)) for seed in range(60)) > 200


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(40, 400, 60), 1))
def test_more_bounds_and_lists_hold(first: int) -> None:
    """The same law on 360 further problems, 60 of them always."""
    for seed in range(first, first + 60):
        check(seed)


def test_a_grid_without_placements_is_none() -> None:
    """A grid has placements exactly where every stage that needs a layer can have one and none has too many; asking for
    them where there are none is an answer."""
    for layers, pp, vpp, mtp in product(range(1, 5), range(1, 5), range(1, 4), range(2)):
        if vpp > 1 and pp == 1:
            continue
        grid = grid_of((MOE,) * layers, pp, vpp, mtp)
        every = every_placement(grid)
        for deepest in range(layers + 1):
            fitting = [counts for counts, _ in every if max(counts) <= deepest]
            assert grid.has_placements(deepest) == bool(fitting), (grid, deepest)


@pytest.mark.parametrize("objective", ["step_time", "cost", "peak_memory"])
def test_more_stages_than_layers_are_infeasible(objective: str) -> None:
    """3 layers and MTP modules on 2 ranks of 3 chunks: 4 stages need a layer before the last rank has the modules."""
    problem = load_problem(
        {
            "architecture": {
                "hidden_size": 256,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "vocab_size": 1000,
                "intermediate_size": 512,
                "num_experts": 4,
                "num_experts_per_tok": 1,
                "moe_intermediate_size": 128,
                "num_nextn_predict_layers": 1,
            },
            "cluster": "h100-sxm",
            "gpus": 4,
            "workload": {"sequence_length": 512, "global_batch_size": 8},
            "fix": {"tp": 1, "cp": 1, "micro_batch_size": 1, "pp": 2, "vpp": 3, "recompute": "none"},
            "objective": objective,
        }
    )
    assert solve(problem, workers=1, explained=False)["status"] == "infeasible"
    without = problem.model_copy(update={"fix": {name: problem.fix[name] for name in ("tp", "cp", "micro_batch_size")}})
    assert solve(without, workers=1, explained=False)["status"] == "optimal"


def test_a_band_has_every_placement() -> None:
    """Layers before each stage of any placement are within the band of its deepest stage."""
    rng = random.Random(11)
    for _ in range(40):
        grid, _, _ = random_case(rng)
        for counts, ending in every_placement(grid):
            low, high = grid.band(max(counts))
            before = [0, *np.cumsum(counts).tolist()]
            assert all(low[s] <= before[s] <= high[s] for s in range(ending + 1)), (grid, counts)
            assert PipelineLayout.from_counts(grid.pp, counts, grid.mtp_layers, ending).pp == grid.pp
            assert all(a <= b for a, b in pairwise(before))


@pytest.mark.parametrize("seed", range(20))
def test_distinct_rows_are_numpy_s(seed: int) -> None:
    """The first of each distinct row in lexicographic order, whatever number of words the rows need."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(0, 60)), int(rng.integers(1, 70))
    rows = rng.integers(0, int(rng.choice([1, 2, 3, 200, 2**40])), size=shape)
    rows = np.concatenate([rows, rows[rng.integers(0, max(len(rows), 1), size=min(len(rows), 30))]])
    distinct, first = np.unique(rows, axis=0, return_index=True)
    assert (rows[first_of_each(rows)] == distinct).all()
    assert first_of_each(rows).tolist() == first.tolist()
