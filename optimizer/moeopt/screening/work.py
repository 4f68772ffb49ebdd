"""Bounds on the step time from the work of all pieces together, valid for every placement."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import piece_counts, priced_total
from moeopt.accounting.time.step_end import step_end_ns
from moeopt.accounting.time.terms import TimeTerms
from moeopt.arithmetic import Number, ceil_div, maximum
from moeopt.layout import Degrees
from moeopt.problem.problem import Problem
from moeopt.schedule.placement_bound import placement_lower_bound, plain_lower_bound, replay_lower_bound
from moeopt.screening.limits import Column

_ROUNDING_NS = 1
"""A step's end is rounded up once: a bound on its mean gives that much away."""


@dataclass(frozen=True)
class Work:
    """Time of all pieces together for one micro-batch, and the step's end at the mean rank (columns)."""

    forward_ns: Number
    backward_ns: Number
    end_ns: Number

    @classmethod
    def of(
        cls,
        problem: Problem,
        degrees: Degrees,
        time: TimeTerms,
        memory: MemoryTerms,
        added_ns: Number = 0,
        most_added_ns: Number | None = None,
    ) -> "Work":
        """From the terms, and what recomputing adds to the backward pass. The end is convex in a rank's elements and
        time, so the worst rank is no better than the mean one; a longer backward pass hides more of it: where
        `added_ns` is a bound, no more is added than `most_added_ns`."""
        counts = piece_counts(problem)
        forward = priced_total(counts, time.forward_ns)
        backward = priced_total(counts, time.backward_ns) + added_ns
        dense = priced_total(counts, memory.dense_elements) // degrees.pp
        expert = priced_total(counts, memory.expert_elements) // degrees.pp
        longer = 0 if most_added_ns is None else most_added_ns - added_ns
        update = time.step_end.updates_ns(counts) // degrees.pp
        end = step_end_ns(time, dense, expert, ceil_div(forward + backward + longer, degrees.pp), update)
        return cls(forward, backward, maximum(sum(end.values()) - _ROUNDING_NS, 0))

    def at_least(self, backward_ns: Number) -> "Work":
        """The same with no less time for the backward passes."""
        return replace(self, backward_ns=maximum(self.backward_ns, backward_ns))

    @classmethod
    def concatenate(cls, parts: Sequence["Work"]) -> "Work":
        """Columns one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def rows(self, index: NDArray[np.int64], size: int) -> "Work":
        """Some rows of so many."""
        values = (self.forward_ns, self.backward_ns, self.end_ns)
        return Work(*(np.broadcast_to(np.asarray(value), (size,))[index] for value in values))


def work_bound(degrees: Degrees, work: Work) -> Column:
    """Nanoseconds of a step that no placement, no number of chunks and no schedule goes below: the busiest rank runs
    its share."""
    share = ceil_div(work.forward_ns + work.backward_ns, degrees.pp)
    return np.asarray(degrees.num_microbatches * share + work.end_ns)


def filled_bound(degrees: Degrees, work: Work, interleaves: NDArray[np.bool_], ep_overlap: bool) -> Column:
    """The same where no batch is larger. One micro-batch takes all the work, from its first forward to its last
    backward pass; rows that cannot be interleaved, with more micro-batches neither, fill and drain as 1F1B does. Both
    hold for the ledger and for the replay, and grow with the micro-batches."""
    work_ns = work.forward_ns + work.backward_ns
    plain = plain_lower_bound(degrees.pp, degrees.num_microbatches, work_ns, work.backward_ns, ep_overlap=ep_overlap)
    return np.asarray(maximum(work_bound(degrees, work), np.where(interleaves, work_ns, plain) + work.end_ns))


def time_bound(
    degrees: Degrees,
    work: Work,
    hop_ns: Number,
    pieces: list[tuple[int, Number]],
    ep_overlap: bool,
    replayed: bool = False,
) -> Column:
    """Nanoseconds of a step that no placement on these pipeline grids goes below; `replayed`: of a replayed step.

    `pieces` lists (count, forward + backward ns) of indivisible pieces.
    """
    if replayed:
        shape = degrees.pp, degrees.vpp, degrees.num_microbatches
        pipeline = replay_lower_bound(shape, work.forward_ns, work.backward_ns, hop_ns, pieces, ep_overlap)
        return np.asarray(pipeline + work.end_ns)
    pipeline = placement_lower_bound(
        degrees.pp,
        degrees.vpp,
        degrees.num_microbatches,
        degrees.interleave_group,
        work.forward_ns,
        work.backward_ns,
        hop_ns,
        pieces,
        ep_overlap,
    )
    return np.asarray(pipeline + work.end_ns)
