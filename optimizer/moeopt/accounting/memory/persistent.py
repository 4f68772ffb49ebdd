"""What stays allocated for good once a stage has run a step: dummy gradients, workspaces, buffers, held inputs.

Each entry belongs to a feature of a stage (a layer, a dense or an MoE block, an MTP module, the loss, the embedding)
and counts once where the feature is present.
"""

from collections.abc import Iterable
from typing import Literal

from moeopt.accounting.launches import captures_attention
from moeopt.accounting.memory.graphs import layer_parts, router_parts
from moeopt.accounting.memory.linears import (
    beside_shapes,
    dense_shapes,
    distinct_elements,
    layer_shapes,
    projection_shape,
    routed_shapes,
)
from moeopt.accounting.memory.overhead import Overheads, Workspaces
from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.transients import mixer_moments
from moeopt.arithmetic import Number, maximum, where
from moeopt.layout import Choices
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

Feature = Literal["layer", "dense", "moe", "mtp", "loss", "embedding", "vocabulary"]
FEATURES: tuple[Feature, ...] = ("layer", "dense", "moe", "mtp", "loss", "embedding", "vocabulary")
"""vocabulary: any table of it, the embedding, an MTP module's copy or the head."""


OVERLAPPED_STREAMS = 3
"""Linear workspaces more where products overlap tensor-parallel communication (Transformer Engine d0067d0, pytorch/
cpp_extensions/gemm.py: _NUM_MAX_UB_STREAMS, get_cublas_workspace); its user buffers are outside torch."""


def layer_features(kind: LayerKind) -> tuple[Feature, ...]:
    """What a stage has once it holds a layer of a kind."""
    return ("layer",) if kind.ffn == "none" else ("layer", kind.ffn)


def present_bytes(
    problem: Problem, sizes: Symbols, choices: Choices, overheads: Overheads, recipe: Recipe
) -> dict[Feature, Number]:
    """Bytes of each feature, once a stage that has it (the sum of `present_parts`)."""
    parts = present_parts(problem, sizes, choices, overheads, recipe)
    return {feature: _sum(parts[feature].values()) for feature in FEATURES}


def present_parts(
    problem: Problem, sizes: Symbols, choices: Choices, overheads: Overheads, recipe: Recipe
) -> dict[Feature, dict[str, Number]]:
    """What each feature leaves allocated, by name.

    With pp > 1 the schedule holds the gradient of the output that it last received ("layer"); "embedding" is negative
    because the first stage receives no input from another stage, while `chunk_fixed_bytes` counts one for every chunk.
    """
    dummy = dummy_gradient_bytes(problem, sizes, recipe)
    held = where(sizes.pp > 1, 2 * sizes.T * sizes.h, 0)
    gather = where(sizes.sequence_parallel, 2 * sizes.A * sizes.h, 0)
    workspaces = _workspaces(problem, choices, overheads, recipe)
    passing = _passing_in_mixers(problem, sizes, choices, recipe) if captures_attention(choices) else 0
    return {
        "layer": {
            "dummy weight gradients of attention": dummy["layer"],
            "rotary table": rope_table_bytes(problem, sizes),
            "workspace of Transformer Engine's linears": workspaces.linear,
            "workspaces of products that overlap tensor-parallel communication": where(
                sizes.t > 1, OVERLAPPED_STREAMS * workspaces.linear if choices.overlap.tp_comm else 0, 0
            ),
            "workspaces of torch": workspaces.torch,
            "output gradient that the schedule holds": held,
            **layer_parts(sizes, choices, passing),
        },
        "dense": {"dummy weight gradients of dense blocks": dummy["dense"]},
        "moe": {
            "dummy weight gradients of experts": dummy["moe"],
            "workspaces of grouped linears": workspaces.grouped,
            "gathered tokens of the allgather dispatcher": gathered_tokens_bytes(problem, sizes, choices),
            **router_parts(problem, sizes, choices),
        },
        "mtp": {"dummy weight gradient of the MTP projection": dummy["mtp"]},
        "loss": {"dummy weight gradient of the output head": dummy["loss"], "gather buffer of the output head": gather},
        "embedding": {"the first chunk takes no input from another stage": -held},
        "vocabulary": {},
    }


