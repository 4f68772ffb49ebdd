"""What a conflict is made of: every limit and rule that a problem could do without."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from moeopt.arithmetic import Number, both
from moeopt.constraints.rules import rule_name, trees
from moeopt.constraints.tree import items
from moeopt.frameworks.megatron_core import FRAMEWORK_RULES
from moeopt.frameworks.megatron_core.grids import BATCH
from moeopt.frameworks.rules import Rule
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import DEGREES, Bound, GpuRange, Limits, Problem
from moeopt.space import default_maximum

Kind = Literal["fix", "limit", "constraint", "fact", "rule", "memory"]
_NO_LIMIT_BYTES = 2**50
"""Memory of a GPU when memory is no limit."""
MEMORY = "memory_fits"
PEAK_LIMIT = "limit_peak_memory"


class Unlimited(Problem):
    """A problem whose GPUs hold whatever its limit says. (What is set aside on a GPU depends on its real memory, which
    stays.)"""

    @property
    def memory_limit(self) -> int:
        """The limit alone; without one, above everything that is ever needed."""
        return self.limits.peak_memory or _NO_LIMIT_BYTES


@dataclass(frozen=True)
class Member:
    """One thing that could be given up. `placing`: it is about the placement of layers, not about degrees."""

    name: str
    kind: Kind
    rule: Rule | None = None
    placing: bool = False


def members(problem: Problem) -> list[Member]:
    """Every member, the user's own wishes first."""
    wishes = [Member(f"fix_{name}", "fix") for name in problem.fix if name != "pipeline_layout"]
    wishes += [Member(f"limit_{name}", "limit") for name in DEGREES if problem.bound(name) != Bound()]
    placed = {name for name, tree in trees(problem).items() if items(tree)}
    wishes += [Member(name, "constraint", placing=name in placed) for name in trees(problem)]
    memory = [Member(MEMORY, "memory", placing=True)]
    if problem.memory_limit < problem.cluster.memory:
        memory.append(Member(PEAK_LIMIT, "limit", placing=True))
    facts = [Member(rule.name, "fact", rule) for rule in _facts(problem)]
    return [
        *memory,
        *wishes,
        *facts,
        *(Member(rule.name, "rule", rule) for rule in FRAMEWORK_RULES if rule is not BATCH),
    ]


def variant(problem: Problem, kept: Collection[str]) -> Problem:
    """The problem with only those of its wishes and memory limits that are named."""
    limits: dict[str, Any] = {}
    for name in DEGREES:
        bound = problem.bound(name)
        limits[name] = bound if f"limit_{name}" in kept else _widening(problem, name, bound)
    limits["peak_memory"] = problem.limits.peak_memory if {PEAK_LIMIT, MEMORY} <= set(kept) else None
    texts = [text for number, text in enumerate(problem.constraints) if rule_name(number) in kept]
    changes = {
        "fix": {name: value for name, value in problem.fix.items() if f"fix_{name}" in kept},
        "limits": Limits(**limits),
        "constraints": tuple(texts),
    }
    if MEMORY not in kept:
        return Unlimited.model_construct(**{**dict(problem), **changes})
    return problem.model_copy(update=changes)


def _widening(problem: Problem, name: str, bound: Bound) -> Bound:
    """What is left of a limit that is given up: where it widens the default domain, the wider domain."""
    usual = default_maximum(problem, name)
    wider = usual is not None and bound.max is not None and bound.max > usual
    return Bound(max=bound.max) if wider else Bound()


def _facts(problem: Problem) -> Iterable[Rule]:
    """The two GPU equations, for a count or a range, and the batch's divisibility."""
    reach: GpuRange = problem.gpu_range

    def total(_problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
        gpus = degrees.gpus
        return both(gpus >= reach.min, gpus <= reach.max)

    def expert(_problem: Problem, d: Degrees, _choices: Choices) -> Number:
        return (d.tp * d.cp * d.dp) % (d.etp * d.ep) == 0

    wanted = f"{reach.max}" if reach.min == reach.max else f"{reach.min} to {reach.max}"
    yield Rule(
        "gpu_total_dense",
        f"gpus = tp * cp * dp * pp, gpus {wanted}",
        ("tp", "cp", "dp", "pp"),
        total,
        lambda *_: "",
        "",
        "launch",
    )
    yield Rule(
        "gpu_total_expert",
        f"gpus = etp * ep * edp * pp, gpus {wanted}",
        ("tp", "cp", "dp", "ep", "etp"),
        expert,
        lambda *_: "",
        "",
        "launch",
    )
    yield BATCH
