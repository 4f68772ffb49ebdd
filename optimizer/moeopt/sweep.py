"""The array reader: the ledger's terms over columns of degrees, and bounds that hold for every pipeline layout.

    time bound    no placement of the layers of this row is faster
    memory bound  no placement of the layers of this row needs less on its fullest rank

Both are valid for all placements at once, so a row whose time bound is above a known layout's time, or whose memory
bound is above the limit, can be dropped with the proof intact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.step_end import step_end_ns
from moeopt.accounting.time.terms import TimeTerms
from moeopt.arithmetic import Number, ceil_div, maximum, minimum
from moeopt.layout import Degrees
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import placement_lower_bound

Column = NDArray[np.int64]
_ROUNDING_NS = 1
"""A step's end is rounded up once: a bound on its mean gives that much away."""


def piece_counts(problem: Problem) -> dict[Piece, int]:
    """How many of each piece the whole architecture holds."""
    counts: dict[Piece, int] = {}
    for kind in problem.architecture.layers:
        counts[kind] = counts.get(kind, 0) + 1
    counts["embedding"] = counts["loss"] = 1
    if problem.mtp_layers:
        counts["mtp"] = problem.mtp_layers
    return counts


@dataclass(frozen=True)
class Work:
    """Time of all pieces together for one micro-batch, and the step's end at the mean rank (columns)."""

    forward_ns: Number
    backward_ns: Number
    end_ns: Number

    @classmethod
    def of(cls, problem: Problem, degrees: Degrees, time: TimeTerms, memory: MemoryTerms) -> "Work":
        """From the terms. The end is convex in a rank's elements and time, so the worst rank is no better than the
        mean one."""
        counts = piece_counts(problem)
        forward, backward = total(counts, time.forward_ns), total(counts, time.backward_ns)
        dense = total(counts, memory.dense_elements) // degrees.pp
        expert = total(counts, memory.expert_elements) // degrees.pp
        end = step_end_ns(time, dense, expert, ceil_div(forward + backward, degrees.pp))
        return cls(forward, backward, maximum(sum(end.values()) - _ROUNDING_NS, 0))


def work_bound(degrees: Degrees, work: Work) -> Column:
    """Nanoseconds of a step that no placement and no number of chunks goes below: the busiest rank runs its share."""
    share = ceil_div(work.forward_ns + work.backward_ns, degrees.pp)
    return np.asarray(degrees.num_microbatches * share + work.end_ns)


def time_bound(
    degrees: Degrees, work: Work, hop_ns: Number, pieces: list[tuple[int, Number]], ep_overlap: bool
) -> Column:
    """Nanoseconds of a step that no placement on these pipeline grids goes below.

    `pieces` lists (count, forward + backward ns) of indivisible pieces.
    """
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


@dataclass(frozen=True)
class Footprint:
    """Bytes by piece that stay (weights, gradients, optimizer) and that one micro-batch in flight keeps; what passes
    on every rank that runs a layer; what a rank holds besides."""

    static: Mapping[Piece, Number]
    kept: Mapping[Piece, Number]
    passing: Number
    fixed: Number

    @classmethod
    def of(cls, terms: MemoryTerms, recomputed: bool) -> "Footprint":
        """From the terms; `recomputed` tells full recompute."""
        kept = {**terms.kept_bytes, **(terms.kept_recomputed_bytes if recomputed else {})}
        layers = [size for piece, size in terms.transient_bytes.items() if piece not in ("embedding", "loss")]
        return cls(
            {piece: _static_bytes(terms, piece) for piece in terms.kept_bytes},
            kept,
            minimum(layers[0], *layers[1:]),
            terms.overhead_bytes,
        )


def memory_bound(problem: Problem, degrees: Degrees, footprint: Footprint) -> Column:
    """Bytes that the fullest rank of these rows needs at least, however layers are placed.

    Any weighted mean over ranks bounds the maximum from below. The weights make every rank equally full when each holds
    its share of the commonest layer kind; a rank's other pieces count at the rank where they are cheapest. Passing
    bytes count on the ranks that cannot be empty: all but the first and the last.
    """
    counts = piece_counts(problem)
    main = max(problem.architecture.kinds, key=lambda kind: counts[kind])
    rows = len(degrees.pp)
    weights, passing = np.zeros(rows), np.zeros(rows)
    cheapest = {piece: np.full(rows, np.inf) for piece in counts}
    for rank in range(int(np.max(degrees.pp, initial=1))):
        active = rank < degrees.pp
        flight = _flight_at_least(degrees, minimum(rank, degrees.pp - 1))
        scale = np.where(active, 1.0 / np.maximum(footprint.static[main] + flight * footprint.kept[main], 1), 0.0)
        weights += scale
        if rank:
            passing += np.where(rank < degrees.pp - 1, scale, 0.0)
        for piece in counts:
            price = scale * (footprint.static[piece] + flight * footprint.kept[piece])
            np.minimum(cheapest[piece], np.where(active, price, np.inf), out=cheapest[piece])
    mean = sum(count * cheapest[piece] for piece, count in counts.items()) + passing * footprint.passing
    # These floats round by less than one part in 10^12; giving away one part in 10^9 keeps the bound valid.
    return np.asarray(mean / weights * (1 - 1e-9)).astype(np.int64) + footprint.fixed


def _flight_at_least(degrees: Degrees, rank: Number) -> Number:
    """Micro-batches in flight that every layer of a rank counts with at least, in one and the same vector.

    1F1B: min(M, pp - rank). Interleaved: when the last chunk is fullest it holds min(group, M, 2 (pp - 1 - rank) + 1)
    micro-batches, and no earlier chunk holds fewer then (tested against the exact vectors).
    """
    plain = minimum(degrees.num_microbatches, degrees.pp - rank)
    chunked = minimum(degrees.num_microbatches, degrees.interleave_group, 2 * (degrees.pp - 1 - rank) + 1)
    return np.where(degrees.vpp == 1, plain, chunked)


def _static_bytes(terms: MemoryTerms, piece: Piece) -> Number:
    """Weights, gradients and optimizer state of one piece, unpadded and rounded down."""
    replicated = terms.weight_bytes_per_element + terms.gradient_bytes_per_element
    state = terms.optimizer_bytes_per_shard_element
    bytes_: Number = terms.quantized_bytes[piece]
    for elements, shards in (
        (terms.dense_elements[piece], terms.dense_shards),
        (terms.expert_elements[piece], terms.expert_shards),
    ):
        bytes_ = bytes_ + elements * replicated + elements * state.numerator // (state.denominator * shards)
    return bytes_


def total(counts: Mapping[Piece, int], prices: Mapping[Piece, Number]) -> Number:
    """Counts times prices."""
    return sum(count * prices[piece] for piece, count in counts.items())
