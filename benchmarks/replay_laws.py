"""The schedule's laws on random schedules, counted: used by `benchmarks/search.py`.

even       equal chunks without hops take (M v + p - 1)(f + b), exactly
bounds     no row of the ledger is above the replay
cuts       no critical path of one placement is above the replay of another
peaks      activations in flight by the closed-form vectors equal those counted along the order of operations
"""

import random
from dataclasses import dataclass

from moeopt.schedule.bounds import lower_bound_ns
from moeopt.schedule.in_flight import in_flight_vectors
from moeopt.schedule.order import rank_order
from moeopt.schedule.replay import replay

Shape = tuple[int, int, int, int]


@dataclass
class Laws:
    """How many schedules were tried, and how many broke each law."""

    schedules: int = 0
    uneven: int = 0
    bounds: int = 0
    cuts: int = 0
    peaks: int = 0
    ranks: int = 0

    def lines(self) -> list[str]:
        """For the report."""
        tried = f"{self.schedules:,} random schedules"
        return [
            f"| equal chunks take (M v + p - 1)(f + b) exactly | {tried} | {self.uneven} |",
            f"| no lower bound above the replay | {tried}, uneven times, with hops | {self.bounds} |",
            f"| no cut above the replay of another placement | {tried} | {self.cuts} |",
            f"| activation peaks by vectors equal the replayed order's | {self.ranks:,} ranks | {self.peaks} |",
        ]


def random_shape(rng: random.Random) -> Shape:
    """(pp, vpp, micro-batches, group), any group that Megatron accepts."""
    pp, vpp = rng.randint(1, 8), rng.randint(1, 4)
    if vpp == 1:
        return pp, 1, rng.randint(1, 5 * pp), pp
    group = rng.choice([pp, rng.randint(pp, 2 * pp + 3)])
    microbatches = rng.randint(group, 5 * group)
    rest = microbatches % group
    return pp, vpp, microbatches - (rest if rest < pp else 0), group


def check_laws(schedules: int, seed: int = 0) -> Laws:
    """Try so many random schedules."""
    rng, laws = random.Random(seed), Laws()
    for _ in range(schedules):
        shape = random_shape(rng)
        laws.schedules += 1
        _check_even(laws, shape, rng)
        _check_rows(laws, shape, rng)
        _check_peaks(laws, shape, rng)
    return laws


def _check_even(laws: Laws, shape: Shape, rng: random.Random) -> None:
    pp, vpp, microbatches, _ = shape
    f, b = rng.randint(1, 10**6), rng.randint(1, 10**6)
    total = replay(*shape, [f] * (pp * vpp), [b] * (pp * vpp), 0).total_ns
    laws.uneven += total != (microbatches * vpp + pp - 1) * (f + b)


def _check_rows(laws: Laws, shape: Shape, rng: random.Random) -> None:
    overlap, hop = rng.random() < 0.3, rng.choice([0, 5, 50])
    here, there = _times(rng, shape), _times(rng, shape)
    first = replay(*shape, *here, hop, ep_overlap=overlap)
    second = replay(*shape, *there, hop, ep_overlap=overlap)
    laws.bounds += lower_bound_ns(*shape, *here, hop, overlap) > first.total_ns
    assert first.cut is not None
    laws.cuts += first.cut.value_ns(*here, hop) != first.total_ns or first.cut.value_ns(*there, hop) > second.total_ns


def _check_peaks(laws: Laws, shape: Shape, rng: random.Random) -> None:
    kept = [rng.choice([0, rng.randint(1, 1000)]) for _ in range(shape[1])]
    for rank in range(shape[0]):
        live = peak = 0
        for operation in rank_order(*shape, rank):
            live += -kept[operation.chunk] if operation.backward else kept[operation.chunk]
            peak = max(peak, live)
        vectors = in_flight_vectors(*shape, rank)
        laws.peaks += max(sum(n * a for n, a in zip(vector, kept, strict=True)) for vector in vectors) != peak
        laws.ranks += 1


def _times(rng: random.Random, shape: Shape) -> tuple[list[int], list[int]]:
    low, high = rng.choice([(90, 110), (50, 150), (0, 200)])
    stages = shape[0] * shape[1]
    return [rng.randint(low, high) for _ in range(stages)], [rng.randint(2 * low, 2 * high) for _ in range(stages)]
