"""Critical paths of replays by order of operations: a few at first, and more where a bound still hangs on them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from moeopt.candidate import Candidate
from moeopt.dual.prices import Cuts
from moeopt.parallel import side_by_side
from moeopt.schedule.combined import Counts
from moeopt.schedule.replay import MOST_EXACT_OPERATIONS
from moeopt.schedule.shape import Schedule
from moeopt.solving.settings import Settings

if TYPE_CHECKING:
    from moeopt.cpsat.relaxation import Relaxation

_AT_FIRST, _DEEPER = 30_000, 4
"""Operations that are replayed for a schedule at first, where one round does not take more, and times as many rounds as
before later on: bounds are raised each time, which takes as long."""
_LEAST = 12
"""Rounds of a schedule's linear program that are allowed however long they take ..."""
_MOST_REPLAYED = 4_000_000
"""... and operations that further ones may replay, where their number is not limited: longer orders take seconds
otherwise, for little."""


class CriticalPaths:
    """What replays of the points of linear programs tell about each schedule. `rounds`: of a schedule's program, at
    most; `operations`: how many may be replayed (None: any, and all rounds are done at once)."""

    def __init__(self, settings: Settings, rounds: int, operations: int | None) -> None:
        self.settings, self.most_rounds, self.operations = settings, rounds, operations
        self.of: dict[Schedule, Cuts] = {}
        self.spent = 0
        """Operations replayed, or what took as long."""
        self._rounds: dict[Schedule, int] = {}
        self._ended: set[Schedule] = set()
        """Schedules that further rounds tell nothing about."""

    def rounds(self, schedule: Schedule) -> int:
        """Rounds of its linear program so far."""
        return self._rounds.get(schedule, 0)

    @property
    def spent_all(self) -> bool:
        """Whether no operation may be replayed any more."""
        return self.operations is not None and self.spent > self.operations

    def extend(self, rounds: int, operations: int) -> bool:
        """Allow so many rounds, and so many operations more; False where they were allowed before."""
        if self.operations is None or self.most_rounds >= rounds:
            return False
        self.most_rounds, self.operations = rounds, self.spent + operations
        return True

    def can_deepen(self, schedule: Schedule) -> bool:
        """Whether further rounds are allowed and may tell something."""
        return bool(self._further(schedule, self.spent))

    def deepen(self, lowest: Mapping[Schedule, Candidate]) -> None:
        """Further rounds for schedules, each by a candidate of it; for as many of them as may be. (The solver of linear
        programs is loaded here: after the proof, and before processes are forked.)"""
        from moeopt.cpsat.relaxation import Relaxation

        asked, planned = list[tuple[Schedule, int]](), self.spent
        for schedule in lowest:
            further = self._further(schedule, planned)
            if further:
                asked.append((schedule, further))
                planned += 2 * schedule.operations * further
        found = side_by_side(
            lambda each: self._relaxed(Relaxation(lowest[each[0]], each[0], self._known(each[0])), *each),
            asked,
            lambda each: each[0].operations,
        )
        for (schedule, further), (cuts, rounds) in zip(asked, found, strict=True):
            self.of[schedule] = cuts
            self._rounds[schedule] = self.rounds(schedule) + max(rounds, 1)
            self.spent += 2 * schedule.operations * rounds
            if rounds < further or schedule.operations > MOST_EXACT_OPERATIONS:
                self._ended.add(schedule)

    def _further(self, schedule: Schedule, spent: int) -> int:
        """How often a schedule's linear program may be solved and replayed next."""
        if schedule in self._ended:
            return 0
        done, size = self.rounds(schedule), 2 * schedule.operations
        if self.operations is None:
            return max(0, min(self.most_rounds, max(_LEAST, _MOST_REPLAYED // size)) - done)
        depth = min(_DEEPER * done or max(1, _AT_FIRST // size), self.most_rounds)
        cost = size * (depth - done) if schedule.operations <= MOST_EXACT_OPERATIONS else 0
        return depth - done if spent + cost < self.operations else 0

    def _known(self, schedule: Schedule) -> Sequence[Counts]:
        """Paths of a schedule so far."""
        return self.of[schedule].rows if schedule in self.of else ()

    def _relaxed(self, relaxation: "Relaxation", schedule: Schedule, rounds: int) -> tuple[Cuts, int]:
        """Critical paths of one order of operations, and how many rounds it took."""
        if schedule.operations > MOST_EXACT_OPERATIONS:
            relaxation.solve()
        else:
            relaxation.refine(rounds, lambda: self.settings.expired)
        return relaxation.weighed, relaxation.rounds
