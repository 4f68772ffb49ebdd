"""Candidates that hold the bound on replays down, closed by CP-SAT and replays in turns."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from moeopt.candidate import Candidate
from moeopt.schedule.shape import Schedule
from moeopt.solving.effort import Effort
from moeopt.solving.queue import Queue
from moeopt.solving.record import Record
from moeopt.solving.replay_raising import ReplayRaising
from moeopt.solving.replayed import around
from moeopt.solving.settings import Settings

if TYPE_CHECKING:
    from moeopt.cpsat.closing import Asked, Attempt

_AT_ONCE = 8
"""Candidates that CP-SAT is asked about before what it found is shared: for any number of workers, as answers depend
on it."""
_FEW_AT_ONCE, _SHARE = 4, 1 / 16
"""Where only few may be asked about, so many are at once, as the first that is not settled ends it. In a first attempt
a solve has this share of what it is worth otherwise."""


class Closer:
    """Attempts at the candidates of one certificate."""

    def __init__(self, record: Record, effort: Effort, settings: Settings) -> None:
        self.record, self.effort, self.settings = record, effort, settings
        self._attempts: Counter[tuple[object, ...]] = Counter()
        """By candidate: how often CP-SAT was asked without an end."""

    def close(self, queue: Queue, raising: ReplayRaising, left: int) -> bool:
        """Settle the lowest of so many candidates that are left, as far as their bounds were raised; where only few may
        be asked about. False where there is nothing to ask, or the first was asked about in vain."""
        if self.effort.few is not None and left > self.effort.few:
            return False
        from moeopt.cpsat.closing import Closing  # a third of a second to import the solver, rarely needed

        asked = self._asked(queue, raising)
        if not asked:
            return False
        found = Closing(self.settings).run(list(asked.values()))
        closed = [self._take(attempt, raising) for attempt in found]
        if any(closed):
            self.record.settle()
        queue.close([position for position, done in zip(asked, closed, strict=True) if done])
        return closed[0] or (found[0].status == "open" and not self.settings.expired)

    def in_vain(self, lowest: Mapping[int, Candidate]) -> dict[int, Candidate]:
        """The candidates that CP-SAT was asked about without an end."""
        return {at: candidate for at, candidate in lowest.items() if self._attempts[candidate.key]}

    def _asked(self, queue: Queue, raising: ReplayRaising) -> "dict[int, Asked]":
        """Questions about the lowest candidates, by position."""
        from moeopt.cpsat.closing import Asked

        near_ns, limit_bytes = self.record.near_ns, self.record.best.found.candidate.problem.memory_limit
        gap = self.effort.enough
        asked: dict[int, Asked] = {}
        for position in queue.lowest(_AT_ONCE if self.effort.is_full else _FEW_AT_ONCE):
            candidate, paths = queue.candidate(position), raising.paths
            schedule, attempts = Schedule(*candidate.schedule), self._attempts[candidate.key]
            done = queue.bound[position] >= near_ns or (attempts and not self.effort.is_full)
            if done or raising.can_raise(candidate) or paths.can_deepen(schedule) or schedule not in paths.of:
                break
            cuts = tuple(paths.of[schedule].rows)
            share = 1.0 if attempts else _SHARE
            asked[position] = Asked(candidate, near_ns - 1, limit_bytes, cuts, attempts, gap, share)
        return asked

    def _take(self, attempt: "Attempt", raising: ReplayRaising) -> bool:
        """Keep what an attempt found; whether its candidate is settled."""
        candidate, cuts = attempt.candidate, raising.paths.of[Schedule(*attempt.candidate.schedule)]
        for item in attempt.better:
            self.record.improve(item)
        for cut in attempt.cuts:
            cuts.add(cut)
        self._attempts[candidate.key] += 1
        exactly = attempt.status == "loose" and self.effort.is_full and self._attempts[candidate.key] > 1
        return attempt.status == "closed" or (exactly and self._solve(candidate, raising))

    def _solve(self, candidate: Candidate, raising: ReplayRaising) -> bool:
        """Whether no placement of the candidate is below the target, by the exact model; False where the time was over
        before."""
        from moeopt.cpsat.replayed import ReplayedModel

        cuts, limit = raising.paths.of[Schedule(*candidate.schedule)], self.record.target_ns - 1
        model = ReplayedModel(candidate, limit, candidate.problem.memory_limit, cuts.rows)
        while not self.settings.expired:
            outcome = model.solve(self.settings)
            if outcome.pipeline is None:
                return outcome.status == "none"
            found = [self.record.judge(candidate, placed) for placed in around(candidate, outcome.pipeline)]
            new = [item.cut for item in found if item.cut is not None]
            for cut in new:
                cuts.add(cut)
            model.add_cuts(new)
            if self.record.target_ns <= limit:
                limit = self.record.target_ns - 1
                model.tighten(limit)
        return False
