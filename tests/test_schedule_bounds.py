"""Rows, surrogate, the ledger's pipeline time and the bound over all placements."""

import random
from itertools import combinations

import numpy as np
import pytest

from moeopt.schedule.bounds import (
    evaluate_row,
    ledger_pipeline_ns,
    lower_bound_ns,
    lower_bound_rows,
    placement_lower_bound,
    ub2,
)
from moeopt.schedule.even import even_hops
from moeopt.schedule.placement_bound import ub2_placement_bound
from moeopt.schedule.replay import replay
from schedule_cases import random_shape, random_times


def test_no_row_is_above_a_replay() -> None:
    """Every row is a path of the schedule's graph: at any times, hops and overlap it is at most the replayed time."""
    rng = random.Random(21)
    for _ in range(2500):
        shape, ep_overlap, hop = random_shape(rng), rng.random() < 0.5, rng.choice([0, 4, 40, 400])
        times = random_times(rng, shape[0] * shape[1])
        total = replay(*shape, *times, hop, ep_overlap=ep_overlap).total_ns
        values = [evaluate_row(row, *times, hop) for row in lower_bound_rows(*shape, ep_overlap)]
        assert max(values) <= total, (shape, ep_overlap)
        assert lower_bound_ns(*shape, *times, hop, ep_overlap) == max(values)


def test_even_stages_make_ledger_and_replay_agree() -> None:
    """Uniform chunks without hops: rows, surrogate and ledger are all (M v + p - 1)(f + b), exactly."""
    rng = random.Random(22)
    for _ in range(3000):
        shape = random_shape(rng, 16)
        pp, vpp, microbatches, _ = shape
        f, b = rng.randint(0, 10**9), rng.randint(0, 10**9)
        even = (microbatches * vpp + pp - 1) * (f + b)
        stages = pp * vpp
        assert ledger_pipeline_ns(*shape, [f] * stages, [b] * stages, 0) == even, shape
        assert ub2(*shape, [f + b] * stages) == even


def test_rows_of_1f1b_are_nearly_exact() -> None:
    """Uneven 1F1B with enough micro-batches: the largest row is within 3 % of the replay, and exact in most cases."""
    rng = random.Random(23)
    exact = 0
    for _ in range(300):
        pp = rng.randint(2, 8)
        shape = (pp, 1, rng.randint(4 * pp, 10 * pp), pp)
        forward = [rng.randint(50, 150) for _ in range(pp)]
        backward = [2 * time for time in forward]
        total = replay(*shape, forward, backward, 0).total_ns
        low = ledger_pipeline_ns(*shape, forward, backward, 0)
        assert 0.97 * total <= low <= total
        exact += low == total
    assert exact > 150


def test_1f1b_rows_pay_the_hops() -> None:
    """Even 1F1B with hop latency: the zigzag row is within 1 % of the replay."""
    shape, times = (8, 1, 64, 8), ([100] * 8, [200] * 8)
    total = replay(*shape, *times, 10).total_ns
    assert total > (64 + 7) * 300 + 14 * 10 * 2
    assert 0.99 * total <= lower_bound_ns(*shape, *times, 10) <= total


def test_even_chunks_with_short_hops_cost_what_a_replay_says() -> None:
    """Interleaved, equal chunks: the largest row is (M v + p - 1)(f + b) and `even_hops` hops, the ledger the same, and
    a replay that or, under overlap, one hop more."""
    rng = random.Random(26)
    exact = compared = 0
    for _ in range(800):
        shape, ep_overlap = random_shape(rng, 10), rng.random() < 0.5
        pp, vpp, microbatches, _ = shape
        if vpp == 1:
            continue
        f, b, hop = rng.randint(10**6, 3 * 10**6), rng.randint(10**6, 3 * 10**6), rng.choice([1, 1000, 20_000])
        times = [f] * (pp * vpp), [b] * (pp * vpp)
        ledger = (microbatches * vpp + pp - 1) * (f + b) + even_hops(*shape, ep_overlap) * hop
        assert lower_bound_ns(*shape, *times, hop, ep_overlap) == ledger, (shape, ep_overlap)
        assert ledger_pipeline_ns(*shape, *times, hop, ep_overlap) == ledger
        late = replay(*shape, *times, hop, ep_overlap=ep_overlap).total_ns - ledger
        assert late in ((0, hop) if ep_overlap else (0,)), (shape, ep_overlap)
        exact += late == 0
        compared += 1
    assert exact > 0.8 * compared > 400


