"""Best-first branch and bound over candidates: bounds from the sweep and from duality, proofs from CP-SAT.

Candidates are visited by their bound. One whose bound is above the best value so far is done; duality settles most of
the others; what is left is given to CP-SAT, which places its layers within the best value or proves that no placement
is. Candidates that reach exactly the best value are collected, and the tie among them is broken by further goals.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from moeopt.best import Best
from moeopt.candidate import Candidate
from moeopt.configurations import decisions
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.solve import ENGINE, QUICK, Settings, minimise, rules_out
from moeopt.cpsat.tie_break import break_tie
from moeopt.first import ROUNDS, First
from moeopt.incumbent import Found, place
from moeopt.problem.problem import Problem
from moeopt.queue import Queue
from moeopt.raising import Raising
from moeopt.screening import Screening
from moeopt.space import check_names

_BATCH = 4
"""Candidates asked at once, a worker."""
_LONG = 8.0
"""Deterministic time of a second try to rule a candidate out."""


class Stopped(Exception):  # noqa: N818 - not an error: a way out of the loops
    """The deadline has passed, or the user interrupted a solve."""


@dataclass
class Result:
    """What a search ends with. `proven`: the best is optimal, or there is none; `bound` holds for every layout."""

    best: Found | None = None
    proven: bool = False
    bound: int = 0
    alternatives: list[Found] = field(default_factory=list)
    further: list[int | None] = field(default_factory=list)
    """Bounds on the problem's further objectives among the optima of those before; None where none is known."""


class Search:
    """One solve of one problem for the `top` best candidates."""

    def __init__(self, problem: Problem, settings: Settings, top: int = 1, screening: bool = True) -> None:
        check_names(problem, decisions())
        self.problem, self.settings = problem, settings
        self.screens = screening
        self.screening = Screening(problem, lambda: settings.expired)
        self.best = Best(problem, top, self._say)
        self.asked = 0
        self.bound = 0
        self._queue: Queue | None = None
        self._listed: dict[tuple[object, ...], list[Found]] = {}

    def run(self) -> Result:
        """Search, prove, break ties."""
        proven = False
        try:
            if not self.screening.complete:
                raise Stopped
            if self.screens:
                self.find_first()
            if self.screens and self._queue is None:
                self._settle(self._all_within())
            self._prove()
            proven = True
        except (Stopped, KeyboardInterrupt):
            self._say("stopped before the proof was complete")
        pool, top = self.best.pool, self.best.top
        if not pool:
            return Result(None, proven, self.bound)
        if not proven:
            open_: list[int | None] = [None for _ in self.problem.then]
            return Result(pool[0], False, min(self.bound, pool[0].score), pool[:top], open_)
        equals = [found.candidate for found in pool if found.score == pool[0].score]
        best, settled = pool[0], False
        with suppress(KeyboardInterrupt):
            best, settled = break_tie(pool[0], equals, self.settings, self._listed)
        rest = [found for found in pool if found.candidate.key != best.candidate.key]
        further = [best.value(name) if settled else None for name in self.problem.then]
        return Result(best, True, best.score, [best, *rest][:top], further)

    def find_first(self, rounds: int = ROUNDS) -> None:
        """Good layouts; duality settles most candidates on the way."""
        first = First(self.screening, self.best, self._check_deadline)
        lowest = first.lowest_score()
        if lowest is None:
            return
        self.bound = lowest
        first.find(lowest, rounds)
        if self.best.pool:
            queue = self._all_within()
            if self.problem.objective == "peak_memory":
                first.place_all(queue)
            self._settle(queue)

    def _settle(self, queue: Queue) -> None:
        """What duality settles of the candidates that matter; the queue keeps the rest."""
        self._queue = queue
        raising = Raising(queue, self.best, self._check_deadline)
        self._listed = raising.listed
        try:
            raising.run()
        finally:
            self.bound = max(self.bound, raising.bound)

    def _all_within(self) -> Queue:
        """Every candidate that could be within the threshold."""
        return Queue(self.problem, self.screening.pairs(self.best.limits), self.best.bound_of)

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the contract's `search` object holds."""
        return {
            "legal_layouts": self.screening.rows,
            "candidates_given_to_solver": self.asked,
            "seconds": round(seconds, 3),
            "engine": ENGINE,
            "seed": self.settings.seed,
            "workers": self.settings.workers,
            "screening": self.screens,
        }

    # Proof --------------------------------------------------------------------------------------------------------

    def _prove(self) -> None:
        """Ask every candidate whose bound is within the threshold, lowest bound first."""
        queue = self._queue if self._queue is not None else self._all_within()
        width = _BATCH * self.settings.workers
        with ThreadPoolExecutor(self.settings.workers + 1) as pool:
            while positions := queue.lowest(width):
                self.bound = int(queue.bound[positions[0]])
                self._check_deadline()
                known = self.best.threshold
                self._say(f"bound {self.bound:,}, at most {len(queue)} candidates to ask")
                batch = [queue.candidate(position) for position in positions]
                self.asked += len(batch)
                for candidate in self._possible(batch, pool):
                    self._solve(candidate)
                queue.close(positions)
                if self.best.threshold != known:
                    queue.tighten(self.best.limits)

    def _possible(self, batch: Sequence[Candidate], pool: Executor) -> list[Candidate]:
        """Those that could not be ruled out: asked quickly, then, where no placement is known either, for longer."""
        gone = pool.map(self._ruled_out, batch, repeat(QUICK))
        left = [candidate for candidate, done in zip(batch, gone, strict=True) if not done]
        for candidate in left:
            self._check_deadline()
            self.best.add(place(candidate, self.best.limits.memory_bytes))
        unknown = [candidate for candidate in left if self.best.known(candidate) is None]
        gone = pool.map(self._ruled_out, unknown, repeat(_LONG))
        hopeless = {candidate.key for candidate, done in zip(unknown, gone, strict=True) if done}
        return [candidate for candidate in left if candidate.key not in hopeless]

    def _ruled_out(self, candidate: Candidate, effort: float) -> bool:
        """Whether the smaller model shows that no placement is within the threshold."""
        if self.settings.expired:
            return False
        model = self._encode(candidate, few_rows=True)
        return model is None or rules_out(model, self.settings, effort)

    def _solve(self, candidate: Candidate) -> None:
        """The best layout of one candidate, if it is within the threshold."""
        self._check_deadline()
        encoding = self._encode(candidate)
        if encoding is None:
            return
        known = self.best.known(candidate)
        if known is not None:
            encoding.hint(known)
        goal = encoding.peak if self.problem.objective == "peak_memory" else encoding.time
        outcome = minimise(encoding, goal, self.settings, "candidate")
        self.best.add(outcome.found)
        if not outcome.proven:
            raise Stopped

    def _encode(self, candidate: Candidate, few_rows: bool = False) -> Encoding | None:
        """The model of a candidate within the threshold; None where its limits are below its bound."""
        limits = self.best.limits
        horizon = int(limits.time_of(np.array([int(candidate.degrees.gpus)]))[0])
        if horizon < candidate.bound_ns:
            return None
        return Encoding(self.problem, [candidate], horizon, limits.memory_bytes, "few" if few_rows else "all")

    def _check_deadline(self) -> None:
        if self.settings.expired:
            raise Stopped

    def _say(self, text: str) -> None:
        if self.settings.progress is not None:
            self.settings.progress(text)
