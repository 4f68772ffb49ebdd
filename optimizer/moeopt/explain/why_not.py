"""Why not this layout: the rule that it breaks, the bytes that it lacks, or what it loses to the optimum and where.

A layout that leaves decisions open is completed by solving with those that it makes, so the answer is about the best
layout of that kind.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Any

from moeopt.constraints.rules import rule_name
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.explain.explanation import explain
from moeopt.frameworks.megatron_core import PIPELINE_RULES, rules_for
from moeopt.frameworks.rules import Stages
from moeopt.freedom import freed
from moeopt.layout import Choices, Layout
from moeopt.pipeline import PipelineLayout, unroll
from moeopt.problem.base import read_fields
from moeopt.problem.checks import check
from moeopt.problem.problem import Problem
from moeopt.search import solve
from moeopt.units import format_bytes, format_gpu_hours, format_ns

Answer = dict[str, Any]
_DECISIONS = ("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size")
_GIVEN_DECIDES = (*_DECISIONS, *Choices.model_fields, "pipeline_layout")
"""A layout that says all of these leaves nothing to solve for."""
_PLAINLY = {"top": 1, "explained": False}


def why_not(
    problem: Problem, given: Mapping[str, Any], best: Mapping[str, Any] | None = None, **settings: Any
) -> Answer:
    """What stands against a layout (fields of a layout file, some or all), beside `best`, the problem's answer (solved
    for where it is not given).

    `settings` are those of `solve`. Raises InputError where the fields are not a layout's.
    """
    layout = read_fields(Layout, given, "why-not")
    best = solve(problem, **{**settings, "explained": False}) if best is None else best
    exact = problem.workload.batches.exact
    if all(name in given for name in (*_GIVEN_DECIDES, *(() if exact else ("num_microbatches",)))):
        return _judged(problem, given, evaluate(problem, layout, strict=False), best, proven=True)
    broken = [*_contradicted(problem, layout, given), *_misplaced(problem, layout, given)]
    if broken:
        return _illegal(given, broken)
    held = _held(problem, given)
    try:
        check(held)
    except InputError as error:
        return _refused(problem, layout, given, str(error))
    answer = solve(held, **{**settings, **_PLAINLY})
    if answer["status"] == "infeasible":
        return _impossible(problem, given, held)
    if answer["status"] == "unknown":
        return _of(given, "undecided", "No layout with these decisions was found or ruled out within the time limit.")
    judged = evaluate(problem, answer["layout"], strict=False)
    return _judged(problem, given, judged, best, proven=answer["status"] == "optimal")


def _held(problem: Problem, given: Mapping[str, Any]) -> Problem:
    """The problem with the given decisions made; a pipeline layout becomes constraints on its stages."""
    fix = {**problem.fix}
    for name, value in given.items():
        if name == "pipeline_layout" or value is None:
            continue
        old = fix.get(name)
        fix[name] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    constraints = problem.constraints
    text = given.get("pipeline_layout")
    if text is not None:
        pp = int(given.get("pp") or problem.fix.get("pp") or 1)
        pipeline = PipelineLayout.parse(text, pp)
        fix.update({"pp": pp, "vpp": pipeline.vpp})
        constraints = (*constraints, *_placed(pipeline))
    held = problem.model_copy(update={"fix": fix, "constraints": constraints})
    return held.model_copy(update={"free": tuple(sorted(freed(held)))})


def _misplaced(problem: Problem, layout: Layout, given: Mapping[str, Any]) -> list[Answer]:
    """The rules that a given pipeline layout breaks, whatever else is decided."""
    if given.get("pipeline_layout") is None:
        return []
    pp = int(given.get("pp") or problem.fix.get("pp") or 1)
    pipeline = PipelineLayout.parse(given["pipeline_layout"], pp)
    stages = Stages(pp, given.get("vpp") or pipeline.vpp, tuple(unroll(given["pipeline_layout"]).split("|")))
    rules = [rule for rule in PIPELINE_RULES if rule.name.startswith("pipeline_")]
    return [
        _rule(rule.name, rule.equation(problem, stages, layout.choices), rule.meaning)
        for rule in rules
        if not rule.holds(problem, stages, layout.choices)
    ]


def _placed(pipeline: PipelineLayout) -> list[str]:
    texts = []
    for index, chunk in enumerate(pipeline.chunks):
        place = f"[{index % pipeline.pp}, {index // pipeline.pp}]"
        texts.append(f"layers{place} == {chunk.layers} and mtp{place} == {chunk.mtp}")
    return texts


def _contradicted(problem: Problem, layout: Layout, given: Mapping[str, Any]) -> list[Answer]:
    """Decisions that the problem has made otherwise, and limits that the given degrees exceed."""
    broken = []
    fixed = read_fields(Layout, {k: v for k, v in problem.fix.items() if k in given}, "fix")
    for name in (name for name in given if name in problem.fix):
        theirs, ours = getattr(layout, name), getattr(fixed, name)
        if isinstance(given[name], Mapping) and isinstance(problem.fix[name], Mapping):
            common = set(given[name]) & set(problem.fix[name])
            differs = any(getattr(theirs, field) != getattr(ours, field) for field in common)
        else:
            differs = theirs != ours
        if differs:
            broken.append(_rule(f"fix_{name}", f"{name} {theirs}, fixed to {ours}", "the problem fixes it"))
    for name in (name for name in given if name in type(problem.limits).model_fields and name != "peak_memory"):
        bound, value = problem.bound(name), getattr(layout, name)
        if value is not None and not bound.admits(value):
            low = "" if bound.min is None else f"{bound.min} <= "
            high = "" if bound.max is None else f" <= {bound.max}"
            broken.append(_rule(f"limit_{name}", f"{low}{name} {value}{high} does not hold", "the problem limits it"))
    return broken


def _refused(problem: Problem, layout: Layout, given: Mapping[str, Any], why: str) -> Answer:
    """Decisions that alone break a rule, whatever the open ones are: these rules, or the equation in words."""
    smallest = layout if "etp" in given else layout.model_copy(update={"etp": 1})
    try:
        judged = evaluate(problem, smallest, strict=False)
    except InputError:
        return _of(given, "illegal", f"{why}.", rules=[])
    scopes = {rule.name: set(rule.scope) for rule in rules_for(problem)}
    broken = [
        rule
        for rule in judged["rules"]
        if rule["holds"] is False
        and (rule["rule"].startswith("gpu_total_") or (scopes.get(rule["rule"]) or {"?"}) <= set(given))
    ]
    return _illegal(given, broken) if broken else _of(given, "illegal", f"{why}.", rules=[])


def _impossible(problem: Problem, given: Mapping[str, Any], held: Problem) -> Answer:
    """No layout has these decisions: the conflict of the problem with them fixed."""
    explanation = explain(held, with_relaxations=False)
    text = f"No layout has these decisions. {explanation['text']}"
    own = {rule_name(number) for number in range(len(problem.constraints), len(held.constraints))}
    kept = {name: value for name, value in explanation.items() if name in ("conflict", "minimal", "members")}
    kept["conflict"] = ["pipeline_layout" if name in own else name for name in kept["conflict"]]
    kept["conflict"] = list(dict.fromkeys(kept["conflict"]))
    memory = "memory_fits" in explanation["conflict"]
    return _of(given, "memory" if memory else "illegal", text, **kept)


def _judged(
    problem: Problem, given: Mapping[str, Any], judged: Answer, best: Mapping[str, Any], *, proven: bool
) -> Answer:
    """A complete layout: its broken rules, its bytes, or what it loses."""
    broken = [rule for rule in judged["rules"] if rule["holds"] is False]
    others = [rule for rule in broken if rule["rule"] != "memory_fits"]
    if others:
        return {**_illegal(given, others), "completed": judged["layout"], **_memory_of(judged)}
    if broken:
        return _too_large(given, judged)
    if best.get("layout") is None:
        return _of(given, "legal", "It is legal and fits.", completed=judged["layout"])
    return _compared(problem, given, judged, best, proven)


def _too_large(given: Mapping[str, Any], judged: Answer) -> Answer:
    memory = _memory_of(judged)["memory"]
    over, stage = memory["over_bytes"], memory["stage"]
    text = (
        f"It does not fit: stage {stage} needs {memory['needs_bytes']} bytes ({format_bytes(memory['needs_bytes'])}), "
        f"{over} bytes ({format_bytes(over)}) more than the {memory['limit_bytes']} there are."
    )
    return _of(given, "memory", text, completed=judged["layout"], memory=memory)


def _memory_of(judged: Answer) -> Answer:
    memory = judged.get("memory")
    if memory is None:
        return {}
    over = memory["peak_bytes"] - memory["limit_bytes"]
    return {
        "memory": {
            "stage": memory["peak_stage"],
            "needs_bytes": memory["peak_bytes"],
            "limit_bytes": memory["limit_bytes"],
            "over_bytes": max(over, 0),
        }
    }


def _compared(
    problem: Problem, given: Mapping[str, Any], judged: Answer, best: Mapping[str, Any], proven: bool
) -> Answer:
    """The layout beside the best one: objective, and every part of both step times. Where their batches differ, times
    (and a cost) of the given layout are brought to the best one's batch in proportion, rounded up."""
    compared = "sequences" in judged["objective"]
    ratio = Fraction(best["batch"]["sequences"], judged["batch"]["sequences"])
    own, lowest = judged["objective"]["value"] * (ratio if compared else 1), best["objective"]["value"]
    value = ceil(own)
    parts = _parts(judged, best, ratio)
    totals = {
        "given_ns": ceil(judged["step_time"]["total_ns"] * ratio),
        "best_ns": best["step_time"]["total_ns"],
        "given_replayed_ns": ceil(judged["schedule"]["simulated_ns"] * ratio),
        "best_replayed_ns": best["schedule"]["simulated_ns"],
    }
    verdict = "worse" if own > lowest else "ties" if own == lowest else "better"
    if judged["layout"] == best["layout"]:
        verdict = "best"
    return _of(
        given,
        verdict,
        _verdict_text(problem, verdict, value, best, parts, proven),
        completed=judged["layout"],
        objective={
            "name": problem.objective,
            "given": value,
            "best": lowest,
            "difference": value - lowest,
            "ratio": round(value / lowest, 6) if lowest else None,
            **({"sequences": best["batch"]["sequences"]} if compared else {}),
        },
        step_time=totals,
        parts=parts,
        proven=proven and best["status"] == "optimal",
        **_memory_of(judged),
    )


