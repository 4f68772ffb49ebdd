"""The nearest legal reading of a layout whose degrees contradict the GPU count."""

from dataclasses import dataclass
from math import lcm
from typing import Any

from moeopt.layout import Layout
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class Grids:
    """The two grids of a layout as given: which GPU totals are legal for its degrees.

    Source: Megatron-LM megatron/core/parallel_state.py, `initialize_model_parallel`: the world size must be a multiple
    of tp * cp * pp and of etp * ep * pp, and etp is tp where it is not given.
    """

    layout: Layout

    @property
    def etp(self) -> int:
        """Expert tensor parallel, Megatron's default filled in."""
        return self.layout.etp or self.layout.tp

    @property
    def dense(self) -> int:
        """GPUs of one data-parallel replica: tp * cp * pp."""
        return self.layout.tp * self.layout.cp * self.layout.pp

    @property
    def expert(self) -> int:
        """GPUs of one expert-data-parallel replica: etp * ep * pp."""
        return self.etp * self.layout.ep * self.layout.pp

    @property
    def smallest(self) -> int:
        """The smallest legal GPU total; every legal one is a multiple of it."""
        return lcm(self.dense, self.expert)

    @property
    def total(self) -> int | None:
        """tp * cp * dp * pp, where dp is given."""
        return None if self.layout.dp is None else self.dense * self.layout.dp


@dataclass(frozen=True)
class Reading:
    """A layout that is legal as far as GPUs go, the problem it answers, and what of the given one was dropped."""

    problem: Problem
    layout: Layout
    contradictions: list[dict[str, Any]]
    note: str


def nearest_reading(problem: Problem, layout: Layout) -> Reading:
    """The same degrees with the dp that makes the problem's GPUs; where none does, with the nearest legal total."""
    grids, reach = Grids(layout), problem.gpu_range
    contradictions = _contradictions(layout, grids, problem)
    wanted = grids.total if grids.total is not None and reach.min <= grids.total <= reach.max else reach.max
    gpus = wanted // grids.smallest * grids.smallest
    if gpus < reach.min:
        below, above = gpus, gpus + grids.smallest
        gpus = below if below and wanted - below <= above - wanted else above
        problem = problem.model_copy(update={"gpus": gpus, "fix": {}})
    note = ""
    if contradictions:
        dp = gpus // grids.dense
        derived = ("dp", "edp", *(["num_microbatches"] if problem.workload.batches.exact else []))
        layout = layout.model_copy(update=dict.fromkeys(derived))
        note = f"read with dp {dp}, which makes {gpus} GPUs"
    return Reading(problem, layout, contradictions, note)


def _contradictions(layout: Layout, grids: Grids, problem: Problem) -> list[dict[str, Any]]:
    reach, found = problem.gpu_range, []
    gpus = f"{reach.max}" if reach.min == reach.max else f"{reach.min} to {reach.max}"
    if grids.total is not None and not reach.min <= grids.total <= reach.max:
        equation = f"tp {layout.tp} * cp {layout.cp} * dp {layout.dp} * pp {layout.pp} = {grids.total}, not {gpus}"
        found.append(_verdict("gpu_total_dense", equation))
    if layout.edp is not None and not reach.min <= grids.expert * layout.edp <= reach.max:
        equation = f"etp {grids.etp} * ep {layout.ep} * edp {layout.edp} * pp {layout.pp} = {grids.expert * layout.edp}"
        found.append(_verdict("gpu_total_expert", f"{equation}, not {gpus}"))
    total = grids.total if grids.total is not None else reach.max
    if (grids.total is not None or reach.min == reach.max) and total % grids.smallest:
        equation = (
            f"{total} is no multiple of lcm(tp {layout.tp} * cp {layout.cp}, etp {grids.etp} * ep {layout.ep}) * pp "
            f"{layout.pp} = {grids.smallest}: {total} % {grids.smallest} = {total % grids.smallest}"
        )
        found.append(_verdict("gpu_total_expert", equation))
    return found


def _verdict(rule: str, equation: str) -> dict[str, Any]:
    return {"rule": rule, "holds": False, "equation": equation}
