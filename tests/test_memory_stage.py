"""How a stage adds up: the composition law against a brute-force sum, and laws that memory must obey."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, lcm
from typing import Any

import pytest

from memory_problems import DEEPSEEK_V3, LLAMA3_70B, QWEN3_30B, degrees, problem
from moeopt.accounting.buffers import chunk_buffer_elements
from moeopt.accounting.memory.persistent import held_after_step_bytes
from moeopt.accounting.memory.stage import StageMemory, buffer_elements, features, stage_memory
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.pieces import Piece, Recomputed, contents
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

MOE, DENSE = LayerKind("moe"), LayerKind("dense")
Chunks = Sequence[dict[Piece, int]]


def memory(
    asked: Problem, at: Degrees, choices: Choices, chunks: Chunks, vectors: Sequence[Sequence[int]]
) -> StageMemory:
    return stage_memory(memory_terms(asked, at, choices), asked, chunks, vectors)


def test_composition_by_brute_force() -> None:
    """Two chunks and two in-flight vectors, added up one piece at a time: padded buffers, shards rounded up, the worst
    vector with the worst passing piece of a running chunk, features once, held inputs a chunk."""
    asked, choices = problem(DEEPSEEK_V3, mtp=False), Choices()
    at = degrees(tp=2, pp=2, dp=12, ep=8, etp=1, edp=3, vpp=2)
    chunks: Chunks = [{DENSE: 3, MOE: 5, "embedding": 1}, {MOE: 7, "loss": 1}]
    vectors = [(4, 1), (6, 0)]
    terms = memory_terms(asked, at, choices)
    weights = gradients = state = 0
    for chunk in chunks:
        for elements, shards in ((terms.dense_elements, 12), (terms.expert_elements, 3)):
            pieces = [piece for piece, count in chunk.items() for _ in range(count)]
            unit = lcm(shards, 128)
            padded = ceil(sum(elements[piece] for piece in pieces) / unit) * unit
            weights, gradients, state = weights + 2 * padded, gradients + 4 * padded, state + padded // shards * 12
    kept = [sum(count * terms.kept_bytes[piece] for piece, count in chunk.items()) for chunk in chunks]
    passing = [max(terms.transient_bytes[piece] for piece in chunk) for chunk in chunks]
    peak = max(4 * kept[0] + kept[1] + max(passing), 6 * kept[0] + passing[0])
    found = memory(asked, at, choices, chunks, vectors)
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == (weights, gradients, state)
    assert found.activations_bytes == peak
    present = sum(terms.present_bytes[feature] for feature in ("layer", "dense", "moe", "loss", "embedding"))
    assert found.buffers_bytes == present + 2 * terms.chunk_fixed_bytes
    parts = weights + gradients + state + peak + found.buffers_bytes
    assert found.total_bytes == parts + found.overhead_bytes


def test_a_chunk_without_micro_batches_passes_nothing() -> None:
    """The logits of the last chunk do not add to a vector in which that chunk holds no micro-batch."""
    asked, at, choices = problem(LLAMA3_70B), degrees(pp=2, vpp=2), Choices()
    chunks: Chunks = [{DENSE: 1}, {DENSE: 1, "loss": 1}]
    terms = memory_terms(asked, at, choices)
    idle, running = (memory(asked, at, choices, chunks, [vector]).activations_bytes for vector in ((2, 0), (1, 1)))
    assert terms.transient_bytes["loss"] > terms.transient_bytes[DENSE]
    assert running - idle == terms.transient_bytes["loss"] - terms.transient_bytes[DENSE]


def test_features_of_an_mtp_module_are_those_of_its_layer() -> None:
    """An MTP module brings the layer it copies: its projection, a layer and a MoE block; and a table of the vocabulary,
    as the loss does."""
    asked = problem(DEEPSEEK_V3)
    assert features(asked, [{"mtp": 1, "loss": 1}]) == ("layer", "loss", "moe", "mtp", "vocabulary")
    assert features(asked, [{"loss": 1, DENSE: 0}]) == ("loss", "vocabulary")


def test_full_recomputation() -> None:
    """Uniform: every layer keeps its input only. Block: the first `num_layers` layers of each chunk do, in the order of
    the chunk; the others, and MTP modules, keep and have pass what they do with nothing recomputed. Groups of N layers
    keep one input each."""
    asked, at = problem(DEEPSEEK_V3), degrees()
    layer_input = 2 * 4096 * 7168

    def kept(**full: Any) -> int:
        choices = Choices(recompute={"granularity": "full", **full})
        terms = memory_terms(asked, at, choices)
        chunk = contents(asked.architecture, Chunk(0, 8), choices.recompute.block_layers)
        passing = int(max(terms.transient_bytes[piece] for piece in chunk))
        return memory(asked, at, choices, [chunk], [(1,)]).activations_bytes - passing

    terms = memory_terms(asked, at, Choices())
    assert kept() == 8 * layer_input
    whole = 4 * terms.kept_bytes[MOE]
    assert kept(method="block", num_layers=4) == 4 * layer_input + whole
    assert kept(method="block", num_layers=2) == 2 * layer_input + terms.kept_bytes[DENSE] + 5 * terms.kept_bytes[MOE]
    assert kept(method="uniform", num_layers=4) == 8 * layer_input // 4 + layer_input
    full = memory_terms(asked, at, Choices(recompute={"granularity": "full"}))
    block = memory_terms(asked, at, Choices(recompute={"granularity": "full", "method": "block"}))
    for of in ("kept_bytes", "transient_bytes"):
        assert getattr(block, of)[Recomputed.of(MOE)] == getattr(full, of)[MOE]
        for piece, size in getattr(terms, of).items():
            assert getattr(block, of)[piece] == size
    replayed = full.transient_bytes[MOE]
    assert replayed == terms.kept_bytes[MOE] + terms.transient_bytes[MOE]


@pytest.mark.parametrize("module", ["layernorm", "mla_up_proj", "moe_act", "moe", "shared_experts", "mlp", "core_attn"])
def test_recomputation_never_raises_kept_bytes(module: str) -> None:
    """Dropping a module's tensors lowers or leaves what each piece keeps; what passes may rise, but by no more than
    one layer's dropped tensors and one repeated forward pass of the block."""
    asked, at = problem(DEEPSEEK_V3), degrees(tp=2, ep=8, etp=1)
    plain = memory_terms(asked, at, Choices())
    chosen = memory_terms(asked, at, Choices(recompute={"modules": [module]}))
    for piece, kept in plain.kept_bytes.items():
        dropped = kept - chosen.kept_bytes[piece]
        assert dropped >= 0
        assert chosen.transient_bytes[piece] - plain.transient_bytes[piece] <= dropped + 2 * 4096 // 2 * 7168


