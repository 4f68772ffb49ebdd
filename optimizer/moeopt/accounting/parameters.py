"""The parameter tensors of every piece, in the order in which Megatron registers them, and what they sum to.

The tensors are those of Hugging Face's implementations (so that totals agree with published sizes), fused and ordered
as Megatron-Core 0.20.0's Transformer Engine layers register them: megatron/core/models/gpt/gpt_layer_specs.py
(norms fused into the linears that follow), transformer/{attention,multi_latent_attention,mlp}.py,
transformer/moe/{router,experts,shared_experts,moe_layer}.py, transformer/multi_token_prediction.py. Order matters only
to the buckets of `moeopt.accounting.buffers`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from moeopt.accounting.pieces import Piece
from moeopt.problem.architecture import MAMBA_CONV, Architecture
from moeopt.problem.layer_kind import LayerKind

Component: TypeAlias = Literal[
    "embedding",
    "attention",
    "dense_mlp",
    "routed_experts",
    "shared_experts",
    "router",
    "norms",
    "mtp",
    "output_head",
]
COMPONENTS: tuple[Component, ...] = (
    "embedding",
    "attention",
    "dense_mlp",
    "routed_experts",
    "shared_experts",
    "router",
    "norms",
    "mtp",
    "output_head",
)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor, counted over all GPUs; `copies` equal ones where a layer has one an expert."""

    name: str
    component: Component
    numel: int
    """Elements of one copy, before any sharding or padding."""
    sharding: Literal["replicated", "tensor", "expert"]
    """replicated: whole on every tensor-parallel rank; tensor: 1/tp of it; expert: copies/ep copies of 1/etp each."""
    trainable: bool = True
    """False: a buffer without gradient (the router's correction bias)."""
    copies: int = 1
    split: bool = True
    """Expert tensors: whether expert tensor parallelism divides a copy (not the bias of the second linear)."""
    vocabulary: bool = False
    """Whether the rows are the vocabulary, which the framework pads."""
    columns: int = 0
    """Columns of one copy, where it is a matrix of weights (0: a table of the vocabulary, a vector, a filter)."""
    stacked: tuple[int, ...] = ()
    """Rows of the matrices that it stacks (queries, keys and values), where there are several."""
    origin: Literal["architecture", "framework", "pipeline_copy"] = "architecture"
    """framework: built by Megatron though the architecture has none. pipeline_copy: a second copy of a table that
    another pipeline stage holds, only where pp > 1. Neither counts for the size of the architecture."""

    @property
    def total(self) -> int:
        """Elements of all copies."""
        return self.numel * self.copies

    @property
    def cut_by_columns(self) -> bool:
        """Whether tensor parallelism divides a matrix's columns: output projections, where others divide rows."""
        return self.name.endswith(("linear_proj.weight", "linear_fc2.weight", "out_proj.weight"))


def matrix(
    name: str, component: Component, rows: int, columns: int, sharding: Literal["replicated", "tensor"]
) -> Parameter:
    """A weight of so many output and input features."""
    return Parameter(name, component, rows * columns, sharding, columns=columns)


def piece_parameters(architecture: Architecture, piece: Piece) -> tuple[Parameter, ...]:
    """The tensors of one piece, in Megatron's registration order. Ignored: nothing that either framework trains.

    An MTP piece is one module: two norms, the projection from 2h to h, its layers (a copy of the last decoder layer's
    kind, or what a hybrid's pattern says) and a norm; its embedding and head are shared with the architecture's own.
    """
    if isinstance(piece, LayerKind):
        return tuple(_layer(architecture, piece))
    if piece == "embedding":
        return tuple(_embedding(architecture))
    if piece == "mtp":
        return tuple(_mtp(architecture))
    return tuple(_loss(architecture))


def _norm(architecture: Architecture, name: str, width: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}weight", "norms", width, "replicated")
    if architecture.norm_bias:
        yield Parameter(f"{name}bias", "norms", width, "replicated")


def _embedding(architecture: Architecture) -> Iterator[Parameter]:
    hidden = architecture.hidden_size
    table = architecture.vocab_size * hidden
    yield Parameter("embedding.word_embeddings.weight", "embedding", table, "tensor", vocabulary=True)
    if architecture.position_embedding == "learned":
        rows = architecture.max_position_embeddings or 0
        yield matrix("embedding.position_embeddings.weight", "embedding", rows, hidden, "replicated")


