"""From all layouts to the few that could be best, with the proof intact.

1. Every combination of degrees without chunks, under every mode (dispatcher, overlap): legal ones, with a bound on
   their time that holds for any chunks, placement and recompute, and a bound on their memory under the lightest
   recompute.
2. Of those not above a known layout's time: chunks and recompute settings, with tighter bounds of the same kind.
3. What is left is given to CP-SAT as candidates.

Recompute only ever adds time, and each module adds no less beside others than `_ADDITIVE` of what it adds alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.terms import TimeTerms, time_terms
from moeopt.arithmetic import Number
from moeopt.candidate import Candidate
from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import choices_legal, degree_rules, legal
from moeopt.layout import Choices, Degrees, Recompute, RecomputeModule
from moeopt.problem.problem import Problem
from moeopt.space import enumerate_degrees, row, select, with_chunks
from moeopt.sweep import Footprint, Work, memory_bound, piece_counts, time_bound, total, work_bound

Column = NDArray[np.int64]
_WITHOUT_CHUNKS = frozenset({"vpp", "interleave_group"})


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
    """The bounds of one problem, computed once; `candidates` reads them at any time limit."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._recomputes = recomputes(problem)
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

    @cached_property
    def lowest_times(self) -> Column:
        """Time bounds of all rows that memory does not rule out, ascending."""
        fitting = [block.time[block.memory <= self.problem.memory_limit] for block in self.blocks]
        return np.sort(np.concatenate(fitting)) if fitting else np.array([], dtype=np.int64)

    # Level 1 ------------------------------------------------------------------------------------------------------

    def _block(self, mode: Choices, degrees: Degrees) -> Iterator[Block]:
        settings = [recompute for recompute in self._recomputes if choices_legal(self.problem, _with(mode, recompute))]
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
        footprint = Footprint.of(memory, lightest.granularity == "full")
        weight = np.minimum(
            memory_bound(self.problem, degrees, footprint), memory_bound(self.problem, any_chunks, footprint)
        )
        yield Block(mode, degrees, work_bound(degrees, work), weight)

    # Level 2 ------------------------------------------------------------------------------------------------------

    def pairs(self, limit_ns: int) -> list[Pair]:
        """Everything whose bounds allow a layout within the time and memory limits, chunks and recompute decided."""
        result = []
        for block in self.blocks:
            keep = (block.time <= limit_ns) & (block.memory <= self.problem.memory_limit)
            if keep.any():
                result += list(self._expand(block.mode, select(block.degrees, keep), limit_ns))
        return result

    def _expand(self, mode: Choices, degrees: Degrees, limit_ns: int) -> Iterator[Pair]:
        degrees, _ = with_chunks(self.problem, degrees)
        degrees = select(degrees, legal_rows(self.problem, degrees, mode))
        if not len(degrees.tp):
            return
        table = _RecomputeTable(self.problem, degrees, mode)
        for recompute in self._recomputes:
            choices = _with(mode, recompute)
            if not choices_legal(self.problem, choices):
                continue
            bound = table.time_bound(recompute)
            keep = bound <= limit_ns
            if keep.any():
                keep[keep] &= legal_rows(self.problem, select(degrees, keep), choices)
            if keep.any():
                memory = table.memory_bound(recompute, keep)
                fits = memory <= self.problem.memory_limit
                kept = select(select(degrees, keep), fits)
                yield Pair(mode, recompute, kept, bound[keep][fits], memory[fits])

    def candidates(self, limit_ns: int) -> list[Candidate]:
        """The candidates within a time limit, lowest bound first."""
        found = []
        for pair in self.pairs(limit_ns):
            choices = _with(pair.mode, pair.recompute)
            for index in range(pair.size):
                found.append(Candidate(self.problem, row(pair.degrees, index), choices, int(pair.time[index])))
        return sorted(found, key=lambda candidate: (candidate.bound_ns, candidate.order))


