"""What can be seen to be wrong with a problem before any search: one InputError with the equation that fails.

A check here refuses only what no layout at all can satisfy, by one equation that the user can read. Everything else is
left to the search, whose answer "infeasible" comes with an explanation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from math import isqrt, prod
from typing import TYPE_CHECKING, Any

from moeopt.errors import InputError
from moeopt.problem.base import nearest, read_fields
from moeopt.problem.problem import DEGREES, Problem
from moeopt.units import format_bytes

if TYPE_CHECKING:
    from moeopt.layout import Choices


def check(problem: Problem) -> None:
    """Raise InputError for the first decision, limit or batch that contradicts the rest of the problem."""
    from moeopt.freedom import check_free

    check_fix(problem)
    check_free(problem)
    check_limits(problem)
    check_gpus(problem)
    check_rules(problem)
    check_batch(problem)


def check_fix(problem: Problem) -> None:
    """Every fixed decision must be one of a layout's, with a value that a layout can have."""
    from moeopt.layout import Layout

    known = list(Layout.model_fields)
    for name in problem.fix:
        if name not in known:
            raise InputError(f"fix.{name}: a layout has no such decision{nearest(name, known)}")
        if name == "pipeline_layout":
            check_pipeline_layout(problem)
    unit = read_fields(Layout, problem.fix, "fix").recompute.num_layers or 0
    layers = problem.architecture.num_hidden_layers
    if unit > layers:
        raise InputError(f"fix.recompute: num_layers {unit} > num_hidden_layers {layers}: no chunk holds so many")


def check_pipeline_layout(problem: Problem) -> None:
    """A fixed pipeline string must be in Megatron's grammar."""
    from moeopt.pipeline import PipelineLayout, unroll

    text = problem.fix["pipeline_layout"]
    pp = problem.fix.get("pp")
    if isinstance(pp, int) and pp > 0:
        PipelineLayout.parse(text, pp)
    else:
        unroll(text)


def check_limits(problem: Problem) -> None:
    """A fixed degree must lie within its limits, and the memory limit must leave some."""
    for name in DEGREES:
        value, bound = problem.fix.get(name), problem.bound(name)
        if value is None:
            continue
        if bound.max is not None and value > bound.max:
            raise InputError(f"fix.{name}: {value} contradicts limits.{name}.max {bound.max}: {value} > {bound.max}")
        if bound.min is not None and value < bound.min:
            raise InputError(f"fix.{name}: {value} contradicts limits.{name}.min {bound.min}: {value} < {bound.min}")
    if problem.limits.peak_memory == 0:
        raise InputError(f"limits.peak_memory: 0 leaves no memory; a GPU has {format_bytes(problem.cluster.memory)}")


def check_gpus(problem: Problem) -> None:
    """The fixed degrees of each of the two grids must divide a GPU count that is allowed."""
    reach = problem.gpu_range
    for names in (("tp", "cp", "dp", "pp"), ("etp", "ep", "edp", "pp")):
        fixed = {name: problem.fix[name] for name in names if problem.fix.get(name)}
        product = prod(fixed.values())
        whole = len(fixed) == len(names)
        reached = product if whole else reach.max // product * product
        if reach.min <= reached <= reach.max:
            continue
        given = " * ".join(f"{name} {value}" for name, value in fixed.items())
        first = next(iter(fixed), "gpus")
        equation = f"{given} = {product}" if len(fixed) > 1 else given
        if reach.min < reach.max:
            raise InputError(f"fix.{first}: no GPU count from {reach.min} to {reach.max} is a multiple of {equation}")
        relation = f"!= gpus {reach.max}" if whole else f"does not divide gpus {reach.max}"
        raise InputError(f"fix.{first}: {equation} {relation}: {reach.max} % {product} = {reach.max % product}")


def check_rules(problem: Problem) -> None:
    """No rule of the framework may be broken by the fixed degrees alone, whatever the others and freed choices are."""
    from moeopt.configurations import modes
    from moeopt.layout import Choices

    fixed = {name: value for name, value in problem.fix.items() if name in DEGREES}
    if not fixed:
        return
    usual = read_fields(Choices, {n: v for n, v in problem.fix.items() if n in Choices.model_fields}, "fix")
    refusals = (_refusal(problem, fixed, choices) for choices in [usual, *(modes(problem) if problem.free else [])])
    first = next(refusals)
    if first is not None and all(refusals):
        raise InputError(first)


