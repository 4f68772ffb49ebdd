"""Whether a placement of layers satisfies the constraints that read one."""

from collections.abc import Mapping, Sequence
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.candidate import Candidate
from moeopt.constraints.evaluate import Placed, Reader
from moeopt.constraints.rules import placement_verdicts, trees
from moeopt.constraints.tree import items
from moeopt.frameworks.rules import Verdict
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of


def obeys(candidate: Candidate, pipeline: PipelineLayout, step_ns: int) -> bool:
    """Whether a placement of a candidate's layers satisfies every constraint of its problem that reads one, and holds a
    unit of full recompute in some chunk."""
    if max(chunk.layers for chunk in pipeline.chunks) < candidate.unit_layers:
        return False
    wanted = [tree for tree in trees(candidate.problem).values() if items(tree)]
    if not wanted:
        return True
    read = {item.name for tree in wanted for item in items(tree)}
    peaks = _peaks(candidate.ledger, pipeline) if "peak_memory" in read else [0] * pipeline.pp
    reader = Reader(candidate.degrees, candidate.choices, Placed.of(pipeline, peaks, step_ns))
    return all(bool(reader.holds(tree)) for tree in wanted)


def _peaks(ledger: Ledger, pipeline: PipelineLayout) -> Sequence[int]:
    return [stage.total_bytes for stage in ledger.memory(pipeline)]


def verdicts(problem: Problem, layout: Layout, pipeline: PipelineLayout, answer: Mapping[str, Any]) -> list[Verdict]:
    """Each constraint that reads the placement, judged on a complete layout and what is computed from it."""
    if not problem.constraints:
        return []
    peaks = [stage["total_bytes"] for stage in answer["memory"]["per_stage"]]
    placed = Placed.of(pipeline, peaks, answer["step_time"]["total_ns"])
    return placement_verdicts(problem, degrees_of(layout), layout.choices, placed)
