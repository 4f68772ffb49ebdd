"""What a layout decides beside its degrees and its pipeline layout: every combination worth asking about.

A decision that the problem fixes has one value; one that it frees has all of its own (`moeopt.freedom`).
"""

from itertools import combinations, product
from math import prod
from typing import Any

from moeopt.errors import InputError
from moeopt.frameworks.megatron_core import FRAMEWORK_RULES, NO_DEGREES
from moeopt.freedom import FREEABLE, freed, is_fixed, modules_present, open_values, with_values
from moeopt.layout import Choices, Layout, Overlap, Recompute, RecomputeModule
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem

MOST_COMBINATIONS = 100_000
"""Combinations of freed decisions that are asked whether they are legal ..."""
MOST_MODES = 2_000
"""... and legal ones whose degrees are listed."""


def base_choices(problem: Problem) -> Choices:
    """The defaults with everything that the problem fixes; recompute, dispatcher and overlap may be freed below."""
    given = {name: value for name, value in problem.fix.items() if name in Choices.model_fields}
    overlap = given.get("overlap")
    if isinstance(overlap, dict):
        given["overlap"] = {**Overlap().model_dump(), **overlap}
    return read_fields(Choices, given, "fix")


def modes(problem: Problem) -> list[Choices]:
    """Every combination of what the problem leaves open, without recompute: dispatcher, expert-parallel overlap, and
    what it frees; of the latter only what the framework allows. Raises InputError where they are too many."""
    listed = every_mode(problem)
    if not freed(problem):
        return listed
    # With nothing recomputed no rule about recompute is broken, so a rule that is broken is so under any recompute.
    rules = [rule for rule in FRAMEWORK_RULES if not rule.scope]
    legal = [mode for mode in listed if all(rule.holds(problem, NO_DEGREES, mode) for rule in rules)]
    if len(legal) > MOST_MODES:
        raise _too_many(problem, len(legal), "legal ", MOST_MODES)
    return legal


def every_mode(problem: Problem) -> list[Choices]:
    """The same, whether the framework allows them or not."""
    values: dict[str, list[Any]] = {
        "dispatcher": _dispatchers(problem),
        "overlap.ep_all_to_all": _overlaps(problem),
    }
    free = freed(problem)
    for decision in FREEABLE:
        if decision.name in free and decision.name != "recompute" and not decision.degree:
            values[decision.name] = open_values(problem, decision.name)
    count = prod(map(len, values.values()))
    if count > MOST_COMBINATIONS:
        raise _too_many(problem, count, "", MOST_COMBINATIONS)
    plain = base_choices(problem).model_copy(update={"recompute": Recompute()})
    return [with_values(problem, plain, dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]


def _too_many(problem: Problem, count: int, kind: str, most: int) -> InputError:
    return InputError(
        f"free: {', '.join(problem.free)} make {count:,} {kind}combinations of choices, and at most {most:,} are "
        "searched; free fewer, or fix some"
    )


def _dispatchers(problem: Problem) -> list[str]:
    base = base_choices(problem)
    if is_fixed(problem, "dispatcher") or not problem.architecture.is_moe:
        return [base.dispatcher]
    major = int(problem.cluster.compute_capability.partition(".")[0])
    return ["alltoall", *(["deepep"] if major == 9 else ["hybridep"] if major > 9 else [])]


def _overlaps(problem: Problem) -> list[bool]:
    base = base_choices(problem)
    if is_fixed(problem, "overlap.ep_all_to_all") or not problem.architecture.is_moe:
        return [base.overlap.ep_all_to_all]
    return [False, True]


_CHEAP: tuple[RecomputeModule, ...] = ("layernorm", "mla_up_proj", "moe_act")
"""Modules that free much for little (facts of NVIDIA's guides: recompute these first)."""


def recomputes(problem: Problem) -> list[Recompute]:
    """Recompute settings to ask about: none; every set of the cheap modules; all of these with the dearer ones, one
    after the other; and full (one layer a unit). A problem may fix any other set, or free recompute: then every set.

    `moe` recomputes its own parts, so it stands in for them. Attention's core only pays where kernels are not fused
    (Megatron itself warns).
    """
    if "recompute" in problem.fix:
        return [base_choices(problem).recompute]
    if "recompute" in freed(problem):
        return open_values(problem, "recompute")
    present = set(modules_present(problem))
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


def decisions() -> list[str]:
    """Every name that `fix` may use."""
    return [name for name in Layout.model_fields if name != "pipeline_layout"]
