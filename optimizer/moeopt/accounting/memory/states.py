"""Bytes an element of weights, gradients and optimizer state, and over how many GPUs the state is shared out.

Sources (Megatron-Core): optimizer/distrib_optimizer.py:421-463 and 1003-1013, distributed/param_and_grad_buffer.py
:1160-1195, optimizer/optimizer_config.py:192-195 and 407-414, docs/user-guide/features/dist_optimizer.md.
Ignored: the fp32 copy of a 16-bit gradient shard while the optimizer runs (no activation is alive then), scales of
fp8 moments (one a tensor), pinned host copies of an offloaded state.
"""

from dataclasses import dataclass
from fractions import Fraction

from moeopt.accounting.memory.linears import linear_elements
from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_MOMENT_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class StatePrices:
    """Bytes an element, dense and expert alike."""

    weight: int
    gradient: int
    optimizer: Fraction
    """A shard element. A fraction only where part of the state is offloaded to the host."""


def state_prices(problem: Problem, choices: Choices, recipe: Recipe) -> StatePrices:
    """16-bit weights, gradients in their buffer's type, master weights and two moments.

    A precision-aware optimizer keeps the lower 16 bits of a master weight beside the bf16 weight instead of all 32
    (`store_param_remainders`), unless 8-bit recipes or 16-bit masters rule that out. An offloaded fraction lowers the
    moments on the GPU, not the master weights: the slope of five published offload runs of Qwen3-30B-A3B
    (Megatron-Bridge, CPU-offload study) is 8 bytes a shard element, not 12.
    """
    state = choices.optimizer
    master = 4 if state.main_params == "fp32" else 2
    if state.precision_aware and choices.distributed_optimizer and problem.workload.precision == "bf16":
        master = 2
    moments = 2 * _MOMENT_BYTES[state.moments] if recipe.moments_allocated else 0
    offloaded = Fraction(str(state.offload_fraction)).limit_denominator(1000)
    return StatePrices(
        weight=2,
        gradient=4 if state.main_grads == "fp32" else 2,
        optimizer=master + moments * (1 - offloaded),
    )


def quantized_weight_bytes(problem: Problem, sizes: Symbols, piece: Piece) -> Number:
    """Bytes beside the 16-bit weights that 8-bit training holds for the linears of one piece.

    fp8: Transformer Engine caches a row-wise and a column-wise copy over the micro-batches of a step (1 byte each).
    mxfp8: those two copies *are* the parameters and the 16-bit values live in the gradient buffer
    (param_and_grad_buffer.py:1160-1179), so only the scales (1 byte in 32, twice) exceed two bytes.
    Inferred from the code, not validated by a measured run.
    """
    elements = linear_elements(problem, sizes, piece)
    if problem.workload.precision == "fp8":
        return 2 * elements
    if problem.workload.precision == "mxfp8":
        return ceil_div(elements, 16)
    return 0 * elements


def shard_counts(degrees: Degrees, choices: Choices) -> tuple[Number, Number]:
    """Ranks that share the optimizer state of dense and of expert elements: dp*cp and edp, over the instances."""
    if not choices.distributed_optimizer:
        return 1, 1
    instances = choices.optimizer.instances
    dense, expert = degrees.dp * degrees.cp, degrees.edp
    return (dense, expert) if instances == 1 else (ceil_div(dense, instances), ceil_div(expert, instances))