def _loss(architecture: Architecture) -> Iterator[Parameter]:
    """Final norm and output head. A tied head is a copy of the embedding where the two sit on different stages."""
    yield from final_norm(architecture)
    table = architecture.vocab_size * architecture.hidden_size
    head = Parameter("output_layer.weight", "output_head", table, "tensor", vocabulary=True)
    yield replace(head, origin="pipeline_copy") if architecture.tie_word_embeddings else head
    if architecture.lm_head_bias:
        yield Parameter("output_layer.bias", "output_head", architecture.vocab_size, "tensor", vocabulary=True)


def final_norm(architecture: Architecture) -> tuple[Parameter, ...]:
    """The norm after the last decoder layer; counted with the loss (see `sharding.chunk_elements` for its stage)."""
    return tuple(_norm(architecture, "decoder.final_layernorm.", architecture.hidden_size))


def _mtp(architecture: Architecture) -> Iterator[Parameter]:
    hidden = architecture.hidden_size
    for table in _embedding(architecture):
        yield replace(table, component="mtp", origin="pipeline_copy")
    module = [
        *_norm(architecture, "mtp.enorm.", hidden),
        *_norm(architecture, "mtp.hnorm.", hidden),
        matrix("mtp.eh_proj.weight", "mtp", hidden, 2 * hidden, "tensor"),
        *(parameter for kind in architecture.mtp_kinds for parameter in _layer(architecture, kind)),
        *_norm(architecture, "mtp.final_layernorm.", hidden),
    ]
    yield from (replace(parameter, component="mtp") for parameter in module)


def _layer(architecture: Architecture, kind: LayerKind) -> Iterator[Parameter]:
    yield from _mixer(architecture, kind)
    if kind.ffn == "moe":
        yield from _norm(architecture, "pre_mlp_layernorm.", architecture.hidden_size)
        yield from _moe(architecture)
    elif kind.ffn == "dense":
        yield from _norm(architecture, "mlp.linear_fc1.layer_norm_", architecture.hidden_size)
        yield from _mlp(architecture, "mlp.", "dense_mlp", architecture.intermediate_size, architecture.hidden_size)


def _mixer(architecture: Architecture, kind: LayerKind) -> Iterator[Parameter]:
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
    yield from _norm(architecture, "linear_qkv.layer_norm_", hidden)
    stacked = (*(queries for _ in range(2 if architecture.attention_output_gate else 1)), keys, keys)
    width = sum(stacked)
    yield replace(matrix("linear_qkv.weight", "attention", width, hidden, "tensor"), stacked=stacked)
    if architecture.attention_bias:
        yield Parameter("linear_qkv.bias", "attention", width, "tensor")
    if architecture.qk_norm == "head":
        yield from _norm(architecture, "q_layernorm.", dim)
        yield from _norm(architecture, "k_layernorm.", dim)
    elif architecture.qk_norm == "hidden":
        for parameter in (*_norm(architecture, "q_layernorm.", queries), *_norm(architecture, "k_layernorm.", keys)):
            yield replace(parameter, sharding="tensor")


def _delta_net(architecture: Architecture) -> Iterator[Parameter]:
    """A gated delta net (megatron/core/ssm/gated_delta_net/common.py): its input norm is fused into the projection of
    queries, keys, values and gates; its output norm is one vector for all heads."""
    a, hidden = architecture, architecture.hidden_size
    yield Parameter("dt_bias", "attention", a.linear_num_value_heads, "tensor")
    yield Parameter("A_log", "attention", a.linear_num_value_heads, "tensor")
    yield from _norm(a, "in_proj.layer_norm_", hidden)
    yield matrix("in_proj.weight", "attention", a.delta_net_projection_dim, hidden, "tensor")
    convolved = 2 * a.delta_net_key_dim + a.delta_net_value_dim
    yield Parameter("conv1d.weight", "attention", convolved * a.linear_conv_kernel_dim, "tensor")
    yield from _norm(a, "out_norm.", a.linear_value_head_dim)
    yield matrix("out_proj.weight", "attention", hidden, a.delta_net_value_dim, "tensor")


