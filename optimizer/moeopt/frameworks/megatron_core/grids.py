"""The two grids of GPUs, and the batch that the dense one splits.

    gpus = tp * cp * dp * pp        gpus = etp * ep * edp * pp

Sources are Megatron-LM d98e8a6.
"""

from moeopt.arithmetic import Number, both
from moeopt.frameworks.rules import Rule, remainder
from moeopt.layout import Choices, Degrees
from moeopt.microbatches import admits, divisible
from moeopt.problem.problem import Problem

_DENSE = "megatron/core/parallel_state.py:815-825, megatron/training/arguments.py:424-448"
_EXPERT = "megatron/core/parallel_state.py:874-884"


def grid_rules(problem: Problem) -> tuple[Rule, ...]:
    """The GPU equations of a problem: divisibility where its GPU count is exact, products where it is a range."""
    return (_TOTAL_IN_RANGE, _EXPERT_IN_DENSE) if problem.gpu_range.min != problem.gpu_range.max else _EXACT


def _dense_remainder(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    gpus = problem.gpu_range.max
    unit = degrees.tp * degrees.cp * degrees.pp
    of = f"(tp {degrees.tp} * cp {degrees.cp} * pp {degrees.pp})"
    return remainder(f"{gpus}", gpus, of, unit)


def _expert_remainder(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    gpus = problem.gpu_range.max
    unit = degrees.etp * degrees.ep * degrees.pp
    of = f"(etp {degrees.etp} * ep {degrees.ep} * pp {degrees.pp})"
    return remainder(f"{gpus}", gpus, of, unit)


def _in_range(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    total = degrees.tp * degrees.cp * degrees.dp * degrees.pp
    return both(total >= problem.gpu_range.min, total <= problem.gpu_range.max)


def _in_range_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    total = degrees.tp * degrees.cp * degrees.dp * degrees.pp
    low, high = problem.gpu_range.min, problem.gpu_range.max
    wanted = f"{low}" if low == high else f"{low} to {high}"
    product = f"tp {degrees.tp} * cp {degrees.cp} * dp {degrees.dp} * pp {degrees.pp} = {total}"
    return f"{product}, the problem's gpus: {wanted}"


def _expert_of_own_total(_problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    block, unit = degrees.tp * degrees.cp * degrees.dp, degrees.etp * degrees.ep
    of = f"(etp {degrees.etp} * ep {degrees.ep} = {unit})"
    return remainder(f"(tp {degrees.tp} * cp {degrees.cp} * dp {degrees.dp} = {block})", block, of, unit)


_EXACT = (
    Rule(
        "gpu_total_dense",
        "tp * cp * pp divides the GPUs; the quotient is dp",
        ("tp", "pp", "cp"),
        lambda problem, d, _: problem.gpu_range.max % (d.tp * d.cp * d.pp) == 0,
        _dense_remainder,
        _DENSE,
        "launch",
    ),
    Rule(
        "gpu_total_expert",
        "etp * ep * pp divides the GPUs; the quotient is edp",
        ("pp", "ep", "etp"),
        lambda problem, d, _: problem.gpu_range.max % (d.etp * d.ep * d.pp) == 0,
        _expert_remainder,
        _EXPERT,
        "launch",
    ),
)
_TOTAL_IN_RANGE = Rule(
    "gpu_total_dense",
    "tp * cp * dp * pp is a GPU total that the problem allows",
    ("tp", "pp", "cp", "dp"),
    _in_range,
    _in_range_sentence,
    _DENSE,
    "launch",
)
_EXPERT_IN_DENSE = Rule(
    "gpu_total_expert",
    "etp * ep divides tp * cp * dp; the quotient is edp",
    ("tp", "cp", "dp", "ep", "etp"),
    lambda _problem, d, _: (d.tp * d.cp * d.dp) % (d.etp * d.ep) == 0,
    _expert_of_own_total,
    _EXPERT,
    "launch",
)
OWN_TOTAL = (_TOTAL_IN_RANGE, _EXPERT_IN_DENSE)
"""The GPU equations judged on the layout's own total: what evaluate uses where a given dp contradicts the problem."""


def _batch_sentence(problem: Problem, d: Degrees, _choices: Choices) -> str:
    batches, unit = problem.workload.batches, d.micro_batch_size * d.dp
    of = f"micro_batch_size {d.micro_batch_size} * dp {d.dp}"
    if batches.exact:
        return remainder(f"global_batch_size {batches}", batches.most, f"({of})", unit)
    return f"{of} = {unit}, which divides {'some' if divisible(batches, unit) else 'no'} global_batch_size of {batches}"


def _allowed_sentence(problem: Problem, d: Degrees, _choices: Choices) -> str:
    batches = problem.workload.batches
    text = f"micro_batch_size {d.micro_batch_size} * dp {d.dp} * num_microbatches {d.num_microbatches} = {d.batch}"
    return f"{text}, {'one' if admits(batches, d.batch) else 'must be one'} of global_batch_size {batches}"


BATCH = Rule(
    "batch_by_dp",
    "every data-parallel rank runs a whole number of micro-batches, at least one",
    ("dp", "micro_batch_size"),
    lambda problem, d, _: divisible(problem.workload.batches, d.micro_batch_size * d.dp),
    _batch_sentence,
    "megatron/core/num_microbatches_calculator.py:381-391",
    "launch",
)
_BATCH_ALLOWED = Rule(
    "batch_allowed",
    "the global batch is one that the problem allows",
    ("dp", "micro_batch_size", "num_microbatches"),
    lambda problem, d, _: admits(problem.workload.batches, d.batch),
    _allowed_sentence,
    "workload.global_batch_size",
    "moeopt",
)


def batch_rules(problem: Problem) -> tuple[Rule, ...]:
    """What is asked of the batch of a layout where the problem leaves it open."""
    return () if problem.workload.batches.exact else (_BATCH_ALLOWED,)
