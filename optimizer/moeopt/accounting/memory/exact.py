"""The buffers of a layout to the last element, as Megatron's DistributedDataParallel lays them out, and how far the law
of `stage.py` is from them.

The law pads the dense and the expert elements of each chunk once, which CP-SAT can use. Megatron pads every bucket of
the first chunk of the first stage (with overlapped gradient reduction) and a table that two stages share, and it pads
once where experts lie in the dense buffer. Each padding is less than lcm(shards, 128) elements, so the two differ by
less than that for every bucket beyond the first one of a buffer, and for one buffer less where experts share it; the
proof of a search is about the law. Muon's layer-wise optimizer pads nothing; here its tensors are dealt out, and what
Megatron-LM's default layout of its buffers would pad is counted beside.
"""

from collections.abc import Sequence
from typing import Any

from moeopt.accounting.buffers import Buffer, ChunkBuffers, chunk_buffers
from moeopt.accounting.memory.stage import BUFFER_MULTIPLE, features, stage_memory
from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.muon.deal import rank_state_bytes, stage_tensors
from moeopt.accounting.muon.default_layout import layer_wise_elements
from moeopt.accounting.muon.state import is_layer_wise, is_muon
from moeopt.accounting.parameters import final_norm
from moeopt.accounting.pieces import contents
from moeopt.accounting.sharding import ALIGNMENT_ELEMENTS, holds_final_norm
from moeopt.arithmetic import ceil_div, lcm, round_up
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk, PipelineLayout
from moeopt.problem.problem import Problem

_MOST_STATE_BYTES = 16
"""No optimizer holds more for an element: moments, main parameter and main gradient in fp32."""


def exact_buffers(
    problem: Problem, degrees: Degrees, choices: Choices, pipeline: PipelineLayout
) -> list[dict[str, Any]] | None:
    """One entry a pipeline rank: its chunks' buffers, their bytes, and those minus the law's. None under Megatron-FSDP,
    which has no such buffers."""
    if choices.fsdp != "none":
        return None
    terms = memory_terms(problem, degrees, choices)
    return [_rank(problem, degrees, choices, pipeline, terms, rank) for rank in range(pipeline.pp)]


def _rank(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    pipeline: PipelineLayout,
    terms: MemoryTerms,
    rank: int,
) -> dict[str, Any]:
    chunks = pipeline.of_rank(rank)
    block_layers = choices.recompute.block_layers
    counts = [contents(problem.architecture, chunk, block_layers) for chunk in chunks]
    walked = [
        chunk_buffers(problem, degrees, choices, chunk, rank == 0 and index == 0) for index, chunk in enumerate(chunks)
    ]
    moved = sum(chunk.loss != holds_final_norm(problem, chunk) for chunk in chunks)
    law = stage_memory(terms, problem, counts, [[0] * len(chunks)])
    quantized = sum(int(n * terms.quantized_bytes[piece]) for held in counts for piece, n in held.items())
    buffers = [buffer for chunk in walked for buffer in (chunk.dense, chunk.expert)]
    elements = sum(buffer.numel for buffer in buffers)
    state_bytes, state_margin = _state(problem, degrees, choices, terms, chunks, buffers)
    found = {
        "weights_bytes": elements * terms.weight_bytes_per_element + quantized,
        "gradients_bytes": elements * terms.gradient_bytes_per_element,
        "optimizer_bytes": state_bytes,
    }
    claimed = law.weights_bytes + law.gradients_bytes + law.optimizer_bytes
    return {
        "stage": rank,
        "chunks": [{"dense": _shown(chunk.dense), "expert": _shown(chunk.expert)} for chunk in walked],
        **found,
        **_default_layout(problem, degrees, choices, chunks, terms, rank, elements),
        "difference_bytes": sum(found.values()) - claimed,
        "margin_bytes": margin_bytes(terms, walked, moved * aligned_norm(problem)) + state_margin,
    }


def _state(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    terms: MemoryTerms,
    chunks: Sequence[Chunk],
    buffers: Sequence[Buffer],
) -> tuple[int, int]:
    """Optimizer state of the busiest GPU, and what the law can differ from it by besides paddings."""
    if not is_muon(problem):
        return sum(_state_bytes(terms, buffer) for buffer in buffers), 0
    dealt = stage_tensors(problem, degrees, chunks)
    held = features(problem, [contents(problem.architecture, chunk) for chunk in chunks])
    whole = sum(int(terms.present_state_bytes[feature]) for feature in held)
    return max(rank_state_bytes(problem, degrees, choices, dealt)), dealt.margin_bytes(whole)


def _default_layout(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    chunks: Sequence[Chunk],
    terms: MemoryTerms,
    rank: int,
    elements: int,
) -> dict[str, int]:
    """Under Muon's layer-wise optimizer: the weights and gradients that the layout which Megatron-LM takes by default
    would hold beyond these (left out for quantised parameters, whose buffers are apart)."""
    if not is_layer_wise(problem, choices) or problem.workload.keeps_parameters:
        return {}
    padded = sum(
        layer_wise_elements(problem, degrees, choices, chunk, rank == 0 and index == 0)
        for index, chunk in enumerate(chunks)
    )
    price = terms.weight_bytes_per_element + terms.gradient_bytes_per_element
    return {"default_layout_bytes": (padded - elements) * price}


def _state_bytes(terms: MemoryTerms, buffer: Buffer) -> int:
    price = terms.optimizer_bytes_per_shard_element
    return int(ceil_div(buffer.shard * price.numerator, price.denominator))


def _shown(buffer: Buffer) -> dict[str, int]:
    return {
        "numel": buffer.numel,
        "numel_unpadded": buffer.numel_unpadded,
        "buckets": buffer.buckets,
        "shards": buffer.shards,
        "shard": buffer.shard,
    }


def aligned_norm(problem: Problem) -> int:
    """Elements of the final norm, each of its tensors rounded up to where the next may start."""
    return sum(round_up(parameter.total, ALIGNMENT_ELEMENTS) for parameter in final_norm(problem.architecture))


def margin_bytes(terms: MemoryTerms, walked: Sequence[ChunkBuffers], moved: int) -> int:
    """What the law and the walk can differ by at most, either way: one padding for every bucket beyond the first of a
    buffer, one more a buffer, and one where experts share the dense buffer, each of less than lcm(shards, 128) elements
    (none without the distributed optimizer); and `moved` elements of the final norm, which the law keeps with the loss
    though with MTP modules it is beside the last decoder layer."""
    total = moved * (terms.weight_bytes_per_element + terms.gradient_bytes_per_element + _MOST_STATE_BYTES)
    if not terms.pads_buffers:
        return total
    for chunk in walked:
        for buffer, shards in ((chunk.dense, terms.dense_shards), (chunk.expert, terms.expert_shards)):
            padding = lcm(int(shards), BUFFER_MULTIPLE)
            joint = 1 if buffer is chunk.dense and not chunk.expert.numel else 0
            elements = padding * (max(buffer.buckets - 1, 0) + joint + 1)
            price = terms.weight_bytes_per_element + terms.gradient_bytes_per_element
            total += elements * price + int(ceil_div(elements, shards)) * _MOST_STATE_BYTES
    return total
