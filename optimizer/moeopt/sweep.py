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
from moeopt.problem.architecture import LayerKind
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
    """Bytes by piece that stay (weights, gradients, optimizer) and that one micro-batch in flight keeps; what a rank
    that runs a layer holds besides (passing and present), what the rank with the loss does, and what any rank does."""

    static: Mapping[Piece, Number]
    kept: Mapping[Piece, Number]
    layer: Number
    loss: Number
    fixed: Number

    @classmethod
    def of(cls, problem: Problem, terms: MemoryTerms, recomputed: bool) -> "Footprint":
        """From the terms; `recomputed` tells full recompute."""
        kept = {**terms.kept_bytes, **(terms.kept_recomputed_bytes if recomputed else {})}
        passing = [
            size - terms.queued_bytes.get(piece, 0)
            for piece, size in terms.transient_bytes.items()
            if piece not in ("embedding", "loss")
        ]
        blocks = [terms.present_bytes.get(kind.ffn, 0) for kind in problem.architecture.kinds]
        return cls(
            {piece: _static_bytes(terms, piece) for piece in terms.kept_bytes},
            kept,
            minimum(passing[0], *passing[1:]) + terms.present_bytes.get("layer", 0) + minimum(blocks[0], *blocks[1:]),
            terms.transient_bytes["loss"] + terms.present_bytes.get("loss", 0),
            terms.overhead_bytes,
        )

    def rows(self, keep: NDArray[np.bool_]) -> "Footprint":
        """The same for some of the rows."""

        def cut(value: Number) -> Number:
            return value[keep] if isinstance(value, np.ndarray) and value.ndim else value

        static = {piece: cut(value) for piece, value in self.static.items()}
        kept = {piece: cut(value) for piece, value in self.kept.items()}
        return Footprint(static, kept, cut(self.layer), cut(self.loss), cut(self.fixed))


def memory_bound(problem: Problem, degrees: Degrees, footprint: Footprint) -> Column:
    """Bytes that the fullest rank of these rows needs at least, however layers are placed.

    Any weighted mean over ranks bounds the maximum from below. The weights make every rank equally full when each holds
    its share of the commonest layer kind; a rank's other pieces count at the rank where they are cheapest. What running
    a layer takes counts on the ranks that cannot be empty (all but the first and the last), what the loss takes on the
    last.
    """
    counts = piece_counts(problem)
    main = _commonest(problem)
    rows = len(degrees.pp)
    weights, running = np.zeros(rows), np.zeros(rows)
    cheapest = {piece: np.full(rows, np.inf) for piece in counts}
    for rank in range(int(np.max(degrees.pp, initial=1))):
        active = rank < degrees.pp
        flight = _flight_at_least(degrees, minimum(rank, degrees.pp - 1))
        scale = np.where(active, 1.0 / np.maximum(footprint.static[main] + flight * footprint.kept[main], 1), 0.0)
        weights += scale
        inner = (rank > 0) & (rank < degrees.pp - 1)
        running += np.where(
            inner, scale * footprint.layer, np.where(rank == degrees.pp - 1, scale * footprint.loss, 0.0)
        )
        for piece in counts:
            price = scale * (footprint.static[piece] + flight * footprint.kept[piece])
            np.minimum(cheapest[piece], np.where(active, price, np.inf), out=cheapest[piece])
    mean = sum(count * cheapest[piece] for piece, count in counts.items()) + running
    return np.asarray(_floored(mean / weights) + footprint.fixed)


