"""The contiguous buffers of Megatron's DistributedDataParallel: exact padded elements, buckets and shards of a chunk.

Sources (Megatron-LM 0.20.0): optimizer/distrib_optimizer.py:505-588 (the walk over parameters in reverse order),
optimizer/param_layout.py:19-42 (parameters start at multiples of 64 elements, buckets end at multiples of
lcm(shards, 128)), distributed/param_and_grad_buffer.py:890-1002 (one buffer for dense and one for expert parameters;
no padding without the distributed optimizer), distributed/distributed_data_parallel.py:133-171 and
training/training.py:2179-2194 (bucket size; one bucket on later stages and chunks).
Ignored: float8 parameters, which get a buffer of their own; padding for NCCL's high bus bandwidth (off by default).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from moeopt.accounting.muon.state import cuts_tensors
from moeopt.accounting.parameters import Parameter, final_norm, piece_parameters
from moeopt.accounting.pieces import Piece, contents
from moeopt.accounting.sharding import ALIGNMENT_ELEMENTS, experts_share_dense_buffer, holds_final_norm, local_numel
from moeopt.arithmetic import Number, lcm, maximum, round_up
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

BUCKET_ALIGNMENT_ELEMENTS = 128
"""A bucket ends at a multiple of this and of the number of shards (param_layout.py:30-34)."""
SMALLEST_BUCKET_ELEMENTS = 40_000_000
BUCKET_ELEMENTS_PER_RANK = 1_000_000
"""Bucket size: the larger of the two, the second times dp * cp (training.py:2179-2194)."""


@dataclass(frozen=True)
class Tensor:
    """One parameter tensor on one GPU. `alone`: the shared embedding, which gets a bucket of its own."""

    numel: int
    alone: bool = False


Tensors: TypeAlias = list[tuple[Parameter, Tensor]]


@dataclass(frozen=True)
class Buffer:
    """One contiguous buffer: its elements with and without padding, its buckets, and the elements of one shard."""

    numel: int
    numel_unpadded: int
    buckets: int
    shards: int

    @property
    def shard(self) -> int:
        """Elements whose optimizer state one GPU keeps."""
        return self.numel // self.shards


@dataclass(frozen=True)
class ChunkBuffers:
    """The buffers of one chunk. `expert` is empty where routed experts lie in the dense buffer (ep 1, etp = tp)."""

    dense: Buffer
    expert: Buffer


def dense_shards(degrees: Degrees, choices: Choices) -> Number:
    """GPUs over which the optimizer state of dense parameters is sharded: dp * cp, in each optimizer instance."""
    return degrees.dp * degrees.cp // choices.optimizer.instances


def expert_shards(degrees: Degrees, choices: Choices) -> Number:
    """GPUs over which the optimizer state of routed experts is sharded: edp, in each optimizer instance."""
    return degrees.edp // choices.optimizer.instances


def padded_elements(aligned: Number, shards: Number) -> Number:
    """A buffer of one bucket: the sum of aligned parameters, rounded up to a multiple of lcm(shards, 128)."""
    return round_up(aligned, lcm(shards, BUCKET_ALIGNMENT_ELEMENTS))


def bucket_elements(degrees: Degrees) -> Number:
    """The size at which a bucket closes, where gradient reduction overlaps the backward pass."""
    per_rank = BUCKET_ELEMENTS_PER_RANK * degrees.dp * degrees.cp
    return maximum(SMALLEST_BUCKET_ELEMENTS, per_rank)


def bucket_padded(tensors: Sequence[Tensor], shards: int, bucket_size: int | None) -> Buffer:
    """Walk the tensors in reverse registration order, as the distributed optimizer lays them out.

    `bucket_size` None is one bucket. Unpadded elements count the alignment of parameters but not of bucket ends.
    """
    divisor = lcm(shards, BUCKET_ALIGNMENT_ELEMENTS)
    start = bucket_start = unpadded = buckets = end = 0
    held = False
    for tensor in reversed(tensors):
        start = round_up(start, ALIGNMENT_ELEMENTS)
        if tensor.alone and held:
            unpadded += start - bucket_start
            start = bucket_start = round_up(start, divisor)
            buckets += 1
        end = start + tensor.numel
        held = True
        if tensor.alone or (bucket_size is not None and end - bucket_start >= bucket_size):
            unpadded += end - bucket_start
            end = bucket_start = round_up(end, divisor)
            buckets += 1
            held = False
        start = end
    if held:
        unpadded += end - bucket_start
        end = round_up(end, divisor)
        buckets += 1
    return Buffer(end, unpadded, buckets, shards)


def unpadded_buffer(tensors: Sequence[Tensor]) -> Buffer:
    """Without the distributed optimizer: parameters end to end, every GPU keeping the whole state."""
    numel = sum(tensor.numel for tensor in tensors)
    return Buffer(numel, numel, int(numel > 0), 1)


def chunk_buffers(
    problem: Problem, degrees: Degrees, choices: Choices, chunk: Chunk, first_chunk_of_first_stage: bool
) -> ChunkBuffers:
    """The exact buffers of a pipeline's chunk: its layers in their order, the final norm where Megatron puts it."""
    return chunk_buffer_elements(
        problem,
        degrees,
        choices,
        contents(problem.architecture, chunk),
        first_chunk_of_first_stage,
        order=problem.architecture.layers[chunk.first : chunk.last],
        with_final_norm=holds_final_norm(problem, chunk),
    )


