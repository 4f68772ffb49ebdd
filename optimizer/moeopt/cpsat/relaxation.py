"""The best time of one candidate if its layers could be cut anywhere: a linear program over cuts from replays.

Variables are the share of each piece on each stage. Each round replays the program's optimum and a point nearer to the
best one known, adds both critical paths as cuts, and solves again (Kelley's method, damped). The result is a weighting
of cuts, `CombinedRow`, whose validity needs neither the program's optimality nor its floats: any weights are valid.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from moeopt.accounting.pieces import piece_counts
from moeopt.candidate import Candidate
from moeopt.dual.prices import Cuts
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.schedule.combined import CombinedRow, Counts, stages_of
from moeopt.schedule.replay import replay
from moeopt.schedule.shape import Schedule

_DAMPED = (1.0, 0.3)
"""How far from the best point known towards the program's optimum each round replays."""
_CLOSE = 3e-3
"""Rounds end where the best replay is within this share of the program's value."""
_LARGE = 10**6
"""Integer times of a replay: the longest stage takes about this."""


class Relaxation:
    """The linear program of one schedule, with a representative candidate's prices."""

    def __init__(self, candidate: Candidate, schedule: Schedule, cuts: Iterable[Counts] = ()) -> None:
        self.schedule = schedule
        self.counts = piece_counts(candidate.problem)
        terms = candidate.ledger.time_terms
        work = sum(n * (terms.forward_ns[piece] + candidate.backward_ns[piece]) for piece, n in self.counts.items())
        self._unit = max(work / schedule.stages, 1.0)
        """Nanoseconds of a mean chunk: the program counts in these."""
        shares = [(piece, stage) for piece in self.counts for stage in stages_of(schedule, piece)]
        self._stage = np.array([stage for _, stage in shares])
        self._forward = np.array([terms.forward_ns[piece] / self._unit for piece, _ in shares])
        """By share of a piece on a stage, as what follows."""
        self._backward = np.array([candidate.backward_ns[piece] / self._unit for piece, _ in shares])
        self._even = np.array([self.counts[piece] / len(stages_of(schedule, piece)) for piece, _ in shares])
        self._hop = terms.hop_ns / self._unit
        self._length = schedule.num_microbatches * schedule.vpp
        """Rows are divided by this, so that coefficients are about one."""
        self.rounds = 0
        self.cuts: list[Counts] = []
        self.weights: list[float] = []
        """Weights of the cuts in the last program that was solved (those added after it count zero)."""
        self._known: set[Counts] = set()
        self._rows: list[pywraplp.Constraint] = []
        self._build()
        for row in lower_bound_rows(*schedule.shape, schedule.ep_overlap):
            self._add((row.forward, row.backward, row.hops))
        for cut in cuts:
            self._add(cut)

    def _build(self) -> None:
        self._lp = pywraplp.Solver.CreateSolver("GLOP")
        self._lp.SuppressOutput()
        self._time = self._lp.NumVar(0.0, self._lp.infinity(), "time")
        self._shares: list[pywraplp.Variable] = []
        for piece, count in self.counts.items():
            whole = self._lp.Constraint(float(count), float(count))
            for _ in stages_of(self.schedule, piece):
                self._shares.append(self._lp.NumVar(0.0, float(count), ""))
                whole.SetCoefficient(self._shares[-1], 1.0)
        self._lp.Minimize(self._time)

    def _add(self, cut: Counts) -> bool:
        if cut in self._known:
            return False
        forward, backward = (np.array(part)[self._stage] for part in cut[:2])
        row = self._lp.Constraint(cut[2] * self._hop / self._length, self._lp.infinity())
        row.SetCoefficient(self._time, 1.0)
        prices = (forward * self._forward + backward * self._backward) / self._length
        for share, price in zip(self._shares, prices.tolist(), strict=True):
            if price:
                row.SetCoefficient(share, -price)
        self._known.add(cut)
        self.cuts.append(cut)
        self._rows.append(row)
        return True

    @property
    def weighed(self) -> Cuts:
        """The cuts with their weights; those added after the last program weigh nothing."""
        return Cuts(list(self.cuts), self.weights + [0.0] * (len(self.cuts) - len(self.weights)))

    def refine(self, rounds: int, stop: Callable[[], bool]) -> CombinedRow | None:
        """Add cuts for so many rounds; the weighting of the last program that was solved."""
        best, at = float("inf"), self._even
        for self.rounds in range(1, rounds + 1):
            if not self.solve():
                break
            low = self._time.solution_value() * self._length
            if best * (1 - _CLOSE) <= low or stop():
                break
            found = np.array([share.solution_value() for share in self._shares])
            new = False
            for step in _DAMPED:
                point = step * found + (1 - step) * at
                total, cut = self._replay(point)
                new |= self._add(cut)
                if total < best:
                    best, at = total, point
            if not new:
                break
        return CombinedRow.of(self.schedule, self.cuts[: len(self.weights)], self.weights)

    def solve(self) -> bool:
        """Solve from the last basis by the dual simplex, which a new row leaves feasible; else from none. Whether there
        are weights for all rows then."""
        kind = pywraplp.MPSolverParameters
        for start, algorithm in ((kind.INCREMENTALITY_ON, kind.DUAL), (kind.INCREMENTALITY_OFF, kind.PRIMAL)):
            parameters = kind()
            parameters.SetIntegerParam(kind.INCREMENTALITY, start)
            parameters.SetIntegerParam(kind.PRESOLVE, kind.PRESOLVE_OFF)
            parameters.SetIntegerParam(kind.LP_ALGORITHM, algorithm)
            if self._lp.Solve(parameters) == pywraplp.Solver.OPTIMAL:
                self.weights = [row.dual_value() for row in self._rows]
                return True
        return False

    def _replay(self, point: NDArray[np.float64]) -> tuple[float, Counts]:
        """Time in mean chunks, and the critical path."""
        held = (np.bincount(self._stage, point * prices) for prices in (self._forward, self._backward))
        forward, backward = (np.rint(np.maximum(times, 0.0) * _LARGE).astype(np.int64).tolist() for times in held)
        result = replay(
            *self.schedule.shape,
            forward,
            backward,
            round(self._hop * _LARGE),
            ep_overlap=self.schedule.ep_overlap,
            exact=True,
        )
        assert result.cut is not None
        return result.total_ns / _LARGE, (result.cut.forward, result.cut.backward, result.cut.hops)
