"""Candidates of one order of operations, their prices, and what is asked and answered about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moeopt import clock
from moeopt.dual.ascent import Ascent, Best, Listed, Measured
from moeopt.dual.by_neighbours import ByNeighbours, Width
from moeopt.dual.by_rank import ByRank
from moeopt.dual.contents import Holding, TooMany
from moeopt.dual.first_weights import FirstWeights
from moeopt.dual.grid import Array, Grid, problem_grid
from moeopt.dual.prices import Prices, Rows, duration_ns, ub2_at
from moeopt.dual.tables import NEVER, Index, Tables
from moeopt.dual.tops import SLACK, base_times, deepest_stage, tops_of
from moeopt.dual.walks import Placements
from moeopt.parallel import side_by_side
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.placement import ledger_many
from moeopt.schedule.replay_many import replay_many
from moeopt.schedule.shape import Schedule
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column

_JUDGED = 4
"""Placements of a candidate worth judging where not all are known."""
_EVENT = 500
"""Placements that one operation of all of them takes as long as, however few there are."""
_MOST_ROWS = 384
"""Rows of one ascent; larger groups are taken in parts."""


@dataclass(frozen=True)
class Question:
    """Candidates of one schedule: their costs, the step's end at the mean rank, what a step and a stage may take (all
    columns), and a GPU hold."""

    problem: Problem
    rows: Rows
    costs: Costs
    end_ns: Column
    time_ns: Column
    longest_ns: Column
    memory_bytes: int

    @property
    def work(self) -> int:
        """How much there is to do, beside other questions: stages, squared, of all candidates."""
        pp, vpp, *_ = self.rows.schedule
        return len(self.time_ns) * (pp * vpp) ** 2

    @property
    def grid(self) -> Grid:
        """The grid of all candidates."""
        pp, vpp, *_ = self.rows.schedule
        return problem_grid(self.problem, pp, vpp)


@dataclass(frozen=True)
class Answer:
    """For each candidate: a step that none of its placements that fit goes below (above `time_ns` where none is within
    it), and placements worth judging."""

    bound_ns: Column
    placed: list[list[PipelineLayout]]
    complete: list[bool]
    """Whether no other placement could be within the limits."""


class Part:
    """The candidates of a question with their prices, and what ways to look at them share."""

    def __init__(self, question: Question) -> None:
        self.question, self.rows, self.grid = question, question.rows, question.grid
        within = question.time_ns.astype(float), question.longest_ns.astype(float), question.memory_bytes
        self.prices = Prices.of(self.grid, self.rows, question.costs, question.end_ns.astype(float), within)
        self.size = len(question.time_ns)
        counts = np.zeros((self.size, self.grid.stages), dtype=np.int64)
        self.best = Best(np.full(self.size, NEVER), counts, np.zeros(self.size, dtype=np.int64))
        self._open = np.ones(self.size, dtype=bool)
        """Candidates that no linear program ruled out."""
        self._first: FirstWeights | None = None
        self._bases: tuple[Index, Array] | None = None
        """Base times that are left: whose, and which."""

    @cached_property
    def deepest(self) -> int:
        """Most layers of a stage."""
        return deepest_stage(self.grid, self.prices)

    def relax(self) -> None:
        """Take the weights of linear programs to begin with, and leave out the candidates that these rule out alone."""
        self._first, least_ns = FirstWeights.relaxed(self.grid, self.rows, self.prices)
        self._open &= least_ns <= self.prices.target_ns * (1 + SLACK)

    def settle_by_rank(self, rounds: int) -> None:
        """Leave out the base times of candidates with which no placement is within the target, rank by rank."""
        if not self.grid.has_placements(self.deepest) or (self.rows.replayed and self.rows.timed):
            return
        of, base = self._base_times(one=False)
        mine = [np.flatnonzero(of == index) for index in np.unique(of)]
        keep = np.ones(len(of), dtype=bool)
        left = side_by_side(lambda at: self._left_by_rank(int(of[at[0]]), base[at], rounds), mine)
        for at, parts in zip(mine, left, strict=True):
            for where, placed in zip(at.tolist(), parts, strict=True):
                keep[where] = placed is not None
                if placed is not None and len(placed.ending):
                    self._take(of[where : where + 1], base[where : where + 1], placed)
        self._bases = of[keep], base[keep]

    def least_by_neighbours(self, index: int, width: Width) -> tuple[float, Placements | None]:
        """What no placement of a candidate replays faster than (the step's end aside), by ranks next to each other, and
        by replays where these leave few: infinite where none is within the target, zero where that is not looked at;
        and the placements that are left, where they are few."""
        prices = self.prices.only(np.array([index]))
        if prices.by_block or not self.grid.has_placements(self.deepest) or clock.is_over():
            return 0.0, None  # by block, ways of a rank do not know the prices of a stage's first layers
        try:
            ranks = ByNeighbours(self.grid, self.rows, prices, self.holding(index), self.deepest, width)
        except TooMany:
            return 0.0, None
        schedule, least_ns = Schedule(*self.rows.schedule), ranks.least_ns
        most = width.operations // schedule.operations - _EVENT
        placed = ranks.placements(most) if np.isfinite(least_ns) and most > 0 else None
        if placed is None:
            return least_ns, None
        held = prices.times(0, len(placed.ending)).held(placed.counts, placed.ending)
        replayed = replay_many(schedule, held[:, :, 0], held[:, :, 1], float(prices.hop_ns[0]))
        near = replayed <= prices.target_ns * (1 + SLACK)
        return float(replayed[near].min(initial=np.inf)), placed.only(near)

    def holding(self, index: int) -> Holding:
        """What the ranks of a candidate may hold."""
        costs = self.question.costs.rows(np.array([index]))
        return Holding(self.question.problem, costs, self.question.memory_bytes)

    def is_open(self, index: int) -> bool:
        """Whether a candidate has base times that are left, as far as that was looked at."""
        return bool(self._open[index]) and (self._bases is None or index in self._bases[0])

    def _take(self, of: Index, base: Array, placed: Placements) -> None:
        """A placement that was met."""
        measured = Measured.of(self.rows, self.prices.only(of), placed)
        self.best.take(self.rows, placed, measured, of, base)

    def _left_by_rank(self, index: int, bases: Array, rounds: int) -> list[Placements | None]:
        """For each base time of a candidate a placement that is left, an empty one where that is not known, None where
        there is none. By block the first layers of a stage have prices of their own, which ways of a rank do not know.
        """
        prices = self.prices.only(np.array([index]))
        if prices.by_block or clock.is_over():
            return [self.nothing] * len(bases)
        try:
            ranks = ByRank(self.grid, self.rows, prices, self.holding(index), self.deepest)
        except TooMany:
            return [self.nothing] * len(bases)
        near = np.flatnonzero(ranks.may_hold(bases))
        tops = self._tops(prices.only(np.zeros_like(near)), bases[near])
        asked = [(base, [top[row, np.isfinite(top[row])] for top in tops]) for row, base in enumerate(bases[near])]
        left: list[Placements | None] = [None] * len(bases)
        for at, placed in zip(near, side_by_side(lambda each: self._left_at(ranks, *each, rounds), asked), strict=True):
            left[at] = placed
        return left

    def _left_at(self, ranks: ByRank, base_ns: float, tops: list[Array], rounds: int) -> Placements | None:
        try:
            return self.nothing if clock.is_over() else ranks.left(base_ns, tops, rounds)
        except TooMany:
            return self.nothing

    def _tops(self, prices: Prices, base: Array, most: int | None = None) -> list[Array]:
        """The maxima that each chunk position may have."""
        every = range(self.grid.vpp)
        return [tops_of(self.grid, self.rows, prices, chunk, self.deepest, base)[:, :most] for chunk in every]

    def ascents(self, most_tops: int | None = None) -> Iterator[Ascent]:
        """For every candidate and base time of UB2 that is left; with `most_tops` only the most promising base time,
        and so many maxima of a chunk position."""
        grid, rows, deepest = self.grid, self.rows, self.deepest
        if not grid.has_placements(deepest):
            return
        if self._bases is None:
            self._bases = self._base_times(one=most_tops is not None)
        first = FirstWeights.guessed(grid, rows, self.prices) if self._first is None else self._first
        for of, base in _parts(*self._bases):
            mine = self.prices.only(of)
            tops = self._tops(mine, base, most_tops)
            yield Ascent(Tables.of(grid, rows, mine, base, tops, deepest), of, self.best, first.only(of))

    def _base_times(self, one: bool) -> tuple[Index, Array]:
        """Base times of the candidates that are not ruled out."""
        index = np.flatnonzero(self._open)
        of, base = base_times(self.grid, self.rows, self.prices.only(index), self.deepest, one)
        return index[of], base

    def met(self, index: int) -> list[PipelineLayout]:
        """The best placement that was met of a candidate, if one fitted."""
        return self.layouts(self.best.placement(index, self.prices.target_ns))

    def layouts(self, placed: Placements) -> list[PipelineLayout]:
        """Placements as pipeline layouts."""
        mtp = self.question.problem.mtp_layers
        return [
            PipelineLayout.from_counts(self.grid.pp, counts, mtp, ending if mtp else None)
            for counts, ending in zip(placed.counts.tolist(), placed.ending.tolist(), strict=True)
        ]

    @property
    def nothing(self) -> Placements:
        """No placement."""
        return Placements.none(self.grid.stages)

    def left(self, index: int, listed: list[Listed], most: int) -> tuple[Placements, bool]:
        """The placements that are left of one candidate and within the limits, as far as its prices without padding
        and the mean rank's step end tell, fastest first; and whether these are all."""
        if not listed:
            return self.nothing, True
        complete = all(item.complete for item in listed)
        placed = Placements.unique([item.placed for item in listed])
        mine = self.prices.times(index, len(placed.ending))
        held = mine.held(placed.counts, placed.ending)
        time = duration_ns(held)
        upper = [ub2_at(self.rows, np.full(len(time), base), time) for base in {item.base_ns for item in listed}]
        value = self.rows.values(held, mine.hop_ns).max(axis=1) + np.minimum.reduce(upper)
        fits = (value <= mine.target_ns * (1 + SLACK)) & (self.rows.bytes(held) <= mine.room + 1).all(axis=1)
        near = np.flatnonzero(fits)
        if not complete:
            near = near[np.argsort(value[near], kind="stable")[: 2 * _JUDGED]]
        placed, value, held = placed.only(near), value[near], held[near]
        if self.rows.timed and not self.rows.replayed:
            value = self._ledger(held, index)
            within = value + int(self.question.end_ns[index]) <= int(self.question.time_ns[index])
            placed, value = placed.only(within), value[within]
        order = np.argsort(value, kind="stable")
        complete = complete and len(order) <= most
        return placed.only(order if complete else order[:_JUDGED]), complete

    def _ledger(self, held: Array, index: int) -> Array:
        """The ledger's pipeline time of placements, exactly."""
        whole = held[:, :, :2].astype(np.int64)
        hop_ns = int(self.prices.hop_ns[index])
        return np.asarray(ledger_many(self.rows.schedule, whole[:, :, 0], whole[:, :, 1], hop_ns))


def _parts(of: Index, base: Array) -> Iterator[tuple[Index, Array]]:
    for first in range(0, len(of), _MOST_ROWS):
        yield of[first : first + _MOST_ROWS], base[first : first + _MOST_ROWS]
