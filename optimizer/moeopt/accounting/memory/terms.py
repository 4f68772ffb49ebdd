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
from moeopt.accounting.memory.tensors import total
from moeopt.accounting.memory.transients import transient_bytes
from moeopt.accounting.pieces import Piece, pieces
from moeopt.accounting.sharding import aligned_elements
from moeopt.arithmetic import Number, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class MemoryTerms:
    """Bytes and elements, by piece. `stage.py` and the encoder compose them by sums, products and maxima only."""

    dense_elements: dict[Piece, Number]
    expert_elements: dict[Piece, Number]
    quantized_bytes: dict[Piece, Number]
    """Weight bytes beside the 16-bit buffers, once for each such piece (0 in bf16 and fp16)."""
    kept_bytes: dict[Piece, Number]
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
    elements = {piece: aligned_elements(problem, piece, degrees) for piece in used}
    kept = {piece: _kept(problem, sizes, piece, choices, recipe) for piece in used}
    return MemoryTerms(
        dense_elements={piece: elements[piece].dense for piece in used},
        expert_elements={piece: elements[piece].expert for piece in used},
        quantized_bytes=_each(used, lambda piece: quantized_weight_bytes(problem, sizes, piece)),
        kept_bytes=kept,
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


def _kept(problem: Problem, sizes: Symbols, piece: Piece, choices: Choices, recipe: Recipe) -> Number:
    plain = without_recompute(choices) if choices.recompute.granularity == "full" else choices
    tensors = all_tensors(problem, sizes, piece, plain, recipe)
    return total([item for item in tensors if item.kept_under(choices)]) + 0 * sizes.T


def _chunk_kept(sizes: Symbols, choices: Choices) -> Number:
    """With groups of several layers under full recomputation, the started group of a chunk (rounded up to a whole)."""
    several = choices.recompute.method == "uniform" and (choices.recompute.num_layers or 1) > 1
    return 2 * sizes.T * sizes.h if several else where(sizes.sequence_parallel, 0, 0)