@pytest.mark.parametrize("shape", [(4, 4, 64, 4), (8, 2, 64, 8), (2, 8, 32, 2), (4, 3, 30, 6)])
def test_joint_blocks_expose_a_hop_each(shape: tuple[int, int, int, int]) -> None:
    """Under overlap, with an equal or longer last stage and hops of 0 to 5 % of a chunk, rows are within 0.5 % of the
    replay; with long hops those that stay on a rank (R) are at least 1.5 % below it."""
    stages = shape[0] * shape[1]
    for hop in (0, 3, 15):
        for loss in (100, 120, 160):
            forward, backward = [100] * (stages - 1) + [loss], [200] * (stages - 1) + [2 * loss]
            total = replay(*shape, forward, backward, hop, ep_overlap=True).total_ns
            low = lower_bound_ns(*shape, forward, backward, hop, ep_overlap=True)
            assert 0.995 * total <= low <= total, (hop, loss, low / total)
            rows = [row for row in lower_bound_rows(*shape, ep_overlap=True) if row.name.startswith("R")]
            staying = max(evaluate_row(row, forward, backward, hop) for row in rows)
            assert hop < 15 or staying < 0.985 * total, (loss, staying / total)


def test_hops_of_even_chunks_in_columns() -> None:
    """`even_hops` of a column of schedules equals those of each."""
    rng = random.Random(27)
    shapes = [shape for shape in (random_shape(rng) for _ in range(300)) if shape[1] > 1]
    for ep_overlap in (False, True):
        columns = even_hops(*np.array(shapes).T, ep_overlap)
        assert columns.tolist() == [even_hops(*shape, ep_overlap) for shape in shapes]


def test_rows_stay_few() -> None:
    """CP-SAT encodes every row: at most seven a rank, nine under overlap."""
    for shape in [(16, 1, 64, 16), (16, 2, 64, 16), (8, 4, 128, 16), (16, 4, 512, 16)]:
        assert len(lower_bound_rows(*shape)) <= 7 * shape[0]
        assert len(lower_bound_rows(*shape, ep_overlap=True)) <= 9 * shape[0]


