"""What hybrids (Mamba-2 layers, attention, dense blocks and experts, one a layer) ask. Sources: Megatron-LM d98e8a6."""

from moeopt.arithmetic import Number, both, ceil_div, maximum, where
from moeopt.frameworks.rules import Applies, Checked, Rule, excluded, remainder
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_MIXER = "megatron/core/ssm/mamba_mixer.py"
_CONTEXT = "megatron/core/ssm/mamba_context_parallel.py"


def _has_mamba(problem: Problem, _choices: Choices) -> bool:
    return problem.architecture.has_mamba


def _tp_holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    a = problem.architecture
    return both(a.mamba_num_heads % degrees.tp == 0, a.mamba_num_groups % degrees.tp == 0)


def _tp_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    a = problem.architecture
    return "; ".join(
        remainder(f"{name} {getattr(a, name)}", getattr(a, name), f"tp {degrees.tp}", degrees.tp)
        for name in ("mamba_num_heads", "mamba_num_groups")
    )


def _cp_holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    a = problem.architecture
    heads = ceil_div(a.mamba_num_heads, degrees.tp)
    groups = maximum(a.mamba_num_groups // degrees.tp, 1)
    shared = where(groups < degrees.cp, degrees.cp % groups == 0, groups % degrees.cp == 0)
    return both(heads % degrees.cp == 0, shared)


def _cp_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    a, tp, cp = problem.architecture, degrees.tp, degrees.cp
    heads, groups = int(ceil_div(a.mamba_num_heads, tp)), max(a.mamba_num_groups // int(tp), 1)
    first = remainder(f"(mamba_num_heads {a.mamba_num_heads} / tp {tp})", heads, f"cp {cp}", cp)
    if groups < cp:
        second = remainder(f"cp {cp}", cp, f"(mamba_num_groups {a.mamba_num_groups} / tp {tp})", groups)
    else:
        second = remainder(f"(mamba_num_groups {a.mamba_num_groups} / tp {tp})", groups, f"cp {cp}", cp)
    return f"{first}; {second}"


def _without(name: str, meaning: str, what: str, source: str, checked: Checked, applies: Applies) -> Rule:
    """A setting that hybrids exclude: wherever both are, the rule is broken."""
    return excluded(
        name,
        meaning,
        lambda _problem: f"{what} with hybrid_pattern, must be without",
        source,
        checked,
        lambda problem, choices: problem.architecture.is_hybrid and applies(problem, choices),
    )


HYBRID = (
    Rule(
        "mamba_heads_by_tp",
        "tensor parallelism gives every rank whole heads and groups of a Mamba layer",
        ("tp",),
        _tp_holds,
        _tp_sentence,
        f"{_MIXER}:262, 270",
        "launch",
        _has_mamba,
    ),
    Rule(
        "mamba_heads_by_tp_cp",
        "context parallelism shares a rank's heads of a Mamba layer, and its groups or copies of them",
        ("tp", "cp"),
        _cp_holds,
        _cp_sentence,
        f"{_CONTEXT}:106-133",
        "launch",
        _has_mamba,
    ),
    _without(
        "hybrid_without_ep_overlap",
        "hybrids have no schedule that overlaps the expert all-to-all",
        "overlap.ep_all_to_all",
        "megatron/core/pipeline_parallel/combined_1f1b.py:376-386 (build_schedule_plan is GPTModel's alone)",
        "run",
        lambda _problem, choices: choices.overlap.ep_all_to_all,
    ),
    _without(
        "hybrid_without_fsdp",
        "hybrids under Megatron-FSDP are not counted",
        "fsdp",
        "how their units are cut was not looked at",
        "moeopt",
        lambda _problem, choices: choices.fsdp != "none",
    ),
)
