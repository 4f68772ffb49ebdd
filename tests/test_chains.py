"""Ways through all ranks: those that going through all combinations finds."""

import random
from itertools import pairwise, product

import numpy as np
import pytest

from moeopt.dual.chains import Chains
from moeopt.schedule.neighbours import Within


def random_chains(rng: random.Random) -> Chains:
    """Some ranks with few ways each, and links between some of these."""
    sizes = [rng.randint(1, 5) for _ in range(rng.randint(1, 5))]
    totals = [np.array([rng.randint(0, 3) for _ in range(size)]) for size in sizes]
    links = []
    for lower, upper in pairwise(sizes):
        pairs = [pair for pair in product(range(lower), range(upper)) if rng.random() < 0.5]
        rng.shuffle(pairs)
        one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        links.append(Within(one, other, np.zeros(len(pairs), dtype=np.float32)))
    begin, end = (np.array([rng.random() < 0.8 for _ in range(size)]) for size in (sizes[0], sizes[-1]))
    return Chains(totals, links, begin, end, rng.randint(0, 2 * len(sizes)))


@pytest.mark.parametrize("seed", range(40))
def test_chains_are_all_combinations_that_are_linked(seed: int) -> None:
    """For any links: the chains are the combinations of ways in which each follows the one before, begin and end are
    allowed, and totals sum to what there is; None where there are more than asked for."""
    rng = random.Random(seed)
    for _ in range(20):
        chains = random_chains(rng)
        linked = [set(zip(link.lower.tolist(), link.upper.tolist(), strict=True)) for link in chains.links]
        expected = [
            ways
            for ways in product(*(range(len(total)) for total in chains.totals))
            if chains.begin[ways[0]]
            and chains.end[ways[-1]]
            and sum(int(total[way]) for total, way in zip(chains.totals, ways, strict=True)) == chains.counted
            and all(pair in link for pair, link in zip(pairwise(ways), linked, strict=True))
        ]
        found = chains.listed(len(expected))
        assert found is not None
        assert sorted(map(tuple, found.tolist())) == expected
        if expected:
            assert chains.listed(len(expected) - 1) is None


def test_many_chains_are_counted_and_not_listed() -> None:
    """Where there are far more chains than asked for, none is built: eight ranks of 64 ways that all follow each other
    make 10^14, which no machine lists."""
    ways, ranks = 64, 8
    lower, upper = np.divmod(np.arange(ways * ways), ways)
    links = [Within(lower, upper, np.zeros(ways * ways, dtype=np.float32))] * (ranks - 1)
    every = np.ones(ways, dtype=bool)
    assert Chains([np.ones(ways, dtype=np.int64)] * ranks, links, every, every, ranks).listed(10**6) is None
