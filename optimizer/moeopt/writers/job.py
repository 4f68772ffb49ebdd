"""What is to be launched: a solution read back, completed and judged again before a single line is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.base import read_fields, shown
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.resolve import complete, pipeline_of

LAUNCHABLE = ("optimal", "feasible", "evaluated")
"""The statuses of a solution that say: this layout may run."""


@dataclass(frozen=True)
class Job:
    """A legal layout of a problem, with its evaluation (recomputed, never taken from the file). The problem's global
    batch is the layout's."""

    problem: Problem
    layout: Layout
    pipeline: PipelineLayout
    answer: Mapping[str, Any]
    proof: str = "evaluated: legal, no search was made"

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return int(self.answer["gpus"]["total"])

    @property
    def gpus_per_node(self) -> int:
        """Processes that one node runs: the cluster's node, or fewer where the job is smaller."""
        return min(self.problem.cluster.gpus_per_node, self.gpus)

    @property
    def nodes(self) -> int:
        """Nodes of the job. Raises InputError where whole nodes do not hold it."""
        if self.gpus % self.gpus_per_node:
            raise InputError(
                f"gpus: {self.gpus} % gpus_per_node {self.gpus_per_node} = {self.gpus % self.gpus_per_node}: "
                "launchers start whole nodes"
            )
        return self.gpus // self.gpus_per_node

    @property
    def layout_string(self) -> str:
        """The pipeline layout as it was given, without white space (the grammar has been checked)."""
        assert self.layout.pipeline_layout is not None
        return "".join(self.layout.pipeline_layout.split())


def job_of(problem: Problem, layout: Layout, proof: str = "") -> Job:
    """Complete, judge and price a layout. Raises InputError naming the first broken rule of an illegal one."""
    full = complete(problem, layout)
    answer = evaluate(problem, full)
    for rule in answer["rules"]:
        if not rule["holds"]:
            raise InputError(f"layout: illegal, breaks {rule['rule']}: {rule['equation']}")
    pipeline = pipeline_of(full)
    assert pipeline is not None
    return Job(problem.at_batch(answer["batch"]["sequences"]), full, pipeline, answer, proof or Job.proof)


def read_solution(solution: Any) -> Job:
    """The job of a solution (`solve` or `evaluate`). Raises InputError for anything that cannot be launched."""
    if not isinstance(solution, Mapping):
        raise InputError(f"solution: expected a mapping of fields, got {shown(solution)}")
    if not str(solution.get("schema", "")).startswith("moeopt/"):
        raise InputError("solution: no schema moeopt/1; give a file that solve or evaluate wrote with --format json")
    status = solution.get("status")
    for field in ("problem", "layout"):
        if status in LAUNCHABLE and not isinstance(solution.get(field), Mapping):
            raise InputError(f"solution.{field}: expected a mapping of fields, got {shown(solution.get(field))}")
    if status not in LAUNCHABLE:
        broken = [rule for rule in solution.get("rules") or [] if isinstance(rule, Mapping) and not rule.get("holds")]
        why = f", breaks {shown(broken[0].get('rule'))}" if broken else ""
        raise InputError(f"solution.status: {shown(status)}{why}; only {', '.join(LAUNCHABLE)} can be launched")
    problem = load_problem(solution["problem"])
    return job_of(problem, read_fields(Layout, solution["layout"], "layout"), _proof(solution))


def _proof(solution: Mapping[str, Any]) -> str:
    """What the file says about its optimality; text of the file, to be escaped where it is printed."""
    status, objective = solution["status"], solution.get("objective")
    if status == "evaluated" or not isinstance(objective, Mapping):
        return ""
    name, value, bound, unit = (objective.get(key) for key in ("name", "value", "bound", "unit"))
    return f"{status}: {name} {value} {unit}" + ("" if bound is None else f", proven bound {bound} {unit}")
