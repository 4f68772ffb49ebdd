"""The heuristic placement of layers."""

import random
from itertools import combinations
from typing import Any

import numpy as np

from moeopt.schedule.bounds import ledger_pipeline_ns
from moeopt.schedule.placement import balanced_counts, ledger_many
from schedule_cases import random_shape, random_times


def _stage_times(counts: tuple[int, ...], layers: list[int], extras: list[int]) -> list[int]:
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [sum(layers[a : a + n]) + extra for a, n, extra in zip(starts, counts, extras, strict=True)]


def test_many_placements_at_once_equal_one_by_one() -> None:
    """The column form of the ledger gives the same integers, also where 64 bits do not suffice."""
    rng = random.Random(31)
    for scale in (1, 1, 1, 10**15):
        for _ in range(60):
            shape, hop, ep_overlap = random_shape(rng), rng.choice([0, 5]), rng.random() < 0.3
            times = [random_times(rng, shape[0] * shape[1]) for _ in range(4)]
            forward, backward = (np.array([pair[i] for pair in times]) * scale for i in (0, 1))
            many = ledger_many((*shape, ep_overlap), forward, backward, hop * scale)
            for index in range(4):
                one = (forward[index].tolist(), backward[index].tolist())
                assert many[index] == ledger_pipeline_ns(*shape, *one, hop * scale, ep_overlap)


def test_small_cases_come_close_to_trying_everything() -> None:
    """Against every placement of few layers: mostly optimal, never 10 % off, and its own time is right."""
    rng = random.Random(32)
    optimal, cases = 0, 40
    for _ in range(cases):
        pp, vpp = rng.choice([(4, 1), (2, 2), (3, 2)])
        shape, stages, n = (pp, vpp, 6 * pp, pp), pp * vpp, rng.randint(6, 10)
        layers = [60] * 2 + [100] * (n - 2)
        extras = [10] + [0] * (stages - 2) + [rng.choice([0, 90, 170, 260])]
        doubled = [2 * t for t in layers], [2 * t for t in extras]
        counts, value = balanced_counts((*shape, False), layers, doubled[0], extras, doubled[1], 0)
        assert sum(counts) == n

        def ledger(counts: tuple[int, ...]) -> int:
            forward = _stage_times(counts, layers, extras)  # noqa: B023
            return ledger_pipeline_ns(*shape, forward, [2 * t for t in forward], 0)  # noqa: B023

        assert value == ledger(counts)
        bars = combinations(range(n + stages - 1), stages - 1)
        splits = (tuple(b - a - 1 for a, b in zip((-1, *bar), (*bar, n + stages - 1), strict=True)) for bar in bars)
        best = min(map(ledger, splits))
        assert best <= value <= 1.1 * best
        optimal += value == best
    assert optimal >= 0.7 * cases


def _alternating(rng: random.Random, shape: tuple[int, int, int, int], layers: int) -> tuple[Any, ...]:
    """Arguments of `balanced_counts`: layers of three kinds, in any order."""
    stages = shape[0] * shape[1]
    times = [rng.choice([40, 100, 170]) for _ in range(layers)]
    extras = [10] + [0] * (stages - 2) + [90]
    return (*shape, False), times, [2 * t for t in times], extras, [2 * t for t in extras], 0


def test_tabu_search_helps_where_kinds_alternate() -> None:
    """On many stages it is never worse than descent alone, and mostly better; on few it is mostly the best of all
    placements."""
    rng = random.Random(33)
    better = 0
    for _ in range(20):
        given = _alternating(rng, (4, 5, 32, 4), 60)
        plain, wandered = balanced_counts(*given), balanced_counts(*given, steps=60)
        assert plain is not None
        assert wandered is not None
        assert sum(wandered[0]) == 60
        assert wandered[1] <= plain[1]
        better += wandered[1] < plain[1]
    assert better >= 12
    best = 0
    for _ in range(20):
        given = _alternating(rng, (2, 3, 8, 2), 10)
        wandered = balanced_counts(*given, steps=60)
        assert wandered is not None
        bars = combinations(range(15), 5)
        splits = np.array([[b - a - 1 for a, b in zip((-1, *bar), (*bar, 15), strict=True)] for bar in bars])
        ends = np.concatenate([np.zeros((len(splits), 1), dtype=np.int64), splits.cumsum(axis=1)], axis=1)
        forward = np.array([0, *np.cumsum(given[1])])[ends]
        stages = forward[:, 1:] - forward[:, :-1] + np.array(given[3])
        best += wandered[1] == int(ledger_many(given[0], stages, 2 * stages, 0).min())
    assert best >= 14


def test_memory_goes_before_time() -> None:
    """Where the fastest placement does not fit, one that fits is returned, and it is not faster."""
    shape = (4, 1, 32, 4, False)
    times = ([100] * 16, [200] * 16, [0, 0, 0, 150], [0, 0, 0, 300], 0)
    free = balanced_counts(shape, *times)
    assert free is not None
    assert free[0][0] > 3

    def over(counts: Any) -> Any:
        return np.maximum(0, counts[:, 0] - 3)

    placed = balanced_counts(shape, *times, over)
    assert placed is not None
    tight, tight_ns = placed
    assert tight[0] <= 3
    assert sum(tight) == 16
    assert tight_ns >= free[1]


def test_rooms_are_kept() -> None:
    """No stage holds fewer or more layers than its room says; an impossible room gives no placement."""
    shape = (4, 1, 32, 4, False)
    times = ([100] * 16, [200] * 16, [0, 0, 0, 150], [0, 0, 0, 300], 0)
    placed = balanced_counts(shape, *times, None, [(0, 16), (6, 6), (1, 16), (0, 0)])
    assert placed is not None
    assert placed[0][1] == 6
    assert placed[0][3] == 0
    assert sum(placed[0]) == 16
    assert balanced_counts(shape, *times, None, [(5, 16)] * 4) is None