def chunk_tensors(problem: Problem, degrees: Degrees, chunk: Chunk) -> tuple[Tensors, Tensors]:
    """The trainable tensors of a chunk on one GPU, in registration order: those of the dense and of the expert
    buffer."""
    architecture = problem.architecture
    order = architecture.layers[chunk.first : chunk.last]
    tensors = _tensors(problem, degrees, contents(architecture, chunk), order, holds_final_norm(problem, chunk))
    return _apart(tensors, bool(experts_share_dense_buffer(degrees)))


def _apart(tensors: Iterable[tuple[Parameter, Tensor]], merged: bool) -> tuple[Tensors, Tensors]:
    """Dense ones and those of experts, which may lie with the dense ones."""
    dense: Tensors = []
    expert: Tensors = []
    for parameter, tensor in tensors:
        (expert if parameter.sharding == "expert" and not merged else dense).append((parameter, tensor))
    return dense, expert


def chunk_buffer_elements(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    counts: Mapping[Piece, int],
    first_chunk_of_first_stage: bool,
    experts_with_dense: bool | None = None,
    order: Sequence[LayerKind] | None = None,
    with_final_norm: bool | None = None,
) -> ChunkBuffers:
    """The exact buffers of a chunk that holds these pieces (integers only).

    Only the first chunk of the first stage is cut into buckets, and only with overlap.grad_reduce. `order` are the
    chunk's layers one by one, which decides where buckets end; None walks kind by kind in the order of `counts` (their
    true order where the first kinds come first). `with_final_norm` is `sharding.holds_final_norm` of the chunk; None
    keeps the norm with the loss.
    `experts_with_dense` says whether routed experts lie in the dense buffer; None is the rule of version 0.20.0
    (ep 1 and etp = tp). Version 0.16.1 put them there whenever ep was 1.
    """
    merged = bool(experts_share_dense_buffer(degrees)) if experts_with_dense is None else experts_with_dense
    held = _apart(_tensors(problem, degrees, counts, order, with_final_norm), merged)
    dense, expert = ([tensor for _, tensor in each] for each in held)
    if not cuts_tensors(problem, choices):
        return ChunkBuffers(unpadded_buffer(dense), unpadded_buffer(expert))
    size = bucket_elements(degrees) if first_chunk_of_first_stage and choices.overlap.grad_reduce else None
    return ChunkBuffers(
        bucket_padded(dense, dense_shards(degrees, choices), size),
        bucket_padded(expert, expert_shards(degrees, choices), size),
    )


def _tensors(
    problem: Problem,
    degrees: Degrees,
    counts: Mapping[Piece, int],
    order: Sequence[LayerKind] | None,
    with_final_norm: bool | None,
) -> Iterator[tuple[Parameter, Tensor]]:
    """The trainable tensors of a chunk on one GPU, in registration order (gpt_model.py: embedding, decoder, MTP, head).

    An MTP block builds its embedding once, and before the decoder's layers; the final norm is the decoder's.
    """
    first = [parameter for parameter in _trainable(problem, degrees, "embedding") if "embedding" in counts]
    modules = list(_trainable(problem, degrees, "mtp")) if "mtp" in counts else []
    tables = [parameter for parameter in modules if parameter.origin == "pipeline_copy"]
    first += [] if first else tables
    if order is None:
        order = [kind for kind, count in counts.items() if isinstance(kind, LayerKind) for _ in range(count)]
    of_kind = {kind: list(_trainable(problem, degrees, kind)) for kind in dict.fromkeys(order)}
    layers = [of_kind[kind] for kind in order]
    copies = min(counts.get("mtp", 0), problem.architecture.mtp_copies)
    block = [parameter for parameter in modules if parameter.origin != "pipeline_copy"] * copies
    held = "loss" in counts if with_final_norm is None else with_final_norm
    norm = final_norm(problem.architecture) if held else ()
    head = [p for p in _trainable(problem, degrees, "loss") if p.component != "norms"] if "loss" in counts else []
    for parameter in _experts_in_order([*first, *(p for layer in layers for p in layer), *norm, *block, *head]):
        alone = parameter.vocabulary and _is_shared_embedding(problem, degrees, parameter, "mtp" in counts)
        yield parameter, Tensor(int(local_numel(problem, parameter, degrees)), alone)


def _trainable(problem: Problem, degrees: Degrees, piece: Piece) -> Iterator[Parameter]:
    for parameter in piece_parameters(problem.architecture, piece):
        if parameter.trainable and (degrees.pp > 1 or parameter.origin != "pipeline_copy"):
            for _ in range(1 if parameter.sharding != "expert" else parameter.copies // degrees.ep):
                yield parameter


def _experts_in_order(parameters: Sequence[Parameter]) -> Iterator[Parameter]:
    """Transformer Engine's GroupedLinear registers weight and bias of expert 0, then of expert 1, and so on."""
    for (sharding, _), group in groupby(parameters, lambda p: (p.sharding, p.name.rpartition(".")[0])):
        run = list(group)
        kinds = list(dict.fromkeys(run))
        yield from kinds * (len(run) // len(kinds)) if sharding == "expert" else run


def _is_shared_embedding(problem: Problem, degrees: Degrees, parameter: Parameter, with_mtp: bool) -> bool:
    """Whether Megatron keeps this table equal to one of another stage (language_module.py:255-290).

    That is so with pp > 1 for a tied embedding and for one that MTP modules read too. Of a stage with MTP it is the
    embedding, else, when tied, the head.
    """
    tied = problem.architecture.tie_word_embeddings
    if degrees.pp == 1 or not (tied or problem.mtp_layers) or not parameter.name.endswith("weight"):
        return False
    if parameter.name.startswith("embedding."):
        return True
    return tied and not with_mtp
