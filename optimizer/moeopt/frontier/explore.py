"""Visit open boxes until none is left: each visit finds a layout in its box or proves that there is none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice

from moeopt.dual import filled, raised
from moeopt.frontier.boxes import Boxes, Corner, Point, Resolution, dominates, inside
from moeopt.frontier.candidates import Candidates, Entry, Key, Stopped, Undecided
from moeopt.frontier.goals import Goals, Region
from moeopt.frontier.sketch import sketch
from moeopt.screening import MOST_NS, Limits, Pair
from moeopt.solving.incumbent import Found
from moeopt.solving.queue import Queue
from moeopt.solving.settings import Settings

_STEPS = (
    partial(raised, rounds=1, most=0),
    partial(filled, rounds=12),
    partial(raised, rounds=12),
    partial(raised, rounds=40),
)
"""What settles a box's rows, cheapest first."""
_NEAR = 1.4
"""A box that allows more than this times its fastest bound is first searched at so much, then so much more ..."""
_SAMPLED, _SAMPLE_ROUNDS = 16, 3
"""... among so many rows at each fill level of memory, with so many rounds of duality ..."""
_MANY = 100
"""... and a box with more rows at last as it is."""
_BATCH = 4
"""Candidates asked at once, a worker."""
_PATIENCE, _MORE = 3.0, 4.0
"""Seconds that one candidate is given at first, and how much more at every further visit."""


