"""Candidates that are still open, lowest bound first."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.candidate import Candidate
from moeopt.dual import sampled
from moeopt.dual.pairs import Ask, ask_pairs
from moeopt.dual.prices import Cuts
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.placement import Schedule
from moeopt.screening import Column, Limits, Pair, tightened
from moeopt.space import row

Mask: TypeAlias = NDArray[np.bool_]
FILLS = (1.0, 0.93, 0.85, 0.75, 0.6)
"""Shares of the memory limit that samples are taken at: the best rows whose memory bound is below it."""
_FEWEST, _MOST = 8, 128
"""Rows that duality is given at once."""


def first_fronts(time: Column, memory: Column, count: int) -> list[int]:
    """Positions on the first fronts of two bounds: no other is as low by both; then the same of the rest."""
    rest, picked = np.arange(len(time)), list[int]()
    for _ in range(count):
        if not len(rest):
            break
        order = rest[np.lexsort((memory[rest], time[rest]))]
        lowest = np.minimum.accumulate(memory[order])
        front = order[np.concatenate([[True], memory[order[1:]] < lowest[:-1]])]
        picked += front.tolist()
        rest = np.setdiff1d(rest, front)
    return picked


@dataclass(frozen=True)
class Left:
    """Placements of a candidate that are worth judging: all that are left if `complete`."""

    candidate: Candidate
    placed: list[PipelineLayout]
    complete: bool


class Queue:
    """Rows of pairs with the bound on their objective; taken in order, and cut again as limits become tighter."""

    def __init__(self, problem: Problem, pairs: Sequence[Pair], bound_of: Callable[[Pair], Column]) -> None:
        self.problem, self._bound_of = problem, bound_of
        self._fill(pairs)

    def _fill(self, pairs: Sequence[Pair]) -> None:
        self.pairs = [pair for pair in pairs if pair.size]
        sizes = [pair.size for pair in self.pairs]
        empty = [np.zeros(0, dtype=np.int64)]
        self.bound = np.concatenate([self._bound_of(pair) for pair in self.pairs] or empty)
        self.memory = np.concatenate([pair.memory for pair in self.pairs] or empty)
        self._origin = np.repeat(np.arange(len(sizes)), sizes)
        self._index = np.concatenate([np.arange(size) for size in sizes] or empty)
        self._raised = np.concatenate([pair.raised for pair in self.pairs] or [np.zeros(0, dtype=bool)])
        self._open = np.ones(len(self.bound), dtype=bool)
        self._order = np.argsort(self.bound, kind="stable")

    def __len__(self) -> int:
        return int(self._open.sum())

    def candidate(self, position: int) -> Candidate:
        """One row as a candidate."""
        pair, index = self.pairs[self._origin[position]], int(self._index[position])
        return Candidate(self.problem, row(pair.degrees, index), pair.choices, int(pair.time[index]))

    @property
    def least(self) -> int:
        """The lowest bound of the open rows, of which there must be some."""
        return int(self.bound[self.lowest(1)[0]])

    def lowest(self, count: int) -> list[int]:
        """Positions of the open rows with the lowest bounds."""
        return [int(i) for i in self._order[self._open[self._order]][:count]]

    def batches(self, above: int = -1) -> Iterator[list[int]]:
        """Every open row whose bound is above a value, lowest bounds first: positions to raise next; twice as many
        each time, as what the first ones tell spares the others."""
        self._raised[:] = False
        width = _FEWEST
        while positions := self._not_raised(above, width):
            yield positions
            width = min(2 * width, _MOST)

    def _not_raised(self, above: int, count: int) -> list[int]:
        open_ = self._open & ~self._raised & (self.bound > above)
        return [int(i) for i in self._order[open_[self._order]][:count]]

    def placements(
        self, positions: Sequence[int], limits: Limits, rounds: int
    ) -> list[tuple[Candidate, PipelineLayout]]:
        """Good placements of some rows, where any was met."""
        picked, asked = self._picked(positions)
        answer = ask_pairs(self.problem, asked, limits, lambda question: sampled(question, rounds))
        rows = np.flatnonzero(picked).tolist()
        both = zip(rows, answer.placed, strict=True)
        return [(self.candidate(row), layout) for row, layouts in both for layout in layouts]

    def raise_bounds(
        self,
        positions: Sequence[int],
        limits: Limits,
        ask: Ask,
        cuts: Mapping[Schedule, Cuts] | None = None,
    ) -> list[Left]:
        """Raise the bounds of some rows; those with no placement left within the limits are settled, and those with so
        few that all are listed. What is worth judging; positions count anew after it."""
        picked, asked = self._picked(positions)
        answer = ask_pairs(self.problem, asked, limits, ask, cuts)
        time = np.concatenate([pair.time for pair in self.pairs])
        time[picked] = np.maximum(time[picked], answer.bound_ns)
        found = []
        rows = np.flatnonzero(picked).tolist()
        for position, placed, complete in zip(rows, answer.placed, answer.complete, strict=True):
            if placed:
                found.append(Left(self.candidate(position), placed, complete))
            if complete:
                self._open[position] = False
        parts = zip(self.pairs, self._split(time), self._split(self._raised | picked), strict=True)
        self.pairs = [replace(pair, time=part, raised=done) for pair, part, done in parts]
        self.drop(limits)
        return found

    def _picked(self, positions: Collection[int]) -> tuple[Mask, list[Pair]]:
        picked = np.zeros(len(self.bound), dtype=bool)
        picked[list(positions)] = True
        parts = zip(self.pairs, self._split(picked), strict=True)
        return picked, [pair.only(mask) for pair, mask in parts if mask.any()]

    def _split(self, column: NDArray[Any]) -> list[NDArray[Any]]:
        """A column of all rows by pair."""
        return np.split(column, np.cumsum([pair.size for pair in self.pairs])[:-1]) if self.pairs else []

    def _best_filled(self, most_bytes: int, above: int, count: int) -> list[int]:
        """Open rows of the lowest bounds, of those within `most_bytes` by their memory bound and above `above`."""
        fitting = np.flatnonzero(self._open & (self.memory <= most_bytes) & (self.bound > above))
        return [int(i) for i in fitting[np.argsort(self.bound[fitting], kind="stable")[:count]]]

    def sampled(self, most_bytes: int, lowest: int, filled: int, above: int = -1) -> set[int]:
        """The rows with the lowest bounds, and so many at each fill level of memory whose bound is above a value."""
        picked = set(self.lowest(lowest))
        for fill in FILLS:
            picked |= set(self._best_filled(int(fill * most_bytes), above, filled))
        return picked

    def lowest_by_length(self, most_bytes: int, count: int) -> list[int]:
        """The open rows of the lowest bounds of every pipeline length, so many of each, of those within `most_bytes` by
        their memory bound."""
        fitting = self._order[(self._open & (self.memory <= most_bytes))[self._order]]
        length = np.concatenate([pair.degrees.pp for pair in self.pairs] or [self.bound])[fitting]
        return [int(i) for pp in np.unique(length) for i in fitting[length == pp][:count]]

    def best_of_each(self) -> list[int]:
        """The open row with the lowest bound of every pair."""
        found: dict[int, int] = {}
        for position in self.lowest(len(self.bound)):
            found.setdefault(int(self._origin[position]), position)
        return list(found.values())

    def drop(self, limits: Limits) -> None:
        """Drop what is above the limits by the bounds that are known."""
        left = self.open_pairs()
        self._fill([pair.only(pair.time <= limits.time_of(pair.degrees)) for pair in left])

    def open_pairs(self) -> list[Pair]:
        """The rows that are still open."""
        left = [pair.only(mask) for pair, mask in zip(self.pairs, self._split(self._open), strict=True)]
        return [pair for pair in left if pair.size]

    def some(self, positions: Collection[int]) -> list[Pair]:
        """Some of the rows."""
        return self._picked(positions)[1]

    def keep(self, positions: Collection[int]) -> None:
        """Drop the other rows."""
        self._fill(self.some(positions))

    def close(self, positions: Sequence[int]) -> None:
        """These are settled."""
        self._open[list(positions)] = False

    def tighten(self, limits: Limits) -> None:
        """Drop what cannot be within the limits."""
        self._fill(tightened(self.problem, self.open_pairs(), limits))
