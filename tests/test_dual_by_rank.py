"""Candidates settled rank by rank: against every placement of small grids and of random problems."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from enumeration import peak_bytes, placed, random_problem
from moeopt.accounting.pieces import Piece
from moeopt.dual.by_rank import ByRank
from moeopt.dual.contents import Filling, Holding
from moeopt.dual.grid import Array, Grid, grid_of
from moeopt.dual.prices import Prices, Rows, duration_ns, ub2_at
from moeopt.dual.tops import base_times, deepest_stage, tops_of
from moeopt.pipeline import PipelineLayout
from moeopt.screening import Limits, Screening
from moeopt.space import row
from test_dual import candidates, every_placement, random_case


class Nothing(Holding):
    """Ranks hold what layers and special pieces count for themselves, in so many bytes."""

    def __init__(self, memory_bytes: int) -> None:
        object.__setattr__(self, "memory_bytes", memory_bytes)

    def room(self, _grid: Grid, flight: Array) -> Array:
        return np.full(len(flight), float(self.memory_bytes))

    def passing(self, _piece: Piece) -> int:
        return 0

    def once(self, _pieces: Sequence[Piece]) -> int:
        return 0


def own_rows_and_ub2(
    filling: Filling, rows: Rows, prices: Prices, placement: tuple[list[int], int], base: float
) -> float:
    """The longest rank's own work with what comes before it, and UB2 at a base time."""
    counts, ending = placement
    held = prices.held(np.array([counts]), np.array([ending]))
    time = duration_ns(held)
    work = time.reshape(-1, filling.grid.pp).sum(axis=0)
    return float((rows.schedule[2] * work + filling.fill_ns).max() + ub2_at(rows, np.array([base]), time)[0])


@pytest.mark.parametrize("seed", range(80))
def test_something_is_left_exactly_where_a_placement_is_within_the_target(seed: int) -> None:
    """By R1 and UB2 at a base time, and the bytes of every rank: something is left where a placement is within the
    target, and where layers of one kind follow the others nowhere else; what is left is such a placement then."""
    rng = random.Random(seed)
    grid, rows, prices = random_case(rng, by_block=False)
    every = every_placement(grid)
    room = rng.choice([34, 45, 60, 80])
    holding, prices = Nothing(room), replace(prices, room=np.full_like(prices.room, room))
    filling = Filling(grid, rows, prices, holding)
    deepest = len(grid.layers)
    _, bases = base_times(grid, rows, prices, deepest, one=False)
    base = float(rng.choice(bases))
    fitting = [
        each for each in every if (rows.bytes(prices.held(np.array([each[0]]), np.array([each[1]]))) <= room).all()
    ]
    values = [own_rows_and_ub2(filling, rows, prices, each, base) for each in fitting]
    for target in [sorted(values)[0] * 0.999, *rng.sample(values, min(3, len(values)))] if values else [1e6]:
        limited = replace(prices, target_ns=np.array([target]))
        tops = [tops_of(grid, rows, limited, chunk, deepest, np.array([base]))[0] for chunk in range(grid.vpp)]
        left = ByRank(grid, rows, limited, holding, deepest).left(base, tops, 0)
        within = [each for each, value in zip(fitting, values, strict=True) if value <= target]
        assert left is not None or not within, (seed, target)
        if filling.prefix + grid.layers.count(grid.layers[-1]) == len(grid.layers):
            found = None if left is None else (left.counts[0].tolist(), int(left.ending[0]))
            assert found in within if within else found is None, (seed, target, found)


