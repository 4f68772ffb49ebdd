"""Rows whose chunks and recompute setting are decided, with their bounds and what their layers cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.pieces import piece_counts, priced_total
from moeopt.constraints.guide import allowed
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.problem import Problem
from moeopt.schedule.chunk_cap import longest_chunk_ns, longest_rank_ns
from moeopt.screening.average import chunked_memory_bound, least_recomputed, memory_bound
from moeopt.screening.capacity import Ceilings, can_hold
from moeopt.screening.costs import Costs
from moeopt.screening.first_layers import by_layer, densest, least
from moeopt.screening.limits import Column, Limits
from moeopt.screening.work import Work, time_bound
from moeopt.space import concatenate, select


@dataclass(frozen=True)
class Pair:
    """Rows of one mode and recompute setting; all fields columns of one length."""

    mode: Choices
    recompute: Recompute
    degrees: Degrees
    time: Column
    """Bound on the step time (ns)."""
    memory: Column
    """Bound on the fullest rank's bytes."""
    work: Work
    costs: Costs
    raised: NDArray[np.bool_]
    """Rows whose time bound has been raised by duality."""

    @property
    def size(self) -> int:
        """Rows."""
        return len(self.time)

    @property
    def choices(self) -> Choices:
        """The mode with the recompute setting."""
        return self.mode.with_recompute(self.recompute)

    def allowed(self, problem: Problem) -> NDArray[np.bool_]:
        """Rows for which some placement may satisfy the problem's constraints, as far as the bounds tell."""
        return allowed(problem, self.degrees, self.choices, self.time, self.memory)

    def only(self, mask: NDArray[np.bool_]) -> "Pair":
        """Some of the rows."""
        work = self.work.rows(np.flatnonzero(mask), self.size)
        degrees, costs = select(self.degrees, mask), self.costs.rows(np.flatnonzero(mask))
        time, memory, raised = self.time[mask], self.memory[mask], self.raised[mask]
        return Pair(self.mode, self.recompute, degrees, time, memory, work, costs, raised)


def bounded(problem: Problem, pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """What is left of the pairs within limits, with their memory bounds: by these, then by counting rank by rank."""
    return tightened(problem, weighed(problem, pairs, limits), limits)


def weighed(problem: Problem, pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """The pairs with their memory bounds, most of those that are too heavy left out; nothing is counted."""
    pairs = [_with_recomputed(problem, pair, limits) for pair in pairs]
    pairs = _light(problem, [pair for pair in pairs if pair.size], limits)
    if not pairs:
        return []
    rows = Joined(pairs, limits)
    memory = np.maximum.reduce(
        [
            bound
            for costs in by_layer(rows.costs, rows.chunk_ns)
            for bound in (
                memory_bound(problem, rows.degrees, costs),
                chunked_memory_bound(problem, rows.degrees, costs, densest(rows.costs), rows.chunk_ns),
            )
        ]
    )
    return [replace(pair, memory=part) for pair, part in zip(pairs, rows.split(memory), strict=True)]


def _light(problem: Problem, pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """Without the rows that are too heavy whatever their chunks take. (By block a layer's bytes depend on that.)"""
    if not pairs:
        return []
    rows = Joined(pairs, limits)
    light = memory_bound(problem, rows.degrees, rows.costs) <= limits.memory_bytes
    light |= np.asarray(rows.costs.block_layers > 0)
    return [pair.only(mask) for pair, mask in zip(pairs, rows.split(light), strict=True) if mask.any()]


def _with_recomputed(problem: Problem, pair: Pair, limits: Limits) -> Pair:
    """By block, how many layers are recomputed depends on the placement: what memory asks for is work too. Rows whose
    time is above the limit then are left out."""
    if not pair.recompute.block_layers:
        return pair
    longest, _ = longest_ns(pair.degrees, pair.work, limits)
    dense, costs = densest(pair.costs), pair.costs
    layers = least_recomputed(problem, pair.degrees, costs, dense, longest, limits.memory_bytes)
    counts = piece_counts(problem)
    plain = priced_total(counts, {piece: costs.time[piece] - costs.forward[piece] for piece in counts})
    work = pair.work.at_least(plain + layers * least(costs.added_ns))
    time = {**costs.time, **by_layer(costs, longest)[0].time}
    bound = time_bound(
        pair.degrees,
        work,
        costs.hop_ns,
        [(count, time[piece]) for piece, count in counts.items()],
        pair.mode.overlap.ep_all_to_all,
        limits.replayed,
    )
    found = replace(pair, work=work, time=np.maximum(pair.time, bound))
    return found.only(found.time <= limits.time_of(pair.degrees))


def tightened(problem: Problem, pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """What is left of pairs with known bounds within limits."""
    near = [
        pair.only((pair.time <= limits.time_of(pair.degrees)) & (pair.memory <= limits.memory_bytes)) for pair in pairs
    ]
    if problem.constraints:
        near = [pair.only(pair.allowed(problem)) for pair in near if pair.size]
    near = [pair for pair in near if pair.size]
    if not near:
        return []
    rows = Joined(near, limits)
    overlap = np.concatenate([np.full(pair.size, pair.mode.overlap.ep_all_to_all) for pair in near])
    ceilings = Ceilings(rows.chunk_ns, rows.rank_ns, limits.memory_bytes)
    all_rows, *others = by_layer(rows.costs, rows.chunk_ns)
    can = can_hold(problem, rows.degrees, all_rows, ceilings, overlap)
    for costs in others:
        index = np.flatnonzero(can & (costs.block_layers > 0))
        can[index] = can_hold(
            problem, select(rows.degrees, index), costs.rows(index), ceilings.rows(index), overlap[index]
        )
    left = [pair.only(mask) for pair, mask in zip(near, rows.split(can), strict=True)]
    return [pair for pair in left if pair.size]


def longest_ns(degrees: Degrees, work: Work, limits: Limits) -> tuple[Column, Column]:
    """The longest chunk and the longest rank (ns, one micro-batch) of any placement within the limits."""
    total_ns = np.asarray(work.forward_ns + work.backward_ns)
    left_ns = limits.time_of(degrees) - work.end_ns
    if limits.replayed:
        # A replayed step is at least what each rank does.
        share = left_ns // degrees.num_microbatches
        return share, share
    shape = (degrees.pp, degrees.vpp, degrees.num_microbatches)
    chunk_ns = longest_chunk_ns(*shape, degrees.interleave_group, total_ns, left_ns)
    return chunk_ns, longest_rank_ns(*shape, total_ns, left_ns)


class Joined:
    """The rows of all pairs one after the other."""

    def __init__(self, pairs: Sequence[Pair], limits: Limits) -> None:
        self.degrees = concatenate([pair.degrees for pair in pairs])
        self.costs = Costs.concatenate([pair.costs for pair in pairs])
        self._ends = np.cumsum([pair.size for pair in pairs])[:-1]
        self.work = Work.concatenate([pair.work for pair in pairs])
        self._limits = limits

    @cached_property
    def _longest_ns(self) -> tuple[Column, Column]:
        return longest_ns(self.degrees, self.work, self._limits)

    @property
    def chunk_ns(self) -> Column:
        """The longest chunk (ns, one micro-batch) of any placement within the limits."""
        return self._longest_ns[0]

    @property
    def rank_ns(self) -> Column:
        """The longest rank."""
        return self._longest_ns[1]

    def split(self, column: NDArray[Any]) -> list[NDArray[Any]]:
        """A column of all rows by pair."""
        return np.split(column, self._ends)
