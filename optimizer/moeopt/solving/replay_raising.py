"""Bounds on candidates' replayed steps, raised by critical paths and by what ranks next to each other hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moeopt.candidate import Candidate
from moeopt.dual import NARROW, WIDE, WIDEST, Answer, Question, Width, paired, raised
from moeopt.schedule.replay import MOST_EXACT_OPERATIONS
from moeopt.schedule.shape import Schedule
from moeopt.screening import Limits
from moeopt.solving.effort import FEW, Effort
from moeopt.solving.paths import CriticalPaths
from moeopt.solving.queue import Left, Queue
from moeopt.solving.record import Record
from moeopt.solving.settings import Settings

_SCHEDULES = 8
"""Schedules whose linear programs are refined at once."""
_RAISED = 400
"""Operations that could be replayed in the time that a candidate's bound is raised in."""
_TURNS = 2
"""Times that duality and replays take turns at one schedule, at most."""
_REPLAYED = 4
"""Placements of one candidate that are replayed in a turn where not all are known ..."""
_LISTED = 400
"""... and how many of them are all replayed, to settle it."""
_ROUNDS, _OPERATIONS = 64, 3_000_000
"""Rounds of the schedules that are left, and operations more, where a little of everything left few candidates."""
_PAIRED = 128
"""Candidates whose neighbouring ranks are looked at at once ..."""
_MANY = 1000
"""... of so many that are left at most, where not all are to be settled."""


