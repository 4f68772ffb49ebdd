"""The memory of one pipeline rank: how the prices of its pieces add up. The encoder mirrors this law.

P            = sum of a chunk's elements, rounded up to lcm(shards, 128), for dense and expert parameters apart
               (as they are where buffers are not padded)
weights      = P * w + quantized;  gradients = P * g;  optimizer = ceil(P / shards * o)
               (Megatron-FSDP: w and g of what it shards are part of o's price, and are told apart here;
               Muon: what Adam needs beyond, and the largest tensor, see accounting/muon/state.py)
activations  = max over in-flight vectors q, over pieces of chunks that have q_c >= 1, of
               sum_c q_c * (sum_pieces n * kept + chunk_kept) + transient[piece]
buffers      = sum of present_bytes over the features present + chunks * chunk_fixed
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moeopt.accounting.memory.persistent import Feature, layer_features
from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece, priced_total
from moeopt.arithmetic import ceil_div, lcm, round_up
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

BUFFER_MULTIPLE = 128
"""A bucket ends at a multiple of lcm(shards, 128) elements (megatron/core/optimizer/param_layout.py:19-42)."""


@dataclass(frozen=True)
class StageMemory:
    """Peak bytes of one GPU of a pipeline rank; `total_bytes - overhead_bytes` is torch's peak of allocated bytes."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    buffers_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.allocated_bytes + self.activations_bytes + self.overhead_bytes

    @property
    def allocated_bytes(self) -> int:
        """What stays between steps, as torch counts it."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.buffers_bytes


def stage_memory(
    terms: MemoryTerms,
    problem: Problem,
    chunks: Sequence[Mapping[Piece, int]],
    in_flight: Sequence[Sequence[int]],
) -> StageMemory:
    """Exact bytes of a rank that holds `chunks` (pieces and counts, first chunk first) under a schedule whose
    Pareto-maximal counts of in-flight micro-batches, one a chunk, are `in_flight`."""
    weights = gradients = optimizer = 0
    state = terms.state_bytes_per_shard_element
    for chunk in chunks:
        for elements, shards in (
            (terms.dense_elements, terms.dense_shards),
            (terms.expert_elements, terms.expert_shards),
        ):
            padded = buffer_elements(sum(n * elements[piece] for piece, n in chunk.items()), shards, terms)
            weights += padded * terms.weight_bytes_per_element
            gradients += padded * terms.gradient_bytes_per_element
            shard = padded // shards
            weights += shard * terms.sharded_weight_bytes_per_element
            gradients += shard * terms.sharded_gradient_bytes_per_element
            optimizer += ceil_div(padded * state.numerator, shards * state.denominator)
        weights += sum(n * terms.quantized_bytes[piece] for piece, n in chunk.items())
        optimizer += sum(n * terms.unshared_state_bytes[piece] for piece, n in chunk.items())
    present = features(problem, chunks)
    whole = sum(terms.present_state_bytes[feature] for feature in present)
    optimizer += whole
    buffers = sum(terms.present_bytes[feature] for feature in present) - whole
    return StageMemory(
        weights_bytes=int(weights),
        gradients_bytes=int(gradients),
        optimizer_bytes=int(optimizer),
        activations_bytes=int(activations_bytes(terms, chunks, in_flight)),
        buffers_bytes=int(buffers + len(chunks) * terms.chunk_fixed_bytes),
        overhead_bytes=int(terms.overhead_bytes),
    )


def buffer_elements(elements: int, shards: int, terms: MemoryTerms) -> int:
    """Elements of a chunk's buffer: padded for a distributed optimizer, as they are otherwise."""
    return int(round_up(elements, lcm(shards, BUFFER_MULTIPLE)) if terms.pads_buffers else elements)


def chunk_kept_bytes(terms: MemoryTerms, chunk: Mapping[Piece, int]) -> int:
    """Activation bytes of one in-flight micro-batch of a chunk."""
    return int(terms.chunk_kept_bytes + priced_total(chunk, terms.kept_bytes))


def activations_bytes(
    terms: MemoryTerms, chunks: Sequence[Mapping[Piece, int]], in_flight: Sequence[Sequence[int]]
) -> int:
    """The peak of kept and passing activations (see the law above)."""
    kept = [chunk_kept_bytes(terms, chunk) for chunk in chunks]
    passing = [max((terms.transient_bytes[piece] for piece, n in chunk.items() if n), default=0) for chunk in chunks]
    peak = 0
    for vector in in_flight:
        running = max((passing[c] for c, count in enumerate(vector) if count), default=0)
        peak = max(peak, sum(count * kept[c] for c, count in enumerate(vector)) + running)
    return int(peak)


def features(problem: Problem, chunks: Iterable[Mapping[Piece, int]]) -> tuple[Feature, ...]:
    """What a stage has, for the bytes that count once."""
    present: set[Feature] = set()
    for chunk in chunks:
        for piece, count in chunk.items():
            if count:
                present |= piece_features(problem, piece)
    return tuple(sorted(present))


def piece_features(problem: Problem, piece: Piece) -> set[Feature]:
    """The features that a stage has when it holds this piece."""
    if isinstance(piece, LayerKind):
        return set(layer_features(piece))
    kinds = problem.architecture.mtp_kinds if piece == "mtp" else ()
    return {piece, "vocabulary", *(feature for kind in kinds for feature in layer_features(kind))}
