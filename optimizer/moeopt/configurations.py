"""What a layout decides beside its degrees and its pipeline layout: every combination worth asking about.

A decision that the problem fixes has one value.
"""

from collections.abc import Iterator
from itertools import combinations

from moeopt.errors import InputError
from moeopt.layout import Choices, Layout, Overlap, Recompute, RecomputeModule
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem


def base_choices(problem: Problem) -> Choices:
    """The defaults with everything that the problem fixes; recompute, dispatcher and overlap may be freed below."""
    given = {name: value for name, value in problem.fix.items() if name in Choices.model_fields}
    overlap = given.get("overlap")
    if isinstance(overlap, dict):
        given["overlap"] = {**Overlap().model_dump(), **overlap}
    return read_fields(Choices, given, "fix")


def modes(problem: Problem) -> list[Choices]:
    """Every dispatcher and expert-parallel overlap that the problem leaves open, without recompute."""
    base = base_choices(problem)
    plain = base.model_copy(update={"recompute": Recompute()})
    result = []
    for dispatcher in _dispatchers(problem, base):
        for hidden in _overlaps(problem, base):
            overlap = base.overlap.model_copy(update={"ep_all_to_all": hidden})
            result.append(plain.model_copy(update={"dispatcher": dispatcher, "overlap": overlap}))
    return result


def _dispatchers(problem: Problem, base: Choices) -> list[str]:
    if "dispatcher" in problem.fix or not problem.architecture.is_moe:
        return [base.dispatcher]
    major = int(problem.cluster.compute_capability.partition(".")[0])
    return ["alltoall", *(["deepep"] if major == 9 else ["hybridep"] if major > 9 else [])]


def _overlaps(problem: Problem, base: Choices) -> list[bool]:
    fixed = problem.fix.get("overlap")
    if (isinstance(fixed, dict) and "ep_all_to_all" in fixed) or not problem.architecture.is_moe:
        return [base.overlap.ep_all_to_all]
    return [False, True]


_CHEAP: tuple[RecomputeModule, ...] = ("layernorm", "mla_up_proj", "moe_act")
"""Modules that free much for little (facts of NVIDIA's guides: recompute these first)."""


def recomputes(problem: Problem) -> list[Recompute]:
    """Recompute settings to ask about: none; every set of the cheap modules; all of these with the dearer ones, one
    after the other; and full (one layer a unit). A problem may fix any other set.

    `moe` recomputes its own parts, so it stands in for them. Attention's core only pays where kernels are not fused
    (Megatron itself warns).
    """
    if "recompute" in problem.fix:
        fixed = base_choices(problem).recompute
        if fixed.method == "block" or (fixed.num_layers or 1) > 1:
            raise InputError(
                f"fix.recompute: full recompute by {fixed.method} of {fixed.num_layers} layers can be evaluated, not "
                "searched; fix it to method uniform with num_layers 1, or evaluate a layout"
            )
        return [fixed]
    present = {name for name, there in _presence(problem, problem.architecture.is_moe) if there}
    cheap = [name for name in _CHEAP if name in present]
    sets = [set(chosen) for size in range(1, len(cheap) + 1) for chosen in combinations(cheap, size)]
    everything = set(cheap)
    for name in ("core_attn", "mlp", "shared_experts"):
        if name in present:
            everything = everything | {name}
            sets.append(set(everything))
    if "moe" in present:
        sets.append((set(cheap) - {"moe_act"}) | {"moe"})
        sets.append((everything - {"moe_act", "shared_experts"}) | {"moe"})
    unique = list(dict.fromkeys(tuple(sorted(chosen)) for chosen in sets))
    selective = [Recompute(granularity="selective", modules=chosen) for chosen in unique]
    return [Recompute(), *selective, Recompute(granularity="full", method="uniform", num_layers=1)]


def _presence(problem: Problem, moe: bool) -> Iterator[tuple[RecomputeModule, bool]]:
    architecture = problem.architecture
    yield "core_attn", problem.workload.attention_backend == "unfused"
    yield "layernorm", moe or architecture.is_mla
    yield "mla_up_proj", architecture.is_mla
    yield "mlp", any(kind.ffn == "dense" for kind in architecture.layers)
    yield "moe", moe
    yield "moe_act", moe
    yield "shared_experts", moe and architecture.shared_expert_intermediate_size > 0


def decisions() -> list[str]:
    """Every name that `fix` may use."""
    return [name for name in Layout.model_fields if name != "pipeline_layout"]
