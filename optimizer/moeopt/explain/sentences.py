"""A conflict in words, with numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from moeopt.constraints.rules import rule_name
from moeopt.explain.conflict import Conflict
from moeopt.explain.degrees import DegreeOracle, Undecided
from moeopt.explain.members import MEMORY, PEAK_LIMIT, Member, variant
from moeopt.explain.placing import Light
from moeopt.problem.problem import Problem
from moeopt.solving.incumbent import Found
from moeopt.space import domain
from moeopt.units import format_bytes

_MOST_SHOWN = 12
SHOWN = ("tp", "pp", "cp", "dp", "ep", "etp", "vpp", "micro_batch_size")


def details(problem: Problem, found: Conflict) -> list[dict[str, Any]]:
    """Each member of a conflict: its name, its kind, and what it says with this problem's numbers."""
    oracle = DegreeOracle(problem)
    result = []
    for member in found.members:
        others = [other for other in found.members if other is not member]
        text = _text(problem, member)
        if member.rule is not None and member.kind == "rule" and not found.about_placement:
            text += _example(problem, oracle, member, others)
        result.append({"rule": member.name, "kind": member.kind, "text": text})
    return result


def _text(problem: Problem, member: Member) -> str:
    name = member.name.partition("_")[2]
    if member.name == MEMORY:
        limit = problem.memory_limit
        return f"the fullest GPU needs at most {limit} bytes ({format_bytes(limit)})"
    if member.name == PEAK_LIMIT:
        limit, whole = problem.memory_limit, problem.cluster.memory
        return f"limits.peak_memory is {limit} bytes, less than the {whole} of a GPU"
    if member.kind == "fix":
        return f"{name} is fixed to {_plain(problem.fix[name])}"
    if member.kind == "limit":
        bound = problem.bound(name)
        low = "" if bound.min is None else f"{bound.min} <= "
        return f"{low}{name}" + ("" if bound.max is None else f" <= {bound.max}") + _possible(problem, name)
    if member.kind == "constraint":
        texts = {rule_name(number): text for number, text in enumerate(problem.constraints)}
        return texts[member.name]
    if member.name == "batch_by_dp":
        batch = problem.workload.batch
        return f"global_batch_size {batch} = micro_batch_size * dp * num_microbatches"
    assert member.rule is not None
    return member.rule.meaning


def _possible(problem: Problem, name: str) -> str:
    """Where a limit leaves a degree no value: the values that it could have."""
    free = domain(variant(problem, ()), name)
    if not free or domain(problem, name) or name in problem.fix:
        return ""
    shown = ", ".join(map(str, free[:_MOST_SHOWN])) + (", ..." if len(free) > _MOST_SHOWN else "")
    return f" ({name} is one of {shown})"


def _example(problem: Problem, oracle: DegreeOracle, member: Member, others: Sequence[Member]) -> str:
    """What a layout that keeps all other members says of this rule."""
    assert member.rule is not None
    try:
        found = oracle.witness(others, member.rule)
    except Undecided:
        return ""
    if found is None or any(getattr(found[0], name) is None for name in member.rule.scope):
        return ""
    return f" (for example {member.rule.equation(problem, *found)})"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def paragraph(problem: Problem, found: Conflict, parts: Sequence[Mapping[str, Any]], light: Light | None) -> str:
    """Why there is no layout."""
    gpus = problem.gpu_range
    count = f"{gpus.max}" if gpus.min == gpus.max else f"{gpus.min} to {gpus.max}"
    if not found.about_placement:
        listed = "; ".join(str(part["text"]) for part in parts)
        alone = "This cannot hold" if len(parts) == 1 else "These cannot hold together"
        return f"No layout is legal on {count} GPUs. {alone}: {listed}."
    others = [str(part["text"]) for part in parts if part["rule"] not in (MEMORY, PEAK_LIMIT)]
    wishes = f" with {'; '.join(others)}" if others else ""
    if MEMORY not in found.names:
        return f"Legal layouts exist on {count} GPUs, but no placement of layers satisfies {'; '.join(others)}."
    return f"Legal layouts exist on {count} GPUs{wishes}, but {_over(problem, light)}."


def _over(problem: Problem, light: Light | None) -> str:
    """By how much the lightest layout exceeds memory, on which stage and under which layout."""
    limit = problem.memory_limit
    if light is None:
        return f"no placement of layers keeps every GPU within the {limit} bytes ({format_bytes(limit)}) there are"
    best, least = light.found, light.least_bytes
    need, stage = best.peak_bytes, fullest_stage(best)
    words = "none fits" if least <= limit else f"every layout needs at least {least} bytes ({format_bytes(least)})"
    return (
        f"{words}; the lightest that was found needs {need} bytes ({format_bytes(need)}) on stage {stage}, "
        f"{need - limit} bytes ({format_bytes(need - limit)}) more than the {limit} ({format_bytes(limit)}) there are: "
        f"{layout_text(best)}"
    )


def fullest_stage(found: Found) -> int:
    """The stage whose GPUs are the fullest."""
    totals = [stage.total_bytes for stage in found.candidate.ledger.memory(found.pipeline)]
    return totals.index(max(totals))


def layout_text(found: Found) -> str:
    """Degrees and the other decisions of a layout, in one line."""
    degrees, choices = found.candidate.degrees, found.candidate.choices
    text = ", ".join(f"{name} {getattr(degrees, name)}" for name in SHOWN)
    return f"{text}, recompute {choices.recompute}"
