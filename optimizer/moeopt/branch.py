"""Best-first branch and bound over candidates: bounds from the sweep, proofs from CP-SAT.

Candidates are visited by their bound. One whose bound is above the best value so far is done; any other is given to
CP-SAT, which places its layers within the best value or proves that no placement is. Candidates that reach exactly the
best value are collected, and the tie among them is broken by further goals.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from moeopt.candidate import Candidate
from moeopt.configurations import decisions
from moeopt.constraints.guide import ceilings
from moeopt.constraints.placements import obeys
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.solve import ENGINE, QUICK, Settings, minimise, rules_out
from moeopt.cpsat.tie_break import break_tie
from moeopt.incumbent import Found, place
from moeopt.layout import Recompute
from moeopt.problem.problem import Problem
from moeopt.queue import Queue
from moeopt.screening import Column, Limits, Pair, Screening
from moeopt.space import check_names

_BATCH = 4
"""Candidates asked at once, a worker."""
_LONG = 8.0
"""Deterministic time of a second try to rule a candidate out."""
_GROWTH = 1.2
"""The first limit that admits a layout is looked for in steps of this factor ..."""
_ROUNDS = 16
"""... this many times: to 18 times the lowest bound. What fits only beyond is left to the solver."""
_FILLS = (1.0, 0.93, 0.85, 0.75, 0.6)
"""Shares of the memory limit: for each, the best candidates whose memory bound is below it are placed first ..."""
_SAMPLES = 4
"""... so many of them."""
_IMPROVEMENTS = 8
"""Rounds of placing what could be better than the best layout known."""
_FEW = 96
"""If no more candidates are left than this, all are placed."""


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
        self.problem, self.settings, self.top = problem, settings, top
        self.screens = screening
        self.screening = Screening(problem, lambda: settings.expired)
        self.pool: list[Found] = []
        """The best layout of each candidate asked, best first; those beyond the `top` and ties of the last are cut."""
        self._queue: Queue | None = None
        self.asked = 0
        self.bound = 0

    def run(self) -> Result:
        """Search, prove, break ties."""
        proven = False
        try:
            if not self.screening.complete:
                raise Stopped
            if self.screens:
                self.find_first()
            self._prove()
            proven = True
        except (Stopped, KeyboardInterrupt):
            self._say("stopped before the proof was complete")
        if not self.pool:
            return Result(None, proven, self.bound)
        if not proven:
            open_: list[int | None] = [None for _ in self.problem.then]
            return Result(self.pool[0], False, min(self.bound, self.pool[0].score), self.pool[: self.top], open_)
        best, settled = break_tie(
            self.pool[0], [f.candidate for f in self.pool if f.score == self.pool[0].score], self.settings
        )
        rest = [found for found in self.pool if found.candidate.order != best.candidate.order]
        further = [best.value(name) if settled else None for name in self.problem.then]
        return Result(best, True, best.score, [best, *rest][: self.top], further)

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

    # Values -------------------------------------------------------------------------------------------------------

    @property
    def threshold(self) -> int | None:
        """Value that a further candidate must not exceed to matter; None while anything does."""
        return self.pool[self.top - 1].score if len(self.pool) >= self.top else None

    def limits(self, score: int | None) -> Limits:
        """What a layout must stay within to reach a value of the objective (None: any)."""
        memory, longest = ceilings(self.problem)
        if score is None:
            return Limits(memory, longest)
        if self.problem.objective == "cost":
            return Limits(memory, longest, gpu_ns=score)
        if self.problem.objective == "peak_memory":
            return Limits(min(memory, score), longest)
        return Limits(memory, time_ns=score if longest is None else min(score, longest))

    def _score_bound(self, pair: Pair) -> Column:
        if self.problem.objective == "cost":
            return np.asarray(pair.time * pair.degrees.gpus)
        return pair.memory if self.problem.objective == "peak_memory" else pair.time

    def _lowest_score(self) -> int | None:
        """Below every layout that fits, by the first level's bounds."""
        lows = []
        for block in self.screening.blocks:
            fits = block.memory <= self.limits(None).memory_bytes
            if fits.any():
                gpus = block.degrees.gpus
                values = {"cost": block.time * gpus, "peak_memory": block.memory}.get(
                    self.problem.objective, block.time
                )
                lows.append(int(values[fits].min()))
        return min(lows, default=None)

    # Good layouts first -------------------------------------------------------------------------------------------

    def find_first(self, rounds: int = _ROUNDS) -> None:
        """Fill the pool: grow a limit until a heuristic placement fits, then look once more below it."""
        lowest = self._lowest_score()
        if lowest is None:
            return
        self.bound = score = lowest
        tried = -1
        for _ in range(rounds):
            if len(self.pool) >= self.top:
                break
            score = int(score * _GROWTH)
            pairs = self.screening.pairs(self.limits(score), self._few_settings)
            self._try(self._samples(Queue(self.problem, pairs, self._score_bound), tried))
            tried = score
        if self.pool:
            self._improve()

    def _improve(self) -> None:
        """Place the most promising candidates until none of them is better than the best known."""
        self._queue = self._all_within()
        tried: set[tuple[object, ...]] = set()
        for _ in range(_IMPROVEMENTS):
            known = self.threshold
            fresh = [item for item in self._samples(self._queue, each=True) if item.order not in tried]
            self._try(fresh)
            tried.update(item.order for item in fresh)
            if self.threshold == known:
                return
            self._queue.tighten(self.limits(self.threshold))

    def _all_within(self) -> Queue:
        """Every candidate that could be within the threshold."""
        return Queue(self.problem, self.screening.pairs(self.limits(self.threshold)), self._score_bound)

    @property
    def _few_settings(self) -> list[Recompute]:
        """Recompute settings that first layouts are looked for with: none, one module, the cheap ones, `moe`, full."""
        cheap = {"layernorm", "moe_act", "mla_up_proj"}
        return [
            setting
            for setting in self.screening.recomputes
            if setting.granularity == "full"
            or "moe" in setting.modules
            or len(setting.modules) <= 1
            or set(setting.modules) == cheap
            or set(setting.modules) == cheap - {"mla_up_proj"}
        ]

    def _try(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            self._check_deadline()
            threshold = self.threshold
            if threshold is not None and self.problem.objective == "step_time" and candidate.bound_ns >= threshold:
                continue
            self._add(place(candidate, self.limits(threshold).memory_bytes))

    def _samples(self, queue: Queue, above: int = -1, each: bool = False) -> list[Candidate]:
        """Some candidates worth placing: the best by bound, at several fill levels of memory, and with `each` of every
        mode and recompute setting; all if they are few.

        `above`: a bound up to which candidates were sampled before, and did not fit.
        """
        limit_bytes = self.limits(None).memory_bytes
        picked = {
            position
            for fill in _FILLS
            for position in queue.best_filled(int(fill * limit_bytes), above, _SAMPLES * self.top)
        }
        if each:
            picked |= set(queue.lowest(_FEW) if len(queue) <= _FEW else queue.best_of_each())
        return [queue.candidate(position) for position in sorted(picked, key=lambda i: (int(queue.bound[i]), i))]

    def _add(self, found: Found | None) -> None:
        """Take a layout into the pool, one a candidate, unless it breaks a constraint on its placement."""
        if found is None or not obeys(found.candidate, found.pipeline, found.time_ns):
            return
        known = self._known(found.candidate)
        if known is not None:
            if (known.score, known.peak_bytes) <= (found.score, found.peak_bytes):
                return
            self.pool.remove(known)
        self.pool.append(found)
        self.pool.sort(key=lambda f: (f.score, f.candidate.order))
        if len(self.pool) > self.top:
            last = self.pool[self.top - 1].score
            self.pool = [f for f in self.pool if f.score <= last]
        if self.pool[0] is found:
            self._say(f"best {self.problem.objective} {found.score:,}")

    # Proof --------------------------------------------------------------------------------------------------------

    def _prove(self) -> None:
        """Ask every candidate whose bound is within the threshold, lowest bound first."""
        queue = self._queue if self._queue is not None else self._all_within()
        width = _BATCH * self.settings.workers
        with ThreadPoolExecutor(self.settings.workers + 1) as pool:
            while positions := queue.lowest(width):
                self.bound = int(queue.bound[positions[0]])
                self._check_deadline()
                known = self.threshold
                self._say(f"bound {self.bound:,}, at most {len(queue)} candidates to ask")
                batch = [queue.candidate(position) for position in positions]
                self.asked += len(batch)
                for candidate in self._possible(batch, pool):
                    self._solve(candidate)
                queue.close(positions)
                if self.threshold != known:
                    queue.tighten(self.limits(self.threshold))

    def _possible(self, batch: Sequence[Candidate], pool: Executor) -> list[Candidate]:
        """Those that could not be ruled out: asked quickly, then, where no placement is known either, for longer."""
        gone = pool.map(self._ruled_out, batch, repeat(QUICK))
        left = [candidate for candidate, done in zip(batch, gone, strict=True) if not done]
        for candidate in left:
            self._check_deadline()
            self._add(place(candidate, self.limits(self.threshold).memory_bytes))
        unknown = [candidate for candidate in left if self._known(candidate) is None]
        gone = pool.map(self._ruled_out, unknown, repeat(_LONG))
        hopeless = {candidate.order for candidate, done in zip(unknown, gone, strict=True) if done}
        return [candidate for candidate in left if candidate.order not in hopeless]

    def _known(self, candidate: Candidate) -> Found | None:
        """The layout of a candidate in the pool."""
        return next((found for found in self.pool if found.candidate.order == candidate.order), None)

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
        known = self._known(candidate)
        if known is not None:
            encoding.hint(known)
        goal = encoding.peak if self.problem.objective == "peak_memory" else encoding.time
        outcome = minimise(encoding, goal, self.settings, "candidate")
        self._add(outcome.found)
        if not outcome.proven:
            raise Stopped

    def _encode(self, candidate: Candidate, few_rows: bool = False) -> Encoding | None:
        """The model of a candidate within the threshold; None where its limits are below its bound."""
        limits = self.limits(self.threshold)
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
