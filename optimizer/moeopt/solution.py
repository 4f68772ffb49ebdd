"""The answer's JSON object: one builder for `solve` and `evaluate`, so that both say the same integers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import zip_longest
from typing import Any

from moeopt.accounting.ledger import Ledger, StepTime
from moeopt.accounting.memory.stage import StageMemory
from moeopt.accounting.parameters import count
from moeopt.accounting.sharding import Elements, chunk_elements
from moeopt.accounting.time.flops import sequence_flops
from moeopt.accounting.time.uncertainty import time_range
from moeopt.candidate import PER_SEQUENCE
from moeopt.constraints.placements import verdicts as placement_verdicts
from moeopt.frameworks.megatron_core import check
from moeopt.frameworks.rules import Verdict
from moeopt.layout import Degrees, Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.solving.branch import Result
from moeopt.solving.certify import Certificate
from moeopt.solving.incumbent import Found
from moeopt.solving.replayed import Replayed
from moeopt.units import GPU_HOUR_NS, OBJECTIVE_UNITS

SCHEMA = "moeopt/1"
NS_PER_SECOND = 10**9


def describe(problem: Problem, ledger: Ledger, layout: Layout, pipeline: PipelineLayout) -> dict[str, Any]:
    """Everything that is computed from one complete layout: the part that solve and evaluate share."""
    step = ledger.step_time(pipeline)
    stages = ledger.memory(pipeline)
    gpus = int(ledger.degrees.gpus)
    return {
        "problem": problem.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "gpus": gpu_equations(layout, gpus),
        "batch": _batch(problem, ledger.degrees),
        "parameters": _parameters(problem, ledger, pipeline),
        "memory": _memory(problem, stages),
        "step_time": _step_time(problem, ledger, step),
        "schedule": _schedule(ledger, pipeline, step),
        "cost": _cost(problem, ledger.degrees, step.total_ns),
        "routing": problem.workload.routing.description,
    }


def gpu_equations(layout: Layout, gpus: int) -> dict[str, Any]:
    """The two grids with their numbers."""
    return {
        "total": gpus,
        "equations": [
            f"{gpus} = tp {layout.tp} * cp {layout.cp} * dp {layout.dp} * pp {layout.pp}",
            f"{gpus} = etp {layout.etp} * ep {layout.ep} * edp {layout.edp} * pp {layout.pp}",
        ],
    }


def rules_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every rule asked, with its equation."""
    return [
        {
            "rule": verdict.rule,
            "holds": verdict.holds,
            "equation": verdict.equation,
            "meaning": verdict.meaning,
            "source": verdict.source,
            "checked": verdict.checked,
        }
        for verdict in verdicts
    ]


def _batch(problem: Problem, degrees: Degrees) -> dict[str, Any]:
    """The global batch of this layout, one of those that the problem allows."""
    sequences = int(degrees.batch)
    return {
        "sequences": sequences,
        "tokens": sequences * problem.workload.sequence_length,
        "equation": f"{sequences} = micro_batch_size {degrees.micro_batch_size} * dp {degrees.dp} * num_microbatches "
        f"{degrees.num_microbatches}",
    }


def _cost(problem: Problem, degrees: Degrees, step_ns: int) -> dict[str, Any]:
    """GPU-hours and money of 10^12 tokens at this step time, with nothing lost to restarts; for display, as all rates.

    Money at the cluster's price of a GPU-hour; null where the cluster has none.
    """
    tokens = int(degrees.batch) * problem.workload.sequence_length
    hours = Fraction(int(degrees.gpus) * step_ns, GPU_HOUR_NS)
    price = problem.cluster.price_per_gpu_hour_usd
    a_trillion = hours * 10**12 / tokens
    return {
        "gpu_hours_per_step": round(float(hours), 6),
        "gpu_hours_per_trillion_tokens": round(float(a_trillion), 1),
        "price_per_gpu_hour_usd": price or None,
        "usd_per_trillion_tokens": round(float(a_trillion * Fraction(str(price))), 2) if price else None,
    }


def objective_value(problem: Problem, answer: Mapping[str, Any], name: str | None = None) -> tuple[int, str]:
    """Value and unit of the problem's objective (or of another one) for a described layout."""
    gpus, step_ns = answer["gpus"]["total"], answer["step_time"]["total_ns"]
    name = name or problem.objective
    values = {
        "step_time": step_ns,
        "gpus": gpus,
        "cost": gpus * step_ns,
        "peak_memory": answer["memory"]["peak_bytes"],
    }
    return values[name], OBJECTIVE_UNITS[name]


