"""From all layouts to the few that could be best, with the proof intact.

1. Every combination of degrees without chunks, under every mode (dispatcher, overlap): legal ones, with a bound on
   their time that holds for any chunks, placement and recompute, and a bound on their memory under the lightest
   recompute.
2. Of those not above a known layout's time: chunks and recompute settings, with tighter bounds of the same kind.
3. What is left is given to CP-SAT as candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.terms import time_terms
from moeopt.arithmetic import Number
from moeopt.candidate import added_ns, freed_bytes
from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import choices_legal, degree_rules, legal
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from moeopt.schedule.chunk_cap import longest_chunk_ns
from moeopt.space import enumerate_degrees, select, with_chunks
from moeopt.sweep import (
    Footprint,
    Work,
    chunked_memory_bound,
    longest_rank_ns,
    memory_bound,
    packed_memory_bound,
    piece_counts,
    time_bound,
    work_bound,
)

Column = NDArray[np.int64]
MOST_NS = 10**13
"""Longest step that is searched: 10,000 s."""
_WITHOUT_CHUNKS = frozenset({"vpp", "interleave_group"})


@dataclass(frozen=True)
class Limits:
    """What a layout must stay within to matter: `time_ns` for a step, or `gpu_ns` for GPUs times a step."""

    memory_bytes: int
    time_ns: int | None = None
    gpu_ns: int | None = None

    def time_of(self, gpus: Column) -> Column:
        """Nanoseconds of a step allowed on so many GPUs."""
        most = np.full_like(gpus, MOST_NS if self.time_ns is None else self.time_ns)
        return most if self.gpu_ns is None else np.minimum(most, self.gpu_ns // gpus)


@dataclass(frozen=True)
class Block:
    """Legal rows of one mode, chunks still open."""

    mode: Choices
    degrees: Degrees
    time: Column
    """Bound on the step time, any chunks and recompute."""
    memory: Column
    """Bound on the fullest rank's bytes, any chunks, under the lightest recompute."""


@dataclass(frozen=True)
class Pair:
    """One row with its chunks, mode and recompute setting, and its bounds."""

    mode: Choices
    recompute: Recompute
    degrees: Degrees
    time: Column
    memory: Column

    @property
    def size(self) -> int:
        """Rows."""
        return len(self.time)


