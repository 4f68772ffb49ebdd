"""Full recompute by block in bounds: what the first layers of every stage, recomputed, come to as a price a layer.

A stage of n layers recomputes r = min(n, N) of them. That is no sum over layers, but r is concave in n and zero at
zero, so with d layers at most on a stage
    r >= n * min(N, d) / d      what it adds to the time, spread over all layers;
    r <= n,  r <= N             what it takes off the bytes kept: as if every layer were recomputed; or as if none were,
                                less N times the most that one frees, a constant of each chunk.
Layers of several kinds: which of them come first depends on the placement, so each adds the least and frees the most
that any kind does.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, maximum, minimum, where
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column


def spread_ns(added_ns: Mapping[Piece, Number], block_layers: Number, deepest: Number) -> Number:
    """What each layer adds to the time at least, when the first `block_layers` of every stage add so much and no stage
    has more than `deepest`."""
    return least(added_ns) * minimum(block_layers, deepest) // deepest


def deepest_stage(
    time_ns: Mapping[Piece, Number], longest_ns: Number, added_ns: Mapping[Piece, Number], block_layers: Number
) -> Number:
    """Layers of a stage that takes no longer than this, at most (and at least 1): n that take n time + min(n, N) added,
    so at most longest / (time + added) if these are N or less, else (longest - N added) / time."""
    time, added = least(time_ns), least(added_ns)
    few = longest_ns // maximum(time + added, 1)
    many = (longest_ns - block_layers * added) // maximum(time, 1)
    return maximum(where(many >= block_layers, many, few), 1)


def by_layer(costs: Costs, longest_ns: Column) -> list[Costs]:
    """Costs whose layers have a price each, whatever is recomputed: no stage within `longest_ns` costs less by any of
    them. Rows without recompute by block stay as they are."""
    if not np.any(costs.block_layers):
        return [costs]
    kinds = {kind: costs.time[kind] for kind in costs.added_ns}
    deepest = deepest_stage(kinds, longest_ns, costs.added_ns, costs.block_layers)
    spread = spread_ns(costs.added_ns, costs.block_layers, deepest)
    time = {**costs.time, **{kind: size + spread for kind, size in kinds.items()}}
    return [
        replace(costs, time=time, kept=least_kept(costs)),
        replace(costs, time=time, chunk_kept=costs.chunk_kept - costs.block_layers * costs.most_freed_bytes),
    ]


def least_kept(costs: Costs) -> dict[Piece, Number]:
    """Bytes that each piece keeps at least, whether it is recomputed or not."""
    recomputed = {kind: costs.kept[kind] - maximum(size, 0) for kind, size in costs.freed_bytes.items()}
    return {**costs.kept, **recomputed}


def densest(costs: Costs) -> dict[Piece, Number]:
    """Bytes that a layer of each kind keeps at most for each nanosecond it takes: a recomputed one takes longer."""
    return {
        kind: (costs.kept[kind] + maximum(-size, 0)) / maximum(costs.time[kind], 1)
        for kind, size in costs.freed_bytes.items()
    }


def least(prices: Mapping[Piece, Number]) -> Number:
    """The lowest of some prices."""
    first, *rest = prices.values()
    return minimum(first, *rest)
