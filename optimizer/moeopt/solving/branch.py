"""Best-first branch and bound over candidates: bounds from the sweep and from duality, proofs from CP-SAT.

Candidates are visited by their bound. One whose bound is above the best value so far is done; duality settles most of
the others; what is left is given to CP-SAT, which places its layers within the best value or proves that no placement
is. Candidates that reach exactly the best value are collected, and the tie among them is broken by further goals.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from moeopt.clock import until
from moeopt.configurations import decisions
from moeopt.layout import Recompute
from moeopt.problem.problem import Problem
from moeopt.screening import Pair, Screening
from moeopt.solving.best import Best
from moeopt.solving.first import ROUNDS, First
from moeopt.solving.incumbent import Found
from moeopt.solving.queue import Queue
from moeopt.solving.raising import Listed, Raising
from moeopt.solving.settings import Settings, Stopped
from moeopt.solving.ties import break_tie
from moeopt.space import check_names


@dataclass
class Result:
    """What a search ends with. `proven`: the best is optimal, or there is none; `bound` holds for every layout."""

    best: Found | None = None
    proven: bool = False
    bound: int | Fraction = 0
    """In the unit of `Found.score`."""
    alternatives: list[Found] = field(default_factory=list)
    further: list[int | Fraction | None] = field(default_factory=list)
    """Bounds on the problem's further objectives among the optima of those before; None where none is known."""


class Search:
    """One solve of one problem for the `top` best candidates."""

    def __init__(self, problem: Problem, settings: Settings, top: int = 1, screening: bool = True) -> None:
        check_names(problem, decisions())
        self.problem, self.settings = problem, settings
        self.screens = screening
        self.screening = Screening(problem, lambda: settings.expired, self._check_deadline)
        self.best = Best(problem, top, self._say)
        self.asked = 0
        self.bound = 0
        self._queue: Queue | None = None
        self._listed: Listed = {}

    def run(self) -> Result:
        """Search, prove, break ties."""
        proven = False
        try:
            with until(self.settings.deadline):
                self._run()
            proven = True
        except (Stopped, KeyboardInterrupt):
            self._say("stopped before the proof was complete")
        pool, top = self.best.pool, self.best.top
        if not pool:
            return Result(None, proven, self.bound)
        if not proven:
            open_: list[int | Fraction | None] = [None for _ in self.problem.then]
            return Result(pool[0], False, min(self.bound, pool[0].score), pool[:top], open_)
        equals = [found for found in pool if found.score == pool[0].score]
        best, settled = pool[0], False
        with suppress(KeyboardInterrupt):
            best, settled = break_tie(pool[0], equals, self.settings, self._listed)
        rest = [found for found in pool if found.candidate.key != best.candidate.key]
        further: list[int | Fraction | None] = [best.value(name) if settled else None for name in self.problem.then]
        return Result(best, True, best.score, [best, *rest][:top], further)

    def _run(self) -> None:
        if not self.screening.complete:
            raise Stopped
        if self.screens:
            self.find_first()
        if self.screens and self._queue is None:
            self._settle(self._all_within())
        self._prove()

    def find_first(self, rounds: int = ROUNDS) -> None:
        """Good layouts; duality settles most candidates on the way."""
        first = First(self.screening, self.best, self._check_deadline)
        lowest = first.lowest_score()
        if lowest is None:
            return
        self.bound = lowest
        first.find(lowest, rounds)
        if self.best.pool:
            queue = self._plain_first()
            if self.problem.objective == "peak_memory":
                first.place_all(queue)
            self._settle(queue)

    def _settle(self, queue: Queue) -> None:
        """What duality settles of the candidates that matter; the queue keeps the rest."""
        self._queue = queue
        raising = Raising(queue, self.best, self._check_deadline, self._listed)
        try:
            raising.run()
        finally:
            self.bound = max(self.bound, raising.bound)

    def _plain_first(self) -> Queue:
        """What is left to settle. Settings by block are as many as a chunk has layers, and few of them matter once the
        best time is known: the others are settled before them."""
        settings = self.screening.recomputes
        plain = [setting for setting in settings if not setting.block_layers]
        if len(plain) in (0, len(settings)):
            return self._all_within()
        early = Raising(self._all_within(plain), self.best, self._check_deadline, self._listed)
        early.run()
        return self._all_within([setting for setting in settings if setting.block_layers], early.queue.open_pairs())

    def _all_within(self, settings: Sequence[Recompute] | None = None, known: Sequence[Pair] = ()) -> Queue:
        """Every candidate that could be within the threshold, of some recompute settings (default: all), and known
        ones."""
        pairs = [*self.screening.pairs(self.best.limits, settings), *known]
        return Queue(self.problem, pairs, self.best.bound_of)

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the contract's `search` object holds."""
        return {**self.settings.facts(self.screening.rows, self.asked, seconds), "screening": self.screens}

    def _prove(self) -> None:
        """Ask CP-SAT what is left; it is imported here, as most solves leave nothing."""
        queue = self._queue if self._queue is not None else self._all_within()
        if not len(queue):
            return
        from moeopt.cpsat.proof import Proof

        proof = Proof(queue, self.best, self.settings, self._check_deadline, self._listed)
        try:
            proof.run()
        finally:
            self.bound, self.asked = max(self.bound, proof.bound), proof.asked

    def _check_deadline(self) -> None:
        if self.settings.expired:
            raise Stopped

    def _say(self, text: str) -> None:
        if self.settings.progress is not None:
            self.settings.progress(text)
