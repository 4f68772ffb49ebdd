"""Cuts that follow from the time limit: how long a chunk and a rank may take at most. They shorten every proof."""

from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from moeopt.accounting.pieces import piece_counts, priced_total
from moeopt.candidate import Candidate
from moeopt.schedule.chunk_cap import longest_chunk_ns, longest_rank_ns

if TYPE_CHECKING:
    from moeopt.cpsat.encode import Encoding, GridVariables


def add_caps(encoding: "Encoding", candidate: Candidate, grid: "GridVariables", literal: cp_model.IntVar) -> None:
    """No chunk and no rank takes longer than any placement within the horizon allows."""
    counts = piece_counts(candidate.problem)
    work = priced_total(counts, candidate.ledger.time_terms.forward_ns) + priced_total(counts, candidate.backward_ns)
    pp, vpp = candidate.grid
    if encoding.rows == "replayed":
        chunk = rank = encoding.horizon_ns // int(candidate.degrees.num_microbatches)
    else:
        chunk = int(longest_chunk_ns(*candidate.schedule[:4], work, encoding.horizon_ns))
        rank = int(longest_rank_ns(*candidate.schedule[:3], work, encoding.horizon_ns))
    times = [grid.forward[stage] + grid.backward[stage] for stage in range(pp * vpp)]
    for stage_time in times:
        encoding.at_least(chunk, stage_time, literal)
    for first in range(pp):
        encoding.at_least(rank, sum(times[first::pp]), literal)
