"""Time and memory of one candidate's placements, in numbers small enough for a fast solver: a relaxation.

The model has the placement exactly and little beside it: every row of the step's time and every memory row is a sum of
prices times counts of pieces, at most a limit. Prices are divided by a unit and rounded down, limits rounded up, so no
placement is lost (counts are never negative); what is infeasible here is so in nanoseconds and bytes. A placement that
is found need not be within the limits, and is judged.

The time is the replayed one, by critical paths (`ScaledReplays`), or the ledger's (`ScaledLedger`). Left out, beside
the rounding: padding of buffers, what only some layers have pass or once on a rank, and the problem's constraints on
placements (`moeopt.cpsat.encode` has all).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from moeopt.accounting.pieces import Piece, Recomputed, piece_counts, priced_total
from moeopt.accounting.time.step_end import SCALE, Row
from moeopt.arithmetic import ceil_div
from moeopt.candidate import Candidate
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.placement import Placement
from moeopt.cpsat.prices import longest_end_ns
from moeopt.cpsat.replayed import Outcome
from moeopt.cpsat.solve import configure, hurry, run
from moeopt.dual.grid import problem_grid
from moeopt.dual.prices import Rows, fixed_bytes
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.schedule.combined import Counts
from moeopt.schedule.even import even_hops
from moeopt.screening.costs import Costs, static_bytes
from moeopt.screening.work import Work
from moeopt.solving.settings import Settings

_BITS = 18
"""Limits become numbers of so many bits. With 14, placements within rounding of the limit are left, and take seconds to
find; 20 and more gain nothing, and with 11 many candidates are left."""
_LEDGER_BITS = 22
"""The same of the ledger's time, where stage times are rounded before they are multiplied by hundreds of micro-batches.
"""
_GRAINS = 2**10
"""Of a unit of the step's end, which is rounded for every piece."""
EFFORT = 4.0
"""Deterministic time that a solve is worth: about as many seconds. Most take a tenth of one."""
Integers: TypeAlias = NDArray[np.int64]
PricesOf: TypeAlias = Callable[[Piece], Integers]
"""Price of one piece: rows x stages."""


