"""The CP-SAT model of the replayed time of one candidate: cuts instead of the ledger's rows.

Every critical path of a replay is a row that no placement of the same schedule goes below, tight at the placement that
was replayed. So a model with such rows is a relaxation, and solve, replay, cut ends with the best placement: a solution
whose replay is above the limit is cut off by its own path, one below it is a better layout, and an infeasible model
means that there is none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ortools.sat.python import cp_model

from moeopt.candidate import Candidate
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.solve import configure, run
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.combined import Counts
from moeopt.solving.settings import Settings

_SUBSOLVERS = ("pseudo_costs", "default_lp", "fixed", "quick_restart", "reduced_costs", "no_lp", "max_lp", "core")
"""In this order, as many as there are workers: pseudo-costs are what closes these placements, measured."""


@dataclass(frozen=True)
class Outcome:
    """`none`: no placement is within the limit; `found`: one satisfies the rows so far; `open`: the time was over."""

    status: Literal["none", "found", "open"]
    pipeline: PipelineLayout | None = None

    @classmethod
    def of(cls, status: Any, read: Callable[[], PipelineLayout]) -> "Outcome":
        """From the solver's status (`cpsat.solve.run`); `read` is asked for the placement where there is one."""
        if status == cp_model.INFEASIBLE:
            return cls("none")
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return cls("open")
        return cls("found", read())


class ReplayedModel(Encoding):
    """One candidate's placements whose step is within the limit as far as the cuts tell."""

    def __init__(self, candidate: Candidate, limit_ns: int, limit_bytes: int, cuts: Iterable[Counts]) -> None:
        super().__init__(candidate.problem, [candidate], limit_ns, limit_bytes, "replayed")
        self._known: set[Counts] = set()
        self.add_cuts(cuts)

    def add_cuts(self, cuts: Iterable[Counts]) -> None:
        """Rows of the pipeline's time, in counts of pieces: without times in between the rows propagate better."""
        candidate = self.candidates[0]
        terms = candidate.ledger.time_terms
        counts = self.grids[candidate.grid].placement.pieces(candidate.block_layers)
        for cut in cuts:
            if cut in self._known:
                continue
            self._known.add(cut)
            value: Expression = cut[2] * int(terms.hop_ns)
            for piece, columns in counts.items():
                if piece not in terms.forward_ns:
                    continue
                forward, backward = int(terms.forward_ns[piece]), int(candidate.backward_ns[piece])
                prices = [f * forward + b * backward for f, b in zip(cut[0], cut[1], strict=True)]
                value = value + sum(price * column for price, column in zip(prices, columns, strict=True) if price)
            self.cp.add(self.time >= value + self.end_time)

    def tighten(self, limit_ns: int) -> None:
        """Only steps within a lower limit matter from now on."""
        self.cp.add(self.time <= limit_ns)

    def solve(self, settings: Settings) -> Outcome:
        """Any placement that satisfies the rows so far."""
        solver = cp_model.CpSolver()
        configure(solver, settings)
        solver.parameters.subsolvers.extend(_SUBSOLVERS)
        return Outcome.of(run(solver, self.cp), lambda: self.read(solver)[1])