def chunked_memory_bound(
    problem: Problem, degrees: Degrees, footprint: Footprint, longest_ns: Column, layer_ns: Mapping[Piece, Number]
) -> Column:
    """The same for interleaved rows none of whose chunks takes longer than `longest_ns`; zero where vpp is 1.

    In the vector at the end of the warm-up a rank holds min(group, M) micro-batches of every chunk but the last, and
    min(group, M, 2 (pp - 1 - rank) + 1) of the last, so only the layers of last chunks come off cheaper, and in the
    time given they are few. A last chunk starts at layer (vpp - 1) pp - 1 or later (inner stages are not empty), so
    kinds that only come earlier are not in it. Every rank has a stage that is neither first nor last, so every rank
    runs a layer. Plain mean over ranks.
    """
    counts = piece_counts(problem)
    deep = minimum(degrees.num_microbatches, degrees.interleave_group)
    saved = np.zeros(len(degrees.pp))
    for rank in range(int(np.max(degrees.pp, initial=1))):
        last = minimum(deep, 2 * maximum(degrees.pp - 1 - rank, 0) + 1)
        saved += np.where(rank < degrees.pp, deep - last, 0)
    densest: Number = 0.0
    for kind in problem.architecture.kinds:
        final = max(index for index, layer in enumerate(problem.architecture.layers) if layer == kind)
        reaches = final >= (degrees.vpp - 1) * degrees.pp - 1
        densest = maximum(densest, np.where(reaches, footprint.kept[kind] / maximum(layer_ns[kind], 1), 0.0))
    held: Number = 0
    for piece, count in counts.items():
        flight = 1 if piece in ("mtp", "loss") else deep
        held = held + count * (footprint.static[piece] + flight * footprint.kept[piece])
    running = (degrees.pp - 1) * footprint.layer + maximum(footprint.loss, footprint.layer)
    mean = (held + running - saved * longest_ns * densest) / degrees.pp
    return np.where(degrees.vpp > 1, _floored(mean) + footprint.fixed, 0)


def packed_memory_bound(
    problem: Problem,
    degrees: Degrees,
    footprint: Footprint,
    longest: tuple[Column, Column],
    piece_ns: Mapping[Piece, Number],
) -> Column:
    """The same from counting, given how long a chunk and how long a rank may take (`longest`).

    In that time they hold few layers of the commonest kind each, so when almost all of the room is needed every rank
    must be nearly full. Asked of the first rank, the first one beyond the leading kinds, and the last; the other kinds'
    own bytes are ignored. A placement that cannot hold all layers is bounded by the largest integer.
    """
    main = _commonest(problem)
    in_chunks = _Packing.of(problem, main, degrees.pp * degrees.vpp, longest[0], piece_ns)
    in_ranks = _Packing.of(problem, main, degrees.pp, longest[1], piece_ns)
    impossible = (in_chunks.spare < 0) | (in_ranks.spare < 0)
    result = np.where(impossible, np.iinfo(np.int64).max, 0)
    full = degrees.vpp * in_chunks.most
    for rank in (0 * degrees.pp, minimum(in_chunks.ahead, degrees.pp - 1), degrees.pp - 1):
        by_chunk = full - in_chunks.missing(rank, degrees.pp - 1)
        by_rank = in_ranks.most - in_ranks.missing(rank, degrees.pp - 1)
        layers = maximum(by_chunk, by_rank, 0)
        first, inner, last = _warm_flight(degrees, rank)
        flight = np.where(degrees.vpp == 1, first, first + (degrees.vpp - 2) * inner + last) * in_chunks.most
        kept = maximum(flight - maximum(full - layers, 0) * first, 0) * footprint.kept[main]
        special = np.where(rank == 0, footprint.static["embedding"], 0) + np.where(
            rank == degrees.pp - 1,
            footprint.static["loss"] + maximum(footprint.loss, footprint.layer),
            footprint.layer,
        )
        size = layers * footprint.static[main] + kept + np.where(layers > 0, special, 0) + footprint.fixed
        result = np.where(impossible, result, np.maximum(result, size))
    return result


