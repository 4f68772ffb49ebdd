"""The two levels of the screening.

1. Every combination of degrees without chunks, under every mode (dispatcher, overlap): legal ones, with a bound on
   their time and one on their memory that hold for any chunks, placement and recompute.
2. Of those not above a known layout's time: chunks and recompute settings, with tighter bounds of the same kind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import choices_legal, degree_rules, legal
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from moeopt.screening.average import memory_bound
from moeopt.screening.limits import Column, Limits
from moeopt.screening.pairs import Pair, bounded
from moeopt.screening.table import RecomputeTable
from moeopt.screening.work import work_bound
from moeopt.space import enumerate_degrees, select, with_chunks

_WITHOUT_CHUNKS = frozenset({"vpp", "interleave_group"})


@dataclass(frozen=True)
class Block:
    """Legal rows of one mode, chunks still open."""

    mode: Choices
    degrees: Degrees
    time: Column
    """Bound on the step time, any chunks and recompute."""
    memory: Column
    """Bound on the fullest rank's bytes, any chunks and recompute."""


class Screening:
    """The bounds of one problem, computed once; `pairs` reads them at any limits."""

    def __init__(self, problem: Problem, expired: Callable[[], bool] = lambda: False) -> None:
        self.problem = problem
        self.recomputes = recomputes(problem)
        self.blocks: list[Block] = []
        self.complete = False
        """False where freed decisions made so many modes that `expired` came first: then there is no bound."""
        self._legal: dict[bytes, Degrees] = {}
        degrees = enumerate_degrees(problem)
        for mode in modes(problem):
            if problem.free and self.blocks and expired():
                return
            self.blocks += self._block(mode, degrees)
        self.complete = True

    @property
    def rows(self) -> int:
        """Legal combinations of degrees and modes, chunks left open."""
        return sum(len(block.time) for block in self.blocks)

    @cached_property
    def best_memory(self) -> int | None:
        """The lowest memory bound of any legal row: what even the lightest layout needs at least."""
        lows = [int(block.memory.min()) for block in self.blocks if len(block.memory)]
        return min(lows) if lows else None

    # Level 1 ------------------------------------------------------------------------------------------------------

    def _block(self, mode: Choices, degrees: Degrees) -> Iterator[Block]:
        settings = [recompute for recompute in self.recomputes if choices_legal(self.problem, _with(mode, recompute))]
        if not settings:
            return
        ok = np.ones(len(degrees.tp), dtype=bool)
        for rule in degree_rules(self.problem, mode):
            if not _WITHOUT_CHUNKS & set(rule.scope):
                ok &= rule.holds(self.problem, degrees, mode)
        degrees = self._legal.setdefault(np.packbits(ok).tobytes(), select(degrees, ok))
        if not len(degrees.tp):
            return
        table = RecomputeTable(self.problem, degrees, mode)
        any_chunks = Degrees(**{**vars(degrees), "vpp": np.full_like(degrees.tp, 2)})
        weights = [
            memory_bound(self.problem, shape, costs)
            for costs in table.lightest(settings)
            for shape in (degrees, any_chunks)
        ]
        yield Block(mode, degrees, work_bound(degrees, table.least_work(settings)), np.minimum.reduce(weights))

    # Level 2 ------------------------------------------------------------------------------------------------------

    def pairs(self, limits: Limits, settings: Sequence[Recompute] | None = None) -> list[Pair]:
        """Everything whose bounds allow a layout within the limits, chunks and recompute decided.

        `settings` are the recompute settings to ask about (default: all).
        """
        settings = self.recomputes if settings is None else settings
        result = []
        for block in self.blocks:
            keep = (block.time <= limits.time_of(block.degrees.gpus)) & (block.memory <= limits.memory_bytes)
            if keep.any():
                result += list(self._expand(block.mode, select(block.degrees, keep), limits, settings))
        return bounded(self.problem, result, limits)

    def _expand(self, mode: Choices, degrees: Degrees, limits: Limits, settings: Sequence[Recompute]) -> Iterator[Pair]:
        degrees, _ = with_chunks(self.problem, degrees)
        degrees = select(degrees, _legal_degrees(self.problem, degrees, mode))
        if not len(degrees.tp):
            return
        table = RecomputeTable(self.problem, degrees, mode, limits)
        limit_ns = limits.time_of(degrees.gpus)
        for recompute in settings:
            choices = _with(mode, recompute)
            if not choices_legal(self.problem, choices):
                continue
            time = table.time_bound(recompute, limits.replayed)
            keep = (time <= limit_ns) & ((recompute.num_layers or 0) <= table.deepest(recompute))
            if keep.any():
                keep[keep] &= legal_rows(self.problem, select(degrees, keep), choices)
            if keep.any():
                yield table.pair(recompute, np.flatnonzero(keep), time)


def legal_rows(problem: Problem, degrees: Degrees, choices: Choices) -> NDArray[np.bool_]:
    """Which rows break no rule."""
    return np.broadcast_to(np.asarray(legal(problem, degrees, choices), dtype=bool), degrees.tp.shape).copy()


def _legal_degrees(problem: Problem, degrees: Degrees, mode: Choices) -> NDArray[np.bool_]:
    """Which rows break no rule on degrees; rules on choices alone wait until recompute is decided."""
    ok = np.ones(len(degrees.tp), dtype=bool)
    for rule in degree_rules(problem, mode):
        ok &= rule.holds(problem, degrees, mode)
    return ok


def _with(mode: Choices, recompute: Recompute) -> Choices:
    return mode.model_copy(update={"recompute": recompute})
