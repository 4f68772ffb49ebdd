"""What each recompute setting adds in time and frees in memory, over rows of one mode."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property

import numpy as np

from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece, piece_counts, priced_total
from moeopt.accounting.time.terms import added_ns, time_terms
from moeopt.arithmetic import Number, maximum, minimum
from moeopt.candidate import freed_bytes
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from moeopt.screening.costs import Costs
from moeopt.screening.first_layers import deepest_stage, least_kept, spread_ns
from moeopt.screening.limits import Column, Limits
from moeopt.screening.pairs import Pair, longest_ns
from moeopt.screening.work import Work, time_bound
from moeopt.space import select

_MOST_CELLS = 2**15
"""Settings times rows whose bounds are computed at once."""


class RecomputeTable:
    """Prices of rows with nothing recomputed, and what a setting changes."""

    def __init__(self, problem: Problem, degrees: Degrees, mode: Choices, limits: Limits | None = None) -> None:
        self.problem, self.degrees, self.mode, self.limits = problem, degrees, mode, limits
        self.counts = piece_counts(problem)
        self.time = time_terms(problem, degrees, mode)
        self.memory = memory_terms(problem, degrees, mode)
        self._by_block: MemoryTerms | None = None

    @cached_property
    def _longest_ns(self) -> Number:
        """The longest stage of any placement within the limits, whatever is recomputed."""
        assert self.limits is not None
        return longest_ns(self.degrees, self._work(Recompute(), bound=True), self.limits)[0]

    def deepest(self, recompute: Recompute) -> Number:
        """Layers of a stage within the limits, at most."""
        layers = self.problem.architecture.num_hidden_layers
        if self.limits is None:
            return layers
        block = recompute.block_layers
        plain, added = self._by_kind(self._piece_ns(Recompute())), self._by_kind(self.time.full_recompute_ns)
        return minimum(deepest_stage(plain, self._longest_ns, added, block), layers)

    def _by_kind(self, prices: Mapping[Piece, Number]) -> dict[Piece, Number]:
        """Prices of decoder layers alone."""
        return {kind: prices[kind] for kind in self.problem.architecture.kinds}

    def time_bounds(
        self, settings: Sequence[Recompute], replayed: bool = False
    ) -> Iterator[tuple[Recompute, Work, Column]]:
        """The work under each recompute setting, and bounds on the step time, for several settings at once where rows
        are few."""
        at_once = max(_MOST_CELLS // max(len(self.degrees.tp), 1), 1)
        for first in range(0, len(settings), at_once):
            some = settings[first : first + at_once]
            works = [self._work(recompute) for recompute in some]
            yield from zip(some, works, self._time_bounds(some, works, replayed), strict=True)

    def _time_bounds(self, settings: Sequence[Recompute], works: Sequence[Work], replayed: bool) -> Column:
        """The same of some: settings x rows."""
        piece_ns = [self._piece_ns(recompute) for recompute in settings]
        pieces = [
            (count, self._stacked([prices[piece] for prices in piece_ns])) for piece, count in self.counts.items()
        ]
        work = Work(*(self._stacked([getattr(each, field.name) for each in works]) for field in fields(Work)))
        return time_bound(self.degrees, work, self.time.hop_ns, pieces, self.mode.overlap.ep_all_to_all, replayed)

    def _stacked(self, columns: Sequence[Number]) -> Column:
        shape = self.degrees.tp.shape
        return np.stack([np.broadcast_to(np.asarray(column, dtype=np.int64), shape) for column in columns])

    def pair(self, recompute: Recompute, work: Work, index: Column, time: Column) -> Pair:
        """Some rows under a setting; the bound on their memory is left open."""
        rows = len(self.degrees.tp)
        terms = self._terms(recompute)
        kept, block = self._kept(terms, recompute), recompute.block_layers
        prices = (self._piece_ns(Recompute() if block else recompute), rows, self.time.forward_ns, self.time.hop_ns)
        added = self.time.full_recompute_ns if block else None
        costs = Costs.of(terms, kept, *prices, block, added)
        degrees, none = select(self.degrees, index), np.zeros(len(index), dtype=np.int64)
        held = work.rows(index, rows), costs.rows(index)
        return Pair(self.mode, recompute, degrees, time[index], none, *held, none > 0)

    def least_work(self, settings: Sequence[Recompute]) -> Work:
        """Work under the cheapest of some settings. No module costs less than nothing, so a setting with a part of
        another's modules is no slower, and a step never gets shorter by more work: only the least sets can be it."""
        least = [setting for setting in settings if not any(_inside(other, setting) for other in settings)]
        added = [priced_total(self.counts, self._added_ns(setting)) for setting in _fewest_layers(least)]
        return Work.of(self.problem, self.degrees, self.time, self.memory, minimum(added[0], *added[1:]))

    def lightest(self, settings: Sequence[Recompute]) -> list[Costs]:
        """Bytes such that under any of some settings the rows need at least what one of the elements says: full
        recompute apart, which keeps least but has most pass at once; by block as if it were of all layers. Of the sets
        of modules, each piece keeps, and has pass, what it does under the set that is best for that piece; no module
        frees less than nothing, so only the largest sets can be it."""
        rows = len(self.degrees.tp)
        full = [setting for setting in settings if setting.method == "uniform"]
        sets = [setting for setting in settings if setting.granularity != "full"]
        own = [(terms, self._kept(terms, setting)) for setting in full for terms in [self._terms(setting)]]
        costs = [Costs.of(terms, kept, {}, rows) for terms, kept in own]
        if any(setting.block_layers for setting in settings):
            costs.append(self._all_by_block(next(setting for setting in settings if setting.block_layers), rows))
        largest = [setting for setting in sets if not any(_inside(setting, other) for other in sets)]
        if largest:
            freed = {piece: _most(self.memory, largest, piece) for piece in self.memory.kept_bytes}
            kept = {piece: size - freed[piece] for piece, size in self.memory.kept_bytes.items()}
            costs.append(Costs.of(self._passing(freed), kept, {}, rows))
        return costs

    def _all_by_block(self, recompute: Recompute, rows: int) -> Costs:
        """Bytes that the rows need at least under block recompute of any number of layers."""
        terms = self._terms(recompute)
        costs = Costs.of(terms, self._kept(terms, recompute), {}, rows, block_layers=1)
        return replace(costs, kept=least_kept(costs))

    def _added_ns(self, recompute: Recompute) -> dict[Piece, Number]:
        """What a setting adds to the backward pass of each piece; by block, what it adds at least."""
        if not recompute.block_layers:
            return {piece: added_ns(self.time, recompute, piece) for piece in self.counts}
        full = self._by_kind(self.time.full_recompute_ns)
        spread = spread_ns(full, recompute.block_layers, self.deepest(recompute))
        return {piece: spread if piece in full else 0 for piece in self.counts}

    def _work(self, recompute: Recompute, bound: bool = False) -> Work:
        """The work under a setting; with block, or `bound` (any setting that adds no less), a bound on it."""
        added = priced_total(self.counts, self._added_ns(recompute))
        most = priced_total(self.counts, self.time.full_recompute_ns) if bound or recompute.block_layers else None
        return Work.of(self.problem, self.degrees, self.time, self.memory, added, most)

    def _piece_ns(self, recompute: Recompute) -> dict[Piece, Number]:
        forward, backward, added = self.time.forward_ns, self.time.backward_ns, self._added_ns(recompute)
        return {piece: forward[piece] + backward[piece] + added[piece] for piece in self.counts}

    def _terms(self, recompute: Recompute) -> MemoryTerms:
        """Under full recompute its own (by block the same for any number of layers); under a set of modules those of
        nothing recomputed, with no more passing than the set's."""
        if recompute.granularity == "full":
            if recompute.block_layers and self._by_block is not None:
                return self._by_block
            terms = memory_terms(self.problem, self.degrees, self.mode.with_recompute(recompute))
            self._by_block = terms if recompute.block_layers else self._by_block
            return terms
        return self._passing({piece: freed_bytes(self.memory, recompute, piece) for piece in self.memory.kept_bytes})

    def _passing(self, freed: Mapping[Piece, Number]) -> MemoryTerms:
        """The terms of nothing recomputed as a lower bound for sets of modules that free at most so much. What such a
        set brings back passes beside the rest, so no less passes than with nothing recomputed; but where the expert
        all-to-all is overlapped, all that a forward layer keeps passes too, and that is less by what is freed."""
        if not self.mode.overlap.ep_all_to_all:
            return self.memory
        passing = {piece: size - freed[piece] for piece, size in self.memory.transient_bytes.items()}
        return replace(self.memory, transient_bytes=passing)

    def _kept(self, terms: MemoryTerms, recompute: Recompute) -> dict[Piece, Number]:
        """What each piece keeps; by block, where it is not recomputed."""
        if recompute.granularity == "full":
            return {piece: terms.kept_bytes[piece] for piece in self.counts}
        return {piece: size - freed_bytes(terms, recompute, piece) for piece, size in terms.kept_bytes.items()}


def _inside(one: Recompute, other: Recompute) -> bool:
    """Whether one setting's modules are some of another's, which has more."""
    return "full" not in (one.granularity, other.granularity) and set(one.modules) < set(other.modules)


def _fewest_layers(settings: Sequence[Recompute]) -> list[Recompute]:
    """The settings; of those by block only the one of the fewest layers, which adds least."""
    by_block = sorted((each for each in settings if each.block_layers), key=lambda each: each.block_layers)
    return [each for each in settings if not each.block_layers] + by_block[:1]


def _most(memory: MemoryTerms, settings: Sequence[Recompute], piece: Piece) -> Number:
    """The most that any of the settings frees of a piece."""
    first, *rest = (freed_bytes(memory, setting, piece) for setting in settings)
    return maximum(first, *rest)
