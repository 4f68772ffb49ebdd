"""A first layout that fits, and good ones after it, by heuristic placements: nothing here is trusted by the proof."""

from collections.abc import Callable, Sequence

from moeopt.candidate import Candidate
from moeopt.layout import Recompute
from moeopt.screening import Limits, Pair, Screening
from moeopt.solving.best import Best
from moeopt.solving.incumbent import placed_side_by_side
from moeopt.solving.queue import Queue, first_fronts

_GROWTH = 1.2
"""The first limit that admits a layout is looked for in steps of this factor ..."""
ROUNDS = 16
"""... this many times: to 18 times the lowest bound. What fits only beyond is left to the solver."""
_SAMPLES, _SPARE = 4, 16
"""Candidates that are placed first at each fill level of memory, of so many times as many that are counted."""
_IMPROVEMENTS = 8
"""Rounds of placing what could be better than the best layout known."""
_AT_ONCE = 8
"""Candidates that are placed before what was found is used: for any number of workers, as answers depend on it."""
_MANY, _FRONTS = 3000, 2
"""More candidates than this are not listed before those on so many fronts of time and memory are placed ..."""
_BETTER = 0.98
"""... again and again, as long as the best value falls below this share of what it was."""
_FEW = 96
"""If no more candidates are left than this, all are placed."""


class First:
    """Placements of the most promising candidates. `pause` is called before each one, and may raise."""

    def __init__(self, screening: Screening, best: Best, pause: Callable[[], None]) -> None:
        self.screening, self.best, self.pause = screening, best, pause
        self.problem = screening.problem

    def lowest_score(self) -> int | None:
        """Below every layout that fits, by the first level's bounds; None where none does."""
        memory = self.best.within(None).memory_bytes
        lows = [self.best.bound_of(block)[block.memory <= memory] for block in self.screening.blocks]
        return min((int(low.min()) for low in lows if len(low)), default=None)

    def find(self, lowest: int, rounds: int = ROUNDS) -> None:
        """Fill the pool: a limit grows until a heuristic placement fits. Of an open batch the ends come first."""
        for every_batch in (True,) if self.problem.workload.batches.exact else (False, True):
            score, tried = lowest, -1
            for _ in range(rounds):
                if len(self.best.pool) >= self.best.top:
                    return
                score = int(score * _GROWTH)
                limits, settings = self.best.within(score), self._few_settings
                queue = self._queue(self.screening.pairs(limits, settings, every_batch, counted=False))
                self._try(self._counted(queue, limits, tried))
                queue.drop(self.best.limits)
                if len(queue) > _MANY and self.best.pool:
                    self._improve(self._queue(self.screening.pairs(self.best.limits, settings, every_batch)))
                tried = score

    def _queue(self, pairs: Sequence[Pair]) -> Queue:
        return Queue(self.problem, pairs, self.best.bound_of)

    def _counted(self, queue: Queue, limits: Limits, above: int) -> list[Candidate]:
        """Samples of a queue whose rows were not counted. Counting takes longest and leaves few: rows of low bounds are
        counted first, and more of them where none is left."""
        limit_bytes, each, looked_at = self.best.within(None).memory_bytes, _SAMPLES * self.best.top, set[int]()
        while True:
            each, known = each * _SPARE, looked_at
            looked_at = queue.sampled(limit_bytes, 0, each, above)
            part = self._queue(queue.some(looked_at))
            part.tighten(limits)
            if len(part) or len(looked_at) == len(known):
                return self._samples(part, above)

    def _improve(self, queue: Queue) -> None:
        """Place what trades time for memory best, as long as the best layout gets better by it: far above the optimum
        there are too many candidates to list them all."""
        for _ in range(_IMPROVEMENTS):
            queue.drop(self.best.limits)
            if len(queue) <= _MANY or not self.best.pool:
                return
            known = self.best.pool[0].score
            self._try([queue.candidate(at) for at in first_fronts(queue.bound, queue.memory, _FRONTS)])
            if self.best.pool[0].score > _BETTER * known:
                return

    def place_all(self, queue: Queue) -> None:
        """Place the most promising candidates until none of them is better than the best known."""
        tried: set[tuple[object, ...]] = set()
        for _ in range(_IMPROVEMENTS):
            known = self.best.threshold
            fresh = [item for item in self._samples(queue, each=True) if item.order not in tried]
            self._try(fresh)
            tried.update(item.order for item in fresh)
            if self.best.threshold == known:
                return
            queue.tighten(self.best.limits)

    @property
    def _few_settings(self) -> list[Recompute]:
        """Recompute settings that first layouts are looked for with: none, one module, the cheap ones, `moe`, full; all
        where the problem allows none of these."""
        cheap = {"layernorm", "moe_act", "mla_up_proj"}
        few = [
            setting
            for setting in self.screening.recomputes
            if setting.method == "uniform"
            or "moe" in setting.modules
            or (len(setting.modules) <= 1 and not setting.block_layers)
            or set(setting.modules) == cheap
            or set(setting.modules) == cheap - {"mla_up_proj"}
        ]
        return few or list(self.screening.recomputes)

    def _try(self, candidates: Sequence[Candidate]) -> None:
        """Place candidates, some side by side; those above the best known by their bounds are left out."""
        for first in range(0, len(candidates), _AT_ONCE):
            self.pause()
            some = [each for each in candidates[first : first + _AT_ONCE] if self._is_hopeful(each)]
            for found in placed_side_by_side(some, self.best.limits.memory_bytes):
                self.best.add(found)

    def _is_hopeful(self, candidate: Candidate) -> bool:
        threshold = self.best.threshold
        if threshold is None or self.problem.objective != "step_time":
            return True
        return candidate.value("step_time", candidate.bound_ns, 0) < threshold

    def _samples(self, queue: Queue, above: int = -1, each: bool = False) -> list[Candidate]:
        """Some candidates worth placing: the best by bound, at several fill levels of memory, and with `each` of every
        mode and recompute setting; all if they are few.

        `above`: a bound up to which candidates were sampled before, and did not fit.
        """
        limit_bytes = self.best.within(None).memory_bytes
        picked = queue.sampled(limit_bytes, 0, _SAMPLES * self.best.top, above)
        if each:
            picked |= set(queue.lowest(_FEW) if len(queue) <= _FEW else queue.best_of_each())
        return [queue.candidate(position) for position in sorted(picked, key=lambda i: (int(queue.bound[i]), i))]
