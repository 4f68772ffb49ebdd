"""Bounds that know what fits beside the special pieces never exceed the best placement, found by listing all."""

import random
from itertools import combinations, pairwise

import numpy as np
import pytest

from moeopt.schedule.bounds import ub2
from moeopt.schedule.packed_bound import Load, heaviest_rank_ns, ub2_packed_ns

MOST_PLACEMENTS = 2_000


def _column(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64)


def _stages(counts: list[int], layers: list[int], first: int, last: int) -> list[int]:
    """Time of every stage."""
    times, start = [], 0
    for count in counts:
        times.append(sum(layers[start : start + count]))
        start += count
    times[0] += first
    times[-1] += last
    return times


def _best(shape: tuple[int, int, int, int], layers: list[int], special: tuple[int, int, int]) -> tuple[int, int] | None:
    """(least UB2, least time of the heaviest rank) of all placements whose inner stages are not empty."""
    pp, vpp, microbatches, group = shape
    embedding, loss, mtp = special
    stages = pp * vpp
    least: tuple[int, int] | None = None
    listed = 0
    for cuts in combinations(range(len(layers) + stages - 1), stages - 1):
        listed += 1
        if listed > MOST_PLACEMENTS:
            return None
        ends = [-1, *cuts, len(layers) + stages - 1]
        counts = [b - a - 1 for a, b in pairwise(ends)]
        ends_at = [s for s in range((vpp - 1) * pp, stages) if s % pp] if mtp else [stages - 1]
        for end in ends_at:
            if 0 in counts[1:end] or any(counts[end + 1 :]):
                continue
            times = _stages(counts, layers, embedding, loss)
            times[end] += mtp
            found = ub2(pp, vpp, microbatches, group, times), max(sum(times[rank::pp]) for rank in range(pp))
            least = found if least is None else (min(least[0], found[0]), min(least[1], found[1]))
    return least


@pytest.mark.slow
def test_no_placement_is_below_the_packed_bounds() -> None:
    """For random pipelines with leading layers, embedding, loss and MTP modules: UB2 and the heaviest rank of the best
    placement are at least the bounds, and the bounds are above zero and often reached."""
    generator = random.Random(20261122)
    compared, reached = 0, 0
    while compared < 50:
        pp = generator.randint(2, 4)
        vpp = generator.randint(2, 3) if pp < 4 else 2
        total = generator.randint(pp * vpp - 2, pp * vpp + 3)
        leading = generator.choice([0, 0, 1, 2]) if total > 5 else 0
        price, lead = generator.randint(50, 200), generator.randint(20, 200)
        special = (generator.choice([1, 3, 30]), generator.randint(20, 200), generator.choice([0, 0, 90, 250]))
        group = generator.randint(pp, 2 * pp)
        shape = pp, vpp, group * generator.randint(1, 6), group
        best = _best(shape, [lead] * leading + [price] * (total - leading), special)
        if best is None:
            continue
        ahead = lead * leading if pp > leading + 1 else 0
        work = (total - leading) * price + leading * lead + sum(special)
        load = Load(total - leading, *map(_column, (price, price, *special)), leading, _column(ahead), _column(work))
        columns = [_column(value) for value in shape]
        upper, rank = int(ub2_packed_ns(*columns, load)[0]), int(heaviest_rank_ns(columns[0], load)[0])
        assert 0 < upper <= best[0], (shape, total, leading, price, lead, special)
        assert 0 < rank <= best[1], (shape, total, leading, price, lead, special)
        compared += 1
        reached += rank == best[1]
    assert reached > compared // 4
