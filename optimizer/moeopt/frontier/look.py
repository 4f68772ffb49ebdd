"""A look into one box by duality alone: a layout in it, or the rows that may still have one."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from moeopt.candidate import Candidate
from moeopt.dual import filled, raised
from moeopt.dual.pairs import Ask
from moeopt.frontier.candidates import Candidates, Stopped
from moeopt.frontier.goals import Goals, Region
from moeopt.pipeline import PipelineLayout
from moeopt.screening import MOST_NS, Limits, Pair
from moeopt.solving.incumbent import Found
from moeopt.solving.queue import Queue

_CLOSE = 0.92
"""One round of duality settles some of the rows whose bound is above this share of the allowed time, cheaply (all where
any time is allowed); ..."""
_STEPS = (
    partial(filled, rounds=12),
    partial(raised, rounds=12, by_program=True),
    partial(raised, rounds=40, by_program=True),
    partial(raised, rounds=120, by_program=True),
)
"""... these settle the others."""
_NEAR = 1.4
"""A box that allows more than this times its fastest bound is first searched at so much, then so much more ..."""
_PLACED, _SAMPLED, _SAMPLE_ROUNDS = 4, 16, 3
"""... among so many rows at each fill level of memory, with so many rounds of duality ..."""
_MANY = 100
"""... and a box with more rows at last as it is."""


@dataclass(frozen=True)
class Seen:
    """What a look told of a box: layouts in it; the rows that may have others, with their bounds; and whether time
    ran out first."""

    found: list[Found] = field(default_factory=list)
    rows: list[Pair] = field(default_factory=list)
    stopped: bool = False


class Look:
    """One box being looked into."""

    def __init__(self, goals: Goals, candidates: Candidates, region: Region) -> None:
        self.goals, self.candidates, self.region = goals, candidates, region

    def run(self, outer: list[Pair] | None) -> Seen:
        """Search the rows of a list that is known of a box around, or all rows, until a layout is found."""
        try:
            queue = self.candidates.queue(self.candidates.pairs(self.region, outer))
            found = (self._near(queue) or self._raise(queue)) if len(queue) else []
        except Stopped:
            return Seen(stopped=True)
        return Seen([each.sent for each in found], queue.open_pairs())

    def _near(self, queue: Queue) -> list[Found]:
        """The fastest layout that a sample of the rows has in the box, if any. Where far more time is allowed than the
        fastest bound, the time grows from there: a slow layout found at once would leave the box to be searched again
        and again for a faster one."""
        longest = self._longest_ns(queue)
        time_ns = int(_NEAR * queue.bound.min())
        while time_ns < longest or len(queue) > _MANY:
            self.candidates.check_time()
            nearer = replace(self.region.limits, time_ns=min(time_ns, longest))
            if found := self._sampled(queue, nearer):
                return [min(found, key=self.goals.point)]
            if time_ns >= longest:
                break
            time_ns = max(int(_NEAR * time_ns), time_ns + 1)
        return []

    def _sampled(self, queue: Queue, nearer: Limits) -> list[Found]:
        """Layouts in the box of a few rows within a time."""
        found = list(self.candidates.placed(queue, _sample(queue, nearer, _PLACED), self.region))
        if found:
            return found
        placed = queue.placements(_sample(queue, nearer, _SAMPLED), nearer, _SAMPLE_ROUNDS)
        return [layout for each in placed if (layout := self._judged(*each))]

    def _longest_ns(self, queue: Queue) -> int:
        return max(int(self.region.limits.time_of(pair.degrees).max()) for pair in queue.pairs)

    def _raise(self, queue: Queue) -> list[Found]:
        """Raise bounds until no row is left, duality can do no more, or layouts were found."""
        close = queue.batches(int(_CLOSE * self._longest_ns(queue)) if self.region.limits.timed else -1)
        batches = chain(
            ((partial(raised, rounds=1, most=0), positions) for positions in close),
            ((step, positions) for step in _STEPS for positions in queue.batches()),
        )
        return next((found for step, positions in batches if (found := self._left(queue, positions, step))), [])

    def _left(self, queue: Queue, positions: list[int], step: Ask) -> list[Found]:
        """Raise the bounds of some rows; layouts of these. All placements of a row that is settled are judged: the rows
        that stay open are all that boxes inside this one have to know."""
        self.candidates.check_time()
        left = queue.raise_bounds(positions, self.region.limits, step)
        placed = [(each.candidate, pipeline) for each in left for pipeline in each.placed]
        return [found for each in placed if (found := self._judged(*each))]

    def _judged(self, candidate: Candidate, pipeline: PipelineLayout) -> Found | None:
        return self.candidates.judged(candidate, pipeline, self.region)


def _sample(queue: Queue, limits: Limits, count: int) -> list[int]:
    """So many rows of the lowest bounds within a time, and of the lowest ones at several fill levels of memory."""
    picked = queue.sampled(limits.memory_bytes, count, count)
    return [at for at in sorted(picked) if queue.bound[at] <= (limits.time_ns or MOST_NS)]
