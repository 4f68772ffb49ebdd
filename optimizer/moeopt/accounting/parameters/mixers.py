"""The tensors of what mixes tokens in a layer: attention of any kind, a gated delta net, a Mamba-2 layer.

Megatron-Core 0.20.0: models/gpt/gpt_layer_specs.py, transformer/{attention,multi_latent_attention}.py, core/ssm.
"""

from collections.abc import Iterator
from dataclasses import replace

from moeopt.accounting.parameters.tensor import Parameter, matrix, norm
from moeopt.problem.architecture import MAMBA_CONV, Architecture
from moeopt.problem.layer_kind import LayerKind


def mixer_parameters(architecture: Architecture, kind: LayerKind) -> Iterator[Parameter]:
    """Those of one layer, with the norm before it."""
    if kind.mixer == "delta_net":
        return _delta_net(architecture)
    if kind.mixer == "mamba":
        return _mamba(architecture)
    if kind.mixer == "none":
        return iter(())
    if architecture.has_indexer:
        return _sparse_attention(architecture)
    return _latent_attention(architecture) if architecture.is_mla else _attention(architecture)


def _attention(architecture: Architecture) -> Iterator[Parameter]:
    """Multi-head or grouped-query attention, with the query, key and value projections as one tensor."""
    hidden, dim = architecture.hidden_size, architecture.head_dim
    queries, keys = architecture.num_attention_heads * dim, architecture.num_key_value_heads * dim
    if architecture.attention_sinks:
        yield Parameter("core_attention.softmax_offset", "attention", architecture.num_attention_heads, "tensor")
    yield matrix("linear_proj.weight", "attention", hidden, queries, "tensor")
    if architecture.attention_output_bias:
        yield Parameter("linear_proj.bias", "attention", hidden, "replicated")
    yield from norm(architecture, "linear_qkv.layer_norm_", hidden)
    stacked = (*(queries for _ in range(2 if architecture.attention_output_gate else 1)), keys, keys)
    width = sum(stacked)
    yield replace(matrix("linear_qkv.weight", "attention", width, hidden, "tensor"), stacked=stacked)
    if architecture.attention_bias:
        yield Parameter("linear_qkv.bias", "attention", width, "tensor")
    if architecture.qk_norm == "head":
        yield from norm(architecture, "q_layernorm.", dim)
        yield from norm(architecture, "k_layernorm.", dim)
    elif architecture.qk_norm == "hidden":
        for parameter in (*norm(architecture, "q_layernorm.", queries), *norm(architecture, "k_layernorm.", keys)):
            yield replace(parameter, sharding="tensor")


def _delta_net(architecture: Architecture) -> Iterator[Parameter]:
    """A gated delta net (megatron/core/ssm/gated_delta_net/common.py): its input norm is fused into the projection of
    queries, keys, values and gates; its output norm is one vector for all heads."""
    a, hidden = architecture, architecture.hidden_size
    yield Parameter("dt_bias", "attention", a.linear_num_value_heads, "tensor")
    yield Parameter("A_log", "attention", a.linear_num_value_heads, "tensor")
    yield from norm(a, "in_proj.layer_norm_", hidden)
    yield matrix("in_proj.weight", "attention", a.delta_net_projection_dim, hidden, "tensor")
    convolved = 2 * a.delta_net_key_dim + a.delta_net_value_dim
    yield Parameter("conv1d.weight", "attention", convolved * a.linear_conv_kernel_dim, "tensor")
    yield from norm(a, "out_norm.", a.linear_value_head_dim)
    yield matrix("out_proj.weight", "attention", hidden, a.delta_net_value_dim, "tensor")


def _mamba(architecture: Architecture) -> Iterator[Parameter]:
    """A Mamba-2 layer (megatron/core/ssm/mamba_mixer.py:281-451): its input norm is fused into the projection of gate,
    heads, B, C and steps; its output norm has a weight a channel and never a bias."""
    a, hidden = architecture, architecture.hidden_size
    yield Parameter("conv1d_weight", "attention", a.mamba_conv_dim * MAMBA_CONV, "tensor")
    yield Parameter("conv1d_bias", "attention", a.mamba_conv_dim, "tensor")
    for name in ("dt_bias", "A_log", "D"):
        yield Parameter(name, "attention", a.mamba_num_heads, "tensor")
    yield from norm(a, "in_proj.layer_norm_", hidden)
    # No matrix to Muon: "use_muon" is false for it (:309).
    yield Parameter("in_proj.weight", "attention", hidden * a.mamba_projection_dim, "tensor")
    yield Parameter("norm.weight", "norms", a.mamba_inner_dim, "tensor")
    yield matrix("out_proj.weight", "attention", hidden, a.mamba_inner_dim, "tensor")