def _passing_in_mixers(problem: Problem, sizes: Symbols, choices: Choices, recipe: Recipe) -> Number:
    """Most bytes that pass in attention, or in what stands in for it."""
    most: Number = 0
    for kind in {kind.mixer: kind for kind in problem.architecture.kinds}.values():
        for size in mixer_moments(problem, sizes, kind, choices, recipe).values():
            most = maximum(most, size)
    return most


def _sum(sizes: Iterable[Number]) -> Number:
    total: Number = 0
    for size in sizes:
        total = total + size
    return total


def _workspaces(problem: Problem, choices: Choices, overheads: Overheads, recipe: Recipe) -> Workspaces:
    """Matrix-multiplication workspaces that exist under this recipe. Overlapping expert-parallel communication runs on
    a second stream, which doubles torch's (inferred from two recorded runs: 50 to 58 MiB more)."""
    table = overheads.workspaces(problem.cluster.compute_capability)
    torch = table.torch if recipe.torch_workspace_bytes is None else 2 * recipe.torch_workspace_bytes
    return Workspaces(
        linear=table.linear,
        torch=torch * (2 if choices.overlap.ep_all_to_all else 1),
        grouped=table.grouped if recipe.grouped_gemm else 0,
    )


def dummy_gradient_bytes(problem: Problem, sizes: Symbols, recipe: Recipe) -> dict[Feature, Number]:
    """With gradient-accumulation fusion Transformer Engine keeps one 16-bit tensor for each distinct weight shape (all
    experts and layers share it), and so does Megatron's output head (core/tensor_parallel/layers.py,
    get_dummy_wgrad). Shapes of dense and MoE blocks are compared with attention's, not with each other; a stage with
    attention alone is taken to have what else mixes tokens too, where the architecture has both, and the other way
    round."""
    if not recipe.gradient_accumulation_fusion:
        return dict.fromkeys(FEATURES, 0)
    kinds = {kind.mixer: kind for kind in problem.architecture.kinds}
    attention = [shape for kind in kinds.values() for shape in layer_shapes(problem, sizes, kind)]
    moe = [*routed_shapes(sizes), *beside_shapes(problem, sizes)] if problem.architecture.is_moe else []
    engine = 2 if recipe.linear_dummy_gradients else 0
    return {
        "layer": engine * distinct_elements(attention),
        "dense": engine * distinct_elements(dense_shapes(sizes), attention)
        if problem.architecture.intermediate_size
        else 0,
        "moe": engine * distinct_elements(moe, attention),
        "mtp": engine * distinct_elements([projection_shape(sizes)], attention),
        "loss": 2 * sizes.V * sizes.h if recipe.head_dummy_gradient else 0,
        "embedding": 0,
        "vocabulary": 0,
    }


def rope_table_bytes(problem: Problem, sizes: Symbols) -> Number:
    """fp32 angles of the rotary embedding: sequence times rotary width."""
    a = problem.architecture
    if a.position_embedding != "rope":
        return 0
    return 4 * sizes.s_local * (a.qk_rope_head_dim if a.is_mla else a.head_dim)


def gathered_tokens_bytes(problem: Problem, sizes: Symbols, choices: Choices) -> Number:
    """The allgather dispatcher gathers tokens into Megatron's global memory buffer, which is never freed
    (moe/token_dispatcher.py:281-303, use_global_buffer)."""
    if choices.dispatcher != "allgather" or not problem.architecture.is_moe:
        return 0
    return 2 * sizes.gathered * sizes.he


def chunk_fixed_bytes(sizes: Symbols) -> Number:
    """With pp > 1 the schedule's variables hold the gradient of the last input of each chunk (2*T*h) during a step
    (SimuMax's pp = 2 peaks and Megatron's recorded peaks of interleaved schedules)."""
    return where(sizes.pp > 1, 2 * sizes.T * sizes.h, 0)


def held_after_step_bytes(sizes: Symbols, chunks: int) -> Number:
    """Between steps: with pp > 1 each chunk that takes its input from another stage still holds its last input and that
    input's gradient. The bytes, for a rank without the embedding, beyond those that it holds during a step (its
    `chunk_fixed_bytes` and the output gradient of "layer"). Never part of the peak."""
    return where(sizes.pp > 1, 2 * sizes.T * sizes.h * (chunks - 1), 0)