def test_more_data_parallelism_never_needs_more() -> None:
    """With everything else fixed, more replicas lower or leave the bytes of a stage but for padding (one unit of lcm(n,
    128) elements in each of two buffers)."""
    asked, choices = problem(QWEN3_30B), Choices()
    chunk: Chunks = [{MOE: 12, "embedding": 1}]
    sizes = []
    for dp in (1, 2, 4, 8, 16, 48):
        at = degrees(pp=4, dp=dp, ep=1, edp=dp)
        found = memory(asked, at, choices, chunk, [(4,)])
        sizes.append(found.total_bytes - found.overhead_bytes)
    padding = 2 * lcm(48, 128) * 18
    assert all(after <= before + padding for before, after in pairwise(sizes))


@pytest.mark.parametrize(("tp", "ep", "etp", "dp"), [(1, 8, 1, 8), (2, 4, 2, 4), (4, 16, 1, 8), (1, 1, 1, 3)])
def test_padding_is_close_to_the_exact_walk(tp: int, ep: int, etp: int, dp: int) -> None:
    """One padded sum a buffer against Megatron's walk over parameters and buckets: equal but for one unit of
    lcm(n, 128) a bucket, which is below a thousandth of a percent of an overlapped first chunk of Qwen3-30B-A3B."""
    asked, choices = problem(QWEN3_30B), Choices()
    edp = tp * dp // (ep * etp)
    at = degrees(tp=tp, ep=ep, etp=etp, dp=dp, edp=edp)
    chunk: dict[Piece, int] = {MOE: 48, "embedding": 1, "loss": 1}
    exact = chunk_buffer_elements(asked, at, choices, chunk, first_chunk_of_first_stage=True)
    terms = memory_terms(asked, at, choices)
    mine = sum(
        buffer_elements(sum(count * elements[piece] for piece, count in chunk.items()), shards, terms)
        for elements, shards in ((terms.dense_elements, dp), (terms.expert_elements, edp))
    )
    theirs = exact.dense.numel + exact.expert.numel
    assert abs(mine - theirs) <= (exact.dense.buckets + exact.expert.buckets + 1) * lcm(dp, edp, 128)
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_products_that_overlap_tensor_parallel_communication_have_workspaces() -> None:
    """Three streams more, a workspace of Transformer Engine's linears each (32 MiB and 1 KiB on Hopper)."""
    plain, overlapped = (
        memory(problem(LLAMA3_70B), degrees(tp=8), Choices(overlap={"tp_comm": given}), [{DENSE: 1}], [(1,)])
        for given in (False, True)
    )
    assert overlapped.total_bytes - plain.total_bytes == 3 * (32 * 2**20 + 1024)


def test_held_between_steps() -> None:
    """Between steps each of v chunks with an input from elsewhere holds 2 * 2Th; during a step 2Th a chunk and 2Th a
    rank are counted, so v - 1 times 2Th are beyond; nothing at pp 1."""
    asked = problem(LLAMA3_70B)
    local = 2 * 4096 * 8192
    sizes = symbols(asked, degrees(pp=2, vpp=4), Choices())
    terms = memory_terms(asked, degrees(pp=2, vpp=4), Choices())
    assert held_after_step_bytes(sizes, 4) + 4 * terms.chunk_fixed_bytes + local == 4 * 2 * local
    assert held_after_step_bytes(symbols(asked, degrees(), Choices()), 1) == 0