class Exploration:
    """The frontier of one problem, growing."""

    def __init__(self, goals: Goals, candidates: Candidates, resolution: Resolution, settings: Settings) -> None:
        self.goals, self.candidates, self.settings = goals, candidates, settings
        self._said = ""
        self.boxes = Boxes(goals.most, resolution)
        self.points: dict[Point, Found] = {}
        self.asked = 0
        self._pairs: dict[Corner, list[Pair]] = {}
        self._refuted: dict[Key, list[Corner]] = {}
        self._waits: dict[Corner, float] = {}

    def run(self) -> bool:
        """Whether the frontier was completed; the points so far are kept either way."""
        try:
            for found in sketch(self.goals, self.candidates):
                self._take(found)
            while self.boxes.open:
                self._visit(min(self.boxes.open, key=lambda corner: (self._patience(corner), corner)))
        except Stopped as stop:
            self._take(stop.found)
            return False
        except KeyboardInterrupt:
            return False
        return True

    def _take(self, found: Found | None) -> None:
        """A layout: a point of the frontier so far unless a known one covers it."""
        if found is None:
            return
        point = self.goals.point(found)
        if any(inside(known, point) for known in self.points):
            return
        before = self.points
        self.points = {known: layout for known, layout in before.items() if not dominates(point, known)} | {
            point: found
        }
        if not self.boxes.cover(point) and len(self.points) > len(before):  # stored first: an interrupt loses nothing
            self.points = before
        else:
            self._say()

    def _visit(self, corner: Corner) -> None:
        """Find a layout in the box of a corner, or close it."""
        if self.settings.expired:
            raise Stopped
        region = self.goals.region(corner)
        pairs = self.candidates.pairs(region, self._around(corner))
        if not pairs:
            self.boxes.close(corner)
            return
        self._pairs[corner] = pairs
        left = self._raise(pairs, region, corner)
        if left is None:
            return
        entries = [entry for entry in self.candidates.entries(left) if not self._is_refuted(entry, corner)]
        try:
            empty = self._prove(entries, region, corner)
        except Undecided as late:  # a hard box waits until the others are done
            self._waits[corner] = _MORE * self._patience(corner)
            self._take(late.found)
            return
        if empty:
            self.boxes.close(corner)
            self._say()

    def _patience(self, corner: Corner) -> float:
        """Seconds that one candidate of a box is given."""
        return self._waits.get(corner, _PATIENCE)

    def _around(self, corner: Corner) -> list[Pair] | None:
        """The shortest list of rows known for a box around this one; lists that no open box needs are dropped."""
        self._pairs = {
            outer: pairs for outer, pairs in self._pairs.items() if any(inside(c, outer) for c in self.boxes.open)
        }
        listed = [pairs for outer, pairs in self._pairs.items() if inside(corner, outer)]
        return min(listed, key=lambda pairs: sum(pair.size for pair in pairs), default=None)

    def _is_refuted(self, entry: Entry, corner: Corner) -> bool:
        return any(inside(corner, other) for other in self._refuted.get(entry.key, ()))

    def _raise(self, pairs: Sequence[Pair], region: Region, corner: Corner) -> list[Pair] | None:
        """What duality leaves of a box's rows; None where a layout was found in it."""
        queue = self.candidates.queue(pairs)
        if self._placed_near(queue, region, corner):
            return None
        for step, positions in queue.batches(_STEPS):
            if self.settings.expired:
                raise Stopped
            for left in queue.raise_bounds(positions, region.limits, step):
                for pipeline in left.placed:
                    self._take(self.candidates.judged(left.candidate, pipeline, region))
                    if corner not in self.boxes.open:
                        return None
        return queue.open_pairs()

    def _placed_near(self, queue: Queue, region: Region, corner: Corner) -> bool:
        """Whether a sample of the rows found a layout in the box; the fastest is taken. Where far more time is allowed
        than the fastest bound, the time grows from there: a slow layout found at once would leave the box to be
        searched again and again for a faster one."""
        longest = max(int(region.limits.time_of(pair.degrees).max()) for pair in queue.pairs)
        time_ns = int(_NEAR * queue.bound.min())
        while time_ns < longest or len(queue) > _MANY:
            if self.settings.expired:
                raise Stopped
            nearer = replace(region.limits, time_ns=min(time_ns, longest))
            placed = queue.placements(self._sample(queue, nearer), nearer, _SAMPLE_ROUNDS)
            judged = [self.candidates.judged(candidate, pipeline, region) for candidate, pipeline in placed]
            self._take(min((found for found in judged if found is not None), key=self.goals.point, default=None))
            if corner not in self.boxes.open:
                return True
            if time_ns >= longest:
                return False
            time_ns = max(int(_NEAR * time_ns), time_ns + 1)
        return False

    @staticmethod
    def _sample(queue: Queue, limits: Limits) -> list[int]:
        """Rows of the lowest bounds within a time, and of the lowest ones at several fill levels of memory."""
        picked = queue.sampled(limits.memory_bytes, _SAMPLED, _SAMPLED)
        return [at for at in sorted(picked) if queue.bound[at] <= (limits.time_ns or MOST_NS)]

    def _prove(self, entries: Sequence[Entry], region: Region, corner: Corner) -> bool:
        """Ask every candidate; True where none has a layout in the box, False where one was found."""
        rest = iter(entries)
        with ThreadPoolExecutor(self.settings.workers) as pool:
            while batch := list(islice(rest, _BATCH * self.settings.workers)):
                if self.settings.expired:
                    raise Stopped
                self.asked += len(batch)
                gone = list(pool.map(lambda entry: self.candidates.ruled_out(entry, region), batch))
                for entry, ruled_out in zip(batch, gone, strict=True):
                    found = None if ruled_out else self.candidates.best(entry, region, self._patience(corner))
                    if found is not None:
                        self._take(found)
                        return False
                    self._refute(entry, corner)
        return True

    def _refute(self, entry: Entry, corner: Corner) -> None:
        others = [other for other in self._refuted.get(entry.key, ()) if not inside(other, corner)]
        self._refuted[entry.key] = [*others, corner]

    def _say(self) -> None:
        proven = sum(self.boxes.proven(point) for point in self.points)
        text = f"{len(self.points)} points, {proven} proven; {len(self.boxes.open)} regions to search"
        if self.settings.progress is not None and text != self._said:
            self._said = text
            self.settings.progress(text)
