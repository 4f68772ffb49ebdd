"""What each recompute setting adds in time and frees in memory, over rows of one mode."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece, piece_counts
from moeopt.accounting.time.terms import time_terms
from moeopt.arithmetic import Number, maximum, minimum
from moeopt.candidate import added_ns, freed_bytes
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column
from moeopt.screening.pairs import Pair
from moeopt.screening.work import Work, time_bound
from moeopt.space import select


class RecomputeTable:
    """Prices of rows with nothing recomputed, and what a setting changes."""

    def __init__(self, problem: Problem, degrees: Degrees, mode: Choices) -> None:
        self.problem, self.degrees, self.mode = problem, degrees, mode
        self.counts = piece_counts(problem)
        self.time = time_terms(problem, degrees, mode)
        self.memory = memory_terms(problem, degrees, mode)

    def time_bound(self, recompute: Recompute, replayed: bool = False) -> Column:
        """Bound on the step time under a recompute setting."""
        piece_ns = self._piece_ns(recompute)
        pieces = [(count, piece_ns[piece]) for piece, count in self.counts.items()]
        ep_overlap = self.mode.overlap.ep_all_to_all
        return time_bound(self.degrees, self._work(recompute), self.time.hop_ns, pieces, ep_overlap, replayed)

    def pair(self, recompute: Recompute, index: Column, time: Column) -> Pair:
        """Some rows under a setting; the bound on their memory is left open."""
        rows = len(self.degrees.tp)
        terms = self._terms(recompute)
        kept, piece_ns = self._kept(terms, recompute), self._piece_ns(recompute)
        costs = Costs.of(terms, kept, piece_ns, rows, self.time.forward_ns, self.time.hop_ns)
        degrees, work = select(self.degrees, index), self._work(recompute).rows(index, rows)
        none = np.zeros(len(index), dtype=np.int64)
        return Pair(self.mode, recompute, degrees, time[index], none, work, costs.rows(index), none > 0)

    def least_work(self, settings: Sequence[Recompute]) -> Work:
        """Work under the cheapest of some settings. No module costs less than nothing, so a setting with a part of
        another's modules is no slower, and a step never gets shorter by more work: only the least sets can be it."""
        added = [self._added(setting) for setting in settings if not any(_inside(other, setting) for other in settings)]
        return Work.of(self.problem, self.degrees, self.time, self.memory, minimum(added[0], *added[1:]))

    def lightest(self, settings: Sequence[Recompute]) -> list[Costs]:
        """Bytes such that under any of some settings the rows need at least what one of the elements says: full
        recompute apart, which keeps least but has most pass at once. Of the sets of modules, each piece keeps, and has
        pass, what it does under the set that is best for that piece; no module frees less than nothing, so only the
        largest sets can be it."""
        rows = len(self.degrees.tp)
        full = [setting for setting in settings if setting.granularity == "full"]
        sets = [setting for setting in settings if setting.granularity != "full"]
        own = [(terms, self._kept(terms, setting)) for setting in full for terms in [self._terms(setting)]]
        costs = [Costs.of(terms, kept, {}, rows) for terms, kept in own]
        largest = [setting for setting in sets if not any(_inside(setting, other) for other in sets)]
        if largest:
            freed = {piece: _most(self.memory, largest, piece) for piece in self.memory.kept_bytes}
            kept = {piece: size - freed[piece] for piece, size in self.memory.kept_bytes.items()}
            costs.append(Costs.of(self._passing(freed), kept, {}, rows))
        return costs

    def _added(self, recompute: Recompute) -> Number:
        return sum(count * added_ns(self.time, recompute, piece) for piece, count in self.counts.items())

    def _work(self, recompute: Recompute) -> Work:
        return Work.of(self.problem, self.degrees, self.time, self.memory, self._added(recompute))

    def _piece_ns(self, recompute: Recompute) -> dict[Piece, Number]:
        forward, backward = self.time.forward_ns, self.time.backward_ns
        return {
            piece: forward[piece] + backward[piece] + added_ns(self.time, recompute, piece) for piece in self.counts
        }

    def _terms(self, recompute: Recompute) -> MemoryTerms:
        """Under full recompute its own; under a set of modules those of nothing recomputed, with no more passing than
        the set's."""
        if recompute.granularity == "full":
            choices = self.mode.model_copy(update={"recompute": recompute})
            return memory_terms(self.problem, self.degrees, choices)
        return self._passing({piece: freed_bytes(self.memory, recompute, piece) for piece in self.memory.kept_bytes})

    def _passing(self, freed: Mapping[Piece, Number]) -> MemoryTerms:
        """The terms of nothing recomputed as a lower bound for sets of modules that free at most so much. What such a
        set brings back passes beside the rest, so no less passes than with nothing recomputed; but where the expert
        all-to-all is overlapped, all that a forward layer keeps passes too, and that is less by what is freed."""
        if not self.mode.overlap.ep_all_to_all:
            return self.memory
        passing = {piece: size - freed[piece] for piece, size in self.memory.transient_bytes.items()}
        return replace(self.memory, transient_bytes=passing)

    @staticmethod
    def _kept(terms: MemoryTerms, recompute: Recompute) -> dict[Piece, Number]:
        if recompute.granularity == "full":
            return {**terms.kept_bytes, **terms.kept_recomputed_bytes}
        return {piece: size - freed_bytes(terms, recompute, piece) for piece, size in terms.kept_bytes.items()}


def _inside(one: Recompute, other: Recompute) -> bool:
    """Whether one setting's modules are some of another's, which has more."""
    return other.granularity != "full" and set(one.modules) < set(other.modules)


def _most(memory: MemoryTerms, settings: Sequence[Recompute], piece: Piece) -> Number:
    """The most that any of the settings frees of a piece."""
    first, *rest = (freed_bytes(memory, setting, piece) for setting in settings)
    return maximum(first, *rest)
