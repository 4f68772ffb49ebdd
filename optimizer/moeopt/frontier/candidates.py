"""The frontier's only use of the search's parts: candidates of a region, their placements, and what rules them out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from math import inf

import numpy as np
from numpy.typing import NDArray

from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.cpsat.descent import Descent, descend
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.prices import longest_end_ns
from moeopt.cpsat.scaled import EFFORT, ScaledLedger
from moeopt.cpsat.solve import minimise, rules_out
from moeopt.cpsat.solvers import Solvers
from moeopt.frontier.goals import Region
from moeopt.frontier.placements import are_few, every_placement
from moeopt.parallel import bundles, side_by_side
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.screening import Block, Pair, Screening
from moeopt.screening.pairs import bounded
from moeopt.solving.incumbent import Found, placed_side_by_side
from moeopt.solving.queue import Queue
from moeopt.solving.settings import Settings
from moeopt.space import select

Column = NDArray[np.int64]
Key = tuple[object, ...]
_TOGETHER = 500
"""Rows that are bounded together."""
_AT_ONCE = 8
"""Rows that are placed before the time is looked at."""
_EARLY = 0.1
"""Seconds that a solver may stop before its time limit; one that stops earlier was interrupted by the user."""
_QUICK = 6.0
"""Seconds of the smaller model, where the scaled one does not tell: what is not ruled out by then is asked in full."""


class Stopped(Exception):  # noqa: N818 - not an error: a way out of the loops
    """The deadline has passed, or the user interrupted; with the layout that was known by then, if any."""

    def __init__(self, found: Found | None = None) -> None:
        super().__init__()
        self.found = found


class Undecided(Exception):  # noqa: N818
    """A candidate took longer than the time given to it; with a layout of it, if one was found."""

    def __init__(self, found: Found | None) -> None:
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
        return self.candidate.key


class Candidates:
    """Candidates of a problem by region, and questions about one of them."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem, self.settings = problem, replace(settings, progress=None)
        self.screening, self.solvers = Screening(problem, pause=self.check_time), Solvers()
        self._listed: dict[Key, list[Found]] = {}
        """Every placement of the candidates that have few."""

    def pairs(self, region: Region, outer: Sequence[Pair] | None = None) -> list[Pair]:
        """Rows whose bounds allow a layout in the region; `outer` are those of a region around it, where known."""
        if outer is None:
            return self.within(region.gpus).screening.pairs(region.limits)
        masks = [
            (pair.time <= region.limits.time_of(pair.degrees)) & (pair.degrees.gpus <= region.gpus) for pair in outer
        ]
        left = [pair.only(mask) for pair, mask in zip(outer, masks, strict=True) if mask.any()]
        parts = side_by_side(
            lambda part: bounded(self.problem, part, region.limits),
            list(bundles(left, lambda pair: pair.size, _TOGETHER)),
        )
        return [pair for part in parts for pair in part]

    def count(self, region: Region) -> int:
        """Rows of the first level that may be in a region."""
        return sum(int(block.within(region.limits).sum()) for block in self.screening.blocks)

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

    def entries(self, pairs: Sequence[Pair]) -> list[Entry]:
        """Every row as a candidate, fastest bound first."""
        queue = self.queue(pairs)
        found = [Entry(queue.candidate(at), int(queue.memory[at])) for at in queue.lowest(len(queue))]
        return sorted(found, key=lambda entry: (entry.candidate.bound_ns, entry.memory_bytes))

    def queue(self, pairs: Sequence[Pair]) -> Queue:
        """Rows as a queue, fastest bound first."""
        return Queue(self.problem, pairs, lambda pair: pair.time)

    def judged(self, candidate: Candidate, pipeline: PipelineLayout, region: Region) -> Found | None:
        """A placement, if it is in the region and obeys the problem's constraints."""
        found = Found.judge(candidate, pipeline)
        return found if self._is_inside(found, region) else None

    def placed(self, queue: Queue, positions: Iterable[int], region: Region) -> Iterator[Found]:
        """Layouts that the heuristic placements of some rows have in a region. Raises Stopped when the time is over."""
        waiting = iter(positions)
        while some := [queue.candidate(position) for position in islice(waiting, _AT_ONCE)]:
            self.check_time()
            for found in placed_side_by_side(some, region.limits.memory_bytes):
                if found is not None and self._is_inside(found, region):
                    yield found

    def check_time(self) -> None:
        """Raise Stopped when the time is over."""
        if self.settings.expired:
            raise Stopped

    @staticmethod
    def _is_inside(found: Found, region: Region) -> bool:
        within = found.time_ns <= region.time_ns(int(found.candidate.degrees.gpus))
        within &= found.peak_bytes <= region.limits.memory_bytes
        return within and obeys(found.candidate, found.pipeline, found.time_ns)

    # Questions about one candidate ----------------------------------------------------------------------------------

    def ruled_out(self, entry: Entry, region: Region) -> bool:
        """Whether a quick solve shows that no placement is in the region."""
        if self.settings.expired:
            return False
        horizon_ns = self._horizon_ns(entry, region)
        if horizon_ns < entry.candidate.bound_ns or region.limits.memory_bytes < entry.memory_bytes:
            return True
        if are_few(entry.candidate):
            return self._best_listed(entry, region) is None
        limits = horizon_ns, region.limits.memory_bytes
        with self.solvers.one() as solver:
            outcome = ScaledLedger(entry.candidate, *limits).solve(solver, self.settings, EFFORT)
        if outcome.status != "open" or self.solvers.stopped:
            return outcome.status == "none"
        quick = replace(self.settings, deadline=min(time.monotonic() + _QUICK, self.settings.deadline or inf))
        with self.solvers.one() as solver:
            return rules_out(self._encode(entry, *limits, few_rows=True), solver, quick, _QUICK)

    def best(self, entry: Entry, region: Region, seconds: float = inf) -> Found | None:
        """The lightest of the fastest layouts of a candidate in the region; None where a proof says that there is
        none. Raises Undecided after so many seconds, Stopped when the time is over."""
        horizon_ns, limit_bytes = self._horizon_ns(entry, region), region.limits.memory_bytes
        if horizon_ns < entry.candidate.bound_ns or limit_bytes < entry.memory_bytes:
            return None
        if are_few(entry.candidate):
            return self._best_listed(entry, region)
        until = min(time.monotonic() + seconds, self.settings.deadline or inf)
        settings = self.settings if until == inf else replace(self.settings, deadline=until)
        fastest = descend(entry.candidate, horizon_ns, limit_bytes, "step_time", settings, self.solvers)
        if fastest.found is None:
            return None if fastest.proven else self._best_in_full(entry, horizon_ns, limit_bytes, settings)
        found, lighter = fastest.found, Descent(None, False)
        if fastest.proven:
            limits = found.time_ns, found.peak_bytes - 1
            lighter = descend(entry.candidate, *limits, "peak_memory", settings, self.solvers)
            found = lighter.found or found
        if lighter.proven:
            return found
        return self._best_in_full(entry, found.time_ns, limit_bytes, settings, found)

    def _best_in_full(
        self, entry: Entry, horizon_ns: int, limit_bytes: int, settings: Settings, known: Found | None = None
    ) -> Found | None:
        """The same by the exact model."""
        encoding = self._encode(entry, horizon_ns, limit_bytes)
        if known is not None:
            encoding.hint(known)
        found = known
        for goal in (encoding.time, encoding.peak):
            outcome = minimise(encoding, goal, settings, "candidate")
            if not outcome.proven:
                late = time.monotonic() >= (settings.deadline or inf) - _EARLY and not self.settings.expired
                raise (Undecided if late else Stopped)(outcome.found or found)
            if outcome.found is None:
                return None
            found = outcome.found
            encoding.settle(goal, outcome.bound, found)
        return found

    def _best_listed(self, entry: Entry, region: Region) -> Found | None:
        """The same for a candidate whose placements are few enough to list."""
        if entry.key not in self._listed:
            found = [Found.judge(entry.candidate, pipeline) for pipeline in every_placement(entry.candidate)]
            self._listed[entry.key] = [each for each in found if obeys(each.candidate, each.pipeline, each.time_ns)]
        most_ns = self._horizon_ns(entry, region)
        fitting = [
            each
            for each in self._listed[entry.key]
            if each.time_ns <= most_ns and each.peak_bytes <= region.limits.memory_bytes
        ]
        return min(fitting, key=lambda each: (each.time_ns, each.peak_bytes), default=None)

    def _horizon_ns(self, entry: Entry, region: Region) -> int:
        return min(region.time_ns(int(entry.candidate.degrees.gpus)), _slowest_ns(entry.candidate))

    def _encode(self, entry: Entry, horizon_ns: int, limit_bytes: int, few_rows: bool = False) -> Encoding:
        return Encoding(self.problem, [entry.candidate], horizon_ns, limit_bytes, "few" if few_rows else "all")


def _slowest_ns(candidate: Candidate) -> int:
    """Nanoseconds that no placement of a candidate exceeds: every piece one after the other (a row counts no work more
    often than there are micro-batches, and UB2 with base time 0 is no more than that), every hop of the longest row
    (those added to UB2 are no more), and the longest end of a step. Without it a model without a time limit has domains
    that slow down its proof."""
    schedule, terms = candidate.schedule, candidate.ledger.time_terms
    forward, backward = terms.forward_ns, candidate.backward_ns
    work = sum(count * (forward[piece] + backward[piece]) for piece, count in candidate.most_pieces.items())
    hops = max(row.hops for row in lower_bound_rows(*schedule))
    return int(schedule[2] * work + hops * terms.hop_ns + longest_end_ns(candidate))


def _rows(block: Block, mask: NDArray[np.bool_]) -> Block:
    index, size = np.flatnonzero(mask), len(block.time)
    return replace(
        block,
        degrees=select(block.degrees, index),
        time=block.time[index],
        memory=block.memory[index],
        work=block.work.rows(index, size),
        longest=select(block.longest, index),
    )
