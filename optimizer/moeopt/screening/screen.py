"""The two levels of the screening.

1. Every combination of degrees without chunks, under every mode (dispatcher, overlap): legal ones, with a bound on
   their time and one on their memory that hold for any chunks, placement and recompute.
2. Of those not above a known layout's time: chunks and recompute settings, with tighter bounds of the same kind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import choices_legal, degree_rules, legal
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.parallel import bundles, side_by_side
from moeopt.problem.problem import Problem
from moeopt.screening.average import memory_bound
from moeopt.screening.limits import Column, Limits
from moeopt.screening.pairs import Pair, tightened, weighed
from moeopt.screening.table import RecomputeTable
from moeopt.screening.work import Work, filled_bound, work_bound
from moeopt.space import (
    can_interleave,
    concatenate,
    count_microbatches,
    enumerate_degrees,
    most_microbatches,
    select,
    with_chunks,
    with_microbatches,
)

_OPEN = frozenset({"vpp", "interleave_group"})
"""Degrees that the first level leaves open."""
_SLICE = 2**18
"""Rows whose batches are listed at once."""
Rows: TypeAlias = tuple[Choices, Degrees]
"""Rows of one mode."""


@dataclass(frozen=True)
class Block:
    """Legal rows of one mode, chunks still open, and where the batch is open the number of micro-batches too: the
    fewest in `degrees`, the most in `longest`."""

    mode: Choices
    degrees: Degrees
    time: Column
    """Bound on the step time, any chunks, micro-batches and recompute."""
    memory: Column
    """Bound on the fullest rank's bytes, any chunks, micro-batches and recompute."""
    work: Work
    """Of one micro-batch, at least, and the step's end."""
    longest: Degrees

    def within(self, limits: Limits) -> NDArray[np.bool_]:
        """Rows that may have a layout within the limits. A step takes M shares and an end, so a sequence takes least
        where micro-batches are most, and a step where they are fewest."""
        keep = (self.time <= limits.step_of(self.degrees)) & (self.memory <= limits.memory_bytes)
        degrees, time = self.fastest if limits.shares else (self.degrees, self.time)
        for share in limits.shares:
            keep &= time <= share.time_of(degrees)
        return keep

    @property
    def fastest(self) -> tuple[Degrees, Column]:
        """The rows with the most micro-batches, and a bound on their steps: for a sequence it holds for any number."""
        return self.longest, work_bound(self.longest, self.work)

    def batches(
        self, problem: Problem, keep: NDArray[np.bool_], limits: Limits, every: bool = True
    ) -> Iterator[Degrees]:
        """Some of the rows with every number of micro-batches that is within the limits, slice by slice; or with the
        fewest and the most alone."""
        index = np.flatnonzero(keep)
        if problem.workload.batches.exact:
            yield select(self.degrees, index)
            return
        if not every:
            more = index[self.longest.num_microbatches[index] > self.degrees.num_microbatches[index]]
            yield concatenate([select(self.degrees, index), select(self.longest, more)])
            return
        counts = np.cumsum(count_microbatches(problem, select(self.degrees, index)))
        for part in np.split(index, np.flatnonzero(np.diff(counts // _SLICE)) + 1):
            degrees, rows = with_microbatches(problem, select(self.degrees, part))
            work = self.work.rows(part[rows], len(self.time))
            interleaves = can_interleave(problem, degrees, degrees)
            time = filled_bound(degrees, work, interleaves, self.mode.overlap.ep_all_to_all)
            yield select(degrees, time <= limits.time_of(degrees))


_MODES = 8
"""Modes that are looked at without a look at the time."""
_TOGETHER = 192
"""Rows whose chunks are expanded together; and at least so many are counted together ..."""
_PARTS, _FEWEST = 4, 32
"""... but few rows are shared out among so many parts, of so many rows or more."""


class Screening:
    """The bounds of one problem, computed once; `pairs` reads them at any limits."""

    def __init__(
        self, problem: Problem, expired: Callable[[], bool] = lambda: False, pause: Callable[[], None] = lambda: None
    ) -> None:
        self.problem, self.pause = problem, pause
        self.recomputes = recomputes(problem)
        self.blocks: list[Block] = []
        self.complete = False
        """False where freed decisions made so many modes that `expired` came first: then there is no bound."""
        self._legal: dict[bytes, Degrees] = {}
        """The rows that many modes have in common, once, by what they hold."""
        degrees = enumerate_degrees(problem)
        listed = modes(problem)
        for first in range(0, len(listed), _MODES):
            if problem.free and self.blocks and expired():
                return
            found = side_by_side(lambda mode: self._block(mode, degrees), listed[first : first + _MODES])
            self.blocks += [self._sharing(block) for block in found if block is not None]
        self.complete = True

    @property
    def rows(self) -> int:
        """Legal combinations of degrees and modes, chunks left open; of an open batch all that are allowed, before
        constraints on micro-batches."""
        if self.problem.workload.batches.exact:
            return sum(len(block.time) for block in self.blocks)
        return sum(int(count_microbatches(self.problem, block.degrees).sum()) for block in self.blocks)

    @cached_property
    def best_memory(self) -> int | None:
        """The lowest memory bound of any legal row: what even the lightest layout needs at least."""
        lows = [int(block.memory.min()) for block in self.blocks if len(block.memory)]
        return min(lows) if lows else None

    # Level 1 ------------------------------------------------------------------------------------------------------

    def _block(self, mode: Choices, degrees: Degrees) -> Block | None:
        """The rows of one mode; None where none is legal."""
        settings = [
            recompute for recompute in self.recomputes if choices_legal(self.problem, mode.with_recompute(recompute))
        ]
        if not settings:
            return None
        ok = np.ones(len(degrees.tp), dtype=bool)
        left_open = _OPEN if self.problem.workload.batches.exact else _OPEN | {"num_microbatches"}
        for rule in degree_rules(self.problem, mode):
            if not left_open & set(rule.scope):
                ok &= rule.holds(self.problem, degrees, mode)
        degrees = select(degrees, ok)
        if not len(degrees.tp):
            return None
        longest = most_microbatches(self.problem, degrees)
        table = RecomputeTable(self.problem, longest, mode)
        any_chunks = Degrees(**{**vars(degrees), "vpp": np.full_like(degrees.tp, 2)})
        weights = [
            memory_bound(self.problem, shape, costs)
            for costs in table.lightest(settings)
            for shape in (degrees, any_chunks)
        ]
        work = table.least_work(settings)
        time = filled_bound(degrees, work, can_interleave(self.problem, degrees, longest), mode.overlap.ep_all_to_all)
        return Block(mode, degrees, time, np.minimum.reduce(weights), work, longest)

    def _sharing(self, block: Block) -> Block:
        """A block whose rows are those of an earlier one, where they are the same."""

        def shared(rows: Degrees) -> Degrees:
            key = b"".join(np.asarray(column).tobytes() for column in vars(rows).values())
            return self._legal.setdefault(key, rows)

        degrees = shared(block.degrees)
        return replace(
            block, degrees=degrees, longest=degrees if block.longest is block.degrees else shared(block.longest)
        )

    # Level 2 ------------------------------------------------------------------------------------------------------

    def pairs(
        self,
        limits: Limits,
        settings: Sequence[Recompute] | None = None,
        every_batch: bool = True,
        counted: bool = True,
    ) -> list[Pair]:
        """Everything whose bounds allow a layout within the limits, chunks and recompute decided.

        `settings` are the recompute settings to ask about (default: all). `every_batch` False: of an open batch only
        the smallest and the largest of each row. `counted` False: what ranks can hold is not counted. `pause` is called
        now and then, and may raise.
        """
        settings = self.recomputes if settings is None else settings
        count = tightened if counted else lambda _problem, pairs, _limits: pairs
        parts = side_by_side(
            lambda rows: count(self.problem, self._weighed(rows, limits, settings), limits),
            self._bundles(limits, every_batch),
            lambda rows: sum(_size(some) for some in rows),
        )
        return [pair for part in parts for pair in part]

    def _weighed(self, rows: Sequence[Rows], limits: Limits, settings: Sequence[Recompute]) -> list[Pair]:
        parts = [weighed(self.problem, self._expanded(*some, limits, settings), limits) for some in rows]
        return [pair for part in parts for pair in part]

    def _bundles(self, limits: Limits, every_batch: bool) -> list[list[Rows]]:
        """Rows of the first level within the limits, in bundles whose size depends on how many there are alone."""
        found = list(self._rows(limits, every_batch))
        size = min(max(sum(map(_size, found)) // _PARTS, _FEWEST), _TOGETHER)
        slices = (
            (mode, select(degrees, np.arange(first, min(first + size, len(degrees.tp)))))
            for mode, degrees in found
            for first in range(0, len(degrees.tp), size)
        )
        return list(bundles(slices, _size, size))

    def _rows(self, limits: Limits, every_batch: bool) -> Iterator[Rows]:
        """Rows of the first level within the limits, short pipelines first."""
        for block in self.blocks:
            keep = block.within(limits)
            for degrees in block.batches(self.problem, keep, limits, every_batch) if keep.any() else ():
                yield block.mode, select(degrees, np.argsort(degrees.pp, kind="stable"))

    def _expanded(self, mode: Choices, degrees: Degrees, limits: Limits, settings: Sequence[Recompute]) -> list[Pair]:
        """Some of these rows with chunks and recompute decided."""
        self.pause()
        return list(self._expand(mode, degrees, limits, settings))

    def _expand(self, mode: Choices, degrees: Degrees, limits: Limits, settings: Sequence[Recompute]) -> Iterator[Pair]:
        degrees, _ = with_chunks(self.problem, degrees)
        degrees = select(degrees, _legal_degrees(self.problem, degrees, mode))
        if not len(degrees.tp):
            return
        table = RecomputeTable(self.problem, degrees, mode, limits)
        limit_ns = limits.time_of(degrees)
        settings = [setting for setting in settings if choices_legal(self.problem, mode.with_recompute(setting))]
        for recompute, work, time in table.time_bounds(settings, limits.replayed):
            keep = (time <= limit_ns) & ((recompute.num_layers or 0) <= table.deepest(recompute))
            if keep.any():
                keep[keep] &= legal_rows(self.problem, select(degrees, keep), mode.with_recompute(recompute))
            if keep.any():
                yield table.pair(recompute, work, np.flatnonzero(keep), time)


def _size(rows: Rows) -> int:
    return len(rows[1].tp)


def legal_rows(problem: Problem, degrees: Degrees, choices: Choices) -> NDArray[np.bool_]:
    """Which rows break no rule."""
    return np.broadcast_to(np.asarray(legal(problem, degrees, choices), dtype=bool), degrees.tp.shape).copy()


def _legal_degrees(problem: Problem, degrees: Degrees, mode: Choices) -> NDArray[np.bool_]:
    """Which rows break no rule on degrees; rules on choices alone wait until recompute is decided."""
    ok = np.ones(len(degrees.tp), dtype=bool)
    for rule in degree_rules(problem, mode):
        ok &= rule.holds(problem, degrees, mode)
    return ok