def _refusal(problem: Problem, fixed: dict[str, Any], choices: "Choices") -> str | None:
    """The first rule that fixed degrees break under some choices, in a sentence. Constraints may read choices that are
    still open: the search decides about those."""
    from moeopt.frameworks.megatron_core import degree_rules
    from moeopt.layout import Degrees

    degrees = Degrees(**{field.name: fixed.get(field.name) for field in fields(Degrees)})
    for rule in degree_rules(problem, choices):
        if rule.source.startswith("constraints[") or not set(rule.scope) <= set(fixed):
            continue
        if not rule.holds(problem, degrees, choices):
            name = rule.scope[0]
            return f"fix.{name}: {fixed[name]} breaks {rule.name}: {rule.equation(problem, degrees, choices)}"
    return None


def check_batch(problem: Problem) -> None:
    """Some data-parallel degree must divide the global batch: global_batch_size % (micro_batch_size * dp) = 0."""
    batches, reach = problem.workload.batches, problem.gpu_range
    micro = _smallest(problem, "micro_batch_size")
    if reach.min != reach.max:
        return
    sizes = sorted(set(_data_parallel_sizes(problem)))
    if not sizes or any(_divides(problem, batch, dp) for dp in sizes for batch in batches.values):
        return
    batch = batches.least
    dp = max((size for size in sizes if micro * size <= batch), default=sizes[0])  # its multiples suit most layouts
    step = micro * dp
    if not batches.exact:
        raise InputError(
            f"global_batch_size: none of {batches} is a multiple of micro_batch_size * dp for any layout on "
            f"{reach.max} GPUs: dp = gpus / (tp * cp * pp) is one of {_some(sizes)}, and "
            f"micro_batch_size * dp at least {micro * sizes[0]}"
        )
    near = [number for number in (batch // step * step, (batch // step + 1) * step) if number]
    raise InputError(
        f"global_batch_size: {batch} is not a multiple of micro_batch_size * dp for any layout on {reach.max} GPUs: "
        f"dp = gpus / (tp * cp * pp) is one of {_some(sizes)}, and {batch} % ({micro} * {dp}) = {batch % step}; "
        f"a batch of {' or '.join(map(str, near))} would do, with dp {dp}"
    )


def _some(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:8])) + (", ..." if len(sizes) > 8 else "")


def _divides(problem: Problem, batch: int, dp: int) -> bool:
    if batch % dp:
        return False
    fixed, bound = problem.fix.get("micro_batch_size"), problem.bound("micro_batch_size")
    sizes: Iterable[int] = [fixed] if fixed else range(bound.min or 1, min(bound.max or batch // dp, batch // dp) + 1)
    if problem.fix.get("num_microbatches"):
        return any(size * dp * problem.fix["num_microbatches"] == batch for size in sizes)
    return any(batch % (size * dp) == 0 for size in sizes)


def _smallest(problem: Problem, degree: str) -> int:
    return int(problem.fix.get(degree) or problem.bound(degree).min or 1)


def _data_parallel_sizes(problem: Problem) -> Iterator[int]:
    """Every dp = gpus / (tp * cp * pp) that heads, sequence length and layers leave open."""
    gpus, architecture = problem.gpu_range.max, problem.architecture
    length = problem.workload.sequence_length
    admitted = _admitted(problem)
    for tp in admitted("tp", _divisors(gpus, architecture.num_attention_heads)):
        if architecture.num_attention_heads % tp:
            continue
        for cp in admitted("cp", (c for c in _divisors(gpus // tp, length) if c == 1 or length % (2 * c) == 0)):
            for pp in admitted("pp", _divisors(gpus // (tp * cp), architecture.num_hidden_layers + 2)):
                yield from admitted("dp", [gpus // (tp * cp * pp)])


def _divisors(number: int, most: int) -> Iterator[int]:
    """Divisors of a number up to `most`."""
    for divisor in range(1, isqrt(number) + 1):
        if number % divisor == 0:
            yield from {each for each in (divisor, number // divisor) if each <= most}


def _admitted(problem: Problem) -> Callable[[str, Iterable[int]], list[int]]:
    def admitted(name: str, values: Iterable[int]) -> list[int]:
        fixed: Any = problem.fix.get(name)
        if fixed is not None:
            return [value for value in values if value == fixed]
        return [value for value in values if problem.bound(name).admits(value)]

    return admitted