class ReplayRaising:
    """The candidates of one queue."""

    def __init__(self, queue: Queue, paths: CriticalPaths, record: Record, effort: Effort, settings: Settings) -> None:
        self.queue, self.paths, self.record, self.effort, self.settings = queue, paths, record, effort, settings
        self._paired: dict[tuple[object, ...], Width] = {}
        """Candidates whose bounds were raised by what ranks next to each other hold, and how closely these were looked
        at."""
        self._raised: dict[tuple[object, ...], int] = {}
        """Candidates whose bounds were raised by critical paths, and with how many rounds of their schedule's."""

    def raise_lowest(self, lowest: Mapping[int, Candidate], limits: Limits) -> bool:
        """Raise the first of some open candidates (positions and candidates, the lowest bound first), and others with
        it; False where there is no way left. First with what critical paths there are; then by what ranks next to each
        other hold, as far as that takes little; then with more critical paths. (Where everything is to be settled,
        ranks come before paths and may take more: they spare schedules their paths.)"""
        candidates = list(lowest.values())
        if self.can_raise(candidates[0]):
            self._in_turns([at for at, each in lowest.items() if self.can_raise(each)], len(lowest), limits)
        elif self._can_settle and self._may_pair(candidates[0], self._first_width):
            self._pair(lowest, self._first_width, limits)
        elif self._deepen(candidates):
            self._in_turns([at for at, each in lowest.items() if self.can_raise(each)], len(lowest), limits)
        else:
            return len(lowest) <= FEW and self.paths.extend(_ROUNDS, _OPERATIONS)
        return True

    def widen(self, lowest: Mapping[int, Candidate], limits: Limits) -> bool:
        """Look closer at what ranks next to each other hold, of few candidates; False where that was done. What may be
        replayed of placements that are left is shared among them."""
        closer = WIDEST if self.effort.is_full else WIDE
        if len(lowest) > FEW or not self._may_pair(next(iter(lowest.values())), closer):
            return False
        operations = max(closer.operations, WIDEST.operations // len(lowest))
        self._pair(lowest, closer._replace(operations=operations), limits)
        return True

    def can_raise(self, candidate: Candidate) -> bool:
        """Whether there are critical paths that a candidate's bound was not yet raised with."""
        return self._raised.get(candidate.key, 0) < self.paths.rounds(Schedule(*candidate.schedule))

    @property
    def _can_settle(self) -> bool:
        """Whether a first look at neighbouring ranks may leave few candidates; a plain solve ends where it does not."""
        return self.effort.is_full or len(self.queue) <= _MANY

    @property
    def _first_width(self) -> Width:
        return WIDE if self.effort.is_full else NARROW

    def _may_pair(self, candidate: Candidate, width: Width) -> bool:
        """Whether a candidate's neighbouring ranks were not yet looked at so closely, and may be now: after the first
        critical paths of its schedule."""
        schedule = Schedule(*candidate.schedule)
        tried = self.effort.is_full or self.paths.rounds(schedule) > 0 or not self.paths.can_deepen(schedule)
        return tried and not self.can_raise(candidate) and width > self._paired.get(candidate.key, (0, 0))

    def _pair(self, lowest: Mapping[int, Candidate], width: Width, limits: Limits) -> None:
        """Raise bounds by what ranks next to each other hold, as far as is enough; placements that are left are
        replayed."""
        positions = [at for at, each in lowest.items() if self._may_pair(each, width)][:_PAIRED]
        self._paired |= {lowest[position].key: width for position in positions}
        near_ns = self.record.settle()
        limits = replace(limits, time_ns=min(near_ns - 1, limits.time_ns or near_ns))
        for left in self.queue.raise_bounds(positions, limits, lambda question: paired(question, width)):
            self._replay(left, Schedule(*left.candidate.schedule))

    def _deepen(self, lowest: Sequence[Candidate]) -> bool:
        """More critical paths for schedules of candidates that were raised with all that there are, or have none;
        whether the first has more now."""
        schedules: dict[Schedule, Candidate] = {}
        for candidate in lowest:
            if not self.can_raise(candidate) and len(schedules) < _SCHEDULES:
                schedules.setdefault(Schedule(*candidate.schedule), candidate)
        self.paths.deepen(schedules)
        return self.can_raise(lowest[0])

    def _in_turns(self, positions: Sequence[int], together: int, limits: Limits) -> None:
        """Raise bounds, add the critical paths of what duality proposes, and again where there are any."""
        for _ in range(_TURNS if self.effort.is_full else 1):
            candidates = {position: self.queue.candidate(position) for position in positions}
            known = {schedule: len(cuts.rows) for schedule, cuts in self.paths.of.items()}
            self._raise(candidates, limits)
            grown = {schedule for schedule, count in known.items() if len(self.paths.of[schedule].rows) > count}
            if not grown or self.settings.expired or self.paths.spent_all:
                return
            keys = {each.key for each in candidates.values() if Schedule(*each.schedule) in grown}
            positions = [at for at in self.queue.lowest(together) if self.queue.candidate(at).key in keys]
            if not positions:
                return

    def _raise(self, candidates: Mapping[int, Candidate], limits: Limits) -> None:
        """Bounds of candidates by duality; placements proposed are replayed."""
        schedules = {position: Schedule(*candidate.schedule) for position, candidate in candidates.items()}
        for position, candidate in candidates.items():
            self._raised[candidate.key] = self.paths.rounds(schedules[position])
        cuts = {(*schedule.shape, schedule.ep_overlap): self.paths.of[schedule] for schedule in schedules.values()}
        self.paths.spent += len(candidates) * _RAISED
        for left in self.queue.raise_bounds(list(candidates), limits, self._ask, cuts):
            self._replay(left, Schedule(*left.candidate.schedule))

    def _ask(self, question: Question) -> Answer:
        """Bounds of a schedule's candidates; what is left is listed where all of it would be replayed."""
        listed = self.effort.is_full and Schedule(*question.rows.schedule).operations <= MOST_EXACT_OPERATIONS
        return raised(question, self.effort.dual_rounds, _LISTED if listed else 0)

    def _replay(self, left: Left, schedule: Schedule) -> None:
        """Placements of one candidate: all that are left, or the most promising ones."""
        for pipeline in left.placed if left.complete else left.placed[:_REPLAYED]:
            item = self.record.judge(left.candidate, pipeline)
            self.paths.spent += schedule.operations
            if item.cut is not None and schedule in self.paths.of:
                self.paths.of[schedule].add(item.cut)
