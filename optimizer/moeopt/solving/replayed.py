"""Placements judged by their replayed step, and placements around one for the critical paths of their replays."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.combined import Counts
from moeopt.schedule.shape import Schedule
from moeopt.solving.incumbent import Found

_NEIGHBOURS = 120
"""Placements one layer away that are replayed for their critical paths ..."""
_OPERATIONS = 400_000
"""... and operations of these replays, at most."""


def target_ns(step_ns: int, gap: Fraction) -> int:
    """The smallest bound on every step that is within a gap of one: step <= bound * (1 + gap)."""
    return ceil(step_ns / (1 + gap))


@dataclass(frozen=True)
class Timed:
    """A placement's replayed step, and the critical path (None where the replay was extrapolated)."""

    candidate: Candidate
    pipeline: PipelineLayout
    step_ns: int
    cut: Counts | None

    @classmethod
    def of(cls, candidate: Candidate, pipeline: PipelineLayout) -> "Timed":
        """Replay a placement."""
        step, result = candidate.ledger.step_time(pipeline), candidate.ledger.replay(pipeline)
        cut = None if result.cut is None else (result.cut.forward, result.cut.backward, result.cut.hops)
        return cls(candidate, pipeline, step.total_ns - step.pipeline_ns + result.total_ns, cut)

    def fitting(self) -> "Replayed | None":
        """The placement, if it is within its problem's memory limit and constraints."""
        found = Found.judge(self.candidate, self.pipeline)
        within = found.peak_bytes <= self.candidate.problem.memory_limit
        fits = within and obeys(self.candidate, self.pipeline, found.time_ns)
        return Replayed(found, self.step_ns, self.cut) if fits else None


@dataclass(frozen=True)
class Replayed:
    """A placement with its replayed step."""

    found: Found
    step_ns: int
    cut: Counts | None
    """The critical path; None where the replay was extrapolated."""

    @classmethod
    def judge(cls, found: Found) -> "Replayed":
        """Replay a placement."""
        timed = Timed.of(found.candidate, found.pipeline)
        return cls(found, timed.step_ns, timed.cut)


def around(candidate: Candidate, pipeline: PipelineLayout) -> list[PipelineLayout]:
    """A placement, and some with one layer moved from one of its slowest chunks to one of its fastest."""
    forward, backward = candidate.ledger.stage_times(candidate.ledger.contents(pipeline))
    counts = [chunk.layers for chunk in pipeline.chunks]
    last = max(s for s, chunk in enumerate(pipeline.chunks) if chunk.mtp or (chunk.loss and not pipeline.mtp))
    moves = sorted(
        (forward[target] + backward[target] - forward[source] - backward[source], source, target)
        for source in range(last + 1)
        for target in range(last + 1)
        if source != target and counts[source] > (0 < source < last)
    )
    placed = [pipeline]
    most = _OPERATIONS // Schedule(*candidate.schedule).operations
    for _, source, target in moves[: min(_NEIGHBOURS, most)]:
        moved = [n - (s == source) + (s == target) for s, n in enumerate(counts)]
        placed.append(PipelineLayout.from_counts(pipeline.pp, moved, pipeline.mtp, last))
    return placed
