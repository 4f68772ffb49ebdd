"""A fast heuristic that spreads decoder layers over stages: the incumbent that a search starts from.

Layers stay in order, so a placement is the number of layers of every stage. Two starts (fill every stage to the
smallest possible maximum, from the front and from the back) are improved by moving one layer at a time from the
heavier to the lighter stages while the ledger's pipeline time falls. Where kinds of layers alternate, such a move
shifts every stage in between: tabu search (Glover 1986) goes on from there, over moves of one boundary too. No
optimality is claimed: the bounds are proven elsewhere.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import ceil_div
from moeopt.schedule.bounds import ledger_pipeline_ns, row_matrix
from moeopt.schedule.even import even_hops

Column: TypeAlias = NDArray[Any]
Counts: TypeAlias = tuple[int, ...]
Room: TypeAlias = tuple[int, int]
"""Fewest and most layers of a stage."""
Placed: TypeAlias = tuple[int, int, Counts]
"""Bytes above the limit, ledger pipeline time, layers of every stage."""
Judge: TypeAlias = Callable[[Column], tuple[Column, Column]]
Schedule: TypeAlias = tuple[int, int, int, int, bool]
"""pp, vpp, micro-batches, group, overlap of the expert all-to-all."""
_WIDTH = 8
"""Heaviest and lightest stages tried as source and target of a move."""
_ROUNDS = 64
_SHIFT = 3
"""Layers that a boundary between two stages is moved by at most, in tabu search."""
_EXACT = 2**53
"""Floats hold all integers below it, and multiply matrices several times as fast as integers."""


def ledger_many(schedule: Schedule, forward_ns: Column, backward_ns: Column, hop_ns: int) -> Column:
    """`ledger_pipeline_ns` of many placements at once: one row of stage times each, one integer each."""
    pp, vpp, num_microbatches, group, ep_overlap = schedule
    matrix, coefficients = row_matrix(*schedule)
    stage = forward_ns + backward_ns
    if 2 * coefficients * max(int(stage.max(initial=0)), hop_ns) * pp * vpp >= _EXACT:
        pairs = zip(forward_ns.tolist(), backward_ns.tolist(), strict=True)
        return np.array([ledger_pipeline_ns(*schedule[:4], f, b, hop_ns, ep_overlap) for f, b in pairs], dtype=object)
    times = np.hstack([forward_ns, backward_ns, np.full((len(stage), 1), hop_ns)])
    rows = (times.astype(float) @ matrix.T.astype(float)).max(axis=1).astype(np.int64)
    if vpp == 1:
        return np.asarray(rows)
    groups = ceil_div(num_microbatches, group)
    # Base times in order: what stages take beyond each is a sum over those after it.
    ordered = np.sort(np.hstack([np.zeros_like(stage[:, :1]), stage]), axis=1)
    beyond = ordered[:, ::-1].cumsum(axis=1)[:, ::-1] - np.arange(pp * vpp + 1, 0, -1) * ordered
    peaks = stage.reshape(len(stage), vpp, pp).max(axis=2)
    waves = (num_microbatches - groups) * np.maximum(peaks[:, :, None] - ordered[:, None, :], 0).sum(axis=1)
    upper = ((num_microbatches * vpp + pp - 1) * ordered + waves + groups * beyond).min(axis=1)
    upper += even_hops(*schedule) * hop_ns
    return np.asarray(ceil_div(rows + upper, 2))


def balanced_counts(
    schedule: Schedule,
    layer_forward_ns: Sequence[int],
    layer_backward_ns: Sequence[int],
    extra_forward_ns: Sequence[int],
    extra_backward_ns: Sequence[int],
    hop_ns: int,
    over_limit_bytes: Callable[[Column], Column] | None = None,
    room: Sequence[Room] | None = None,
    steps: int = 0,
) -> tuple[Counts, int] | None:
    """(layers of every stage, ledger pipeline time) of a good placement; stages in model order. None where `room`, the
    fewest and most layers of every stage, leaves no placement.

    Layer times are by decoder layer, extras (embedding, MTP, loss) by stage. `over_limit_bytes` says how far each of
    many placements (rows of counts) exceeds memory, 0 where it fits: placements that fit go first, and if none is met
    the one closest to fitting is given. `steps`: of tabu search, after the first descent.
    """
    prefixes = np.array([[0, *np.cumsum(layer_forward_ns)], [0, *np.cumsum(layer_backward_ns)]], dtype=np.int64)
    extras = np.array([extra_forward_ns, extra_backward_ns], dtype=np.int64)
    room = room or [(0, len(layer_forward_ns))] * len(extra_forward_ns)
    local = _Local(schedule, prefixes, extras, hop_ns, over_limit_bytes, room)
    starts = _starts((prefixes[0] + prefixes[1]).tolist(), (extras[0] + extras[1]).tolist(), room)
    if not starts:
        return None
    _, value, counts = local.wander(min(map(local.descend, starts)), steps)
    return counts, value


@dataclass(frozen=True)
class _Local:
    """Local search over the placements of one candidate's layers."""

    schedule: Schedule
    prefixes: Column
    """Forward and backward time of the layers before each one."""
    extras: Column
    """Forward and backward time of what else is on each stage."""
    hop_ns: int
    over_limit_bytes: Callable[[Column], Column] | None
    room: Sequence[Room]

    def descend(self, counts: Column) -> Placed:
        """The best move time after time, while one improves."""
        excess, values = self._judged(counts[None, :])
        placed = int(excess[0]), int(values[0]), tuple(counts.tolist())
        for _ in range(_ROUNDS):
            best = _best(self._moves(placed[2]), self._judged)
            if best is None or best[:2] >= placed[:2]:
                break
            placed = best
        return placed

    def wander(self, placed: Placed, steps: int) -> Placed:
        """Tabu search: the best move to a placement not seen before, better or not; the best that was met."""
        best, seen = placed, {placed[2]}
        for _ in range(steps):
            moves = np.vstack([self._moves(placed[2]), _shifts(np.array(placed[2]), self.room)])
            fresh = _best(moves, self._judged, seen)
            if fresh is None:
                break
            placed = fresh
            seen.add(placed[2])
            best = min(best, placed)
        return best

    def _stage_times(self, counts: Column) -> tuple[Column, Column]:
        ends = np.cumsum(counts, axis=1)
        forward, backward = self.prefixes[:, ends] - self.prefixes[:, ends - counts] + self.extras[:, None, :]
        return forward, backward

    def _judged(self, moves: Column) -> tuple[Column, Column]:
        """Excess and time of many placements."""
        values = ledger_many(self.schedule, *self._stage_times(moves), self.hop_ns)
        return np.zeros_like(values) if self.over_limit_bytes is None else self.over_limit_bytes(moves), values

    def _moves(self, here: Counts) -> Column:
        counts = np.array(here)
        forward, backward = self._stage_times(counts[None, :])
        return _moves(counts, (forward + backward)[0], self.room)


