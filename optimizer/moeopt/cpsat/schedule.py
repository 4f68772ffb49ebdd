"""Rows of one order of operations: time from below (and UB2 for interleaved schedules), activations in flight."""

from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from moeopt.accounting.pieces import piece_counts
from moeopt.arithmetic import ceil_div
from moeopt.cpsat.expressions import Expression
from moeopt.schedule.bounds import lower_bound_rows
from moeopt.schedule.even import even_hops
from moeopt.schedule.in_flight import in_flight_vectors

if TYPE_CHECKING:
    from moeopt.cpsat.encode import Encoding, GridVariables

Schedule = tuple[int, int, int, int, bool]
"""pp, vpp, micro-batches, interleave group, expert-parallel overlap."""


def add_schedule(
    encoding: "Encoding",
    schedule: Schedule,
    grid: "GridVariables",
    literal: cp_model.IntVar,
    hop_ns: Expression,
) -> None:
    """Everything that the order of operations says, while `literal` holds."""
    _add_memory(encoding, schedule, grid, literal)
    if encoding.rows == "replayed":
        return
    surrogate: Expression | None = None
    if schedule[1] > 1:
        surrogate = _surrogate(encoding, schedule, grid, literal) + even_hops(*schedule) * hop_ns
    for row in lower_bound_rows(*schedule):
        if encoding.rows == "few" and not row.name.startswith("R1"):
            continue
        value = (
            cp_model.LinearExpr.weighted_sum(grid.forward, row.forward)
            + cp_model.LinearExpr.weighted_sum(grid.backward, row.backward)
            + row.hops * hop_ns
        )
        if surrogate is None:
            encoding.at_least(encoding.pipeline_time, value, literal)
        else:
            encoding.at_least(2 * encoding.pipeline_time, value + surrogate, literal)


def _add_memory(encoding: "Encoding", schedule: Schedule, grid: "GridVariables", literal: cp_model.IntVar) -> None:
    """Peak of every rank: what it holds always, what is in flight at each possible peak, what passes in a chunk that
    runs then (one with a micro-batch in flight)."""
    pp = schedule[0]
    for rank in range(pp):
        kept, passing = grid.kept[rank::pp], grid.passing[rank::pp]
        largest: dict[tuple[int, ...], cp_model.IntVar] = {}
        for vector in in_flight_vectors(*schedule[:4], rank, schedule[4]):
            running = tuple(chunk for chunk, count in enumerate(vector) if count)
            if running not in largest:
                largest[running] = passing[running[0]]
                if len(running) > 1:
                    largest[running] = encoding.cp.new_int_var(0, encoding.limit_bytes, "")
                    for chunk in running:
                        encoding.cp.add(largest[running] >= passing[chunk])
            flight = cp_model.LinearExpr.weighted_sum(kept, vector)
            encoding.at_least(encoding.peak, grid.static[rank] + flight + largest[running], literal)


def _surrogate(
    encoding: "Encoding", schedule: Schedule, grid: "GridVariables", literal: cp_model.IntVar
) -> cp_model.IntVar:
    """UB2 of `moeopt.schedule.bounds.ub2`, without hops: a free base time and what each chunk exceeds it by."""
    pp, vpp, microbatches, group, _ = schedule
    cp, horizon = encoding.cp, encoding.horizon_ns
    groups = int(ceil_div(microbatches, group))
    base = cp.new_int_var(0, horizon, f"base_{schedule}")
    total = cp.new_int_var(0, 4 * horizon, f"ub2_{schedule}")
    value: Expression = (microbatches * vpp + pp - 1) * base
    slowest: list[Expression] = []
    for chunk in range(vpp):
        largest = cp.new_int_var(0, horizon, "")
        for stage in range(chunk * pp, (chunk + 1) * pp):
            excess = cp.new_int_var(0, horizon, "")
            encoding.at_least(excess, grid.forward[stage] + grid.backward[stage] - base, literal)
            cp.add(largest >= excess)
            value = value + groups * excess
        value = value + (microbatches - groups) * largest
        slowest.append(base + largest)
    encoding.at_least(total, value, literal)
    if encoding.rows == "few":
        _add_levels(encoding, pp, grid, slowest)
    return total


def _add_levels(encoding: "Encoding", pp: int, grid: "GridVariables", slowest: list[Expression]) -> None:
    """Cuts that help to rule out (they slow down placing): layers are whole. The most layers of the commonest kind on
    a stage of each chunk position is an integer that its slowest stage pays for, and p times these hold all of them.
    Few variables to decide, and nearly all of UB2."""
    kinds = encoding.problem.architecture.kinds
    counts = piece_counts(encoding.problem)
    main = max(kinds, key=lambda kind: counts[kind])
    price = min(int(item.ledger.time_terms.forward_ns[main] + item.backward_ns[main]) for item in encoding.candidates)
    levels = []
    for chunk, time in enumerate(slowest):
        level = encoding.cp.new_int_var(0, counts[main], f"level_{chunk}")
        held = grid.placement.counts[main][chunk * pp : (chunk + 1) * pp]
        for count in held:
            encoding.cp.add(level >= count)
        encoding.cp.add(pp * level >= sum(held))
        encoding.cp.add(time >= price * level)
        levels.append(level)
    encoding.cp.add(sum(levels) >= int(ceil_div(counts[main], pp)))
