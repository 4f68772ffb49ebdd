"""A bound on the replayed step that no layout of a problem can beat, and the layout that reaches it.

The search proves the optimum of the ledger's time. For interleaved pipelines that is a figure between a bound and a
surrogate; the replay is the exact time of the same costs. Bounds on a candidate's replayed step, in this order:

1. that of the screening: its heaviest rank's work, and what memory and time together let ranks hold;
2. the rows that no replay goes below, combined by duality over whole layers (`moeopt.dual`);
3. the same with critical paths of replays as further rows: of a linear program's points (`moeopt.cpsat.relaxation`),
   then of the placements that duality proposes, as long as these raise the bound;
4. what ranks next to each other hold, in whole layers, and the paths over both (`moeopt.dual.by_neighbours`); where
   that leaves few placements, their replays;
5. CP-SAT over the placements, with those paths as rows in rounded numbers, in turns with replays, for several
   candidates at once (`moeopt.cpsat.closing`); where rounding and what it leaves out tell too little, exactly
   (`moeopt.cpsat.replayed`).

The schedules of the candidates with the lowest bounds are taken first, and at any moment the lowest bound that is left
holds for every layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from moeopt.clock import until
from moeopt.screening import Limits, Screening
from moeopt.solving.closer import Closer
from moeopt.solving.effort import CHEAP, FULL, Effort
from moeopt.solving.incumbent import Found
from moeopt.solving.paths import CriticalPaths
from moeopt.solving.queue import Queue
from moeopt.solving.record import Record
from moeopt.solving.replay_raising import ReplayRaising
from moeopt.solving.replayed import Replayed, target_ns
from moeopt.solving.settings import Settings

_TOGETHER = 512
"""Candidates of the lowest bounds that are looked at at once."""
_GROWTH = 3
"""Where all rows that were looked at are settled, so many times as many are looked at next."""


@dataclass(frozen=True)
class Certificate:
    """`best`: the lowest replayed step known; `lower_bound_ns`: no layout of the problem replays faster."""

    best: Replayed
    lower_bound_ns: int
    candidates: int
    """Candidates whose first bound was below the best step (or below what is within the gap of it)."""
    refuted: int
    """Of these, the ones whose bound is not below it any more."""

    @property
    def closed(self) -> bool:
        """Whether the best layout is proven to have the best replayed step."""
        return self.best.cut is not None and self.lower_bound_ns >= self.best.step_ns


class Certifier:
    """Bounds of one problem's candidates, lowest first."""

    def __init__(self, screening: Screening, known: Sequence[Found], settings: Settings, effort: Effort) -> None:
        self.problem, self.screening = screening.problem, screening
        self.settings, self.effort = settings, effort
        self.record = Record(known, effort, settings.progress)
        self.paths = CriticalPaths(settings, effort.rounds, effort.operations)
        self.closer = Closer(self.record, effort, settings)
        self._ceiling_ns = self.record.target_ns
        """Rows that are not looked at have no bound below it."""
        self.interrupted = False

    def run(self) -> Certificate:
        """As far as the effort and the deadline allow."""
        with until(self.settings.deadline):
            return self._run()

    def _run(self) -> Certificate:
        bounds = self._first_level()
        looked_at = len(bounds) if self.effort.rows is None else self.effort.rows
        answer = Certificate(self.record.best, min(bounds, default=self.record.target_ns), len(bounds), 0)
        while not self.settings.expired:
            closer, settled = self._look_at(bounds, looked_at)
            answer = replace(closer, lower_bound_ns=max(closer.lower_bound_ns, answer.lower_bound_ns))
            near = answer.lower_bound_ns >= self.record.near_ns
            if near or self.interrupted or not settled or looked_at >= len(bounds) or self.paths.spent_all:
                break
            looked_at *= _GROWTH
        return answer

    def _first_level(self) -> list[int]:
        """Bounds below the target of rows whose chunks are open, lowest first: the busiest rank's share of the
        work."""
        bounds: list[int] = []
        for block in self.screening.blocks:
            near = (block.memory <= self.problem.memory_limit) & (block.time < self.record.target_ns)
            bounds += block.time[near].tolist()
        return sorted(bounds)

    def _look_at(self, bounds: Sequence[int], count: int) -> tuple[Certificate, bool]:
        """The rows of so many of the lowest bounds; and whether all of them are settled."""
        beyond = bounds[count:]
        self._ceiling_ns = min(beyond, default=self.record.target_ns)
        queue = Queue(self.problem, self.screening.pairs(self._limits), lambda pair: pair.time)
        raising = ReplayRaising(queue, self.paths, self.record, self.effort, self.settings)
        listed = len(queue)
        lower, left = self._lowest(queue), listed
        try:
            while len(queue) and self._take_lowest(queue, raising):
                queue.drop(self._limits)
                lower, left = self._lowest(queue), len(queue)
                self.record.say(f"bound on replays {lower:,}, {left} candidates left")
            lower, left = self._lowest(queue), len(queue)
        except KeyboardInterrupt:  # in a step, candidates may be closed whose placements were not yet replayed
            self.interrupted = True
            self.record.say("interrupted before the gap was closed")
        return Certificate(self.record.best, lower, listed + len(beyond), listed - left), not left

    @property
    def _limits(self) -> Limits:
        """What a layout with a better replay than is enough, and than what is not looked at, stays within."""
        better_ns = min(self.record.target_ns, self._ceiling_ns) - 1
        return Limits(self.problem.memory_limit, time_ns=better_ns, replayed=True)

    def _lowest(self, queue: Queue) -> int:
        """Below every layout's replayed step, between two steps."""
        known = [self._ceiling_ns, self.record.target_ns]
        known += [queue.least] if len(queue) else []
        return min(known if self.record.settled_ns is None else [*known, self.record.settled_ns])

    def _take_lowest(self, queue: Queue, raising: ReplayRaising) -> bool:
        """Raise the lowest bounds, or settle their candidates; False to stop."""
        near_ns = self.record.near_ns
        lowest = {at: queue.candidate(at) for at in queue.lowest(_TOGETHER) if queue.bound[at] < near_ns}
        if self.settings.expired or not lowest:
            return False
        if raising.raise_lowest(lowest, self._limits):
            return True
        open_ = self.closer.in_vain(lowest)
        if self.effort.is_full and next(iter(lowest)) in open_ and raising.widen(open_, self._limits):
            return True
        return self.closer.close(queue, raising, len(lowest)) or raising.widen(lowest, self._limits)


def certify(
    screening: Screening, known: Sequence[Found], settings: Settings, full: bool = False, gap: Fraction = Fraction(0)
) -> Certificate:
    """A bound that no layout of the problem can beat by its replayed step; with `full`, as good a layout and bound as
    the deadline allows, or as are within the gap: what a plain solve does comes first, so that more time gives no
    weaker bound. `known` are layouts that fit."""
    cheap = Certifier(screening, known, settings, replace(CHEAP, gap=gap))
    quick = cheap.run()
    if not full or cheap.interrupted or quick.lower_bound_ns >= target_ns(quick.best.step_ns, gap):
        return quick
    thorough = Certifier(screening, [*known, quick.best.found], settings, replace(FULL, gap=gap))
    thorough.paths.of |= cheap.paths.of
    found = thorough.run()
    return replace(found, lower_bound_ns=max(found.lower_bound_ns, quick.lower_bound_ns))
