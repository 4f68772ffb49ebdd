"""Candidates settled by duality: better bounds, better layouts on the way, and lists of placements that are left."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

from moeopt.candidate import Candidate
from moeopt.dual import linear_program, raised, relaxed
from moeopt.problem.layer_kind import LayerKind
from moeopt.solving.best import Best
from moeopt.solving.incumbent import Found, placed_side_by_side
from moeopt.solving.queue import Queue

_OF_EACH_LENGTH = 2
"""Candidates of the lowest bounds of each pipeline length that are placed first."""
_MANY, _SAMPLED, _LOWEST, _FILLED = 600, 3, 96, 256
"""Where more candidates than this are left, placements are first looked for with so many rounds of duality, of one base
time each, for so many candidates of lowest bound, and so many at each fill level of memory."""
_FAR = 45
"""With candidates left then, times how far the best layout is above the lowest bound (300 candidates and 15 %), above
this, memory is tight and duality meets few placements that fit ..."""
_AT_EACH, _IN_VAIN = 8, 120
"""... so further candidates at each fill level are placed by heuristics, so many at a time, until that is so no more or
so many gave no better layout."""
_ROUNDS = (1, 12)
"""Then bounds are raised by so many rounds, for all that are left each time; ..."""
_BY_PROGRAM_FROM = 12
"""from so many rounds on they begin with the weights of linear programs, which take some milliseconds each; ..."""
FEW, _FURTHER = 8, (40, 120)
"""... if only so few are left, without a look rank by rank, which takes as long as 50 rounds, and then by so many more.
(More than a few are mostly settled faster by the solver, which takes a third of a second to import; what it leaves
comes back to these rounds.)"""


_WANDERERS, _STEPS = 16, 100
"""Candidates whose placements are searched longer at once, and how long."""
_RUNS = 8
"""Kinds of layers alternate where equal ones stand together in more runs than so many."""


Listed: TypeAlias = dict[tuple[object, ...], list[Found]]
"""Placements by the key of their candidate."""


def _alternate(layers: Sequence[LayerKind]) -> bool:
    return sum(1 for _ in groupby(layers)) > _RUNS


class Raising:
    """What duality does for a queue of candidates. `pause` is called now and then, and may raise; `listed` gets every
    placement within the threshold of the candidates that are settled by listing them."""

    def __init__(self, queue: Queue, best: Best, pause: Callable[[], None], listed: Listed) -> None:
        self.queue, self.best, self.pause, self._listed = queue, best, pause, listed
        self.bound = 0
        """No layout that is still open is below it."""

    def run(self) -> None:
        """Settle what can be settled; the queue keeps the rest."""
        self._by_length()
        if len(self.queue) > _MANY:
            self._sample()
        self._place()
        if self._is_tight:
            self._relax()
        for rounds in _ROUNDS:
            self._raise_all(rounds)
            if rounds == _ROUNDS[0]:
                self._wander()
        if len(self.queue) <= FEW:
            self.further()

    def further(self) -> None:
        """Many rounds for every candidate that is left, however many they are."""
        for rounds in _FURTHER:
            self._raise_all(rounds)

    def _raise_all(self, rounds: int) -> None:
        if rounds >= _BY_PROGRAM_FROM and len(self.queue):
            linear_program.load()
        for positions in self.queue.batches():
            self.bound = self.queue.least
            self.pause()
            self.best.say(f"bound {self.bound:,}, {len(self.queue)} candidates left")
            self._raise(positions, rounds)

    def _by_length(self) -> None:
        """Heuristic placements for every pipeline length: bounds of short ones are close, those of long ones far below
        what they have, so that the lowest bounds are often of one length."""
        self.pause()
        limit_bytes = self.best.within(None).memory_bytes
        lowest = self.queue.lowest_by_length(limit_bytes, _OF_EACH_LENGTH)
        self._bettered([self.queue.candidate(at) for at in lowest], limit_bytes)

    def _sample(self) -> None:
        """Placements that duality proposes for some of many candidates."""
        self.pause()
        memory = self.best.within(None).memory_bytes
        picked = self.queue.sampled(memory, _LOWEST, _FILLED)
        for candidate, pipeline in self.queue.placements(sorted(picked), self.best.limits, _SAMPLED):
            self.best.add(self.best.judged(candidate, pipeline))
        self.queue.tighten(self.best.limits)

    @property
    def _is_tight(self) -> bool:
        known, left = self.best.threshold, len(self.queue)
        if known is None or not left or self.best.problem.objective == "peak_memory":
            return False
        lowest = max(self.queue.least, 1)
        return left * (known - lowest) > _FAR * lowest

    def _place(self) -> None:
        """Heuristic placements of candidates with low bounds, at every fill level of memory."""
        limit_bytes = self.best.within(None).memory_bytes
        tried, each, vain = set[tuple[object, ...]](), 0, 0
        while self._is_tight and vain < _IN_VAIN:
            self.pause()
            each += _AT_EACH
            picked = self.queue.sampled(limit_bytes, 0, each)
            fresh = [item for item in map(self.queue.candidate, sorted(picked)) if item.key not in tried]
            if not fresh:
                return
            tried.update(candidate.key for candidate in fresh)
            vain = 0 if self._bettered(fresh, limit_bytes) else vain + len(fresh)

    def _wander(self) -> None:
        """Longer searches for placements of the candidates with the lowest bounds, where kinds of layers alternate, as
        long as they find better layouts."""
        problem = self.best.problem
        if problem.objective == "peak_memory" or not _alternate(problem.architecture.layers):
            return
        limit_bytes, tried = self.best.within(None).memory_bytes, set[tuple[object, ...]]()
        while True:
            self.pause()
            lowest = map(self.queue.candidate, self.queue.lowest(_WANDERERS))
            fresh = [item for item in lowest if item.key not in tried]
            tried.update(candidate.key for candidate in fresh)
            if not fresh or not self._bettered(fresh, limit_bytes, _STEPS):
                return

    def _bettered(self, candidates: Sequence[Candidate], limit_bytes: int, steps: int = 0) -> bool:
        """Place candidates by heuristics, and drop what cannot be as good as the best layout then; whether that got
        better."""
        known = self.best.threshold
        for found in placed_side_by_side(candidates, limit_bytes, steps):
            self.best.add(found)
        if self.best.threshold == known:
            return False
        self.queue.tighten(self.best.limits)
        return True

    def _relax(self) -> None:
        """Close what linear programs rule out by themselves: where memory is tight that is most."""
        linear_program.load()
        for positions in self.queue.batches():
            self.pause()
            self.queue.raise_bounds(positions, self.best.limits, relaxed)

    def _raise(self, positions: list[int], rounds: int) -> None:
        known = self.best.threshold
        by_rank = rounds in _FURTHER or len(self.queue) > FEW
        ask = partial(raised, rounds=rounds, by_rank=by_rank, by_program=rounds >= _BY_PROGRAM_FROM, pause=self.pause)
        for left in self.queue.raise_bounds(positions, self.best.limits, ask):
            self.pause()
            judged = [self.best.judged(left.candidate, pipeline) for pipeline in left.placed]
            fitting = [found for found in judged if found is not None]
            for found in fitting:
                self.best.add(found)
            if left.complete:
                self._listed[left.candidate.key] = fitting
        if self.best.threshold != known:
            self.queue.tighten(self.best.limits)
