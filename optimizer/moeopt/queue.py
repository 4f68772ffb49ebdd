"""Candidates that are still open, lowest bound first."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from moeopt.candidate import Candidate
from moeopt.dual.pairs import raised_pairs
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.screening import Column, Limits, Pair, tightened
from moeopt.space import row


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
        self._raised = np.concatenate([pair.raised for pair in self.pairs] or [empty[0] > 0])
        self._open = np.ones(len(self.bound), dtype=bool)
        self._order = np.argsort(self.bound, kind="stable")

    def __len__(self) -> int:
        return int(self._open.sum())

    def candidate(self, position: int) -> Candidate:
        """One row as a candidate."""
        pair, index = self.pairs[self._origin[position]], int(self._index[position])
        choices = pair.mode.model_copy(update={"recompute": pair.recompute})
        return Candidate(self.problem, row(pair.degrees, index), choices, int(pair.time[index]))

    def lowest(self, count: int) -> list[int]:
        """Positions of the open rows with the lowest bounds."""
        return [int(i) for i in self._order[self._open[self._order]][:count]]

    def not_raised(self, count: int) -> list[int]:
        """The same among rows whose bound has not been raised by duality."""
        open_ = self._open & ~self._raised
        return [int(i) for i in self._order[open_[self._order]][:count]]

    def open_again(self) -> None:
        """Every row may be raised once more."""
        self._raised[:] = False

    def placements(self, positions: Sequence[int], limits: Limits, rounds: int) -> list[tuple[Candidate, PipelineLayout]]:
        """Good placements of some rows, where any was met."""
        picked = np.zeros(len(self.bound), dtype=bool)
        picked[list(positions)] = True
        asked = [pair.only(mask) for pair, mask in zip(self.pairs, self._split(picked), strict=True) if mask.any()]
        met = raised_pairs(self.problem, asked, limits, rounds, sampled=True).placed
        rows = np.flatnonzero(picked).tolist()
        return [(self.candidate(row), layout) for row, layout in zip(rows, met, strict=True) if layout is not None]

    def raise_bounds(
        self, positions: Sequence[int], limits: Limits, rounds: int
    ) -> list[tuple[Candidate, list[PipelineLayout], bool]]:
        """Raise the bounds of some rows by duality; those are settled that have none, or only a few placements left
        within the limits. Placements worth judging, and whether these are all that are left. Positions count anew
        after it.
        """
        picked = np.zeros(len(self.bound), dtype=bool)
        picked[list(positions)] = True
        asked = [pair.only(mask) for pair, mask in zip(self.pairs, self._split(picked), strict=True) if mask.any()]
        answer = raised_pairs(self.problem, asked, limits, rounds)
        found = []
        time = np.concatenate([pair.time for pair in self.pairs])
        time[picked] = np.maximum(time[picked], answer.bound_ns)
        for position, met, left in zip(np.flatnonzero(picked).tolist(), answer.placed, answer.left, strict=True):
            placed = left if left is not None else [met] if met is not None else []
            if placed:
                found.append((self.candidate(position), placed, left is not None))
            if left is not None:
                self._open[position] = False
        parts = zip(self.pairs, self._split(time), self._split(self._raised | picked), strict=True)
        pairs = [replace(pair, time=part, raised=done) for pair, part, done in parts]
        near = [pair.time <= limits.time_of(pair.degrees.gpus) for pair in pairs]
        self._fill(
            [pair.only(mask & ok) for pair, mask, ok in zip(pairs, self._split(self._open), near, strict=True)]
        )
        return found

    def _split(self, column: Column) -> list[Column]:
        """A column of all rows by pair."""
        return np.split(column, np.cumsum([pair.size for pair in self.pairs])[:-1]) if self.pairs else []

    def best_filled(self, most_bytes: int, above: int, count: int) -> list[int]:
        """The same among rows whose memory bound is at most so much, and whose bound is above a value."""
        fitting = np.flatnonzero(self._open & (self.memory <= most_bytes) & (self.bound > above))
        return [int(i) for i in fitting[np.argsort(self.bound[fitting], kind="stable")[:count]]]

    def best_of_each(self) -> list[int]:
        """The open row with the lowest bound of every pair."""
        found: dict[int, int] = {}
        for position in self.lowest(len(self.bound)):
            found.setdefault(int(self._origin[position]), position)
        return list(found.values())

    def close(self, positions: Sequence[int]) -> None:
        """These are settled."""
        self._open[list(positions)] = False

    def tighten(self, limits: Limits) -> None:
        """Drop what cannot be within the limits."""
        left = [pair.only(mask) for pair, mask in zip(self.pairs, self._split(self._open), strict=True)]
        self._fill(tightened(self.problem, left, limits))