@pytest.mark.parametrize("seed", range(80))
def test_weights_rule_nothing_out_that_is_within_the_target(seed: int) -> None:
    """However often the weights of the time rows are raised: where a placement is within the target by all rows and UB2
    at the base time, something is left."""
    rng = random.Random(seed)
    grid, rows, prices = random_case(rng, by_block=False)
    holding = Nothing(60)
    deepest = deepest_stage(grid, prices)
    _, bases = base_times(grid, rows, prices, deepest, one=False)
    base = float(rng.choice(bases))
    every = every_placement(grid)
    for counts, ending in rng.sample(every, min(4, len(every))):
        held = prices.held(np.array([counts]), np.array([ending]))
        if (rows.bytes(held) > 60).any():
            continue
        target = float(rows.values(held, prices.hop_ns).max() + ub2_at(rows, np.array([base]), duration_ns(held))[0])
        limited = replace(prices, target_ns=np.array([target]))
        tops = [tops_of(grid, rows, limited, chunk, deepest, np.array([base]))[0] for chunk in range(grid.vpp)]
        for rounds in (1, 12, 40):
            assert ByRank(grid, rows, limited, holding, deepest).left(base, tops, rounds) is not None, (seed, counts)


def contents_of(grid: Grid, filling: Filling, pipeline: PipelineLayout, rank: int) -> tuple[int, ...]:
    """Counted layers of each chunk of a rank."""
    first = [max(chunk.first, filling.prefix) for chunk in pipeline.chunks[rank :: grid.pp]]
    return tuple(
        max(chunk.last - start, 0) for chunk, start in zip(pipeline.chunks[rank :: grid.pp], first, strict=True)
    )


def check_totals(filling: Filling, rank: int, deepest: int) -> None:
    """No way holds more than the most, and asking for so many layers leaves out those with fewer."""
    every = filling.contents(rank, deepest)
    assert every.total.max(initial=0) <= filling.most(rank, deepest)
    for fewest in np.unique(every.total).tolist():
        some = filling.contents(rank, deepest, fewest=fewest)
        more = some.only(some.total >= fewest)
        expected = every.only(every.total >= fewest)
        assert sorted(zip(more.role, map(tuple, more.counts.tolist()), strict=True)) == sorted(
            zip(expected.role, map(tuple, expected.counts.tolist()), strict=True)
        )


def check_contents(seed: int) -> int:
    problem = random_problem(seed)
    screening = Screening(problem)
    generous = screening.pairs(Limits(problem.memory_limit, time_ns=10**12))
    compared = 0
    ledgers = iter(candidates(problem, generous))
    for pair in generous:
        for index in range(pair.size):
            ledger, degrees = next(ledgers), row(pair.degrees, index)
            grid = grid_of(problem.architecture.layers, int(degrees.pp), int(degrees.vpp), problem.mtp_layers)
            layouts = list(placed(ledger))
            if not layouts or compared > 40:
                continue
            schedule = (
                *(int(n) for n in (degrees.pp, degrees.vpp, degrees.num_microbatches, degrees.interleave_group)),
            )
            rows = Rows.of((*schedule, bool(pair.mode.overlap.ep_all_to_all)))
            limit = random.Random(seed).choice([peak_bytes(ledger, layout) for layout in layouts])
            costs = pair.costs.rows(np.array([index]))
            within = np.array([1e15]), np.array([1e15]), limit
            prices = Prices.of(grid, rows, costs, np.array([0.0]), within)
            filling = Filling(grid, rows, prices, Holding(problem, costs, limit))
            ways = [
                set(map(tuple, filling.contents(rank, len(grid.layers)).counts.tolist())) for rank in range(grid.pp)
            ]
            for rank in range(grid.pp):
                check_totals(filling, rank, len(grid.layers))
            for layout in layouts:
                if peak_bytes(ledger, layout) <= limit:
                    for rank in range(grid.pp):
                        assert contents_of(grid, filling, layout, rank) in ways[rank], (seed, str(layout), rank)
                    compared += 1
    return compared


def test_ranks_may_hold_what_placements_that_fit_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a rank of a placement within the memory holds is among its ways (20 random problems, memory at the peak
    of one of the placements); of these, the ones with so many layers are found without the others."""
    monkeypatch.setattr("moeopt.dual.contents._MANY", 0)
    assert sum(check_contents(seed) for seed in range(20)) > 100