@dataclass(frozen=True)
class _Packing:
    """Units (chunks or ranks) of limited time, filled with layers of the commonest kind.

    A unit holds at most `most`, fewer beside the loss or the MTP modules (`lost`) and where leading kinds are
    (`displaced`, in the first `ahead` units); `spare` is the room for more layers than there are.
    """

    most: Number
    lost: Number
    displaced: Number
    ahead: Number
    spare: Number

    @classmethod
    def of(
        cls, problem: Problem, main: LayerKind, units: Number, longest_ns: Column, piece_ns: Mapping[Piece, Number]
    ) -> "_Packing":
        """From the time of a unit and of each piece."""
        price = maximum(piece_ns[main], 1)
        most = longest_ns // price
        lost = most - _room_beside(longest_ns - piece_ns["loss"], price)
        if problem.mtp_layers:
            mtp_ns = problem.mtp_layers * piece_ns["mtp"]
            apart = lost + most - _room_beside(longest_ns - mtp_ns, price)
            lost = minimum(apart, most - _room_beside(longest_ns - mtp_ns - piece_ns["loss"], price))
        ahead, displaced = _displaced(problem, main, longest_ns, price, piece_ns, most)
        spare = units * most - lost - displaced - piece_counts(problem)[main]
        return cls(most, lost, displaced, ahead, spare)

    def missing(self, rank: Number, last: Number) -> Number:
        """Layers that a rank may lack of a full one, at most."""
        return self.spare + np.where(rank == last, self.lost, 0) + np.where(rank < self.ahead, self.displaced, 0)


def longest_rank_ns(degrees: Degrees, work_ns: Number, limit_ns: Number) -> Column:
    """The longest that one rank may take for one micro-batch when the ledger's pipeline time is within the limit.

    M times a rank's work is a row. 1F1B: the row is the time. Interleaved: the time is the middle of the rows and UB2,
    which is at least (M v + p - 1) times the mean chunk.
    """
    m, v, p = degrees.num_microbatches, degrees.vpp, degrees.pp
    surrogate = (m * v + p - 1) * (work_ns // (p * v))
    return np.asarray(np.where(v == 1, limit_ns // m, maximum(2 * limit_ns - surrogate, 0) // m))


def _displaced(
    problem: Problem,
    main: LayerKind,
    longest_ns: Column,
    price_ns: Number,
    piece_ns: Mapping[Piece, Number],
    most: Number,
) -> tuple[Number, Number]:
    """(units touched, layers of the main kind displaced) by the kinds that only come before it.

    Their time D touches n units of tau each, n at least ceil(D / tau) and at most one a layer; what is left of those
    holds floor((n tau - D) / t) at most. The n that displaces least counts. Zero where another kind comes between
    layers of the main one.
    """
    layers = problem.architecture.layers
    leading = layers.index(main)
    if any(layer != main for layer in layers[leading:]) or not leading:
        return 0 * longest_ns, 0 * longest_ns
    taken = sum(piece_ns[layer] for layer in layers[:leading])
    fewest: Number = leading * most
    for touched in range(1, leading + 1):
        left = touched * longest_ns - taken
        fewest = np.where(left >= 0, minimum(fewest, touched * most - left // price_ns), fewest)
    return ceil_div(taken, maximum(longest_ns, 1)), maximum(fewest, 0)


def _room_beside(left_ns: Number, price_ns: Number) -> Number:
    """Layers that fit into what is left of a chunk's time; none where it is already exceeded."""
    return maximum(left_ns // price_ns, 0)


def _warm_flight(degrees: Degrees, rank: Number) -> tuple[Number, Number, Number]:
    """Micro-batches in flight of the first, an inner and the last chunk right after the warm-up's next forward.

    1F1B: min(M, pp - rank). Interleaved: see `chunked_memory_bound`; the first chunk holds what exceeds a group too
    (tested against the exact vectors).
    """
    depth = 2 * (degrees.pp - 1 - rank) + 1
    group, microbatches = degrees.interleave_group, degrees.num_microbatches
    plain = minimum(microbatches, degrees.pp - rank)
    first = minimum(microbatches, group + maximum(0, depth - group))
    chunked = degrees.vpp > 1
    return (
        np.where(chunked, first, plain),
        np.where(chunked, minimum(microbatches, group), plain),
        np.where(chunked, minimum(microbatches, group, depth), plain),
    )


def _floored(value: Number) -> Column:
    """A float as an integer below it: floats here are wrong by less than one part in 10^12, this gives 10^9 away."""
    return np.asarray(value * (1 - np.sign(value) * 1e-9)).astype(np.int64)


def _commonest(problem: Problem) -> LayerKind:
    counts = piece_counts(problem)
    return max(problem.architecture.kinds, key=lambda kind: counts[kind])


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
