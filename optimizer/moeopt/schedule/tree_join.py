"""Pairs of rows of two tables whose distance is within a limit, found without looking at every pair.

The distance is a sum over columns, so rows that begin alike share what their first columns add: both tables are sorted
and seen as trees, whose branches part where a column differs. Pairs of branches are followed from the roots, level by
level, as long as what the columns so far add, with the least that the rows of a branch add by themselves, is within the
limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float32]
Index = NDArray[np.int64]


class TooManyPairs(Exception):  # noqa: N818 - not an error: a way out of the loops
    """More pairs of branches are within the limit than are worth looking at."""


@dataclass(frozen=True)
class _Level:
    """Branches of one level: what their rows have in the columns of this level, what these add by themselves at least,
    and the first of each one's branches on the next level (and behind the last one)."""

    table: Column
    own: Column
    inner: Index


class _Tree:
    """A table of columns x rows, sorted. `levels` are columns that are looked at together, in order; `own` is what each
    row adds by itself."""

    def __init__(self, table: Column, own: Column, levels: Sequence[Sequence[int]]) -> None:
        self.rows = np.lexsort([table[column] for level in reversed(levels) for column in reversed(level)])
        own, parts = own[self.rows], [table[level][:, self.rows] for level in levels]
        new = np.zeros(len(own), dtype=bool)
        new[:1] = True
        first = [np.zeros(1, dtype=np.int64)]
        for part in parts:
            new[1:] |= (part[:, 1:] != part[:, :-1]).any(axis=0)
            first.append(np.flatnonzero(new))
        first.append(np.arange(len(own)))
        inner = [np.append(np.searchsorted(after, here), len(after)) for here, after in pairwise(first)]
        columns = [part[:, here] for part, here in zip(parts, first[1:], strict=False)]
        nothing = np.zeros((0, len(own)), dtype=np.float32)
        self.levels = [
            _Level(part, np.minimum.reduceat(own, here), below)
            for part, here, below in zip([nothing[:, :1], *columns, nothing], first, [*inner, first[-1]], strict=True)
        ]


def tree_join(
    tables: tuple[Column, Column],
    own: tuple[Column, Column],
    least: Column,
    levels: Sequence[Sequence[int]],
    limit: float,
    most: int,
) -> tuple[Index, Index, Column]:
    """The rows of both tables (columns x rows) whose sum over columns of max(|one - other|, `least` of the column),
    with what each row adds by itself, is within the limit; and that sum. Raises TooManyPairs where more than `most`
    pairs of branches would be looked at."""
    if not all(table.shape[1] for table in tables):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    one, other = (_Tree(table, alone, levels) for table, alone in zip(tables, own, strict=True))
    left = right = np.zeros(1, dtype=np.int64)
    sums = np.zeros(1, dtype=np.float32)
    for number in range(len(levels) + 1):
        mine, theirs = one.levels[number].inner, other.levels[number].inner
        most -= int(((mine[left + 1] - mine[left]) * (theirs[right + 1] - theirs[right])).sum())
        if most < 0:
            raise TooManyPairs
        pair, left = spread(mine[left], mine[left + 1])
        which, right = spread(theirs[right[pair]], theirs[right[pair] + 1])
        pair, left = pair[which], left[which]
        sums = sums[pair]
        below, beside = one.levels[number + 1], other.levels[number + 1]
        if number < len(levels):
            differ = below.table[:, left] - beside.table[:, right]
            np.abs(differ, out=differ)
            sums += np.maximum(differ, least[levels[number]][:, None], out=differ).sum(axis=0)
        near = np.flatnonzero(sums + below.own[left] + beside.own[right] <= limit)
        left, right, sums = left[near], right[near], sums[near]
    return one.rows[left], other.rows[right], sums + below.own[left] + beside.own[right]


def spread(first: Index, last: Index) -> tuple[Index, Index]:
    """The numbers from each first one to before its last, one after the other; and whose each is."""
    sizes = last - first
    whose = np.repeat(np.arange(len(sizes)), sizes)
    return whose, np.arange(len(whose)) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
