"""The frontier's only use of the search's parts: candidates of a region, their placements, and what rules them out."""

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.pieces import piece_counts
from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.prices import longest_end_ns
from moeopt.cpsat.solve import Settings, minimise, rules_out
from moeopt.frontier.goals import Region
from moeopt.incumbent import Found, place
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.screening import Block, Pair, Screening
from moeopt.space import row, select

Column = NDArray[np.int64]
Key = tuple[object, ...]
_QUICK = 0.5
"""Seconds of a quick solve: what is not ruled out by then is asked in full."""


class Stopped(Exception):  # noqa: N818 - not an error: a way out of the loops
    """The deadline has passed, or the user interrupted; with the layout that was known by then, if any."""

    def __init__(self, found: Found | None = None) -> None:
        super().__init__()
        self.found = found


@dataclass(frozen=True, eq=False)
class Entry:
    """A candidate with the bound on its memory."""

    candidate: Candidate
    memory_bytes: int

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return int(self.candidate.degrees.gpus), *self.candidate.order


class Candidates:
    """Candidates of a problem by region, and questions about one of them."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        self.screening = Screening(problem)

    def narrowed(self, pairs: Sequence[Pair]) -> "Candidates":
        """The same, of the rows that are left in some pairs: all there is to ask about regions inside theirs."""
        result = copy(self)
        result.screening = copy(self.screening)
        blocks = [_part(block, pairs) for block in self.screening.blocks]
        result.screening.blocks = [block for block in blocks if len(block.time)]
        return result

    def pairs(self, region: Region) -> list[Pair]:
        """Rows whose bounds allow a layout in the region."""
        allowed = self.within(region.gpus)
        return [pair for pair in allowed.screening.pairs(region.limits) if pair.size]

    def thinned(self, pick: Callable[[Column, Column, Column], NDArray[np.bool_]]) -> "Candidates":
        """Some rows only: those that `pick(pp, time bound, memory bound)` takes."""
        return self._filtered(lambda block: pick(np.asarray(block.degrees.pp), block.time, block.memory))

    def exactly(self, gpus: int) -> "Candidates":
        """The rows on so many GPUs."""
        return self._filtered(lambda block: np.asarray(block.degrees.gpus == gpus))

    def _filtered(self, mask: Callable[[Block], NDArray[np.bool_]]) -> "Candidates":
        result = copy(self)
        result.screening = copy(self.screening)
        blocks = [_rows(block, mask(block)) for block in self.screening.blocks]
        result.screening.blocks = [block for block in blocks if len(block.time)]
        return result

    def within(self, gpus: int) -> "Candidates":
        """The same on at most so many GPUs."""
        if all((block.degrees.gpus <= gpus).all() for block in self.screening.blocks):
            return self
        return self._filtered(lambda block: np.asarray(block.degrees.gpus <= gpus))

    def entries(self, pairs: Sequence[Pair]) -> Iterator[Entry]:
        """Every row as a candidate, fastest bound first."""
        time, memory = (np.concatenate([getattr(pair, name) for pair in pairs]) for name in ("time", "memory"))
        place = [(pair, index) for pair in pairs for index in range(pair.size)]
        return (self.entry(*place[i]) for i in np.lexsort((memory, time)))

    def entry(self, pair: Pair, index: int) -> Entry:
        """One row as a candidate."""
        choices = pair.mode.model_copy(update={"recompute": pair.recompute})
        candidate = Candidate(self.problem, row(pair.degrees, index), choices, int(pair.time[index]))
        return Entry(candidate, int(pair.memory[index]))

    # Questions about one candidate ----------------------------------------------------------------------------------

    def place(self, entry: Entry, region: Region) -> Found | None:
        """A layout of a candidate in the region by the heuristic, if that finds one."""
        found = place(entry.candidate, region.limits.memory_bytes)
        if found is None or found.time_ns > self._horizon_ns(entry, region):
            return None
        return found if obeys(entry.candidate, found.pipeline, found.time_ns) else None

    def ruled_out(self, entry: Entry, region: Region) -> bool:
        """Whether a quick solve shows that no placement is in the region."""
        if self.settings.expired:
            return False
        horizon_ns = self._horizon_ns(entry, region)
        if horizon_ns < entry.candidate.bound_ns or region.limits.memory_bytes < entry.memory_bytes:
            return True
        if entry.candidate.grid == (1, 1):
            return self.place(entry, region) is None
        quick = replace(self.settings, deadline=min(time.monotonic() + _QUICK, self.settings.deadline or inf))
        return rules_out(self._encode(entry, horizon_ns, region.limits.memory_bytes, few_rows=True), quick)

    def best(self, entry: Entry, region: Region, memory_first: bool = False) -> Found | None:
        """The fastest layout of a candidate in the region, then the lightest of these (or the other way round); None
        where a proof says that there is none. Raises Stopped when the time is over."""
        horizon_ns = self._horizon_ns(entry, region)
        if horizon_ns < entry.candidate.bound_ns or region.limits.memory_bytes < entry.memory_bytes:
            return None
        if entry.candidate.grid == (1, 1):  # one placement: nothing to solve
            return self.place(entry, region)
        encoding = self._encode(entry, horizon_ns, region.limits.memory_bytes)
        goals = [encoding.peak, encoding.time] if memory_first else [encoding.time, encoding.peak]
        found = None
        for goal in goals:
            outcome = minimise(encoding, goal, self.settings, "candidate")
            if not outcome.proven:
                raise Stopped(outcome.found or found)
            if outcome.found is None:
                return None
            found = outcome.found
            encoding.settle(goal, outcome.bound, found)
        return found

    def _horizon_ns(self, entry: Entry, region: Region) -> int:
        return min(region.time_ns(int(entry.candidate.degrees.gpus)), _slowest_ns(entry.candidate))

    def _encode(self, entry: Entry, horizon_ns: int, limit_bytes: int, few_rows: bool = False) -> Encoding:
        return Encoding(self.problem, [entry.candidate], horizon_ns, limit_bytes, "few" if few_rows else "all")


def _slowest_ns(candidate: Candidate) -> int:
    """Nanoseconds that no placement of a candidate exceeds: every piece one after the other (a row counts no work more
    often than there are micro-batches, and UB2 with base time 0 is no more than that), every hop of the longest row,
    and the longest end of a step. Without it a model without a time limit has domains that slow down its proof."""
    schedule, terms = candidate.schedule, candidate.ledger.time_terms
    forward, backward = terms.forward_ns, candidate.backward_ns
    work = sum(count * (forward[piece] + backward[piece]) for piece, count in piece_counts(candidate.problem).items())
    hops = max(row.hops for row in lower_bound_rows(*schedule))
    return int(schedule[2] * work + hops * terms.hop_ns + longest_end_ns(candidate))


def _rows(block: Block, mask: NDArray[np.bool_]) -> Block:
    return replace(block, degrees=select(block.degrees, mask), time=block.time[mask], memory=block.memory[mask])


_ROW = ("tp", "cp", "pp", "dp", "ep", "etp", "micro_batch_size")


def _part(block: Block, pairs: Sequence[Pair]) -> Block:
    """The rows of a block that some pair of its mode comes from."""
    own = [pair for pair in pairs if pair.mode == block.mode]
    if not own:
        return _rows(block, np.zeros(len(block.time), dtype=bool))
    listed = [np.concatenate([getattr(pair.degrees, name) for pair in own]) for name in _ROW]
    theirs = [np.asarray(getattr(block.degrees, name)) for name in _ROW]
    return _rows(block, np.isin(_code(theirs, listed), _code(listed, theirs)))


def _code(columns: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One integer a row: positions of its values among those of both tables, as digits."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column, other in zip(columns, others, strict=True):
        values = np.union1d(column, other)
        code = code * len(values) + np.searchsorted(values, column)
    return code
