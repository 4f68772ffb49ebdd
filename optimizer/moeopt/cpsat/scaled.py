"""The replayed time and the memory of one candidate, in numbers small enough for a fast solver: a relaxation.

The model has the placement exactly and nothing beside it: every critical path of a replay and every memory row is a sum
of prices times counts of pieces, at most a limit. Prices are divided by a unit and rounded down, limits rounded up, so
no placement is lost (counts are never negative); what is infeasible here is so in nanoseconds and bytes. A placement
that is found need not be within the limits, and is replayed.

Left out, beside the rounding: padding of buffers, what only some layers have pass or once on a rank, the step's end
where it is longer than the mean rank's, and the problem's constraints on placements (`moeopt.cpsat.replayed` has all).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from moeopt.accounting.pieces import Piece, Recomputed, piece_counts, priced_total
from moeopt.candidate import Candidate
from moeopt.cpsat.placement import Placement
from moeopt.cpsat.replayed import Outcome
from moeopt.cpsat.solve import configure, hurry
from moeopt.dual.grid import grid_of
from moeopt.dual.prices import Rows, fixed_bytes
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.combined import Counts
from moeopt.screening.costs import Costs, static_bytes
from moeopt.screening.work import Work
from moeopt.solving.settings import Settings

_BITS = 18
"""Limits become numbers of so many bits. With 14, placements within rounding of the limit are left, and take seconds to
find; 20 and more gain nothing, and with 11 many candidates are left."""
Integers: TypeAlias = NDArray[np.int64]
PricesOf: TypeAlias = Callable[[Piece], Integers]
"""Price of one piece: rows x stages."""


class ScaledModel:
    """One candidate's placements whose step and memory are within limits as far as cuts and rounded prices tell."""

    def __init__(self, candidate: Candidate, limit_ns: int, limit_bytes: int, cuts: Iterable[Counts]) -> None:
        self.candidate, self.limit_ns = candidate, limit_ns
        self.cp = cp_model.CpModel()
        self.placement = Placement(self.cp, candidate.problem, *candidate.grid)
        columns = self.placement.pieces(candidate.block_layers)
        places = [(piece, stage, count) for piece, column in columns.items() for stage, count in enumerate(column)]
        self._certain = [(piece, stage, count) for piece, stage, count in places if isinstance(count, int) and count]
        self._open = [(piece, stage, count) for piece, stage, count in places if not isinstance(count, int)]
        self._known: set[tuple[int, ...]] = set()
        self._end_ns = step_end_at_least_ns(candidate)
        self._add_memory(limit_bytes)
        self.add_cuts(cuts)

    def add_cuts(self, cuts: Iterable[Counts]) -> None:
        """Rows of the step's time. Those that others agree with up to rounding are left out."""
        listed = list(cuts)
        if not listed:
            return
        terms = self.candidate.ledger.time_terms
        forward, backward, hops = (np.array(part, dtype=np.int64) for part in zip(*listed, strict=True))
        limits = self.limit_ns - self._end_ns - hops * int(terms.hop_ns)

        def prices(piece: Piece) -> Integers:
            return np.asarray(forward * int(terms.forward_ns[piece]) + backward * int(terms.backward_ns[piece]))

        self._add(prices, limits, max(self.limit_ns >> _BITS, 1))

    def _add_memory(self, limit_bytes: int) -> None:
        """Rows of every rank and vector of micro-batches in flight."""
        candidate, memory = self.candidate, self.candidate.ledger.memory_terms
        rows = Rows.untimed(candidate.schedule)
        resident, flight = rows.resident.astype(np.int64), rows.flight.astype(np.int64)
        problem = candidate.problem
        grid = grid_of(problem.architecture.layers, *candidate.grid, problem.mtp_layers)
        fixed = fixed_bytes(grid, rows, costs_of(candidate))[0].astype(np.int64)

        def prices(piece: Piece) -> Integers:
            kept = int(candidate.kept_bytes[piece])
            return np.asarray(resident * int(static_bytes(memory, piece)) + flight * kept)

        self._add(prices, limit_bytes - fixed, max(limit_bytes >> _BITS, 1))

    def _add(self, prices: PricesOf, limits: Integers, unit: int) -> None:
        """Sums of prices times counts that are at most the limits."""
        by_piece: Mapping[Piece, Integers] = {piece: prices(piece) for piece, _, _ in (*self._certain, *self._open)}
        for piece, stage, count in self._certain:
            limits = limits - by_piece[piece][:, stage] * count
        matrix = np.stack([by_piece[piece][:, stage] for piece, stage, _ in self._open], axis=1)
        rows = np.column_stack([matrix // unit, -(-limits // unit)])
        counts = [count for _, _, count in self._open]
        for row in map(tuple, rows.tolist()):
            if row not in self._known:
                self._known.add(row)
                self.cp.add(cp_model.LinearExpr.weighted_sum(counts, row[:-1]) <= row[-1])

    def forbid(self, pipeline: PipelineLayout) -> None:
        """Leave a placement out, which was judged exactly."""
        placement = self.placement
        values = {held: chunk.layers for held, chunk in zip(placement.layers, pipeline.chunks, strict=True)}
        values |= {literal: int(bool(pipeline.chunks[stage].mtp)) for stage, literal in placement.mtp.items()}
        self.cp.add_forbidden_assignments(list(values), [tuple(values.values())])

    def solve(self, solver: cp_model.CpSolver, settings: Settings, effort: float) -> Outcome:
        """Any placement that satisfies the rows so far; `effort` in the solver's deterministic time. The same answer
        every time where the deadline does not strike."""
        configure(solver, settings)
        hurry(solver, effort)
        solver.parameters.catch_sigint_signal = False
        return Outcome.of(solver.solve(self.cp), lambda: self.placement.read(solver))


def costs_of(candidate: Candidate) -> Costs:
    """What pieces of one candidate cost in memory, as columns of one row."""
    kept = {piece: size for piece, size in candidate.kept_bytes.items() if not isinstance(piece, Recomputed)}
    return Costs.of(candidate.ledger.memory_terms, kept, {}, 1, block_layers=candidate.block_layers)


def step_end_at_least_ns(candidate: Candidate) -> int:
    """The step's end that no placement goes below: the mean rank's, whose work hides the most."""
    ledger, problem = candidate.ledger, candidate.problem
    terms = ledger.time_terms
    longest = priced_total(candidate.most_pieces, terms.backward_ns)
    added = longest - priced_total(piece_counts(problem), terms.backward_ns)
    return int(Work.of(problem, candidate.degrees, terms, ledger.memory_terms, added).end_ns)
