"""Pairs of rows that are near each other: those that looking at every pair finds, and no other."""

import numpy as np
import pytest

from moeopt.schedule.tree_join import TooManyPairs, tree_join


def every_pair(
    tables: tuple[np.ndarray, np.ndarray], own: tuple[np.ndarray, np.ndarray], least: np.ndarray
) -> np.ndarray:
    """The sum of every pair."""
    differ = np.maximum(np.abs(tables[0][:, :, None] - tables[1][:, None, :]), least[:, None, None]).sum(axis=0)
    return np.asarray(differ + own[0][:, None] + own[1][None, :])


@pytest.mark.parametrize("seed", range(60))
def test_pairs_within_a_limit_are_those_of_all_pairs(seed: int) -> None:
    """For any tables of small whole numbers (rows alike and not), any order and grouping of the columns, and any limit:
    the pairs whose sum is within it, each once, with their sums."""
    rng = np.random.default_rng(seed)
    columns, sizes = int(rng.integers(1, 7)), rng.integers(0, 40, 2).tolist()
    tables = tuple(rng.integers(0, 4, (columns, size)).astype(np.float32) for size in sizes)
    own = tuple(rng.integers(0, 9, size).astype(np.float32) for size in sizes)
    least = rng.integers(0, 2, columns).astype(np.float32)
    cuts = np.flatnonzero(rng.random(columns - 1) < 0.5) + 1
    levels = [part.tolist() for part in np.split(rng.permutation(columns), cuts)]
    sums = every_pair((tables[0], tables[1]), (own[0], own[1]), least)
    for limit in (0.0, 6.0, 11.0, 100.0):
        one, other, found = tree_join((tables[0], tables[1]), (own[0], own[1]), least, levels, limit, 10**6)
        expected = {(i, j): sums[i, j] for i, j in np.argwhere(sums <= limit).tolist()}
        assert len(found) == len(expected)
        assert dict(zip(zip(one.tolist(), other.tolist(), strict=True), found.tolist(), strict=True)) == expected


def test_too_many_pairs_are_refused() -> None:
    """Where more pairs of branches would be looked at than is allowed, nothing is answered; where these are enough, all
    of it."""
    table = np.arange(30, dtype=np.float32)[None]
    own, least = np.zeros(30, dtype=np.float32), np.zeros(1, dtype=np.float32)
    with pytest.raises(TooManyPairs):
        tree_join((table, table), (own, own), least, [[0]], 100.0, 899)
    assert len(tree_join((table, table), (own, own), least, [[0]], 100.0, 1800)[2]) == 900
    assert len(tree_join((table, table), (own, own), least, [[0]], 0.5, 930)[2]) == 30
