"""Rows of one schedule combined into one: what no placement at all goes below.

Every row (see `moeopt.schedule.bounds`) and every cut of a replay is at most the step's pipeline time T, for any stage
times. So is any weighted mean of them: sum_s price_f[s] f[s] + price_b[s] b[s] + price_hop l <= scale * T, in integers.
Whatever the placement, each piece sits on some stage, so it costs at least its cheapest price: embedding on the first
stage, loss on the last, MTP modules on the last chunk, layers anywhere. With good weights this is the best time that
layers which could be cut anywhere would have, and it holds for every candidate of the schedule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import ceil_div
from moeopt.schedule.shape import Schedule

Counts = tuple[tuple[int, ...], tuple[int, ...], int]
"""A row or cut as counts: forwards by stage, backwards by stage, hops."""
_SCALE = 2**24
"""Weights become integers once, as multiples of 1 / this."""


@dataclass(frozen=True)
class CombinedRow:
    """sum forward[s] f[s] + backward[s] b[s] + hops l <= scale * T for every placement."""

    schedule: Schedule
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    hops: int
    scale: int

    @classmethod
    def of(cls, schedule: Schedule, rows: Sequence[Counts], weights: Sequence[float]) -> "CombinedRow | None":
        """The rows with these weights (negative ones count as zero); None where no weight is left."""
        whole = [max(0, round(weight * _SCALE)) for weight in weights]
        if not sum(whole):
            return None
        forward, backward, hops = [0] * schedule.stages, [0] * schedule.stages, 0
        for (row_forward, row_backward, row_hops), weight in zip(rows, whole, strict=True):
            if weight:
                forward = [total + weight * count for total, count in zip(forward, row_forward, strict=True)]
                backward = [total + weight * count for total, count in zip(backward, row_backward, strict=True)]
                hops += weight * row_hops
        return cls(schedule, tuple(forward), tuple(backward), hops, sum(whole))

    def bound_ns(
        self,
        counts: Mapping[Piece, int],
        forward_ns: Mapping[Piece, int],
        backward_ns: Mapping[Piece, int],
        hop_ns: int,
    ) -> int:
        """Pipeline time that no placement of so many pieces goes below."""
        total = self.hops * hop_ns
        for piece, count in counts.items():
            stages = stages_of(self.schedule, piece)
            total += count * min(
                self.forward[stage] * forward_ns[piece] + self.backward[stage] * backward_ns[piece] for stage in stages
            )
        return int(ceil_div(total, self.scale))


def stages_of(schedule: Schedule, piece: Piece) -> Sequence[int]:
    """Stages that may hold a piece (the first rank may hold MTP modules only where it is the only one)."""
    last = schedule.stages - 1
    if piece == "embedding":
        return (0,)
    if piece == "loss":
        return (last,)
    if piece == "mtp":
        return [s for s in range(last + 1 - schedule.pp, last + 1) if s % schedule.pp or schedule.pp == 1]
    return range(last + 1)