def _best(moves: Column, judged: Judge, seen: Collection[Counts] = ()) -> Placed | None:
    """The best of some placements that was not seen: less excess first, then less time."""
    if not len(moves):
        return None
    excess, values = judged(moves)
    for index in np.lexsort((values, excess)).tolist():
        counts = tuple(moves[index].tolist())
        if counts not in seen:
            return int(excess[index]), int(values[index]), counts
    return None


def _moves(counts: Column, times: Column, room: Sequence[Room]) -> Column:
    """Placements one layer away: from one of the heaviest stages that can spare a layer, to one of the lightest."""
    by_time = np.argsort(times, kind="stable")
    sources = [int(s) for s in by_time[::-1] if counts[s] > room[s][0]][:_WIDTH]
    targets = [int(s) for s in by_time if counts[s] < room[s][1]][:_WIDTH]
    pairs = [(source, target) for source in sources for target in targets if source != target]
    moves = np.repeat(counts[None, :], len(pairs), axis=0)
    for index, (source, target) in enumerate(pairs):
        moves[index, source] -= 1
        moves[index, target] += 1
    return moves


def _shifts(counts: Column, room: Sequence[Room]) -> Column:
    """Placements one boundary away: some layers from a stage to the next one, or to the one before."""
    found = [counts]
    for left in range(len(counts) - 1):
        for source, target in ((left, left + 1), (left + 1, left)):
            most = min(_SHIFT, int(counts[source]) - room[source][0], room[target][1] - int(counts[target]))
            for layers in range(1, most + 1):
                shifted = counts.copy()
                shifted[source] -= layers
                shifted[target] += layers
                found.append(shifted)
    return np.array(found)


def _starts(prefix: Sequence[int], extras: Sequence[int], room: Sequence[Room]) -> list[Column]:
    """Placements of the smallest maximal stage time, filled from the front and from the back."""
    low, high = 0, prefix[-1] + max(extras)
    if _fill(prefix, extras, room, high) is None:
        return []
    while low < high:
        limit = (low + high) // 2
        if _fill(prefix, extras, room, limit) is None:
            low = limit + 1
        else:
            high = limit
    front = _fill(prefix, extras, room, low)
    mirrored = [prefix[-1] - value for value in reversed(prefix)]
    back = _fill(mirrored, extras[::-1], room[::-1], low)
    return [np.array(start) for start in (front, back[::-1] if back else None) if start is not None]


def _fill(prefix: Sequence[int], extras: Sequence[int], room: Sequence[Room], limit: int) -> list[int] | None:
    """Layers a stage when each takes what fits under the limit and leaves the later ones their fewest; None where a
    stage's fewest exceed the limit or layers are left over."""
    counts, first = [], 0
    needed = sum(fewest for fewest, _ in room)
    for extra, (fewest, most) in zip(extras, room, strict=True):
        needed -= fewest
        last = first + fewest
        if last >= len(prefix) or (fewest and prefix[last] - prefix[first] + extra > limit):
            return None
        end = min(first + most, len(prefix) - 1 - needed)
        while last < end and prefix[last + 1] - prefix[first] + extra <= limit:
            last += 1
        counts.append(last - first)
        first = last
    return counts if first == len(prefix) - 1 else None