def _mamba(architecture: Architecture) -> Iterator[Parameter]:
    """A Mamba-2 layer (megatron/core/ssm/mamba_mixer.py:281-451): its input norm is fused into the projection of gate,
    heads, B, C and steps; its output norm has a weight a channel and never a bias."""
    a, hidden = architecture, architecture.hidden_size
    yield Parameter("conv1d_weight", "attention", a.mamba_conv_dim * MAMBA_CONV, "tensor")
    yield Parameter("conv1d_bias", "attention", a.mamba_conv_dim, "tensor")
    for name in ("dt_bias", "A_log", "D"):
        yield Parameter(name, "attention", a.mamba_num_heads, "tensor")
    yield from _norm(a, "in_proj.layer_norm_", hidden)
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
    yield from _norm(architecture, "input_layernorm.", hidden)
    yield matrix("linear_proj.weight", "attention", hidden, heads * architecture.v_head_dim, "tensor")
    if architecture.attention_output_bias:
        yield Parameter("linear_proj.bias", "attention", hidden, "replicated")
    queries = heads * architecture.qk_head_dim
    if q_rank is None:
        for parameter in _norm(architecture, "linear_q_proj.layer_norm_", hidden):
            yield replace(parameter, origin="framework")
        yield matrix("linear_q_proj.weight", "attention", queries, hidden, "tensor")
    else:
        yield from _down_projection(architecture, "linear_q_down_proj.", q_rank)
        yield from _norm(architecture, "linear_q_up_proj.layer_norm_", q_rank)
        yield matrix("linear_q_up_proj.weight", "attention", queries, q_rank, "tensor")
    yield from _down_projection(architecture, "linear_kv_down_proj.", kv_rank + architecture.qk_rope_head_dim)
    yield from _norm(architecture, "linear_kv_up_proj.layer_norm_", kv_rank)
    width = heads * (architecture.qk_nope_head_dim + architecture.v_head_dim)
    yield matrix("linear_kv_up_proj.weight", "attention", width, kv_rank, "tensor")


def _sparse_attention(architecture: Architecture) -> Iterator[Parameter]:
    """MLA whose keys an indexer chooses: its norms stand alone, because the indexer reads the normed query latent
    (experimental_attention_variant_module_specs.py:94-143); the indexer is whole on every tensor-parallel rank."""
    a, hidden, heads = architecture, architecture.hidden_size, architecture.num_attention_heads
    kv_rank, q_rank = a.kv_lora_rank or 0, a.q_lora_rank or 0
    yield from _norm(a, "input_layernorm.", hidden)
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
    yield from _norm(a, "q_layernorm.", q_rank)
    yield from _norm(a, "kv_layernorm.", kv_rank)


def _down_projection(architecture: Architecture, name: str, rank: int) -> Iterator[Parameter]:
    yield matrix(f"{name}weight", "attention", rank, architecture.hidden_size, "replicated")
    if architecture.attention_bias:
        yield Parameter(f"{name}bias", "attention", rank, "replicated")


def _mlp(architecture: Architecture, name: str, component: Component, width: int, hidden: int) -> Iterator[Parameter]:
    """A dense block or the shared experts (one wide block): two linears, the first of twice the width when gated."""
    first = (2 if architecture.gated else 1) * width
    yield matrix(f"{name}linear_fc1.weight", component, first, hidden, "tensor")
    if architecture.mlp_bias:
        yield Parameter(f"{name}linear_fc1.bias", component, first, "tensor")
    yield matrix(f"{name}linear_fc2.weight", component, hidden, width, "tensor")
    if architecture.mlp_bias:
        yield Parameter(f"{name}linear_fc2.bias", component, hidden, "replicated")


