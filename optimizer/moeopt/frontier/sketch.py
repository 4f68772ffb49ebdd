"""First points of a frontier, by heuristic placements alone: what the proof starts from.

Walks down in memory: at each level the time limit grows until a placement fits. Only a part of the rows is looked at:
those on the first fronts of (time bound, memory bound), pipeline length by pipeline length. Nothing here is trusted.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moeopt.frontier.candidates import Candidates
from moeopt.frontier.goals import Goals, Region
from moeopt.screening import MOST_NS, Limits
from moeopt.solving.incumbent import Found
from moeopt.solving.queue import first_fronts

_LEVEL = 0.8
"""Each level of memory is this share of the one before, or of what was reached there ..."""
_GROWTH = 1.2
"""... and at each the time limit grows in steps of this factor ..."""
_SLOWEST = 64
"""... up to so many times the fastest bound."""
_FEW = 200
"""Rows of the first level that are looked at all at once: no sketch is needed."""
_FRONTS = 6
_COUNTED, _PLACED = 96, 4
"""So many rows at each fill level are counted, and so many of what is left placed."""


def sketch(goals: Goals, candidates: Candidates) -> Iterator[Found]:
    """Layouts from the fastest to the lightest, on the most GPUs and, where they count, on fewer and fewer."""
    if candidates.screening.rows <= _FEW:
        return
    counts = _gpu_counts(goals, candidates)
    for gpus in counts:
        on = candidates.exactly(gpus) if len(counts) > 1 else candidates
        yield from _walk(goals, on.thinned(_first_fronts), gpus)


def _gpu_counts(goals: Goals, candidates: Candidates) -> list[int]:
    """Some of the GPU counts, by halving from the most."""
    known = sorted({int(n) for block in candidates.screening.blocks for n in np.unique(block.degrees.gpus)})
    chosen: list[int] = []
    while known and (not chosen or {"gpus", "cost"} & set(goals.names)):
        chosen.append(known[-1])
        known = [count for count in known if 2 * count <= chosen[-1]]
    return chosen


def _walk(goals: Goals, candidates: Candidates, gpus: int) -> Iterator[Found]:
    blocks = [block for block in candidates.screening.blocks if len(block.time)]
    limit = goals.region(goals.most).limits.memory_bytes
    fitting = [block.time[block.memory <= limit] for block in blocks]
    if not any(len(times) for times in fitting):
        return
    fastest = min(int(times.min()) for times in fitting if len(times))
    lowest = min(int(block.memory.min()) for block in blocks)
    level, time_ns = limit, fastest
    while level >= lowest and time_ns <= min(_SLOWEST * fastest, MOST_NS):
        region = Region(Limits(level, time_ns=int(time_ns * _GROWTH)), gpus)
        found = list(_placed(candidates, region))
        yield from found
        if found and "peak_memory" not in goals.names:
            return
        if found:
            level = int(_LEVEL * min(item.peak_bytes for item in found))
        else:
            time_ns = int(time_ns * _GROWTH)


def _placed(candidates: Candidates, region: Region) -> Iterator[Found]:
    """Heuristic placements of the rows of the lowest bounds at several fill levels of memory. What ranks can hold is
    counted of the rows that may be among them alone."""
    memory_bytes = region.limits.memory_bytes
    pairs = candidates.screening.pairs(region.limits, counted=False)
    queue = candidates.queue([pair.only(pair.memory <= memory_bytes) for pair in pairs])
    queue.keep(queue.sampled(memory_bytes, _COUNTED, _COUNTED))
    queue.tighten(region.limits)
    yield from candidates.placed(queue, queue.sampled(memory_bytes, _PLACED, _PLACED), region)


def _first_fronts(pp: NDArray[np.int64], time: NDArray[np.int64], memory: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows on the first fronts of their pipeline length."""
    keep = np.zeros(len(pp), dtype=bool)
    for length in np.unique(pp):
        rows = np.flatnonzero(pp == length)
        keep[rows[first_fronts(time[rows], memory[rows], _FRONTS)]] = True
    return keep
