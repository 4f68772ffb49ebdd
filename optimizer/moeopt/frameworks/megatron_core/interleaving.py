"""What the interleaved schedule asks of pp, vpp, micro-batches and their groups. Sources: Megatron-LM d98e8a6."""

from moeopt.arithmetic import Number, both, either, maximum
from moeopt.frameworks.rules import Rule
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_SCHEDULE = "megatron/core/pipeline_parallel/schedules.py"


def _size_holds(_problem: Problem, d: Degrees, _choices: Choices) -> Number:
    return either(d.vpp == 1, both(d.pp <= d.interleave_group, d.interleave_group <= d.num_microbatches))


def _size_sentence(_problem: Problem, d: Degrees, _choices: Choices) -> str:
    if d.vpp == 1:
        return "vpp 1: micro-batches are not grouped"
    holds = d.pp <= d.interleave_group <= d.num_microbatches
    text = f"vpp {d.vpp}: pp {d.pp} <= interleave_group {d.interleave_group} <= num_microbatches {d.num_microbatches}"
    return text if holds else f"{text} does not hold"


def _rest_holds(_problem: Problem, d: Degrees, _choices: Choices) -> Number:
    rest = d.num_microbatches % maximum(d.interleave_group, 1)
    return either(d.vpp == 1, rest == 0, rest >= d.pp)


def _rest_sentence(_problem: Problem, d: Degrees, _choices: Choices) -> str:
    if d.vpp == 1:
        return "vpp 1: micro-batches are not grouped"
    rest = d.num_microbatches % max(d.interleave_group, 1)
    text = f"vpp {d.vpp}: num_microbatches {d.num_microbatches} % interleave_group {d.interleave_group} = {rest}"
    return text if rest == 0 or rest >= d.pp else f"{text}, must be 0 or at least pp {d.pp}"


INTERLEAVING = (
    Rule(
        "vpp_needs_pp",
        "virtual pipeline stages need a pipeline",
        ("pp", "vpp"),
        lambda _problem, d, _: either(d.vpp == 1, d.pp > 1),
        lambda _problem, d, _: f"vpp {d.vpp} with pp {d.pp}" + (", pp must be above 1" if d.vpp > 1 >= d.pp else ""),
        "megatron/training/arguments.py:1000-1003, megatron/core/parallel_state.py:827-831",
        "launch",
    ),
    Rule(
        "interleave_group_size",
        "a micro-batch group of the interleaved schedule fills the pipeline and is no larger than the step",
        ("pp", "vpp", "num_microbatches", "interleave_group"),
        _size_holds,
        _size_sentence,
        f"{_SCHEDULE}:1160-1168 (raised in the first step)",
        "run",
    ),
    Rule(
        "interleave_group_rest",
        "the last micro-batch group is full or still fills the pipeline",
        ("pp", "vpp", "num_microbatches", "interleave_group"),
        _rest_holds,
        _rest_sentence,
        f"{_SCHEDULE}:1170-1180 (raised in the first step)",
        "run",
    ),
)
