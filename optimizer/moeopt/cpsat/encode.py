"""The CP-SAT model: which candidate, and which layers on which stage.

Decisions    one literal a candidate (exactly one is true), the degrees as integers, the placement of each grid
Constraints  the two GPU equations; memory of every rank within the limit; time at least every row of the schedule
Prices       those of the ledger's terms; a row holds only while its candidate or schedule is the chosen one

Quantities that are minimised or bounded above (times, bytes) are variables with lower-bounding rows, so every row is
linear; at the optimum they equal what the ledger computes, which the solver checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ortools.sat.python import cp_model

from moeopt.accounting.pieces import priced_total
from moeopt.candidate import TIE_BREAK, Candidate
from moeopt.cpsat import prices
from moeopt.cpsat.constraints import add_constraints
from moeopt.cpsat.expressions import Expression
from moeopt.cpsat.placement import Placement
from moeopt.cpsat.schedule import add_schedule
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.solving.incumbent import Found

Rows = Literal["all", "few", "replayed"]


@dataclass(frozen=True)
class GridVariables:
    """Variables of one grid that the prices of its candidates bound from below; stages, but `static` is by rank."""

    placement: Placement
    forward: list[cp_model.IntVar]
    backward: list[cp_model.IntVar]
    kept: list[cp_model.IntVar]
    passing: list[cp_model.IntVar]
    static: list[cp_model.IntVar]


class Encoding:
    """The model of a list of candidates under a time and a memory limit.

    `rows` "few" leaves out all rows of a schedule but its ranks' own work: a relaxation that rules most things out.
    With "replayed" the time is the replay's, not the ledger's: its rows are cuts (`moeopt.cpsat.replayed`).
    """

    def __init__(
        self,
        problem: Problem,
        candidates: Sequence[Candidate],
        horizon_ns: int,
        limit_bytes: int,
        rows: Rows = "all",
    ) -> None:
        self.problem, self.candidates, self.rows = problem, list(candidates), rows
        self.horizon_ns, self.limit_bytes = horizon_ns, limit_bytes
        self.cp = cp_model.CpModel()
        self.chosen = [self.cp.new_bool_var(f"candidate_{i}") for i in range(len(self.candidates))]
        self.cp.add_exactly_one(self.chosen)
        self.time = self.cp.new_int_var(0, horizon_ns, "time_ns")
        self.pipeline_time = self.cp.new_int_var(0, horizon_ns, "pipeline_ns")
        self.end_time = self.cp.new_int_var(0, max(prices.longest_end_ns(item) for item in candidates), "step_end_ns")
        self.peak = self.cp.new_int_var(0, limit_bytes, "peak_bytes")
        self.cp.add(self.time >= self.pipeline_time + self.end_time)
        self.degrees = self._degrees()
        self.grids: dict[tuple[int, int], GridVariables] = {}
        for grid in dict.fromkeys(candidate.grid for candidate in self.candidates):
            self.grids[grid] = self._grid(*grid)
        for candidate, literal in zip(self.candidates, self.chosen, strict=True):
            prices.add_candidate(self, candidate, self.grids[candidate.grid], literal)
            add_constraints(self, candidate, literal)
        self._schedules()
        bounds = [candidate.bound_ns for candidate in self.candidates]
        self.cp.add(self.time >= cp_model.LinearExpr.weighted_sum(self.chosen, bounds))

    # Degrees and the GPU equations -----------------------------------------------------------------------------

    def _degrees(self) -> dict[str, cp_model.IntVar]:
        names = (*TIE_BREAK, "dp", "edp", "num_microbatches")
        degrees = {}
        for name in names:
            values = [int(getattr(candidate.degrees, name)) for candidate in self.candidates]
            variable = self.cp.new_int_var_from_domain(cp_model.Domain.from_values(values), name)
            self.cp.add(variable == cp_model.LinearExpr.weighted_sum(self.chosen, values))
            degrees[name] = variable
        reach = self.problem.gpu_range
        degrees["gpus"] = self.cp.new_int_var(reach.min, reach.max, "gpus")
        self._product(degrees["gpus"], [degrees[name] for name in ("tp", "cp", "dp", "pp")])
        self._product(degrees["gpus"], [degrees[name] for name in ("etp", "ep", "edp", "pp")])
        sizes = cp_model.Domain.from_values([int(candidate.degrees.batch) for candidate in self.candidates])
        batch = self.cp.new_int_var_from_domain(sizes, "batch")
        self._product(batch, [degrees[name] for name in ("micro_batch_size", "dp", "num_microbatches")])
        return degrees

    def _product(self, total: cp_model.IntVar, factors: Sequence[cp_model.IntVar]) -> None:
        """total == product of the factors."""
        left = factors[0]
        for position, factor in enumerate(factors[1:], start=2):
            if position == len(factors):
                self.cp.add_multiplication_equality(total, [left, factor])
                return
            partial = self.cp.new_int_var(1, self.problem.gpu_range.max * self.problem.workload.batches.most, "")
            self.cp.add_multiplication_equality(partial, [left, factor])
            left = partial

    # Grids ------------------------------------------------------------------------------------------------------

    def _grid(self, pp: int, vpp: int) -> GridVariables:
        placement = Placement(self.cp, self.problem, pp, vpp)
        name, stages = f"pp{pp}v{vpp}", range(pp * vpp)

        members = [candidate for candidate in self.candidates if candidate.grid == (pp, vpp)]
        by_horizon = self.horizon_ns // min(int(item.degrees.num_microbatches) for item in members)

        def times(what: str, most: int) -> list[cp_model.IntVar]:
            return [self.cp.new_int_var(0, min(most, by_horizon), f"{name}_{what}_{s}") for s in stages]

        def sizes(what: str, count: int) -> list[cp_model.IntVar]:
            return [self.cp.new_int_var(0, self.limit_bytes, f"{name}_{what}_{i}") for i in range(count)]

        return GridVariables(
            placement,
            times(
                "forward", max(priced_total(item.most_pieces, item.ledger.time_terms.forward_ns) for item in members)
            ),
            times("backward", max(priced_total(item.most_pieces, item.backward_ns) for item in members)),
            sizes("kept", pp * vpp),
            sizes("passing", pp * vpp),
            sizes("static", pp),
        )

    def at_least(self, above: Expression, below: Expression, *literals: cp_model.IntVar) -> None:
        """above >= below while every literal holds."""
        constraint = self.cp.add(above >= below)
        conditions = [literal for literal in literals if not self._is_certain(literal)]
        if conditions:
            constraint.only_enforce_if(conditions)

    def _is_certain(self, literal: cp_model.IntVar) -> bool:
        return len(self.chosen) == 1 and literal.index == self.chosen[0].index

    # Schedules --------------------------------------------------------------------------------------------------

    def _schedules(self) -> None:
        """Time rows and activation rows: one set for all candidates that share an order of operations."""
        for schedule in dict.fromkeys(candidate.schedule for candidate in self.candidates):
            members = [
                (x, candidate)
                for x, candidate in zip(self.chosen, self.candidates, strict=True)
                if candidate.schedule == schedule
            ]
            literal = members[0][0]
            if len(members) > 1:
                literal = self.cp.new_bool_var(f"schedule_{schedule}")
                self.cp.add(sum(x for x, _ in members) == literal)
            hops = [candidate.ledger.time_terms.hop_ns for _, candidate in members]
            hop_ns = cp_model.LinearExpr.weighted_sum([x for x, _ in members], hops)
            add_schedule(self, schedule, self.grids[schedule[:2]], literal, hop_ns)

    def hint(self, found: Found) -> None:
        """Start the next solve at a layout."""
        self.cp.clear_hints()  # type: ignore[no-untyped-call]
        for literal, candidate in zip(self.chosen, self.candidates, strict=True):
            self.cp.add_hint(literal, candidate.order == found.candidate.order)
        self.grids[found.candidate.grid].placement.hint(found.pipeline)

    def settle(self, goal: Expression, value: int, found: Found) -> None:
        """Keep a goal at the value reached, for the goals after it."""
        self.cp.add(goal <= value)
        self.hint(found)

    def read(self, value: "cp_model.CpSolver | cp_model.CpSolverSolutionCallback") -> tuple[int, PipelineLayout]:
        """Index of the chosen candidate and its placement."""
        index = next(i for i, literal in enumerate(self.chosen) if value.value(literal))
        return index, self.grids[self.candidates[index].grid].placement.read(value)
