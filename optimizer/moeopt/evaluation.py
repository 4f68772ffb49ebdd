"""Judge one given layout: legality, GPU total, memory of every stage, step time. No solver is involved."""

from collections.abc import Mapping
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.accounting.memory.exact import exact_buffers
from moeopt.accounting.parameters import count
from moeopt.constraints.placements import verdicts as placement_verdicts
from moeopt.errors import InputError
from moeopt.frameworks.megatron_core import check
from moeopt.frameworks.rules import Verdict
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem
from moeopt.resolve import complete, degrees_of, is_complete, own_gpus, pipeline_of
from moeopt.schedule.order import check_schedule
from moeopt.solution import SCHEMA, describe, gpu_equations, objective_json, rules_json


def evaluate(problem: Problem, layout: Layout | Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """The contract's JSON object for a layout: status `evaluated`, or `illegal` with every broken rule.

    A mapping is read as the fields of a layout file (a solution's `layout` is one).
    With `strict`, a given dp that contradicts the GPU count raises InputError; otherwise the GPU total is the layout's
    own and the rule `gpu_total_dense` is broken. Memory above the limit breaks the rule `memory_fits`; the numbers
    are still all there wherever the degrees can be derived and the pipeline layout can be read. `ddp_buffers` (legal
    layouts without Megatron-FSDP) are the parameter and gradient buffers to the last element, beside the law's bytes.
    """
    given = layout if isinstance(layout, Layout) else read_fields(Layout, layout, "layout")
    full = complete(problem, given, strict)
    verdicts = check(problem, full)
    pipeline = pipeline_of(full)
    if not is_complete(full) or pipeline is None or _unpriceable(problem, full, pipeline.mtp):
        return _without_prices(problem, full, verdicts)
    answer = describe(problem, Ledger(problem, degrees_of(full), full.choices), full, pipeline)
    sound = all(verdict.holds for verdict in verdicts)
    verdicts.append(memory_verdict(problem, answer["memory"]))
    verdicts += placement_verdicts(problem, full, pipeline, answer)
    legal = all(verdict.holds for verdict in verdicts)
    return {
        "schema": SCHEMA,
        "status": "evaluated" if legal else "illegal",
        **answer,
        "objective": objective_json(problem, problem.objective, answer, None),
        "ddp_buffers": exact_buffers(problem, degrees_of(full), full.choices, pipeline) if sound else None,
        "rules": rules_json(verdicts),
    }


def memory_verdict(problem: Problem, memory: dict[str, Any]) -> Verdict:
    """The rule that the fullest stage fits."""
    peak, limit, stage = memory["peak_bytes"], problem.memory_limit, memory["peak_stage"]
    sign = "<=" if peak <= limit else ">"
    return Verdict(
        "memory_fits",
        peak <= limit,
        f"peak of stage {stage}: {peak} bytes {sign} {limit}"
        + ("" if peak <= limit else f", {peak - limit} bytes too many"),
        "the fullest GPU holds everything at its peak",
        "the cluster's memory, or limits.peak_memory where that is lower",
        "moeopt",
    )


def _unpriceable(problem: Problem, layout: Layout, mtp: int) -> bool:
    """Whether the stages do not hold the architecture, or no order of operations exists: nothing to add up then."""
    pipeline = pipeline_of(layout)
    assert pipeline is not None
    layers = sum(chunk.layers for chunk in pipeline.chunks)
    if layers != problem.architecture.num_hidden_layers or mtp != problem.mtp_layers:
        return True
    degrees = degrees_of(layout)
    try:
        check_schedule(degrees.pp, degrees.vpp, degrees.num_microbatches, degrees.interleave_group)
    except InputError:  # the rules of the interleaved schedule say so, each with its equation
        return True
    return False


def _without_prices(problem: Problem, layout: Layout, verdicts: list[Verdict]) -> dict[str, Any]:
    counted = count(problem.architecture)
    answer: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "illegal",
        "problem": problem.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "parameters": {"total": counted.total, "active": counted.active, "per_stage": []},
        "rules": rules_json(verdicts),
    }
    gpus = own_gpus(layout)
    if gpus is not None:
        answer["gpus"] = gpu_equations(layout, gpus)
    return answer