def test_surrogate_is_its_minimum_over_all_bases() -> None:
    """UB2 equals trying every integer base time."""
    rng = random.Random(24)
    for _ in range(150):
        pp, vpp, microbatches, group = shape = random_shape(rng, 5)
        times = [rng.randint(0, 30) for _ in range(pp * vpp)]
        groups = 1 if vpp == 1 else -(-microbatches // group)
        values = []
        for base in range(32):
            excess = [[max(0, t - base) for t in times[c * pp : (c + 1) * pp]] for c in range(vpp)]
            waves = sum((microbatches - groups) * max(chunk) + groups * sum(chunk) for chunk in excess)
            values.append((microbatches * vpp + pp - 1) * base + waves)
        assert ub2(*shape, times) == min(values)


def test_ledger_survives_times_beyond_int64() -> None:
    """Scaling all times scales the ledger, also where the products leave 64 bits (up to its rounding)."""
    shape, scale = (4, 2, 64, 4), 10**18
    forward, backward = [3, 4, 5, 6, 3, 4, 5, 9], [7, 8, 9, 10, 7, 8, 9, 11]
    small = ledger_pipeline_ns(*shape, forward, backward, 1)
    large = ledger_pipeline_ns(*shape, [scale * t for t in forward], [scale * t for t in backward], scale)
    assert (small - 1) * scale < large <= small * scale


def _random_placement(rng: random.Random, stages: int) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Forward and backward of stages that hold equal pieces plus a few odd ones, and the pieces."""
    count, time = rng.randint(1, 3 * stages), rng.randint(50, 100)
    held = [0] * stages
    scattered = rng.random() < 0.5
    for piece in range(count):
        held[rng.randrange(stages) if scattered else piece % stages] += 1
    if rng.random() < 0.5:
        rng.shuffle(held)
    odd = [rng.choice([0, 0, 0, rng.randint(0, 300)]) if scattered else 0 for _ in range(stages)]
    total = [n * time + extra for n, extra in zip(held, odd, strict=True)]
    share = rng.random()
    forward = [int(t * rng.choice([share, rng.random()])) for t in total]
    backward = [t - f for t, f in zip(total, forward, strict=True)]
    return forward, backward, [(count, time), (1, max(odd))]


def test_placement_bound_is_below_every_placement_and_reads_columns() -> None:
    """No placement's ledger is below the bound of its totals; a column of shapes gives the same integers."""
    rng = random.Random(25)
    rows, bounds = [], []
    for _ in range(3000):
        shape, hop = random_shape(rng), rng.choice([0, 0, 7])
        forward, backward, pieces = _random_placement(rng, shape[0] * shape[1])
        arguments = (*shape, sum(forward), sum(backward), hop)
        for ep_overlap in (False, True):
            ledger = ledger_pipeline_ns(*shape, forward, backward, hop, ep_overlap)
            assert placement_lower_bound(*arguments, (), ep_overlap) <= ledger, shape
            assert placement_lower_bound(*arguments, pieces, ep_overlap) <= ledger, (shape, pieces)
        if shape[1] > 1:
            times = [f + b for f, b in zip(forward, backward, strict=True)]
            assert ub2_placement_bound(*shape, sum(times), pieces) <= ub2(*shape, times), (shape, pieces)
        rows.append((*arguments, *pieces[0]))
        bounds.append(placement_lower_bound(*arguments, pieces[:1]))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    together = placement_lower_bound(*columns[:7], [(columns[7], columns[8])])
    assert together.tolist() == bounds


def test_placement_bound_is_tight_for_even_placements() -> None:
    """Even stages: the 1F1B bound is attained; the interleaved one, told of the pieces, is within 1 %."""
    for shape in [(8, 1, 64, 8), (16, 1, 40, 16)]:
        pp = shape[0]
        ledger = ledger_pipeline_ns(*shape, [100] * pp, [200] * pp, 0)
        assert placement_lower_bound(*shape, 100 * pp, 200 * pp, 0) == ledger
    for shape in [(8, 4, 256, 8), (4, 2, 128, 4)]:
        stages = shape[0] * shape[1]
        ledger = ledger_pipeline_ns(*shape, [100] * stages, [200] * stages, 0)
        assert placement_lower_bound(*shape, 100 * stages, 200 * stages, 0) >= 0.99 * ledger


def test_surrogate_bound_against_every_placement_of_equal_pieces() -> None:
    """The smallest UB2 over all ways to place n equal pieces is never below its bound, and often equal to it."""
    equal = cases = 0
    for shape in [(2, 2, 8, 2), (2, 2, 6, 3), (3, 2, 9, 3), (2, 3, 12, 2), (2, 2, 7, 7)]:
        stages = shape[0] * shape[1]
        for pieces in range(1, 8):
            bars = combinations(range(pieces + stages - 1), stages - 1)
            splits = [[b - a - 1 for a, b in zip((-1, *bar), (*bar, pieces + stages - 1), strict=True)] for bar in bars]
            least = min(ub2(*shape, [60 * n for n in split]) for split in splits)
            bound = ub2_placement_bound(*shape, 60 * pieces, [(pieces, 60)])
            assert bound <= least, (shape, pieces)
            equal += bound == least
            times = [([20 * n for n in split], [40 * n for n in split]) for split in splits]
            ledger = min(ledger_pipeline_ns(*shape, *pair, 0) for pair in times)
            assert placement_lower_bound(*shape, 20 * pieces, 40 * pieces, 0, [(pieces, 60)]) <= ledger
            cases += 1
    assert equal >= cases // 2