def _latent_attention(architecture: Architecture) -> Iterator[Parameter]:
    """MLA: the down-projections are whole on every tensor-parallel rank (gpt_layer_specs.py: TELinear, duplicated).

    Without a query latent, Megatron-Core 0.20.0 (not 0.16.1) still fuses a norm of the hidden size into linear_q_proj.
    """
    hidden, heads = architecture.hidden_size, architecture.num_attention_heads
    kv_rank, q_rank = architecture.kv_lora_rank or 0, architecture.q_lora_rank
    yield from norm(architecture, "input_layernorm.", hidden)
    yield matrix("linear_proj.weight", "attention", hidden, heads * architecture.v_head_dim, "tensor")
    if architecture.attention_output_bias:
        yield Parameter("linear_proj.bias", "attention", hidden, "replicated")
    queries = heads * architecture.qk_head_dim
    if q_rank is None:
        for parameter in norm(architecture, "linear_q_proj.layer_norm_", hidden):
            yield replace(parameter, origin="framework")
        yield matrix("linear_q_proj.weight", "attention", queries, hidden, "tensor")
    else:
        yield from _down_projection(architecture, "linear_q_down_proj.", q_rank)
        yield from norm(architecture, "linear_q_up_proj.layer_norm_", q_rank)
        yield matrix("linear_q_up_proj.weight", "attention", queries, q_rank, "tensor")
    yield from _down_projection(architecture, "linear_kv_down_proj.", kv_rank + architecture.qk_rope_head_dim)
    yield from norm(architecture, "linear_kv_up_proj.layer_norm_", kv_rank)
    width = heads * (architecture.qk_nope_head_dim + architecture.v_head_dim)
    yield matrix("linear_kv_up_proj.weight", "attention", width, kv_rank, "tensor")


def _sparse_attention(architecture: Architecture) -> Iterator[Parameter]:
    """MLA whose keys an indexer chooses: its norms stand alone, because the indexer reads the normed query latent
    (experimental_attention_variant_module_specs.py:94-143); the indexer is whole on every tensor-parallel rank."""
    a, hidden, heads = architecture, architecture.hidden_size, architecture.num_attention_heads
    kv_rank, q_rank = a.kv_lora_rank or 0, a.q_lora_rank or 0
    yield from norm(a, "input_layernorm.", hidden)
    name = "core_attention.indexer."
    yield matrix(f"{name}linear_wq_b.weight", "attention", a.index_width, q_rank, "replicated")
    yield matrix(f"{name}linear_wk.weight", "attention", a.index_head_dim, hidden, "replicated")
    yield Parameter(f"{name}k_norm.weight", "norms", a.index_head_dim, "replicated")
    yield Parameter(f"{name}k_norm.bias", "norms", a.index_head_dim, "replicated")
    yield matrix(f"{name}linear_weights_proj.weight", "attention", a.index_n_heads, hidden, "replicated")
    yield matrix("linear_proj.weight", "attention", hidden, heads * a.v_head_dim, "tensor")
    if a.attention_output_bias:
        yield Parameter("linear_proj.bias", "attention", hidden, "replicated")
    yield from _down_projection(a, "linear_q_down_proj.", q_rank)
    yield matrix("linear_q_up_proj.weight", "attention", heads * a.qk_head_dim, q_rank, "tensor")
    yield from _down_projection(a, "linear_kv_down_proj.", kv_rank + a.qk_rope_head_dim)
    width = heads * (a.qk_nope_head_dim + a.v_head_dim)
    yield matrix("linear_kv_up_proj.weight", "attention", width, kv_rank, "tensor")
    yield from norm(a, "q_layernorm.", q_rank)
    yield from norm(a, "kv_layernorm.", kv_rank)


def _down_projection(architecture: Architecture, name: str, rank: int) -> Iterator[Parameter]:
    yield matrix(f"{name}weight", "attention", rank, architecture.hidden_size, "replicated")
    if architecture.attention_bias:
        yield Parameter(f"{name}bias", "attention", rank, "replicated")
