"""Bytes an element of weights, gradients and optimizer state, and over how many GPUs the state is shared out.

Sources (Megatron-Core): optimizer/distrib_optimizer.py:421-463 and 1003-1013, distributed/param_and_grad_buffer.py
:1160-1195, optimizer/optimizer_config.py:192-195 and 407-414, docs/user-guide/features/dist_optimizer.md.
Ignored: the fp32 copy of a 16-bit gradient shard while the optimizer runs (no activation is alive then), scales of
fp8 moments (one a tensor).
"""

from dataclasses import dataclass
from fractions import Fraction

from moeopt.accounting.fsdp import shards_gradients, shards_parameters, shards_state
from moeopt.accounting.memory.linears import linear_elements
from moeopt.accounting.memory.persistent import FEATURES, Feature
from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.muon.state import MATRIX_BYTES, is_layer_wise, is_muon, largest_state_bytes
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, ceil_div, maximum, minimum, times
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_MOMENT_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class StatePrices:
    """Bytes an element, dense and expert alike."""

    weight: int
    gradient: int
    optimizer: Fraction
    """Everything that a shard element costs. A fraction only where part of the state is offloaded to the host."""
    sharded_weight: int = 0
    """Of `optimizer`: the weight, where Megatron-FSDP shards weights (then `weight` is 0)."""
    sharded_gradient: int = 0
    """Of `optimizer`: the gradient, where Megatron-FSDP shards gradients (then `gradient` is 0)."""


def state_prices(problem: Problem, choices: Choices, recipe: Recipe) -> StatePrices:
    """16-bit weights, gradients in their buffer's type, master weights and two moments.

    A precision-aware optimizer keeps the lower 16 bits of a master weight beside the bf16 weight instead of all 32
    (`store_param_remainders`), unless 8-bit recipes or 16-bit masters rule that out; Megatron-FSDP holds master weights
    itself, whole (optimizer/__init__.py:1145-1162). For an offloaded fraction see `_state_bytes`.
    Megatron-FSDP shards gradients from `optim_grads` on and weights under `optim_grads_params`: their bytes then belong
    to a shard element.
    """
    gradient = 4 if choices.optimizer.main_grads == "fp32" else 2
    sharded_weight = 2 if shards_parameters(choices) else 0
    sharded_gradient = gradient if shards_gradients(choices) else 0
    return StatePrices(
        weight=2 - sharded_weight,
        gradient=gradient - sharded_gradient,
        optimizer=_state_bytes(problem, choices, recipe) + sharded_weight + sharded_gradient,
        sharded_weight=sharded_weight,
        sharded_gradient=sharded_gradient,
    )


