"""Every placement of a candidate's layers, where there are so few that listing them beats a solver."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

from moeopt.candidate import Candidate
from moeopt.pipeline import PipelineLayout

FEW = 100
"""Placements that are listed; a grid with more is the solver's."""


def are_few(candidate: Candidate) -> bool:
    """Whether a candidate has so few placements; counted too high by those that leave an inner stage empty."""
    layers = candidate.problem.architecture.num_hidden_layers
    ends = candidate.problem.mtp_stages(*candidate.grid)
    return sum(comb(layers + stage, stage) for stage in ends) <= FEW


def every_placement(candidate: Candidate) -> Iterator[PipelineLayout]:
    """All placements that `moeopt.cpsat.placement` allows: inner stages up to the MTP modules' hold a layer, and none
    comes after these."""
    problem, (pp, vpp) = candidate.problem, candidate.grid
    layers, stages = problem.architecture.num_hidden_layers, pp * vpp
    for mtp_stage in problem.mtp_stages(pp, vpp):
        for cuts in combinations(range(layers + mtp_stage), mtp_stage):
            counts = [b - a - 1 for a, b in pairwise([-1, *cuts, layers + mtp_stage])]
            if all(counts[1:mtp_stage]):
                filled = [*counts, *(0 for _ in range(stages - mtp_stage - 1))]
                yield PipelineLayout.from_counts(pp, filled, problem.mtp_layers, mtp_stage)