def _moe(architecture: Architecture) -> Iterator[Parameter]:
    hidden, experts = architecture.hidden_size, architecture.num_experts
    yield matrix("mlp.router.weight", "router", experts, hidden, "replicated")
    if architecture.router_bias:
        yield Parameter("mlp.router.bias", "router", experts, "replicated")
    if architecture.router_correction_bias:
        yield Parameter("mlp.router.expert_bias", "router", experts, "replicated", trainable=False)
    yield from _latent_projections(architecture)
    width, seen = architecture.moe_intermediate_size, architecture.expert_hidden_size
    for parameter in _mlp(architecture, "mlp.experts.", "routed_experts", width, seen):
        yield replace(parameter, sharding="expert", copies=experts, split=parameter.sharding == "tensor")
    if architecture.shared_expert_intermediate_size:
        name = "mlp.shared_experts."
        if architecture.shared_expert_gate:
            yield matrix(f"{name}gate_weight", "shared_experts", 1, hidden, "replicated")
        yield from _mlp(architecture, name, "shared_experts", architecture.shared_expert_intermediate_size, hidden)


def _latent_projections(architecture: Architecture) -> Iterator[Parameter]:
    """What takes tokens to the experts' width and back: whole on every rank (moe/moe_layer.py:265-304)."""
    hidden, latent = architecture.hidden_size, architecture.moe_latent_size
    for name, width, seen in (("fc1", latent, hidden), ("fc2", hidden, latent)) if latent else ():
        yield matrix(f"mlp.{name}_latent_proj.weight", "routed_experts", width, seen, "replicated")
        if architecture.mlp_bias:
            yield Parameter(f"mlp.{name}_latent_proj.bias", "routed_experts", width, "replicated")


@dataclass(frozen=True)
class LayerCount:
    """The decoder layers of one kind: how many, and the elements of one by component."""

    kind: LayerKind
    count: int
    total: int
    active: int
    components: dict[Component, int]


@dataclass(frozen=True)
class ParameterCount:
    """Sizes of an architecture. `total` leaves MTP modules out (`mtp` holds them); correction biases are counted."""

    total: int
    active: int
    """Per token: k of E routed experts and everything else, the embedding and the head with them."""
    active_without_embeddings: int
    """`active` less the embedding table (the head stays: each token is multiplied by it)."""
    mtp: int
    components: dict[Component, int]
    layers: tuple[LayerCount, ...]

    def to_json(self, architecture: Architecture) -> dict[str, Any]:
        """What `moeopt params` prints."""
        return {
            "schema": "moeopt/1",
            "architecture": architecture.name,
            "total": self.total,
            "active": self.active,
            "active_without_embeddings": self.active_without_embeddings,
            "active_without_embeddings_and_head": self.active_without_embeddings - self.components["output_head"],
            "mtp": self.mtp,
            "total_with_mtp": self.total + self.mtp,
            "note": "total leaves the MTP modules out; router correction biases are counted",
            "components": dict(self.components),
            "layers": [
                {
                    "kind": str(layer.kind),
                    "count": layer.count,
                    "total": layer.total,
                    "active": layer.active,
                    **{name: size for name, size in layer.components.items() if size},
                }
                for layer in self.layers
            ],
        }


def count(architecture: Architecture) -> ParameterCount:
    """Exact sizes: what Hugging Face's modules hold, by component and by kind of layer."""
    layers = tuple(_layer_count(architecture, kind) for kind in architecture.kinds)
    components: dict[Component, int] = dict.fromkeys(COMPONENTS, 0)
    active = 0
    for layer in layers:
        active += layer.count * layer.active
        for name, size in layer.components.items():
            components[name] += layer.count * size
    for piece in ("embedding", "loss"):
        for parameter in _own(architecture, piece):
            components[parameter.component] += parameter.total
            active += parameter.total
    total = sum(components.values())
    mtp = sum(parameter.total for parameter in _own(architecture, "mtp")) * architecture.mtp_copies
    components["mtp"] = mtp
    return ParameterCount(total, active, active - components["embedding"], mtp, components, layers)


def _layer_count(architecture: Architecture, kind: LayerKind) -> LayerCount:
    sizes: dict[Component, int] = dict.fromkeys(COMPONENTS, 0)
    active = 0
    for parameter in _own(architecture, kind):
        sizes[parameter.component] += parameter.total
        visited = architecture.num_experts_per_tok if parameter.sharding == "expert" else parameter.copies
        active += parameter.numel * visited
    return LayerCount(kind, architecture.layers.count(kind), sum(sizes.values()), active, sizes)


def _own(architecture: Architecture, piece: Piece) -> list[Parameter]:
    return [parameter for parameter in piece_parameters(architecture, piece) if parameter.origin == "architecture"]