def _parts(judged: Answer, best: Mapping[str, Any], ratio: Fraction) -> list[Answer]:
    """Parts of both step times, the given layout's times a ratio; largest difference first."""
    theirs = {name: ceil(time_ns * ratio) for name, time_ns in judged["step_time"]["parts"].items()}
    ours = best["step_time"]["parts"]
    parts = [
        {
            "part": name,
            "given_ns": theirs.get(name, 0),
            "best_ns": ours.get(name, 0),
            "difference_ns": theirs.get(name, 0) - ours.get(name, 0),
        }
        for name in dict.fromkeys([*theirs, *ours])
    ]
    return sorted(parts, key=lambda part: -abs(part["difference_ns"]))


def _verdict_text(
    problem: Problem, verdict: str, value: int, best: Mapping[str, Any], parts: list[Answer], proven: bool
) -> str:
    lowest, name = best["objective"]["value"], problem.objective
    optimum = "the optimum" if best["status"] == "optimal" else "the best layout found"
    if verdict == "best":
        return f"It is {optimum}."
    if verdict == "ties":
        how = "ties go to fewer GPUs, less memory, smaller degrees"
        return f"It ties with {optimum} in {name} ({_shown(name, value)}); {how}."
    if verdict == "better":
        where = "it lies outside the space that is searched" if best["status"] == "optimal" else "that was not proven"
        return f"It beats {optimum}: {name} {_shown(name, value)} against {_shown(name, lowest)}; {where}."
    lost = [part for part in parts if part["difference_ns"] > 0][:3]
    why = ", ".join(f"{part['part'].replace('_', ' ')} {format_ns(part['difference_ns'])} more" for part in lost)
    kind = "The best layout of this kind" if proven else "The best layout of this kind that was found"
    above = f"{value / lowest - 1:.2%} above" if lowest else "above"
    loss = f"{kind} is {above} {optimum}: {name} {_shown(name, value)} against {_shown(name, lowest)}"
    if "sequences" in best["objective"]:
        loss += f" for {best['objective']['sequences']:,} sequences"
    return loss + (f"; most of it in {why}." if why and name in ("step_time", "cost") else ".")


def _shown(name: str, value: int) -> str:
    if name == "step_time":
        return format_ns(value)
    if name == "peak_memory":
        return format_bytes(value)
    return f"{value} GPUs" if name == "gpus" else f"{format_gpu_hours(value)} a step"


def _illegal(given: Mapping[str, Any], broken: list[Answer]) -> Answer:
    listed = "; ".join(f"{rule['rule']} ({rule['equation']})" for rule in broken)
    return _of(given, "illegal", f"It breaks {listed}.", rules=broken)


def _rule(name: str, equation: str, meaning: str) -> Answer:
    return {"rule": name, "holds": False, "equation": equation, "meaning": meaning, "source": "", "checked": "moeopt"}


def _of(given: Mapping[str, Any], verdict: str, text: str, **rest: Any) -> Answer:
    return {"layout": dict(given), "verdict": verdict, "text": text, **rest}
