"""What each recompute setting adds in time and frees in memory, over rows of one mode."""

import numpy as np

from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece, piece_counts
from moeopt.accounting.time.terms import time_terms
from moeopt.arithmetic import Number
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
        costs = Costs.of(self.problem, terms, kept, piece_ns, rows, self.time.forward_ns, self.time.hop_ns)
        degrees, work = select(self.degrees, index), self._work(recompute).rows(index, rows)
        none = np.zeros(len(index), dtype=np.int64)
        return Pair(self.mode, recompute, degrees, time[index], none, work, costs.rows(index), none > 0)

    def _work(self, recompute: Recompute) -> Work:
        added = sum(count * added_ns(self.time, recompute, piece) for piece, count in self.counts.items())
        return Work.of(self.problem, self.degrees, self.time, self.memory, added)

    def _piece_ns(self, recompute: Recompute) -> dict[Piece, Number]:
        forward, backward = self.time.forward_ns, self.time.backward_ns
        return {
            piece: forward[piece] + backward[piece] + added_ns(self.time, recompute, piece) for piece in self.counts
        }

    def _terms(self, recompute: Recompute) -> MemoryTerms:
        """Under full recompute its own; recomputing modules only ever makes more pass at once, so what passes with
        nothing recomputed is a lower bound."""
        if recompute.granularity != "full":
            return self.memory
        choices = self.mode.model_copy(update={"recompute": recompute})
        return memory_terms(self.problem, self.degrees, choices)

    @staticmethod
    def _kept(terms: MemoryTerms, recompute: Recompute) -> dict[Piece, Number]:
        if recompute.granularity == "full":
            return {**terms.kept_bytes, **terms.kept_recomputed_bytes}
        return {piece: size - freed_bytes(terms, recompute, piece) for piece, size in terms.kept_bytes.items()}
