"""Exact replays of many placements of one schedule at once: event by event, all placements side by side."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moeopt.schedule.graph import Graph, schedule_graph
from moeopt.schedule.shape import Schedule

Array = NDArray[np.float64]
_CELLS = 2**21
"""Events times placements that are kept at once."""


def replay_many(schedule: Schedule, forward_ns: Array, backward_ns: Array, hop_ns: float) -> Array:
    """The replayed pipeline of every placement (placements x stages: forward and backward ns of one micro-batch), as
    `moeopt.schedule.replay` has it where joint blocks hide nothing more. Exact for whole numbers below 2^53."""
    graph = schedule_graph(*schedule.shape, schedule.ep_overlap)
    times = np.concatenate([forward_ns, backward_ns], axis=1)
    together = max(1, _CELLS // len(graph.kinds))
    parts = np.array_split(times, -(-len(times) // together) or 1)
    return np.concatenate([_last_end(graph, np.ascontiguousarray(part.T), hop_ns) for part in parts])


def _last_end(graph: Graph, kind_ns: Array, hop_ns: float) -> Array:
    """`kind_ns`: kinds x placements."""
    ends = np.zeros((len(graph.kinds), kind_ns.shape[1]))
    ready = np.empty(kind_ns.shape[1])
    for event, (previous, kinds, inputs) in enumerate(_events(graph), start=1):
        end = ends[event]
        end[:] = ends[previous]
        for source, hop in inputs:
            if hop:
                np.add(ends[source], hop_ns, out=ready)
                np.maximum(end, ready, out=end)
            else:
                np.maximum(end, ends[source], out=end)
        for kind in kinds:
            end += kind_ns[kind]
    return np.asarray(ends.max(axis=0))


def _events(graph: Graph) -> Iterator[tuple[int, list[int], list[tuple[int, int]]]]:
    """What each event follows on its rank, the kinds of its operations, and what it waits for (with a hop or none)."""
    for event in range(1, len(graph.kinds)):
        kinds, inputs = [graph.kinds[event]], [(graph.inputs[event], graph.hops[event])]
        if graph.joint and graph.second_kinds[event] >= 0:
            kinds.append(graph.second_kinds[event])
            inputs.append((graph.second_inputs[event], graph.second_hops[event]))
        yield graph.previous[event], kinds, inputs
