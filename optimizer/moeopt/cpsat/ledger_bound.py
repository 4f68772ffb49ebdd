"""A bound on the ledger's step of one candidate whose memory is tight: a linear program over shares of pieces.

Layers may be cut and stand in any order; memory of every rank, every row of the schedule and UB2 (`ScaledLedger`, of
which this is the relaxation) are met. Where memory and time pull at the same few ranks, weights take hundreds of rounds
of walks to be found; the program has them at once. Its solution is not trusted: the bound is what its dual weights give
for any placement, computed here.

The program may exceed memory at a price, so that where nothing fits, the weights still say so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from moeopt.accounting.pieces import Piece, piece_counts
from moeopt.arithmetic import ceil_div
from moeopt.candidate import Candidate
from moeopt.cpsat.scaled import memory_rows, step_end_at_least_ns
from moeopt.dual.tops import SLACK
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.schedule.combined import stages_of
from moeopt.schedule.even import even_hops
from moeopt.schedule.shape import Schedule

Array = NDArray[np.float64]
_OVERFLOW = 1000.0
"""Price of exceeding a memory row by the limit, in mean steps."""
_TINY = 1e-12
_MOST_CELLS = 60_000
"""Entries of a program; larger ones take a tenth of a second and more."""


def least_step_ns(candidate: Candidate, limit_bytes: int) -> int:
    """Nanoseconds that no placement within the memory limit goes below; 0 where the program is too large, or its
    pieces are recomputed by block."""
    if candidate.block_layers:
        return 0
    program = Program(candidate, limit_bytes)
    if program.cells > _MOST_CELLS:
        return 0
    weights = program.weights()
    return 0 if weights is None else program.bound_ns(weights)


@dataclass(frozen=True)
class Weights:
    """Of time rows (their sum is 1), of stages' times above UB2's base time, and of memory rows."""

    time: Array
    excess: Array
    memory: Array


class Program:
    """The program's rows. Time is in nanoseconds, memory a share of the limit."""

    def __init__(self, candidate: Candidate, limit_bytes: int) -> None:
        self.candidate, schedule = candidate, Schedule(*candidate.schedule)
        terms = candidate.ledger.time_terms
        counts = piece_counts(candidate.problem)
        shares: list[tuple[Piece, int]] = [(piece, stage) for piece in counts for stage in stages_of(schedule, piece)]
        pieces, self._stage = [piece for piece, _ in shares], np.array([stage for _, stage in shares])
        self._first = np.array([pieces.index(piece) for piece in counts])
        """Where the shares of each piece begin."""
        self._counts = np.array(list(counts.values()), dtype=float)
        forward = np.array([terms.forward_ns[piece] for piece in pieces], dtype=float)
        backward = np.array([candidate.backward_ns[piece] for piece in pieces], dtype=float)
        self._share_ns = forward + backward
        work = self._share_ns[self._first]
        self._mean_ns = schedule.num_microbatches * float(work @ self._counts) / schedule.pp
        self._schedule, self._interleaved = schedule, schedule.vpp > 1
        self._groups = int(ceil_div(schedule.num_microbatches, schedule.group))
        self._span = schedule.num_microbatches * schedule.vpp + schedule.pp - 1

        listed = lower_bound_rows(*candidate.schedule)
        ahead, back = (
            np.array([getattr(row, way) for row in listed])[:, self._stage] for way in ("forward", "backward")
        )
        even = int(even_hops(*candidate.schedule)) if self._interleaved else 0
        self._time = ahead * forward + back * backward
        self._hops_ns = (np.array([row.hops for row in listed], dtype=float) + even) * float(terms.hop_ns)
        held, fixed = memory_rows(candidate)
        bytes_ = {piece: held(piece) for piece in counts}
        self._memory = np.stack([bytes_[piece][:, stage] for piece, stage in shares], axis=1) / limit_bytes
        self._room = 1 - fixed / limit_bytes

    @property
    def cells(self) -> int:
        """Coefficients of the program."""
        return (len(self._time) + len(self._memory)) * len(self._stage)

    def weights(self) -> Weights | None:
        """What the rows weigh at the program's optimum; None where it has none."""
        lp = pywraplp.Solver.CreateSolver("GLOP")
        lp.SuppressOutput()
        most = lp.infinity()
        unit = self._mean_ns
        shares = [lp.NumVar(0.0, most, "") for _ in self._stage]
        for first, end, count in zip(self._first, [*self._first[1:], len(shares)], self._counts, strict=True):
            whole = lp.Constraint(float(count), float(count))
            for share in shares[first:end]:
                whole.SetCoefficient(share, 1.0)
        step, overflow = lp.NumVar(0.0, most, "step"), lp.NumVar(0.0, most, "overflow")
        lp.Objective().SetCoefficient(step, 1.0)
        lp.Objective().SetCoefficient(overflow, _OVERFLOW)
        memory = [lp.Constraint(-most, float(room)) for room in self._room]
        for row, prices in zip(memory, self._memory, strict=True):
            row.SetCoefficient(overflow, -1.0)
            _set(row, shares, prices)
        upper, excess = self._surrogate(lp, shares) if self._interleaved else (None, [])
        time = [lp.Constraint(float(hops_ns) / unit, most) for hops_ns in self._hops_ns]
        for row, prices in zip(time, self._time, strict=True):
            row.SetCoefficient(step, 1.0)
            _set(row, shares, -prices / unit)
            if upper is not None:
                row.SetCoefficient(upper, -1.0)
        if lp.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return Weights(
            np.array([row.dual_value() for row in time]),
            np.array([row.dual_value() for row in excess]),
            np.array([-row.dual_value() for row in memory]),
        )

    def _surrogate(self, lp: Any, shares: list[Any]) -> tuple[Any, list[Any]]:
        """UB2, and the rows that say how far each stage is above its base time."""
        schedule, most = self._schedule, lp.infinity()
        upper, base = lp.NumVar(0.0, most, "upper"), lp.NumVar(0.0, most, "base")
        value = lp.Constraint(0.0, most)
        value.SetCoefficient(upper, 1.0)
        value.SetCoefficient(base, -float(self._span))
        rows = []
        for chunk in range(schedule.vpp):
            largest = lp.NumVar(0.0, most, "")
            value.SetCoefficient(largest, -float(schedule.num_microbatches - self._groups))
            for stage in range(chunk * schedule.pp, (chunk + 1) * schedule.pp):
                above = lp.NumVar(0.0, most, "")
                value.SetCoefficient(above, -float(self._groups))
                within, row = lp.Constraint(0.0, most), lp.Constraint(0.0, most)
                within.SetCoefficient(largest, 1.0)
                within.SetCoefficient(above, -1.0)
                row.SetCoefficient(above, 1.0)
                row.SetCoefficient(base, 1.0)
                _set(row, shares, -np.where(self._stage == stage, self._share_ns, 0.0) / self._mean_ns)
                rows.append(row)
        return upper, rows

    def bound_ns(self, weights: Weights) -> int:
        """What any weights give, made to be weights first: every placement within memory takes at least the weighted
        rows, each piece on its cheapest stage."""
        time = np.maximum(weights.time, 0.0)
        if not time.any():
            return 0
        time = time / time.sum()
        memory = np.maximum(weights.memory, 0.0) * self._mean_ns
        prices = time @ self._time + memory @ self._memory
        if self._interleaved:
            prices = prices + self._excess(weights.excess)[self._stage] * self._share_ns
        least = np.minimum.reduceat(prices, self._first) @ self._counts + time @ self._hops_ns
        given = memory @ self._room
        bound = (least - given) / (2 if self._interleaved else 1)
        rounding = SLACK * (abs(least) + abs(given))
        return max(int(bound - rounding) + step_end_at_least_ns(self.candidate), 0)

    def _excess(self, given: Array) -> Array:
        """Weights of stages' times that UB2 is no less than, whatever its base time: each stage counts once a group of
        micro-batches, the other times those of a position share, and all together weigh no more than the base time."""
        schedule, groups = self._schedule, self._groups
        weights = np.maximum(given, 0.0).reshape(schedule.vpp, schedule.pp)
        each = np.minimum(weights, groups)
        further = weights - each
        most = schedule.num_microbatches - groups
        further = further * np.minimum(most / np.maximum(further.sum(axis=1, keepdims=True), _TINY), 1.0)
        weights = each + further
        return np.asarray((weights * min(self._span / max(float(weights.sum()), _TINY), 1.0)).reshape(-1))


def _set(row: Any, variables: list[Any], coefficients: Array) -> None:
    for at in np.flatnonzero(coefficients).tolist():
        row.SetCoefficient(variables[at], float(coefficients[at]))
