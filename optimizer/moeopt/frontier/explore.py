"""Look into open boxes, round by round, until none is left: each has a layout found in it, or is proven empty."""

from collections.abc import Sequence
from itertools import islice

from moeopt.dual import linear_program
from moeopt.frontier.boxes import Boxes, Corner, Point, Resolution, dominates, inside
from moeopt.frontier.candidates import Candidates, Entry, Key, Stopped, Undecided
from moeopt.frontier.goals import Goals, Region
from moeopt.frontier.look import Look, Seen
from moeopt.frontier.sketch import sketch
from moeopt.parallel import side_by_side
from moeopt.screening import Pair
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings

_TOGETHER = 16
"""Boxes that are looked into at once, in processes side by side."""
_BATCH = 4
"""Candidates asked at once, a worker."""
_PATIENCE, _MORE = 12.0, 4.0
"""Seconds that one candidate is given at first, after the smaller model, and how much more every further time."""


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
        self._hard: set[tuple[Key, Corner]] = set()
        """What the smaller model does not rule out."""

    def run(self) -> bool:
        """Whether the frontier was completed; the points so far are kept either way."""
        linear_program.load()
        try:
            for found in sketch(self.goals, self.candidates):
                self._take(found)
            while self.boxes.open:
                self._round()
        except Stopped as stop:
            self._take(stop.found)
            return False
        except KeyboardInterrupt:
            return False
        return True

    def _take(self, found: Found | None) -> None:
        """A layout: a point of the frontier so far unless a known one is as good. It takes something out of the boxes
        if it is in an open one; else it is within the resolution of what is known."""
        if found is None:
            return
        point = self.goals.point(found)
        if any(inside(known, point) for known in self.points):
            return
        left = {known: layout for known, layout in self.points.items() if not dominates(point, known)}
        self.points = left | {point: found}  # stored first: an interrupt loses nothing
        if any(inside(point, corner) for corner in self.boxes.open):
            self.boxes.cover(point)
        self._say()

    def _round(self) -> None:
        """Look into the next boxes, and have the solver decide of what duality leaves of them."""
        patience = min(self._patience(corner) for corner in self.boxes.open)
        corners = sorted(corner for corner in self.boxes.open if self._patience(corner) == patience)[:_TOGETHER]
        seen = side_by_side(self._look, corners, self._rows_around)
        self._pairs |= {corner: each.rows for corner, each in zip(corners, seen, strict=True)}
        for found in (found for each in seen for found in each.found):
            self._take(found)
        if any(each.stopped for each in seen):
            raise Stopped
        for corner in corners:
            if corner in self.boxes.open:
                self._decide(corner)
        self._forget()

    def _forget(self) -> None:
        """Drop the lists that no open box needs."""
        needed = [outer for outer in self._pairs if any(inside(corner, outer) for corner in self.boxes.open)]
        self._pairs = {outer: self._pairs[outer] for outer in needed}

    def _look(self, corner: Corner) -> Seen:
        """What duality tells of a box; nothing new where it was asked before."""
        if corner in self._waits:
            return Seen(rows=self._pairs[corner])
        return Look(self.goals, self.candidates, self.goals.region(corner)).run(self._around(corner))

    def _decide(self, corner: Corner) -> None:
        """Find a layout in a box, or close it."""
        entries = self.candidates.entries(self._pairs[corner])
        left = [entry for entry in entries if not self._is_refuted(entry, corner)]
        try:
            empty = self._prove(left, self.goals.region(corner), corner)
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
        """The shortest list of rows known for a box around this one."""
        listed = [pairs for outer, pairs in self._pairs.items() if inside(corner, outer)]
        return min(listed, key=_size, default=None)

    def _rows_around(self, corner: Corner) -> int:
        """How many rows a look into a box begins with."""
        around = self._around(corner)
        return self.candidates.count(self.goals.region(corner)) if around is None else _size(around)

    def _is_refuted(self, entry: Entry, corner: Corner) -> bool:
        return any(inside(corner, other) for other in self._refuted.get(entry.key, ()))

    def _prove(self, entries: Sequence[Entry], region: Region, corner: Corner) -> bool:
        """Ask every candidate; True where none has a layout in the box, False where one was found."""
        rest = iter(entries)
        workers = self.settings.workers
        while batch := list(islice(rest, _BATCH * workers)):
            if self.settings.expired:
                raise Stopped
            self.asked += len(batch)
            gone = self.candidates.solvers.each(lambda each: self._is_ruled_out(each, region, corner), batch, workers)
            for entry, ruled_out in zip(batch, gone, strict=True):
                found = None if ruled_out else self.candidates.best(entry, region, self._patience(corner))
                if found is not None:
                    self._take(found)
                    return False
                self._refute(entry, corner)
        return True

    def _is_ruled_out(self, entry: Entry, region: Region, corner: Corner) -> bool:
        if (entry.key, corner) in self._hard:
            return False
        ruled_out = self.candidates.ruled_out(entry, region)
        if not ruled_out:
            self._hard.add((entry.key, corner))
        return ruled_out

    def _refute(self, entry: Entry, corner: Corner) -> None:
        others = [other for other in self._refuted.get(entry.key, ()) if not inside(other, corner)]
        self._refuted[entry.key] = [*others, corner]

    def _say(self) -> None:
        proven = sum(self.boxes.proven(point) for point in self.points)
        text = f"{len(self.points)} points, {proven} proven; {len(self.boxes.open)} regions to search"
        if self.settings.progress is not None and text != self._said:
            self._said = text
            self.settings.progress(text)


def _size(pairs: Sequence[Pair]) -> int:
    """Rows of all pairs."""
    return sum(pair.size for pair in pairs)
