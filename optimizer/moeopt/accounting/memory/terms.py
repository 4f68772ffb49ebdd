"""Every price in bytes that a stage's memory is made of, for one layout or a column of layouts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from moeopt.accounting.distinct import Distinct
from moeopt.accounting.fsdp import unit_elements
from moeopt.accounting.memory.activations import all_tensors, recomputed_bytes, without_recompute
from moeopt.accounting.memory.gathered import double_buffer_bytes, gathered
from moeopt.accounting.memory.graphs import received_bytes
from moeopt.accounting.memory.overhead import Overheads, default_overheads, overhead_bytes
from moeopt.accounting.memory.persistent import Feature, chunk_fixed_bytes, present_bytes
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.states import (
    StatePrices,
    quantized_weight_bytes,
    shard_counts,
    state_prices,
    whole_tensor_bytes,
)
from moeopt.accounting.memory.symbols import Symbols, symbols
from moeopt.accounting.memory.tensors import TensorBytes, on_gpu, total
from moeopt.accounting.memory.transients import transient_bytes
from moeopt.accounting.muon.state import cuts_tensors, unshared_state_bytes
from moeopt.accounting.pieces import Piece, pieces_under
from moeopt.accounting.sharding import Elements, aligned_elements, piece_elements
from moeopt.arithmetic import Number, where
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, RecomputeModule
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class MemoryTerms:
    """Bytes and elements, by piece. `stage.py` and the encoder compose them by sums, products and maxima only."""

    dense_elements: dict[Piece, Number]
    expert_elements: dict[Piece, Number]
    quantized_bytes: dict[Piece, Number]
    """Weight bytes beside the 16-bit buffers, once for each such piece (0 in bf16 and fp16; below zero in nvfp4)."""
    unshared_state_bytes: dict[Piece, Number]
    """State beside that of shard elements, once for each such piece (what Adam needs beyond Muon; 0 without it)."""
    kept_bytes: dict[Piece, Number]
    freed_bytes: dict[RecomputeModule, dict[Piece, Number]]
    """What each selective module takes off kept_bytes, chosen or not: without full recompute kept_bytes is that of
    nothing recomputed less these, summed over the chosen modules (beside `moe`, its parts `moe_act` and
    `shared_experts` free nothing more)."""
    transient_bytes: dict[Piece, Number]
    chunk_kept_bytes: Number
    chunk_fixed_bytes: Number
    present_bytes: dict[Feature, Number]
    present_state_bytes: dict[Feature, Number]
    """Of present_bytes: optimizer state (the largest tensor of Muon's layer-wise optimizer)."""
    overhead_bytes: Number
    weight_bytes_per_element: int
    gradient_bytes_per_element: int
    optimizer_bytes_per_shard_element: Fraction
    """Everything that a shard element costs; Megatron-FSDP's sharded weights and gradients are in it."""
    dense_shards: Number
    expert_shards: Number
    pads_buffers: bool = True
    """Whether a buffer's elements are rounded up to what its shards divide."""
    sharded_weight_bytes_per_element: int = 0
    sharded_gradient_bytes_per_element: int = 0
    queued_bytes: dict[Piece, Number] = field(default_factory=dict)
    """Of transient_bytes: the part that falls as kept_bytes rise (Megatron-FSDP's waiting gradients). A bound for every
    recompute setting at once must leave it out."""

    def beside_bytes(self, piece: Piece) -> Number:
        """Weights and state of one piece beside what its elements cost."""
        return self.quantized_bytes[piece] + self.unshared_state_bytes[piece]

    @property
    def state_bytes_per_shard_element(self) -> Fraction:
        """The optimizer's own part of a shard element: master weight and moments."""
        sharded = self.sharded_weight_bytes_per_element + self.sharded_gradient_bytes_per_element
        return self.optimizer_bytes_per_shard_element - sharded


def memory_terms(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    recipe: Recipe = DEFAULT_RECIPE,
    overheads: Overheads | None = None,
) -> MemoryTerms:
    """All prices of a layout's degrees and choices. `total - overhead` is comparable with torch's peak counter
    (`torch.cuda.max_memory_allocated`)."""
    found = Distinct.of_pieces(degrees, choices, degrees.pp > 1)
    few, spread = found.degrees, found.spread
    sizes = symbols(problem, few, choices)
    table = overheads or default_overheads()
    prices = state_prices(problem, choices, recipe)
    shards = shard_counts(degrees, choices)
    used = pieces_under(problem, choices.recompute)
    elements = {piece: buffer_parameters(problem, piece, few, choices) for piece in used}
    tensors = {piece: all_tensors(problem, sizes, piece, without_recompute(choices), recipe) for piece in used}
    kept = _each(used, lambda piece: recomputed_bytes(sizes, piece, choices, _kept(sizes, tensors[piece], choices)))
    waiting = gathered(problem, few, choices, _gradient_bytes(prices), kept)
    present = present_bytes(problem, sizes, choices, table, recipe)
    present["layer"] = present["layer"] + double_buffer_bytes(problem, few, choices, _gradient_bytes(prices))
    for piece in ("embedding", "mtp", "loss"):
        if piece in waiting:
            present[piece] = present[piece] + waiting[piece].present
    whole = whole_tensor_bytes(problem, degrees, choices, shards)
    return MemoryTerms(
        dense_elements=_each(used, lambda piece: spread(elements[piece].dense)),
        expert_elements=_each(used, lambda piece: spread(elements[piece].expert)),
        quantized_bytes=_each(used, lambda piece: spread(quantized_weight_bytes(problem, sizes, piece))),
        unshared_state_bytes=_each(
            used, lambda piece: unshared_state_bytes(problem, piece, degrees, choices, shards[0])
        ),
        kept_bytes=_each(used, lambda piece: spread(kept[piece])),
        freed_bytes={
            module: {piece: spread(_freed(tensors[piece], module, choices)) for piece in used}
            for module in RECOMPUTE_MODULES
        },
        transient_bytes=_each(
            used,
            lambda piece: spread(transient_bytes(problem, sizes, piece, choices, recipe) + waiting[piece].transient),
        ),
        chunk_kept_bytes=spread(_chunk_kept(sizes, choices)),
        chunk_fixed_bytes=spread(chunk_fixed_bytes(sizes)),
        present_bytes={feature: spread(size) + whole[feature] for feature, size in present.items()},
        present_state_bytes=whole,
        overhead_bytes=overhead_bytes(problem, degrees, choices, table),
        weight_bytes_per_element=prices.weight,
        gradient_bytes_per_element=prices.gradient,
        optimizer_bytes_per_shard_element=prices.optimizer,
        dense_shards=shards[0],
        expert_shards=shards[1],
        pads_buffers=cuts_tensors(problem, choices),
        sharded_weight_bytes_per_element=prices.sharded_weight,
        sharded_gradient_bytes_per_element=prices.sharded_gradient,
        queued_bytes=_each(used, lambda piece: spread(waiting[piece].queued)),
    )


def _gradient_bytes(prices: StatePrices) -> int:
    return prices.gradient + prices.sharded_gradient


def buffer_parameters(problem: Problem, piece: Piece, degrees: Degrees, choices: Choices) -> Elements:
    """Elements that one piece adds to a chunk's buffers: as Megatron-FSDP pads its buckets, as a distributed optimizer
    aligns parameters, or as they are (Muon's layer-wise optimizer cuts none)."""
    if choices.fsdp != "none":
        found = unit_elements(problem, piece, degrees, choices)
        return Elements(found.dense + found.outside, found.expert)
    counted = aligned_elements if cuts_tensors(problem, choices) else piece_elements
    return counted(problem, piece, degrees)


def _each(used: Iterable[Piece], function: Callable[[Piece], Number]) -> dict[Piece, Number]:
    return {piece: function(piece) for piece in used}


def _kept(sizes: Symbols, tensors: list[TensorBytes], choices: Choices) -> Number:
    return total(on_gpu([item for item in tensors if item.kept_under(choices)], choices)) + 0 * sizes.T


def _freed(tensors: list[TensorBytes], module: RecomputeModule, choices: Choices) -> Number:
    return total(on_gpu([item for item in tensors if module in item.dropped_by], choices))


def _chunk_kept(sizes: Symbols, choices: Choices) -> Number:
    """With groups of several layers under full recomputation, the started group of a chunk (rounded up to a whole); and
    what it received, where graphs keep a copy."""
    several = choices.recompute.method == "uniform" and (choices.recompute.num_layers or 1) > 1
    started = 2 * sizes.T * sizes.h if several else where(sizes.sequence_parallel, 0, 0)
    return started + received_bytes(sizes, choices)