class ScaledModel:
    """One candidate's placements whose memory is within a limit as far as rounded prices tell."""

    def __init__(self, candidate: Candidate, limit_ns: int, limit_bytes: int) -> None:
        self.candidate, self.limit_ns = candidate, limit_ns
        self.cp = cp_model.CpModel()
        self.placement = Placement(self.cp, candidate.problem, *candidate.grid)
        columns = self.placement.pieces(candidate.block_layers)
        places = [(piece, stage, count) for piece, column in columns.items() for stage, count in enumerate(column)]
        self._certain = [(piece, stage, count) for piece, stage, count in places if isinstance(count, int) and count]
        self._open = [(piece, stage, count) for piece, stage, count in places if not isinstance(count, int)]
        self._known: set[tuple[int, ...]] = set()
        self._add_memory(limit_bytes)

    def _add_time(self, rows: Iterable[Counts], limits: Integers, unit: int, further: Expression = 0) -> None:
        """Rows of the pipeline's time, and something further in the unit, within the limits (which count the hops)."""
        terms = self.candidate.ledger.time_terms
        forward, backward = (np.array(part, dtype=np.int64) for part in list(zip(*rows, strict=True))[:2])

        def prices(piece: Piece) -> Integers:
            return np.asarray(forward * int(terms.forward_ns[piece]) + backward * int(terms.backward_ns[piece]))

        self._add(prices, limits, unit, further)

    def _add_memory(self, limit_bytes: int) -> None:
        """Rows of every rank and vector of micro-batches in flight."""
        candidate, memory = self.candidate, self.candidate.ledger.memory_terms
        rows, problem = Rows.untimed(candidate.schedule), candidate.problem
        resident, flight = rows.resident.astype(np.int64), rows.flight.astype(np.int64)
        grid = problem_grid(problem, *candidate.grid)
        fixed = fixed_bytes(grid, rows, costs_of(candidate))[0].astype(np.int64)

        def prices(piece: Piece) -> Integers:
            kept = int(candidate.kept_bytes[piece])
            return np.asarray(resident * int(static_bytes(memory, piece)) + flight * kept)

        self._add(prices, limit_bytes - fixed, max(limit_bytes >> _BITS, 1))

    def _end(self, unit_ns: int) -> Expression:
        """The step's end in the unit, at least: that of every rank, a maximum of rows over its elements and its work,
        and that of the mean one."""
        candidate, pp = self.candidate, self.candidate.degrees.pp
        time, memory = candidate.ledger.time_terms, candidate.ledger.memory_terms
        rank = np.arange(self.placement.stages) % pp == np.arange(pp)[:, None]
        least_ns, most_ns = step_end_at_least_ns(candidate), longest_end_ns(candidate)
        end = self.cp.new_int_var(least_ns // unit_ns, most_ns // unit_ns + 1, "end")
        for row in time.step_end.rows:

            def prices(piece: Piece, row: Row = row) -> Integers:
                stage_ns = int(time.forward_ns[piece]) + int(time.backward_ns[piece])
                elements = int(memory.dense_elements[piece]), int(memory.expert_elements[piece])
                update_ns = int(time.step_end.updates_ns({piece: 1}))
                return np.asarray(rank * int(row.scaled_ns(*elements, stage_ns, update_ns)))

            self._add(prices, np.full(pp, -int(row.fixed)), SCALE * unit_ns // _GRAINS, -_GRAINS * end)
        return end

    def _add(self, prices: PricesOf, limits: Integers, unit: int, further: Expression = 0) -> None:
        """Sums of prices times counts, and something further in the unit, that are at most the limits."""
        by_piece: Mapping[Piece, Integers] = {piece: prices(piece) for piece, _, _ in (*self._certain, *self._open)}
        for piece, stage, count in self._certain:
            limits = limits - by_piece[piece][:, stage] * count
        matrix = np.stack([by_piece[piece][:, stage] for piece, stage, _ in self._open], axis=1)
        rows = np.column_stack([matrix // unit, -(-limits // unit)])
        counts = [count for _, _, count in self._open]
        for row in map(tuple, rows.tolist()):
            if row not in self._known:
                self._known.add(row)
                self.cp.add(cp_model.LinearExpr.weighted_sum(counts, row[:-1]) + further <= row[-1])

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
        return Outcome.of(run(solver, self.cp), lambda: self.placement.read(solver))


class ScaledReplays(ScaledModel):
    """One candidate's placements whose replayed step is within a limit as far as critical paths tell."""

    def __init__(self, candidate: Candidate, limit_ns: int, limit_bytes: int, cuts: Iterable[Counts]) -> None:
        super().__init__(candidate, limit_ns, limit_bytes)
        self._unit_ns = max(limit_ns >> _BITS, 1)
        self._longest_end = self._end(self._unit_ns)
        self.add_cuts(cuts)

    def add_cuts(self, cuts: Iterable[Counts]) -> None:
        """Rows of the step's time. Those that others agree with up to rounding are left out."""
        listed = list(cuts)
        if listed:
            hops = np.array([hops for *_, hops in listed], dtype=np.int64)
            limits = self.limit_ns - hops * int(self.candidate.ledger.time_terms.hop_ns)
            self._add_time(listed, limits, self._unit_ns, self._longest_end)


class ScaledLedger(ScaledModel):
    """One candidate's placements whose step is within a limit by the ledger (`ledger_pipeline_ns`); `finely`: in
    nanoseconds, for where many placements are within rounding of the limit.

    1F1B: every row is within what the limit leaves the pipeline. Interleaved: every row and UB2 together are within
    twice that. UB2 has a base time, as an integer of the unit: the best one rounded down, so that a stage's time, its
    pieces rounded down, exceeds it by less than one more than it does in nanoseconds; that one is given away where the
    unit is longer than one.
    """

    def __init__(self, candidate: Candidate, limit_ns: int, limit_bytes: int, finely: bool = False) -> None:
        super().__init__(candidate, limit_ns, limit_bytes)
        schedule, hop_ns = candidate.schedule, int(candidate.ledger.time_terms.hop_ns)
        rows = lower_bound_rows(*schedule)
        hops = np.array([row.hops for row in rows], dtype=np.int64)
        counts = [(row.forward, row.backward, row.hops) for row in rows]
        unit = 1 if finely else max(limit_ns >> _LEDGER_BITS, 1)
        end = self._end(unit)
        if schedule[1] == 1:
            self._add_time(counts, limit_ns - hops * hop_ns, unit, end)
        else:
            limits = 2 * limit_ns - (hops + int(even_hops(*schedule))) * hop_ns
            self._add_time(counts, limits, unit, self._ub2(unit) + 2 * end)

    def _ub2(self, unit: int) -> Expression:
        """UB2 in the unit, at least; no stage and no base time that is worth it is longer than all pieces together."""
        terms, pieces = self.candidate.ledger.time_terms, self.candidate.most_pieces
        longest_ns = priced_total(pieces, terms.forward_ns) + priced_total(pieces, terms.backward_ns)
        most = int(min(longest_ns, 2 * self.limit_ns)) // unit + 1
        pp, vpp, microbatches, group, _ = self.candidate.schedule
        groups = int(ceil_div(microbatches, group))
        base = self.cp.new_int_var(0, most, "base")
        value: Expression = (microbatches * vpp + pp - 1) * base
        rounding = int(unit > 1)
        stage_times = self._stage_times(unit)
        for chunk in range(vpp):
            largest = self.cp.new_int_var(0, most, "")
            for stage in range(chunk * pp, (chunk + 1) * pp):
                excess = self.cp.new_int_var(0, most, "")
                self.cp.add(excess >= stage_times[stage] - base - rounding)
                self.cp.add(largest >= excess)
                value = value + groups * excess
            value = value + (microbatches - groups) * largest
        return value

    def _stage_times(self, unit: int) -> list[Expression]:
        """Forward and backward of every stage, the pieces rounded down."""
        terms = self.candidate.ledger.time_terms
        times: list[Expression] = [0] * self.placement.stages
        for piece, stage, count in (*self._certain, *self._open):
            price = (int(terms.forward_ns[piece]) + int(terms.backward_ns[piece])) // unit
            times[stage] = times[stage] + price * count
        return times


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
