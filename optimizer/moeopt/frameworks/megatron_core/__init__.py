"""Megatron-Core's legality rules, read from the source of Megatron-LM d98e8a6 (22 August 2026, version 0.20.0).

Three kinds, by what they read: degrees (a scope of degree names: the sweep and CP-SAT's tables), choices alone
(an empty scope), and the pipeline layout. Every rule says who notices when it is broken (`checked`).
"""

from moeopt.arithmetic import Number, both
from moeopt.constraints.rules import screening_rules
from moeopt.frameworks.megatron_core.dimensions import DIMENSIONS
from moeopt.frameworks.megatron_core.experts import EXPERTS
from moeopt.frameworks.megatron_core.grids import BATCH, OWN_TOTAL, batch_rules, grid_rules
from moeopt.frameworks.megatron_core.hybrid import HYBRID
from moeopt.frameworks.megatron_core.interleaving import INTERLEAVING
from moeopt.frameworks.megatron_core.muon import MUON
from moeopt.frameworks.megatron_core.precision import PRECISION
from moeopt.frameworks.megatron_core.sequence import SEQUENCE
from moeopt.frameworks.megatron_core.sharding import SHARDING
from moeopt.frameworks.megatron_core.sparse_attention import SPARSE_ATTENTION
from moeopt.frameworks.megatron_core.stages import PIPELINE
from moeopt.frameworks.megatron_core.training import TRAINING
from moeopt.frameworks.rules import PipelineRule, Rule, Stages, Verdict
from moeopt.frameworks.wishes import wish_rules
from moeopt.layout import Choices, Degrees, Layout
from moeopt.pipeline import PipelineLayout, unroll
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of, own_gpus

FRAMEWORK_RULES: tuple[Rule, ...] = (
    BATCH,
    *DIMENSIONS,
    *SEQUENCE,
    *INTERLEAVING,
    *EXPERTS,
    *SPARSE_ATTENTION,
    *HYBRID,
    *TRAINING,
    *MUON,
    *SHARDING,
    *PRECISION,
)
"""The rules that are the same for every problem (the GPU equations depend on whether the count is exact)."""
PIPELINE_RULES: tuple[PipelineRule, ...] = PIPELINE


def rules_for(problem: Problem) -> tuple[Rule, ...]:
    """Every rule on degrees and choices: GPU equations, Megatron-Core's, and the problem's own wishes, with what
    constraints on placements say before anything is placed."""
    return (
        *grid_rules(problem),
        *batch_rules(problem),
        *FRAMEWORK_RULES,
        *wish_rules(problem),
        *screening_rules(problem),
    )


def degree_rules(problem: Problem, choices: Choices) -> tuple[Rule, ...]:
    """The rules that read degrees and are in play under these choices: what a search over degrees must ask.

    Those that read the recompute setting too are asked by `legal`.
    """
    return tuple(rule for rule in _degree_rules(problem, choices) if not rule.waits)


def _degree_rules(problem: Problem, choices: Choices) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules_for(problem) if rule.scope and rule.applies(problem, choices))


def choice_rules(problem: Problem) -> tuple[Rule, ...]:
    """The rules that read no degree: ask once a set of choices."""
    return tuple(rule for rule in rules_for(problem) if not rule.scope)


def choices_legal(problem: Problem, choices: Choices) -> bool:
    """Whether every rule that reads no degree holds."""
    return not broken_choices(problem, choices)


def broken_choices(problem: Problem, choices: Choices) -> tuple[Rule, ...]:
    """The rules that these choices break whatever the degrees are."""
    return tuple(rule for rule in choice_rules(problem) if not rule.holds(problem, NO_DEGREES, choices))


def legal(problem: Problem, degrees: Degrees, choices: Choices) -> Number:
    """Whether every rule on degrees and choices holds: a bool, or a boolean column. Pipeline rules are apart."""
    verdicts = [rule.holds(problem, degrees, choices) for rule in _degree_rules(problem, choices)]
    return both(*verdicts, choices_legal(problem, choices))


NO_DEGREES = Degrees(*[None] * len(Degrees.__dataclass_fields__))
"""For rules that read none."""


def stages_of(layout: Layout, pipeline: PipelineLayout | None = None) -> Stages:
    """The pipeline layout as the rules read it. Raises InputError where the string is outside Megatron's grammar."""
    text = str(pipeline) if pipeline is not None else layout.pipeline_layout
    stages = None if text is None else tuple(unroll(text).split("|"))
    return Stages(layout.pp, layout.vpp, stages)


def check(problem: Problem, layout: Layout, pipeline: PipelineLayout | None = None) -> list[Verdict]:
    """Every rule asked of one layout (as `resolve.complete` returns it), broken or not, with its numbers.

    Where a given dp makes another GPU total than the problem's, the GPU equations are asked of the layout's own total,
    and `gpu_total_dense` is broken.
    """
    degrees = degrees_of(layout)
    own = own_gpus(layout)
    grids = OWN_TOTAL if own is not None and own != problem.gpu_range.max else grid_rules(problem)
    rules = (*grids, *batch_rules(problem), *FRAMEWORK_RULES, *wish_rules(problem))
    stages = stages_of(layout, pipeline)
    verdicts = [_judge(rule, problem, degrees, layout.choices) for rule in rules]
    verdicts += [_judge_pipeline(rule, problem, stages, layout.choices) for rule in PIPELINE_RULES]
    return verdicts


def _judge(rule: Rule, problem: Problem, degrees: Degrees, choices: Choices) -> Verdict:
    unknown = [name for name in rule.scope if getattr(degrees, name) is None]
    if unknown and rule.applies(problem, choices):
        return Verdict(
            rule.name,
            None,
            f"not judged: {', '.join(unknown)} cannot be derived (see the broken rules)",
            rule.meaning,
            rule.source,
            rule.checked,
        )
    return Verdict(
        rule.name,
        bool(rule.holds(problem, degrees, choices)),
        rule.equation(problem, degrees, choices),
        rule.meaning,
        rule.source,
        rule.checked,
    )


def _judge_pipeline(rule: PipelineRule, problem: Problem, stages: Stages, choices: Choices) -> Verdict:
    return Verdict(
        rule.name,
        rule.holds(problem, stages, choices),
        rule.equation(problem, stages, choices),
        rule.meaning,
        rule.source,
        rule.checked,
    )
