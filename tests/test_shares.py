"""Linear programs over shares of layers, against every placement of small grids."""

import random
from dataclasses import replace

import numpy as np

from moeopt.dual.grid import Grid
from moeopt.dual.prices import Prices, Rows, duration_ns, ub2_at
from moeopt.dual.shares import Shares, Weights
from test_dual import every_placement, measured, random_case


def judged(grid: Grid, rows: Rows, prices: Prices) -> list[tuple[float, float]]:
    """The largest row and the least UB2 of every placement together, and the bytes by which its fullest memory row is
    above the room."""
    found = []
    for counts, ending in every_placement(grid):
        held = measured(grid, prices, counts, ending)
        times = duration_ns(held)
        bases = np.unique([0.0, *times[0]])
        upper = ub2_at(rows, bases, np.tile(times, (len(bases), 1))).min() if rows.surrogate else 0.0
        over = float((rows.bytes(held) - prices.room).max())
        found.append((float(rows.values(held, prices.hop_ns).max() + upper), over))
    return found


def with_room(prices: Prices, more_bytes: float) -> Prices:
    """The same with more room in every memory row."""
    return replace(prices, room=prices.room + more_bytes)


def test_no_placement_within_memory_is_below_the_bound() -> None:
    """The bound of a program is at most rows and UB2 of every placement that fits, where all do, few do and none does;
    it is near the best one where memory is plenty, and rises where nothing fits. (200 random cases.)"""
    rng, near, higher, looked = random.Random(5), 0, 0, 0
    for seed in range(200):
        grid, rows, prices = random_case(rng, by_block=False)
        every = judged(grid, rows, prices)
        over = sorted(each for _, each in every)
        bounds = []
        for more in (over[-1], over[len(over) // 8], over[0] - 20):
            mine = with_room(prices, more)
            least = min((value for value, each in every if each <= more), default=None)
            shares = Shares(grid, rows, mine)
            weights = shares.weights()
            assert list(weights) == [0]
            bounds.append(float(shares.least_ns(weights)[0]))
            assert least is None or bounds[-1] <= least * (1 + 1e-12), (seed, more)
        looked += 1
        near += bounds[0] > 0.8 * min(value for value, _ in every)
        higher += bounds[2] > 1.01 * bounds[0]
    assert near > 0.8 * looked
    assert higher > 0.5 * looked


def test_any_weights_give_a_bound() -> None:
    """Whatever the weights are made of, also what no program gives (negative, too large, not one in sum): no placement
    that fits is below what they tell. (2,000 weights.)"""
    rng, generator, told = random.Random(6), np.random.default_rng(6), 0
    for _ in range(100):
        grid, rows, prices = random_case(rng, by_block=False)
        every = judged(grid, rows, prices)
        more = sorted(over for _, over in every)[len(every) // 2]
        least = min(value for value, over in every if over <= more)
        shares = Shares(grid, rows, with_room(prices, more))
        found = shares.weights()[0]
        for _ in range(20):
            time, memory, excess = (
                each * generator.lognormal(0, 2, len(each))
                + generator.normal(0, 1, len(each)) * generator.integers(0, 2)
                for each in (found.time, found.memory, found.excess)
            )
            weights = Weights.of(rows, time, memory, excess)
            if weights is not None:
                told += 1
                assert float(shares.least_ns({0: weights})[0]) <= least * (1 + 1e-12)
    assert told > 1500


def test_layers_recomputed_by_block_have_no_bound() -> None:
    """A candidate whose layers' prices depend on their place in a stage gets weights from its program, and no bound."""
    rng, seen = random.Random(7), 0
    for _ in range(40):
        grid, rows, prices = random_case(rng)
        shares = Shares(grid, rows, prices)
        known = bool(np.isfinite(shares.least_ns(shares.weights())[0]))
        assert known == (not prices.block_layers[0])
        seen += not known
    assert seen > 5