class _RecomputeTable:
    """What each recompute module adds in time and frees in memory, over rows of one mode."""

    def __init__(self, problem: Problem, degrees: Degrees, mode: Choices) -> None:
        self.problem, self.degrees, self.mode = problem, degrees, mode
        self.counts = piece_counts(problem)
        self.time, self.memory = self._terms(Recompute())
        self.work = Work.of(problem, degrees, self.time, self.memory)
        self.pieces = [
            (count, self.time.forward_ns[piece] + self.time.backward_ns[piece]) for piece, count in self.counts.items()
        ]
        self._single: dict[RecomputeModule, tuple[Number, dict[Piece, Number], MemoryTerms]] = {}

    def _terms(self, recompute: Recompute) -> tuple[TimeTerms, MemoryTerms]:
        choices = _with(self.mode, recompute)
        return time_terms(self.problem, self.degrees, choices), memory_terms(self.problem, self.degrees, choices)

    def _module(self, module: RecomputeModule) -> tuple[Number, dict[Piece, Number], MemoryTerms]:
        """Backward time added to all pieces together, bytes freed by piece, and the terms with this module alone."""
        if module not in self._single:
            time, memory = self._terms(Recompute(granularity="selective", modules=(module,)))
            added = total(self.counts, time.backward_ns) - self.work.backward_ns
            freed = {piece: self.memory.kept_bytes[piece] - memory.kept_bytes[piece] for piece in memory.kept_bytes}
            self._single[module] = added, freed, memory
        return self._single[module]

    def time_bound(self, recompute: Recompute) -> Column:
        """Bound on the step time under a recompute setting."""
        ep_overlap = self.mode.overlap.ep_all_to_all
        if recompute.granularity == "full":
            time, memory = self._terms(recompute)
            work = Work.of(self.problem, self.degrees, time, memory)
            return time_bound(self.degrees, work, time.hop_ns, [], ep_overlap)
        if not recompute.modules:
            return time_bound(self.degrees, self.work, self.time.hop_ns, self.pieces, ep_overlap)
        added = sum(self._module(module)[0] for module in recompute.modules)
        work = Work(self.work.forward_ns, self.work.backward_ns + added, self.work.end_ns)
        return time_bound(self.degrees, work, self.time.hop_ns, [], ep_overlap)

    def memory_bound(self, recompute: Recompute, keep: NDArray[np.bool_]) -> Column:
        """Bound on the fullest rank's bytes under a recompute setting, for the rows kept."""
        if recompute.granularity == "full":
            footprint = Footprint.of(self._terms(recompute)[1], True)
        else:
            footprint = Footprint.of(self.memory, False)
            kept = dict(footprint.kept)
            passing = footprint.passing
            for module in recompute.modules:
                _, freed, terms = self._module(module)
                kept = {piece: size - freed[piece] for piece, size in kept.items()}
                passing = np.minimum(passing, Footprint.of(terms, False).passing)
            footprint = Footprint(footprint.static, kept, passing, footprint.fixed)
        return memory_bound(self.problem, select(self.degrees, keep), _rows(footprint, keep))


def legal_rows(problem: Problem, degrees: Degrees, choices: Choices) -> NDArray[np.bool_]:
    """Which rows break no rule."""
    return np.broadcast_to(np.asarray(legal(problem, degrees, choices), dtype=bool), degrees.tp.shape).copy()


def _with(mode: Choices, recompute: Recompute) -> Choices:
    return mode.model_copy(update={"recompute": recompute})


def _weight(recompute: Recompute) -> tuple[int, int]:
    """Order by how much a setting recomputes."""
    return ("none", "selective", "full").index(recompute.granularity), len(recompute.modules)


def _rows(footprint: Footprint, keep: NDArray[np.bool_]) -> Footprint:
    def cut(value: Number) -> Number:
        return value[keep] if isinstance(value, np.ndarray) and value.ndim else value

    return Footprint(
        {piece: cut(value) for piece, value in footprint.static.items()},
        {piece: cut(value) for piece, value in footprint.kept.items()},
        cut(footprint.passing),
        cut(footprint.fixed),
    )