def _state_bytes(problem: Problem, choices: Choices, recipe: Recipe) -> Fraction:
    """Master weight and moments of a shard element on the GPU.

    Offload (cpu_offloading/hybrid_optimizer.py:60-77, 249-305; optimizer/__init__.py:504-546): parameters, first to
    last, move to the host until the fraction is reached; the others update on the GPU with fp32 master weights and fp32
    moments whatever types are given. With the precision-aware optimizer (which Megatron-LM's arguments demand) a moved
    parameter leaves nothing on the GPU; without it (Megatron-Bridge allows that) the distributed optimizer's own fp32
    master weights stay there: distrib_optimizer.py:421-463, and the slope of five published runs of Qwen3-30B-A3B, 8
    bytes a shard element, not 12. Ignored: the one parameter that crosses the fraction moves whole (less on the GPU).
    """
    state = choices.optimizer
    if is_muon(problem):  # Adam's part beyond it: `muon.unshared_state_bytes`
        return Fraction(MATRIX_BYTES if recipe.moments_allocated else MATRIX_BYTES // 2)
    offloaded = Fraction(str(state.offload_fraction)).limit_denominator(1000)
    if offloaded:
        moments = 8 if recipe.moments_allocated else 0
        return (4 + moments) * (1 - offloaded) if state.precision_aware else 4 + moments * (1 - offloaded)
    master = 4 if state.main_params == "fp32" else 2
    remainders = state.precision_aware and choices.distributed_optimizer and choices.fsdp == "none"
    if remainders and problem.workload.precision == "bf16":
        master = 2
    return Fraction(master + (2 * _MOMENT_BYTES[state.moments] if recipe.moments_allocated else 0))


def host_bytes_per_shard_element(choices: Choices) -> Fraction:
    """Bytes of host memory a shard element: fp32 parameter, its gradient (both pinned) and two fp32 moments of the
    offloaded fraction (cpu_offloading/hybrid_optimizer.py:100-115, 274-281)."""
    return 16 * Fraction(str(choices.optimizer.offload_fraction)).limit_denominator(1000)


def quantized_weight_bytes(problem: Problem, sizes: Symbols, piece: Piece) -> Number:
    """Bytes beside the 16-bit weights that quantised training holds for the linears of one piece (below zero: what
    quantised parameters save).

    fp8: Transformer Engine caches an 8-bit copy of each weight over the micro-batches of a step (module/linear.py:
    1955-2071, extensions/transformer_engine.py:1338-1345 of Megatron), and one more in the other direction where its
    GEMMs take only one layout: before compute capability 10 (common/transformer_engine.cpp, pytorch/csrc/quantizer.cpp:
    355-380). Per-block scales (4 bytes for each 128 x 128) are left out. With fp8_param_gather they are the parameters.
    mxfp8: those two copies *are* the parameters and the 16-bit values live in the gradient buffer
    (param_and_grad_buffer.py:1160-1179), so only the scales (1 byte in 32, twice) exceed two bytes.
    nvfp4: so are its copies, of half a byte and a scale byte in 16 each, the row-wise one in the parameters' buffer
    (:1084-1118, 1256-1271), the other made of it after every gather: 9/8 bytes instead of two.
    Read from the code of Transformer Engine d0067d0; recorded runs in fp8 agree (docs/memory.md).
    """
    elements, form = linear_elements(problem, sizes, piece), problem.workload.format
    if not form.quantized:
        return 0 * elements
    if form.keeps_parameters:
        return times(elements, 2 * form.element_bytes - 2)
    copies = 1 if _multiplies_any_layout(problem) else 2
    return (copies - 2 if problem.workload.fp8_param_gather else copies) * elements


def _multiplies_any_layout(problem: Problem) -> bool:
    """Whether 8-bit GEMMs take operands in either direction (nvte_is_non_tn_fp8_gemm_supported: 10, 11, from 13 on)."""
    major = problem.cluster.compute_capability.partition(".")[0]
    return major.isdigit() and (int(major) in (10, 11) or int(major) >= 13)


def shard_counts(degrees: Degrees, choices: Choices) -> tuple[Number, Number]:
    """Ranks that share the optimizer state of dense and of expert elements: dp*cp and edp, over the instances."""
    if not shards_state(choices):
        return 1, 1
    instances = choices.optimizer.instances
    dense, expert = degrees.dp * degrees.cp, degrees.edp
    return (dense, expert) if instances == 1 else (ceil_div(dense, instances), ceil_div(expert, instances))


def whole_tensor_bytes(
    problem: Problem, degrees: Degrees, choices: Choices, shards: tuple[Number, Number]
) -> dict[Feature, Number]:
    """What the busiest rank of Muon's layer-wise optimizer holds beyond the mean, by feature: the largest tensor of
    what a stage has. (Each feature brings what it has beyond the smallest of the kinds of layers: more than there is
    where several do.)"""
    whole: dict[Feature, Number] = dict.fromkeys(FEATURES, 0 * shards[0])
    if not is_layer_wise(problem, choices):
        return whole
    kinds = {kind: largest_state_bytes(problem, degrees, kind, shards) for kind in problem.architecture.kinds}
    first, *rest = kinds.values()
    least = whole["layer"] = minimum(first, *rest)
    for feature in ("dense", "moe"):
        whole[feature] = maximum(least, *(size for kind, size in kinds.items() if kind.ffn == feature)) - least
    tables = (largest_state_bytes(problem, degrees, piece, shards) for piece in ("embedding", "loss"))
    whole["vocabulary"] = maximum(least, *tables) - least
    return whole
