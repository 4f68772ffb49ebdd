"""The search space: every combination of degrees that the problem admits, as columns.

Domains follow from the problem (divisors of heads, experts, batch, ...), from `fix` and `limits`, and from the default
bounds below, which only keep the space to layouts that anybody would launch; `limits` in a problem replaces each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import InputError
from moeopt.freedom import freed
from moeopt.layout import Degrees
from moeopt.microbatches import Steps, divisible
from moeopt.problem.base import nearest
from moeopt.problem.batches import Batches
from moeopt.problem.problem import Problem

Column = NDArray[np.int64]
Columns = dict[str, Column]

DEFAULT_MAX_MICRO_BATCH_SIZE = 16
DEFAULT_MAX_VPP = 12
MOST_ROWS = 40_000_000
"""Combinations of degrees and global batches that are looked at where the batch is open (one batch makes some tens of
thousands) ..."""
MOST_UNTIMED_ROWS = 400_000
"""... and under peak_memory, which tells few of them apart."""


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [i for i in range(1, int(number**0.5) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def domain(problem: Problem, degree: str) -> list[int]:
    """The values that one degree may take before any rule is asked, ascending."""
    values = _candidates(problem, degree)
    if degree in problem.fix:
        fixed = problem.fix[degree]
        return [fixed] if problem.bound(degree).admits(fixed) else []
    bound = problem.bound(degree)
    default = default_maximum(problem, degree)
    ceiling = bound.max if bound.max is not None else default
    return [value for value in values if bound.admits(value) and (ceiling is None or value <= ceiling)]


def default_maximum(problem: Problem, degree: str) -> int | None:
    """Bounds that hold unless the problem's limits name a maximum of their own."""
    return {
        "tp": problem.cluster.nvlink_domain_size,
        "etp": problem.cluster.nvlink_domain_size,
        "vpp": DEFAULT_MAX_VPP,
        "micro_batch_size": DEFAULT_MAX_MICRO_BATCH_SIZE,
    }.get(degree)


def _candidates(problem: Problem, degree: str) -> Iterable[int]:
    architecture, workload = problem.architecture, problem.workload
    most = problem.gpu_range.max
    pieces = architecture.num_hidden_layers + 2
    exact = problem.gpu_range.min == most
    up_to = divisors(most) if exact else range(1, most + 1)
    largest = problem.bound("micro_batch_size").max or DEFAULT_MAX_MICRO_BATCH_SIZE
    sources: dict[str, Callable[[], Iterable[int]]] = {
        "tp": lambda: [t for t in divisors(architecture.num_attention_heads) if t <= most],
        "pp": lambda: [p for p in up_to if p <= pieces],
        "cp": lambda: [c for c in divisors(workload.sequence_length) if c <= most],
        "dp": lambda: _dividing(workload.batches, most, exact),
        "ep": lambda: [e for e in divisors(architecture.num_experts or 1) if e <= most],
        "etp": lambda: [q for q in divisors(architecture.moe_intermediate_size or 1) if q <= most],
        "vpp": lambda: range(1, pieces + 1),
        "micro_batch_size": lambda: _dividing(workload.batches, largest),
    }
    return sources[degree]() if degree in sources else ()


def _dividing(batches: Batches, most: int, exactly: bool = False) -> list[int]:
    """Numbers up to `most` (where the batch is open with `exactly`: among its divisors) that divide some batch."""
    if batches.exact:
        return [d for d in divisors(batches.most) if d <= most]
    numbers = np.array(divisors(most)) if exactly else np.arange(1, min(most, batches.most) + 1)
    return [int(number) for number in numbers[divisible(batches, numbers)]]


def check_names(problem: Problem, known: Iterable[str]) -> None:
    """Refuse a name in `fix` that no layout has, and MTP modules whose kind of layer a search cannot tell."""
    names = list(known)
    for name in problem.fix:
        if name not in names:
            raise InputError(f"fix.{name}: a layout has no such decision{nearest(name, names)}")
    flat = problem.fix.get("pp", problem.bound("pp").max) == 1
    if problem.mtp_layers and problem.architecture.mtp_kind_by_stage and not flat:
        raise InputError(
            f"num_nextn_predict_layers: {_why_by_stage(problem)}, so what is built into MTP modules depends on their "
            "stage, and the search does not look at that: set workload.mtp false or fix pp 1"
        )