def objective_json(
    problem: Problem, name: str, answer: Mapping[str, Any], bound: int | Fraction | None
) -> dict[str, Any]:
    """An objective of a described layout with its bound. Where steps of different batches are compared, both are of a
    step of the layout's own batch (`sequences`): no layout has a smaller value for so many sequences."""
    value, unit = objective_value(problem, answer, name)
    sequences = answer["batch"]["sequences"]
    if name in PER_SEQUENCE and bound is not None:
        bound = Fraction(bound) * sequences / problem.workload.batches.most // 1
    found = {"name": name, "value": value, "bound": None if bound is None else int(bound), "unit": unit}
    return _per_batch(problem, found, sequences)


def _per_batch(problem: Problem, objective: dict[str, Any], sequences: int) -> dict[str, Any]:
    """An objective, with the sequences of its step where steps of different batches are compared."""
    compared = objective["name"] in PER_SEQUENCE and not problem.workload.batches.exact
    return {**objective, "sequences": sequences} if compared else objective


def _objectives(problem: Problem, result: Result, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The chain of objectives, each with its bound among the optima of those before it; nothing for a single one that
    implies no other."""
    names = [problem.objective, *problem.then]
    if names == ["gpus"]:
        names.append("step_time")
    if len(names) == 1:
        return {}
    chain: list[dict[str, Any]] = []
    for name, bound in zip_longest(names, [result.bound, *result.further][: len(names)]):
        found = objective_json(problem, name, answer, bound)
        chain.append({**found, "proven": found["bound"] == found["value"] and (result.proven or not chain)})
    return {"objectives": chain}


def _parameters(problem: Problem, ledger: Ledger, pipeline: PipelineLayout) -> dict[str, Any]:
    counted = count(problem.architecture)
    per_stage = []
    for rank in range(pipeline.pp):
        held = sum(
            (chunk_elements(problem, ledger.degrees, chunk) for chunk in pipeline.of_rank(rank)), start=Elements(0, 0)
        )
        dense, expert = int(held.dense), int(held.expert)
        per_stage.append({"stage": rank, "dense": dense, "expert": expert, "total": dense + expert})
    return {"total": counted.total, "active": counted.active, "per_stage": per_stage}


def _memory(problem: Problem, stages: Sequence[StageMemory]) -> dict[str, Any]:
    per_stage = [
        {
            "stage": rank,
            "weights_bytes": stage.weights_bytes,
            "gradients_bytes": stage.gradients_bytes,
            "optimizer_bytes": stage.optimizer_bytes,
            "activations_bytes": stage.activations_bytes,
            "buffers_bytes": stage.buffers_bytes,
            "overhead_bytes": stage.overhead_bytes,
            "total_bytes": stage.total_bytes,
        }
        for rank, stage in enumerate(stages)
    ]
    peak = max(stages, key=lambda stage: stage.total_bytes)
    return {
        "capacity_bytes": problem.cluster.memory,
        "limit_bytes": problem.memory_limit,
        "peak_bytes": peak.total_bytes,
        "peak_stage": stages.index(peak),
        "per_stage": per_stage,
    }


def _step_time(problem: Problem, ledger: Ledger, step: StepTime) -> dict[str, Any]:
    """Rates are for display; the integers are the nanoseconds."""
    batch, gpus = int(ledger.degrees.batch), int(ledger.degrees.gpus)
    tokens = batch * problem.workload.sequence_length
    seconds = step.total_ns / NS_PER_SECOND
    flops_per_gpu = sequence_flops(problem) * batch / gpus / seconds
    return {
        "total_ns": step.total_ns,
        "parts": step.parts,
        "range": time_range(problem, ledger.degrees, ledger.choices, step.parts),
        "busiest_stage": step.busiest_rank,
        "tokens_per_second_per_gpu": round(tokens / seconds / gpus, 2),
        "model_tflops_per_gpu": round(flops_per_gpu / 1e12, 2),
        "mfu": round(flops_per_gpu / problem.cluster.peak_flops.bf16, 4),
    }


def _schedule(ledger: Ledger, pipeline: PipelineLayout, step: StepTime) -> dict[str, Any]:
    """The step with its pipeline part replayed operation by operation, a bound on that for every placement of these
    degrees and choices, and the pipeline part alone beside the ledger's own figure for it."""
    replayed = ledger.replay(pipeline)
    simulated = step.total_ns - step.pipeline_ns + replayed.total_ns
    return {
        **_gap(simulated, min(ledger.replay_bound_ns(), simulated), False),
        "bound_over": "placements",
        "pipeline_ledger_ns": step.pipeline_ns,
        "pipeline_simulated_ns": replayed.total_ns,
        "extrapolated": replayed.extrapolated,
    }


def _gap(simulated_ns: int, bound_ns: int, certified: bool) -> dict[str, Any]:
    return {
        "simulated_ns": simulated_ns,
        "lower_bound_ns": bound_ns,
        "gap": round(simulated_ns / bound_ns - 1, 6) if bound_ns else 0.0,
        "certified": certified,
    }


def certified_schedule(schedule: Mapping[str, Any], certificate: Certificate) -> dict[str, Any]:
    """The schedule of a solution with the bound that holds for every layout of its problem."""
    simulated = schedule["simulated_ns"]
    closed = certificate.closed and simulated == certificate.best.step_ns
    bound = min(certificate.lower_bound_ns, simulated)
    return {
        **schedule,
        **_gap(simulated, bound, closed),
        "bound_over": "problem",
        "candidates": certificate.candidates,
        "candidates_closed": certificate.refuted,
    }


def solved_answer(
    problem: Problem,
    result: Result,
    facts: Mapping[str, Any],
    certificate: Certificate | None = None,
    by_replay: bool = False,
) -> dict[str, Any]:
    """The best layout found, described in full, with its bound; status `optimal` where that bound is its value.

    With `by_replay` the layout is the certificate's, whose replayed step is the lowest; where the ledger's optimum is
    another one, that is told as `ledger_optimum`. Without it the layout is the ledger's optimum; where one that replays
    faster was met while its replay was bounded, that is told as `replays_faster`. Objective and bound are the ledger's
    either way.
    """
    assert result.best is not None
    best = result.best
    if by_replay and certificate is not None:
        chosen = certificate.best.found
        other = None if _same(chosen, best) else _replayed(problem, Replayed.judge(best))
        answer = solved_answer(problem, replace(result, best=chosen), facts, certificate)
        answer["objective"]["value"] = best.score
        return answer if other is None else {**answer, "ledger_optimum": other}
    layout = best.candidate.layout(best.pipeline)
    answer = describe(problem, best.candidate.ledger, layout, best.pipeline)
    if certificate is not None:
        answer["schedule"] = certified_schedule(answer["schedule"], certificate)
        if certificate.best.step_ns < answer["schedule"]["simulated_ns"]:
            answer["replays_faster"] = _replayed(problem, certificate.best)
    verdicts = [*check(problem, layout), *placement_verdicts(problem, layout, best.pipeline, answer)]
    return {
        "schema": SCHEMA,
        "status": "optimal" if result.proven else "feasible",
        **answer,
        "objective": objective_json(problem, problem.objective, answer, result.bound),
        **_objectives(problem, result, answer),
        "rules": rules_json(verdicts),
        "alternatives": [_alternative(problem, found) for found in _others(result)],
        "search": dict(facts),
    }


def _others(result: Result) -> list[Found]:
    """The runners-up: layouts of other candidates than the best layout's."""
    best = result.best
    return [found for found in result.alternatives if best is None or found.candidate.key != best.candidate.key]


def _same(left: Found, right: Found) -> bool:
    return left.candidate.order == right.candidate.order and left.pipeline == right.pipeline


def _replayed(problem: Problem, item: Replayed) -> dict[str, Any]:
    return {**_alternative(problem, item.found), "simulated_ns": item.step_ns}


def _alternative(problem: Problem, found: Found) -> dict[str, Any]:
    layout, degrees = found.candidate.layout(found.pipeline), found.candidate.degrees
    objective = {"name": problem.objective, "value": found.own_value(problem.objective)}
    return {
        "layout": layout.model_dump(mode="json"),
        "gpus": gpu_equations(layout, int(degrees.gpus)),
        "objective": _per_batch(problem, objective, int(degrees.batch)),
        "step_time_ns": found.time_ns,
        "peak_bytes": found.peak_bytes,
    }


def infeasible_answer(problem: Problem, explanation: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """No layout exists: why, and what would change it."""
    return {
        "schema": SCHEMA,
        "status": "infeasible",
        "problem": problem.model_dump(mode="json"),
        "explanation": dict(explanation),
        "search": dict(facts),
    }


def unknown_answer(problem: Problem, bound: int | Fraction, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The time was over before a layout was found or ruled out. Where steps of different batches are compared, the
    bound is of a step of the largest batch (`sequences`)."""
    objective = {"name": problem.objective, "value": None, "bound": int(bound)}
    return {
        "schema": SCHEMA,
        "status": "unknown",
        "problem": problem.model_dump(mode="json"),
        "objective": _per_batch(problem, objective, problem.workload.batches.most),
        "search": dict(facts),
    }