class Screening:
    """The bounds of one problem, computed once; `pairs` reads them at any limits."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.recomputes = recomputes(problem)
        degrees = enumerate_degrees(problem)
        self.blocks = [block for mode in modes(problem) for block in self._block(mode, degrees)]

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
        degrees = select(degrees, ok)
        if not len(degrees.tp):
            return
        lightest = max(settings, key=_weight)
        fastest = min(settings, key=_weight)
        time = time_terms(self.problem, degrees, _with(mode, fastest))
        memory = memory_terms(self.problem, degrees, _with(mode, lightest))
        work = Work.of(self.problem, degrees, time, memory)
        any_chunks = Degrees(**{**vars(degrees), "vpp": np.full_like(degrees.tp, 2)})
        footprint = Footprint.of(self.problem, memory, lightest.granularity == "full")
        weight = np.minimum(
            memory_bound(self.problem, degrees, footprint), memory_bound(self.problem, any_chunks, footprint)
        )
        yield Block(mode, degrees, work_bound(degrees, work), weight)

    # Level 2 ------------------------------------------------------------------------------------------------------

    def pairs(self, limits: "Limits", settings: Sequence[Recompute] | None = None) -> list[Pair]:
        """Everything whose bounds allow a layout within the limits, chunks and recompute decided.

        `settings` are the recompute settings to ask about (default: all).
        """
        settings = self.recomputes if settings is None else settings
        result = []
        for block in self.blocks:
            keep = (block.time <= limits.time_of(block.degrees.gpus)) & (block.memory <= limits.memory_bytes)
            if keep.any():
                result += list(self._expand(block.mode, select(block.degrees, keep), limits, settings))
        return result

    def _expand(
        self, mode: Choices, degrees: Degrees, limits: "Limits", settings: Sequence[Recompute]
    ) -> Iterator[Pair]:
        degrees, _ = with_chunks(self.problem, degrees)
        degrees = select(degrees, _legal_degrees(self.problem, degrees, mode))
        if not len(degrees.tp):
            return
        table = _RecomputeTable(self.problem, degrees, mode)
        limit_ns = limits.time_of(degrees.gpus)
        for recompute in settings:
            choices = _with(mode, recompute)
            if not choices_legal(self.problem, choices):
                continue
            bound = table.time_bound(recompute)
            keep = bound <= limit_ns
            if keep.any():
                keep[keep] &= legal_rows(self.problem, select(degrees, keep), choices)
            if keep.any():
                memory = table.memory_bound(recompute, keep, limit_ns)
                fits = memory <= limits.memory_bytes
                kept = select(select(degrees, keep), fits)
                yield Pair(mode, recompute, kept, bound[keep][fits], memory[fits])


class _RecomputeTable:
    """What each recompute setting adds in time and frees in memory, over rows of one mode."""

    def __init__(self, problem: Problem, degrees: Degrees, mode: Choices) -> None:
        self.problem, self.degrees, self.mode = problem, degrees, mode
        self.counts = piece_counts(problem)
        self.time = time_terms(problem, degrees, mode)
        self.memory = memory_terms(problem, degrees, mode)
        self.work = Work.of(problem, degrees, self.time, self.memory)
        self.footprint = Footprint.of(problem, self.memory, False)

    def _added_ns(self, recompute: Recompute, piece: Piece) -> Number:
        return added_ns(self.time, recompute, piece)

    def _work(self, recompute: Recompute) -> Work:
        added = sum(count * self._added_ns(recompute, piece) for piece, count in self.counts.items())
        return Work(self.work.forward_ns, self.work.backward_ns + added, self.work.end_ns)

    def _piece_ns(self, recompute: Recompute) -> dict[Piece, Number]:
        forward, backward = self.time.forward_ns, self.time.backward_ns
        return {piece: forward[piece] + backward[piece] + self._added_ns(recompute, piece) for piece in self.counts}

    def time_bound(self, recompute: Recompute) -> Column:
        """Bound on the step time under a recompute setting."""
        piece_ns = self._piece_ns(recompute)
        pieces = [(count, piece_ns[piece]) for piece, count in self.counts.items()]
        ep_overlap = self.mode.overlap.ep_all_to_all
        return time_bound(self.degrees, self._work(recompute), self.time.hop_ns, pieces, ep_overlap)

    def memory_bound(self, recompute: Recompute, keep: NDArray[np.bool_], limit_ns: Column) -> Column:
        """Bound on the fullest rank's bytes under a recompute setting within the time limit, for the rows kept."""
        footprint, degrees = self._footprint(recompute).rows(keep), select(self.degrees, keep)
        work = self._work(recompute)
        total_ns = _cut(work.forward_ns + work.backward_ns, keep)
        left_ns = limit_ns[keep] - _cut(work.end_ns, keep)
        shape = (degrees.pp, degrees.vpp, degrees.num_microbatches, degrees.interleave_group)
        longest = longest_chunk_ns(*shape, total_ns, left_ns), longest_rank_ns(degrees, total_ns, left_ns)
        piece_ns = {piece: _cut(value, keep) for piece, value in self._piece_ns(recompute).items()}
        bounds = (
            memory_bound(self.problem, degrees, footprint),
            chunked_memory_bound(self.problem, degrees, footprint, longest[0], piece_ns),
            packed_memory_bound(self.problem, degrees, footprint, longest, piece_ns),
        )
        return np.asarray(np.maximum.reduce(bounds))

    def _footprint(self, recompute: Recompute) -> Footprint:
        """Recomputing only ever makes more pass at once, so what passes with nothing recomputed is a lower bound."""
        if recompute.granularity == "full":
            return Footprint.of(
                self.problem, memory_terms(self.problem, self.degrees, _with(self.mode, recompute)), True
            )
        kept = {piece: size - freed_bytes(self.memory, recompute, piece) for piece, size in self.footprint.kept.items()}
        return replace(self.footprint, kept=kept)


def _cut(value: Number, keep: NDArray[np.bool_]) -> Column:
    return np.broadcast_to(value, keep.shape)[keep]


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


def _weight(recompute: Recompute) -> tuple[int, int]:
    """Order by how much a setting recomputes."""
    return ("none", "selective", "full").index(recompute.granularity), len(recompute.modules)