def _why_by_stage(problem: Problem) -> str:
    if problem.architecture.has_indexer:
        return "attention is sparse, and plain on a stage without decoder layers"
    return "the last decoder layer is dense and others have experts"


def gpu_counts(problem: Problem) -> list[int]:
    """GPU totals that some combination of degrees makes, ascending."""
    return [int(count) for count in np.unique(np.asarray(enumerate_degrees(problem).gpus))]


def default_group(pp: Column, vpp: Column, microbatches: Column) -> Column:
    """Megatron's micro-batch group of the interleaved schedule: pp where legal, else the smallest legal one above it.

    Legal: pp <= group <= microbatches, and microbatches % group is 0 or at least pp (schedules.py). With
    microbatches >= pp a legal group always exists: microbatches itself.
    """
    group = pp.copy()
    rest = microbatches % pp
    for index in np.flatnonzero((vpp > 1) & (rest != 0) & (microbatches >= pp)):
        p, m = int(pp[index]), int(microbatches[index])
        group[index] = next(g for g in range(p, m + 1) if m % g == 0 or m % g >= p)
    return group


def with_groups(problem: Problem, table: Columns, microbatches: Column) -> Columns:
    """Columns (pp and vpp among them) with the micro-batch group of each row: what is fixed, the default, or, where the
    problem frees it, a row for each of the default, 2 pp, 4 pp and all micro-batches that is legal."""
    pp, interleaved = table["pp"], table["vpp"] > 1
    given = problem.fix.get("interleave_group")
    if given is not None:
        return {**table, "interleave_group": np.where(interleaved, given, pp)}
    groups = [default_group(pp, table["vpp"], microbatches)]
    if "interleave_group" in freed(problem):
        groups += [2 * pp, 4 * pp, microbatches]
    parts = []
    for index, group in enumerate(groups):
        rest = microbatches % group
        legal = interleaved & (group >= pp) & (group <= microbatches) & ((rest == 0) | (rest >= pp))
        new = np.logical_and.reduce([legal, *(group != known for known in groups[:index])])
        parts.append(_keep({**table, "interleave_group": group}, new if index else np.ones_like(new)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def enumerate_degrees(problem: Problem) -> Degrees:
    """Columns of every combination of the domains that satisfies both GPU equations and the batch, chunks left at one
    (see `with_chunks`). Where the batch is open the micro-batches are the fewest that make an allowed one (see
    `with_microbatches`). Legality rules proper are the framework's and are applied by the caller. Raises InputError
    where an open batch makes more than `MOST_ROWS` of them.
    """
    reach = problem.gpu_range
    table: Columns = {}
    for name in ("tp", "cp", "pp", "dp"):
        values = domain(problem, name)
        _check_rows(problem, _length(table) * len(values))
        table = _cross(table, name, values)
        table = _keep(table, _product(table, ("tp", "cp", "pp", "dp")) <= reach.max)
    table = _keep(table, _product(table, ("tp", "cp", "pp", "dp")) >= reach.min)
    for name in ("ep", "etp"):
        table = _cross(table, name, domain(problem, name))
        block = table["tp"] * table["cp"] * table["dp"]
        table = _keep(table, block % _product(table, ("ep", "etp")) == 0)
    table["edp"] = table["tp"] * table["cp"] * table["dp"] // _product(table, ("ep", "etp"))
    table = _cross(table, "micro_batch_size", domain(problem, "micro_batch_size"))
    steps = Steps(problem, table["micro_batch_size"] * table["dp"])
    _check_rows(problem, int(steps.counts.sum()), problem.objective == "peak_memory")
    table["num_microbatches"] = steps.fewest
    table = _keep(table, steps.counts > 0)
    for name in ("dp", "edp"):
        allowed = problem.bound(name)
        low, high = allowed.min or 0, allowed.max or np.iinfo(np.int64).max
        table = _keep(table, (table[name] >= low) & (table[name] <= high))
        if name in problem.fix:
            table = _keep(table, table[name] == problem.fix[name])
    table["vpp"] = np.ones_like(table["tp"])
    table["interleave_group"] = table["pp"].copy()
    return Degrees(**table)


def _check_rows(problem: Problem, rows: int, untimed: bool = False) -> None:
    batches, reach = problem.workload.batches, problem.gpu_range
    most = MOST_UNTIMED_ROWS if untimed else MOST_ROWS
    if batches.exact or rows <= most:
        return
    gpus = f"{reach.max}" if reach.min == reach.max else f"{reach.min} to {reach.max}"
    aim = " for peak_memory" if untimed else ""
    raise InputError(
        f"workload.global_batch_size: {batches} make {rows} combinations of degrees and batches on {gpus} GPUs, more "
        f"than the {most} that are searched{aim}; give multiple_of (like {{min: {batches.least}, max: {batches.most}, "
        "multiple_of: 64}), or list batches"
    )


def most_microbatches(problem: Problem, degrees: Degrees) -> Degrees:
    """The rows with the most micro-batches that make an allowed global batch: with one batch the same rows."""
    if problem.workload.batches.exact:
        return degrees
    return replace(degrees, num_microbatches=Steps(problem, degrees.micro_batch_size * degrees.dp).most)


def count_microbatches(problem: Problem, degrees: Degrees) -> Column:
    """How many numbers of micro-batches make an allowed global batch, by row."""
    return Steps(problem, degrees.micro_batch_size * degrees.dp).counts


def with_microbatches(problem: Problem, degrees: Degrees) -> tuple[Degrees, Column]:
    """A row for every allowed global batch of each row; and the row that each came from."""
    if problem.workload.batches.exact:
        return degrees, np.arange(len(degrees.tp))
    microbatches, rows = Steps(problem, degrees.micro_batch_size * degrees.dp).listed()
    return replace(select(degrees, rows), num_microbatches=microbatches), rows


def with_chunks(problem: Problem, degrees: Degrees) -> tuple[Degrees, NDArray[np.int64]]:
    """Every number of virtual chunks for each row, with its micro-batch group; and the row that each came from."""
    table: Columns = {field.name: getattr(degrees, field.name) for field in fields(Degrees)}
    table["row"] = np.arange(len(degrees.tp))
    del table["vpp"]
    table = _cross(table, "vpp", domain(problem, "vpp"))
    stages = table["pp"] * table["vpp"]
    table = _keep(table, (stages <= _most_stages(problem)) & ((table["vpp"] == 1) | (table["pp"] > 1)))
    table = with_groups(problem, table, table["num_microbatches"])
    rows = table.pop("row")
    return Degrees(**table), rows


def can_interleave(problem: Problem, degrees: Degrees, most: Degrees) -> NDArray[np.bool_]:
    """Which rows can have more than one virtual chunk, with as many micro-batches as the rows of `most`."""
    several = [vpp for vpp in domain(problem, "vpp") if vpp > 1]
    fewest = min(several, default=_most_stages(problem) + 1)
    grids = (degrees.pp > 1) & (degrees.pp * fewest <= _most_stages(problem))
    return np.asarray(grids & (most.num_microbatches >= degrees.pp), dtype=bool)


def _most_stages(problem: Problem) -> int:
    """Stages of which none is empty."""
    return problem.architecture.num_hidden_layers + 2 + bool(problem.mtp_layers)


def select(degrees: Degrees, mask: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Degrees:
    """The rows of columns that a mask, an index or a slice picks."""
    rows = np.flatnonzero(mask) if isinstance(mask, np.ndarray) and mask.dtype == bool else mask
    return Degrees(**{field.name: getattr(degrees, field.name)[rows] for field in fields(Degrees)})


def concatenate(parts: Sequence[Degrees]) -> Degrees:
    """Columns one after the other."""
    return Degrees(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Degrees)}
    )


def columns(degrees: Degrees) -> Degrees:
    """One row of integers as columns of length one."""
    return Degrees(**{field.name: np.array([getattr(degrees, field.name)]) for field in fields(Degrees)})


def row(degrees: Degrees, index: int) -> Degrees:
    """One row of columns as Python integers."""
    return Degrees(**{field.name: int(getattr(degrees, field.name)[index]) for field in fields(Degrees)})


def _product(table: Columns, names: Iterable[str]) -> NDArray[np.int64]:
    result = np.ones(_length(table), dtype=np.int64)
    for name in names:
        if name in table:
            result = result * table[name]
    return result


def _length(table: Columns) -> int:
    return len(next(iter(table.values()))) if table else 1


def _cross(table: Columns, name: str, values: Iterable[int]) -> Columns:
    column = np.fromiter(values, dtype=np.int64)
    rows = _length(table)
    crossed = {key: np.repeat(old, len(column)) for key, old in table.items()}
    crossed[name] = np.tile(column, rows)
    return crossed


def _keep(table: Columns, mask: NDArray[np.bool_]) -> Columns:
    return {name: column[mask] for name, column in table.items()}
