"""Visit open boxes until none is left: each visit finds a layout in its box or proves that there is none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from moeopt.frontier.boxes import Boxes, Corner, Point, Resolution, dominates, inside
from moeopt.frontier.candidates import Candidates, Entry, Key, Stopped
from moeopt.frontier.goals import Goals, Region
from moeopt.frontier.sketch import sketch
from moeopt.incumbent import Found

_BATCH = 4
"""Candidates asked at once, a worker."""
_TRIED = 6
"""Candidates of a box placed by the heuristic before anything is proven."""


class Exploration:
    """The frontier of one problem, growing."""

    def __init__(self, goals: Goals, candidates: Candidates, resolution: Resolution) -> None:
        self.goals, self.candidates = goals, candidates
        self.settings = candidates.settings
        self.boxes = Boxes(goals.most, resolution)
        self.points: dict[Point, Found] = {}
        self.asked = 0
        self._narrowed: dict[Corner, Candidates] = {}
        self._refuted: dict[Key, list[Corner]] = {}

    def run(self) -> bool:
        """Whether the frontier was completed; the points so far are kept either way."""
        try:
            for found in sketch(self.goals, self.candidates):
                self._take(found)
            while self.boxes.open:
                self._visit(min(self.boxes.open))
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
        if self.boxes.cover(point) or any(dominates(point, known) for known in self.points):
            self.points = {known: layout for known, layout in self.points.items() if not dominates(point, known)}
            self.points[point] = found
            self._say(f"{len(self.points)} points, {len(self.boxes.open)} regions open")

    def _visit(self, corner: Corner) -> None:
        """Find a layout in the box of a corner, or close it."""
        if self.settings.expired:
            raise Stopped
        region = self.goals.region(corner)
        within = self._within(corner)
        pairs = within.pairs(region)
        if not pairs:
            self.boxes.close(corner)
            return
        self._narrowed[corner] = within.narrowed(pairs)
        entries = [entry for entry in within.entries(pairs) if not self._is_refuted(entry, corner)]
        if not self._try(entries, region, corner) and self._prove(entries, region, corner):
            self.boxes.close(corner)
            self._say(f"{len(self.points)} points, {len(self.boxes.open)} regions open")

    def _within(self, corner: Corner) -> Candidates:
        """The narrowest list of candidates known to hold all of a box; lists that no open box needs are dropped."""
        self._narrowed = {
            outer: rows for outer, rows in self._narrowed.items() if any(inside(c, outer) for c in self.boxes.open)
        }
        listed = [rows for outer, rows in self._narrowed.items() if inside(corner, outer)]
        return min(listed, key=lambda rows: rows.screening.rows, default=self.candidates)

    def _is_refuted(self, entry: Entry, corner: Corner) -> bool:
        return any(inside(corner, other) for other in self._refuted.get(entry.key, ()))

    def _try(self, entries: Sequence[Entry], region: Region, corner: Corner) -> bool:
        """Place a few candidates by the heuristic: the fastest by bound and the lightest."""
        lightest = sorted(entries, key=lambda entry: entry.memory_bytes)
        for entry in [*entries[:_TRIED], *lightest[:_TRIED]]:
            if self.settings.expired:
                raise Stopped
            self._take(self.candidates.place(entry, region))
        return corner not in self.boxes.open

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
                    found = None if ruled_out else self.candidates.best(entry, region)
                    if found is not None:
                        self._take(found)
                        return False
                    self._refute(entry, corner)
        return True

    def _refute(self, entry: Entry, corner: Corner) -> None:
        others = [other for other in self._refuted.get(entry.key, ()) if not inside(other, corner)]
        self._refuted[entry.key] = [*others, corner]

    def _say(self, text: str) -> None:
        if self.settings.progress is not None:
            self.settings.progress(text)
