"""Bounds on the fullest rank's bytes from weighted means over ranks, valid for every placement."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.pieces import Piece, piece_counts
from moeopt.arithmetic import Number, maximum, minimum
from moeopt.layout import Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column
from moeopt.space import select


def memory_bound(problem: Problem, degrees: Degrees, costs: Costs) -> Column:
    """Bytes that the fullest rank of these rows needs at least, however layers are placed. Layers have a price each
    here (`first_layers.by_layer`).

    Any weighted mean over ranks bounds the maximum from below. The weights make every rank equally full when each holds
    its share of the commonest layer kind; a rank's other pieces count at the rank where they are cheapest. What running
    a layer takes (d) counts on all ranks but the first and the last, what the loss takes on the last. Ranks behind the
    MTP modules may be empty, say of weight e of W, A being the weighted bytes of the others: the fullest of these has
    A / (W - e) at least, and d. One of the two is no less than the (A + e d) / W that is returned.
    """
    counts, main = piece_counts(problem), _commonest(problem)
    order = _deepest_first(degrees)
    degrees, rows = select(degrees, order), len(order)
    static, kept = ({piece: prices[piece][order] for piece in counts} for prices in (costs.static, costs.kept))
    layer, loss, chunk_kept = costs.layer[order], costs.loss[order], costs.chunk_kept[order]
    weights, running, chunks = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    cheapest = {piece: np.full(rows, np.inf) for piece in counts}
    for rank, flight, scale in _weighted_ranks(degrees, static[main], kept[main]):
        some = slice(len(scale))
        weights[some] += scale
        chunks[some] += scale * flight * degrees.vpp[some] * chunk_kept[some]
        last = degrees.pp[some] == rank + 1
        running[some] += scale * np.where(last, loss[some], layer[some] if rank else 0)
        for piece in counts:
            price = scale * (static[piece][some] + flight * kept[piece][some])
            np.minimum(cheapest[piece][some], price, out=cheapest[piece][some])
    mean = sum(count * cheapest[piece] for piece, count in counts.items()) + running + chunks
    return np.asarray(_at(order, _floored(mean / weights)) + costs.fixed)


def least_recomputed(
    problem: Problem, degrees: Degrees, costs: Costs, densest: Mapping[Piece, Number], longest_ns: Column, most: int
) -> Column:
    """Layers that must be recomputed by block, all stages together, for the fullest rank to have no more than `most`
    bytes: with none recomputed it has at least what the two bounds say, and each one lowers them by no more than what
    it frees where that weighs most. (All of them where more would have to be: then none of the placements fits.)"""
    order, main = _deepest_first(degrees), _commonest(problem)
    total, most_in_flight = np.zeros(len(order)), np.zeros(len(order))
    for _, flight, scale in _weighted_ranks(select(degrees, order), costs.static[main][order], costs.kept[main][order]):
        some = slice(len(scale))
        total[some] += scale
        np.maximum(most_in_flight[some], scale * flight, out=most_in_flight[some])
    weights, heaviest = _at(order, total), _at(order, most_in_flight)
    freed = np.maximum(costs.most_freed_bytes, 1)
    over = np.maximum(memory_bound(problem, degrees, costs) - most, 0) * weights / (heaviest * freed)
    chunked = np.maximum(chunked_memory_bound(problem, degrees, costs, densest, longest_ns) - most, 0)
    deep = minimum(degrees.num_microbatches, degrees.interleave_group)
    layers = np.maximum(over, chunked * degrees.pp / (deep * freed))
    return _floored(np.minimum(layers, problem.architecture.num_hidden_layers))


def _deepest_first(degrees: Degrees) -> Column:
    """Rows by their pipeline stages, most first, so that those with a rank are the first ones."""
    return np.argsort(-degrees.pp, kind="stable")


def _at(order: Column, column: NDArray[Any]) -> NDArray[Any]:
    """A column of sorted rows in their own order."""
    result = np.empty_like(column)
    result[order] = column
    return result


def _weighted_ranks(degrees: Degrees, static: Number, kept: Number) -> Iterator[tuple[int, Column, Column]]:
    """(rank, micro-batches in flight at least, weight) of every rank, for the rows that have it: the first ones where
    they are sorted (`_deepest_first`). `static`, `kept`: bytes of the commonest layer."""
    for rank in range(int(np.max(degrees.pp, initial=1))):
        some = slice(np.count_nonzero(degrees.pp > rank))
        flight = np.asarray(_flight_at_least(select(degrees, some), rank))
        yield rank, flight, 1.0 / np.maximum(static[some] + flight * kept[some], 1)


def chunked_memory_bound(
    problem: Problem, degrees: Degrees, costs: Costs, densest: Mapping[Piece, Number], longest_ns: Column
) -> Column:
    """The same for interleaved rows none of whose chunks takes longer than `longest_ns`; zero where vpp is 1. `densest`
    are bytes that no layer of a kind keeps more than for each nanosecond that it takes.

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
    most: Number = 0.0
    for kind in problem.architecture.kinds:
        final = max(index for index, layer in enumerate(problem.architecture.layers) if layer == kind)
        reaches = final >= (degrees.vpp - 1) * degrees.pp - 1
        most = maximum(most, np.where(reaches, densest[kind], 0.0))
    held: Number = deep * degrees.pp * degrees.vpp * costs.chunk_kept
    for piece, count in counts.items():
        flight = 1 if piece in ("mtp", "loss") else deep
        held = held + count * (costs.static[piece] + flight * costs.kept[piece])
    running = (degrees.pp - 1) * costs.layer + maximum(costs.loss, costs.layer)
    mean = (held + running - saved * (longest_ns * most + maximum(costs.chunk_kept, 0))) / degrees.pp
    return np.where(degrees.vpp > 1, _floored(mean) + costs.fixed, 0)


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
