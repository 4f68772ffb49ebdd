"""A good placement of one candidate's layers, fast: what the search starts from and compares bounds with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np

from moeopt.accounting.pieces import Piece, Recomputed
from moeopt.candidate import Candidate
from moeopt.constraints.guide import Excess
from moeopt.parallel import side_by_side
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.placement import balanced_counts
from moeopt.solving.memory_gauge import Array, MemoryGauge


@dataclass(frozen=True)
class Found:
    """A placement of one candidate's layers, with the ledger's time and the fullest rank's bytes."""

    candidate: Candidate
    pipeline: PipelineLayout
    time_ns: int
    peak_bytes: int

    @property
    def score(self) -> int | Fraction:
        """Value of the problem's (first) objective."""
        return self.value(self.candidate.problem.objective)

    def value(self, objective: str) -> int | Fraction:
        """Value of an objective (`Candidate.value`)."""
        return self.candidate.value(objective, self.time_ns, self.peak_bytes)

    def own_value(self, objective: str) -> int:
        """Value of an objective; step time and cost of the layout's own step."""
        return self.candidate.own_value(objective, self.time_ns, self.peak_bytes)

    @property
    def sent(self) -> "Found":
        """The same without what its candidate has worked out, which other processes need not be sent."""
        return replace(self, candidate=replace(self.candidate))

    @classmethod
    def judge(cls, candidate: Candidate, pipeline: PipelineLayout) -> "Found":
        """Both integers from the exact reader."""
        ledger = candidate.ledger
        peak = max(stage.total_bytes for stage in ledger.memory(pipeline))
        return cls(candidate, pipeline, ledger.step_time(pipeline).total_ns, peak)


def place(candidate: Candidate, limit_bytes: int, steps: int = 0) -> Found | None:
    """The best of the heuristic placements that fit, over the last two stages for the MTP modules; `steps`: of tabu
    search."""
    ends = candidate.problem.mtp_stages(*candidate.grid)[:-3:-1]
    found = [place_with_mtp(candidate, limit_bytes, stage, steps) for stage in ends]
    fitting = [option for option in found if option is not None]
    return min(fitting, key=lambda option: (option.time_ns, option.peak_bytes), default=None)


def placed_side_by_side(candidates: Sequence[Candidate], limit_bytes: int, steps: int = 0) -> list[Found | None]:
    """The same of several candidates at once."""
    # Only pipelines are sent between processes, as a candidate's prices need not be.
    pipelines = side_by_side(partial(_pipeline, limit_bytes, steps), candidates)
    both = zip(candidates, pipelines, strict=True)
    return [None if pipeline is None else Found.judge(candidate, pipeline) for candidate, pipeline in both]


def _pipeline(limit_bytes: int, steps: int, candidate: Candidate) -> PipelineLayout | None:
    found = place(candidate, limit_bytes, steps)
    return None if found is None else found.pipeline


def place_with_mtp(candidate: Candidate, limit_bytes: int, mtp_stage: int, steps: int = 0) -> Found | None:
    """A balanced placement with the MTP modules on one stage; None where none was found that fits.

    As in `moeopt.cpsat.placement`, every stage between the embedding and the MTP modules (or the loss) has a decoder
    layer, and none comes after them.
    """
    problem, ledger = candidate.problem, candidate.ledger
    terms = ledger.time_terms
    layers = problem.architecture.layers
    stages = candidate.degrees.pp * candidate.degrees.vpp
    last = stages - 1

    def extras(prices: dict[Piece, int]) -> list[int]:
        extra = [0] * stages
        extra[0] += prices["embedding"]
        extra[last] += prices["loss"]
        if problem.mtp_layers:
            extra[mtp_stage] += problem.mtp_layers * prices["mtp"]
        return extra

    gauge = MemoryGauge(candidate, mtp_stage)
    excess = Excess(problem, candidate.degrees, candidate.choices)
    mtp_counts = [problem.mtp_layers * (stage == mtp_stage) for stage in range(stages)]

    def over(counts: Array) -> Array:
        ranks = gauge.ranks(counts)
        beyond = np.maximum(0, ranks.max(axis=1) - limit_bytes)
        return np.asarray(beyond + excess.of(counts, mtp_counts, ranks) if excess else beyond)

    end = mtp_stage if problem.mtp_layers else last
    placed = balanced_counts(
        candidate.schedule,
        [terms.forward_ns[kind] for kind in layers],
        _backward_ns(candidate),
        extras(terms.forward_ns),
        extras(terms.backward_ns),
        terms.hop_ns,
        over,
        [(int(0 < stage < end), len(layers) if stage <= end else 0) for stage in range(stages)],
        steps,
    )
    if placed is None:
        return None
    found = Found.judge(
        candidate, PipelineLayout.from_counts(candidate.degrees.pp, placed[0], problem.mtp_layers, mtp_stage)
    )
    return found if found.peak_bytes <= limit_bytes else None


def _backward_ns(candidate: Candidate) -> list[int]:
    """Backward time of every layer. Which are recomputed by block depends on the placement: here each is in part, as on
    even stages."""
    prices, layers = candidate.ledger.time_terms.backward_ns, candidate.problem.architecture.layers
    if not candidate.block_layers:
        return [prices[kind] for kind in layers]
    stages = candidate.degrees.pp * candidate.degrees.vpp
    covered = min(stages * candidate.block_layers, len(layers))
    return [prices[kind] + (prices[Recomputed.of(kind)] - prices[kind]) * covered // len(layers) for kind in layers]
