"""Every price in bytes that a stage's memory is made of, for one layout or a column of layouts."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from moeopt.accounting.memory.activations import all_tensors, recomputed_bytes, without_recompute
from moeopt.accounting.memory.overhead import Overheads, default_overheads, overhead_bytes
from moeopt.accounting.memory.persistent import Feature, chunk_fixed_bytes, present_bytes
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.states import quantized_weight_bytes, shard_counts, state_prices
from moeopt.accounting.memory.symbols import Symbols, symbols
from moeopt.accounting.memory.tensors import TensorBytes, total
from moeopt.accounting.memory.transients import transient_bytes
from moeopt.accounting.pieces import Piece, pieces
from moeopt.accounting.sharding import aligned_elements, piece_elements
from moeopt.arithmetic import Number, where
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, RecomputeModule
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class MemoryTerms:
    """Bytes and elements, by piece. `stage.py` and the encoder compose them by sums, products and maxima only."""

    dense_elements: dict[Piece, Number]
    expert_elements: dict[Piece, Number]
    quantized_bytes: dict[Piece, Number]
    """Weight bytes beside the 16-bit buffers, once for each such piece (0 in bf16 and fp16)."""
    kept_bytes: dict[Piece, Number]
    freed_bytes: dict[RecomputeModule, dict[Piece, Number]]
    """What each selective module takes off kept_bytes, chosen or not: kept_bytes is that of nothing recomputed less
    these, summed over the chosen modules (beside `moe`, its parts `moe_act` and `shared_experts` free nothing more)."""
    kept_recomputed_bytes: dict[Piece, Number]
    transient_bytes: dict[Piece, Number]
    chunk_kept_bytes: Number
    chunk_fixed_bytes: Number
    present_bytes: dict[Feature, Number]
    overhead_bytes: Number
    weight_bytes_per_element: int
    gradient_bytes_per_element: int
    optimizer_bytes_per_shard_element: Fraction
    dense_shards: Number
    expert_shards: Number


def memory_terms(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    recipe: Recipe = DEFAULT_RECIPE,
    overheads: Overheads | None = None,
) -> MemoryTerms:
    """All prices of a layout's degrees and choices. `total - overhead` is comparable with torch's peak counter
    (`torch.cuda.max_memory_allocated`)."""
    sizes = symbols(problem, degrees, choices)
    table = overheads or default_overheads()
    prices = state_prices(problem, choices, recipe)
    shards = shard_counts(degrees, choices)
    used = [piece for piece in pieces(problem.architecture) if piece != "mtp" or problem.mtp_layers]
    counted = aligned_elements if choices.distributed_optimizer else piece_elements
    elements = {piece: counted(problem, piece, degrees) for piece in used}
    tensors = {piece: all_tensors(problem, sizes, piece, without_recompute(choices), recipe) for piece in used}
    kept = {piece: _kept(sizes, tensors[piece], choices) for piece in used}
    return MemoryTerms(
        dense_elements={piece: elements[piece].dense for piece in used},
        expert_elements={piece: elements[piece].expert for piece in used},
        quantized_bytes=_each(used, lambda piece: quantized_weight_bytes(problem, sizes, piece)),
        kept_bytes=kept,
        freed_bytes={module: {piece: _freed(tensors[piece], module) for piece in used} for module in RECOMPUTE_MODULES},
        kept_recomputed_bytes=_each(used, lambda piece: recomputed_bytes(sizes, piece, choices, kept[piece])),
        transient_bytes=_each(used, lambda piece: transient_bytes(problem, sizes, piece, choices, recipe)),
        chunk_kept_bytes=_chunk_kept(sizes, choices),
        chunk_fixed_bytes=chunk_fixed_bytes(sizes),
        present_bytes=present_bytes(problem, sizes, choices, table, recipe),
        overhead_bytes=overhead_bytes(problem, degrees, choices, table),
        weight_bytes_per_element=prices.weight,
        gradient_bytes_per_element=prices.gradient,
        optimizer_bytes_per_shard_element=prices.optimizer,
        dense_shards=shards[0],
        expert_shards=shards[1],
    )


def _each(used: list[Piece], function: Callable[[Piece], Number]) -> dict[Piece, Number]:
    return {piece: function(piece) for piece in used}


def _kept(sizes: Symbols, tensors: list[TensorBytes], choices: Choices) -> Number:
    return total([item for item in tensors if item.kept_under(choices)]) + 0 * sizes.T


def _freed(tensors: list[TensorBytes], module: RecomputeModule) -> Number:
    return total([item for item in tensors if module in item.dropped_by])


def _chunk_kept(sizes: Symbols, choices: Choices) -> Number:
    """With groups of several layers under full recomputation, the started group of a chunk (rounded up to a whole)."""
    several = choices.recompute.method == "uniform" and (choices.recompute.num_layers or 1) > 1
    return 2 * sizes.T * sizes.h if several else where(sizes.sequence_parallel, 0, 0)
