"""The best layouts found so far, and what a layout must stay within to be among them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from moeopt.candidate import Candidate
from moeopt.constraints.guide import ceilings, sequence_ceilings
from moeopt.constraints.placements import obeys
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.screening import Block, Column, Limits, Pair, Share
from moeopt.solving.incumbent import Found
from moeopt.space import columns

_LARGEST = 2**62
"""Bounds are cut off there: far above any layout that matters."""


@dataclass
class Best:
    """The best layout of each candidate met, best first; those beyond the `top` and ties of the last are cut."""

    problem: Problem
    top: int
    say: Callable[[str], None]
    pool: list[Found] = field(default_factory=list)

    @property
    def threshold(self) -> int | Fraction | None:
        """Value that a further candidate must not exceed to matter; None while anything does."""
        return self.pool[self.top - 1].score if len(self.pool) >= self.top else None

    @property
    def limits(self) -> Limits:
        """What a layout must stay within to matter."""
        return self.within(self.threshold)

    def within(self, score: int | Fraction | None) -> Limits:
        """What a layout must stay within to reach a value of the objective (None: any)."""
        memory, longest = ceilings(self.problem)
        objective, batches = self.problem.objective, self.problem.workload.batches
        shares = tuple(Share(ns) for ns in sequence_ceilings(self.problem))
        if score is None:
            return Limits(memory, longest, shares=shares)
        if objective == "peak_memory":
            return Limits(min(memory, int(score)), longest, shares=shares)
        if not batches.exact:
            reached = Share(Fraction(score) / batches.most, objective == "cost")
            return Limits(memory, longest, shares=(*shares, reached))
        if objective == "cost":
            return Limits(memory, longest, gpu_ns=int(score))
        return Limits(memory, time_ns=int(score) if longest is None else min(int(score), longest))

    def bound_of(self, rows: Pair | Block) -> Column:
        """Bounds on the objective of rows, rounded down where steps of different batches are compared."""
        objective, batches = self.problem.objective, self.problem.workload.batches
        if objective == "peak_memory":
            return rows.memory
        free = not batches.exact
        degrees, time = rows.fastest if free and isinstance(rows, Block) else (rows.degrees, rows.time)
        bound = np.asarray(time * degrees.gpus if objective == "cost" else time)
        if not free:
            return bound
        whole, rest = np.divmod(bound, degrees.batch)
        whole = np.minimum(whole, _LARGEST // batches.most - 1)
        return np.asarray(whole * batches.most + rest * batches.most // degrees.batch)

    def horizon_ns(self, candidate: Candidate) -> int:
        """Longest step of a candidate within the threshold."""
        return int(self.limits.time_of(columns(candidate.degrees))[0])

    def known(self, candidate: Candidate) -> Found | None:
        """The layout of a candidate in the pool."""
        return next((found for found in self.pool if found.candidate.key == candidate.key), None)

    def judged(self, candidate: Candidate, pipeline: PipelineLayout) -> Found | None:
        """A placement, if it fits and obeys the problem's constraints."""
        found = Found.judge(candidate, pipeline)
        fits = found.peak_bytes <= self.within(None).memory_bytes
        return found if fits and obeys(candidate, pipeline, found.time_ns) else None

    def add(self, found: Found | None) -> None:
        """Take a layout into the pool, one a candidate, unless it breaks a constraint on its placement."""
        if found is None or not obeys(found.candidate, found.pipeline, found.time_ns):
            return
        known = self.known(found.candidate)
        if known is not None and (known.score, known.peak_bytes) <= (found.score, found.peak_bytes):
            return
        pool = [item for item in self.pool if item is not known] + [found]
        pool.sort(key=lambda f: (f.score, f.candidate.order))
        last = pool[min(self.top, len(pool)) - 1].score
        self.pool = [item for item in pool if item.score <= last]  # at once: an interrupt loses nothing
        if self.pool[0] is found:
            self.say(f"best {self.problem.objective} {int(found.score):,}")
