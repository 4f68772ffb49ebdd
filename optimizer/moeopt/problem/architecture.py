"""The transformer's dimensions, in Hugging Face's names (never "model": CP-SAT has one too)."""

from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moeopt.problem.base import MAX_LAYERS, Input, Layers, Name, NonNegative, Positive
from moeopt.problem.dimensions import check_dimensions
from moeopt.problem.layer_kind import Block, LayerKind, hybrid_kind
from moeopt.problem.rope import PositiveFloat, RopeScaling

LayerPattern = tuple[Annotated[int, Field(strict=True, ge=0, le=1)], ...]
"""One 0 or 1 a layer."""


FLASH_MLA_HEADS = 64
"""Heads that the kernels of sparse attention take at least
(megatron/core/transformer/experimental_attention_variant/dsa_cudnn_kernels.py:348-388)."""
MAMBA_CONV, MAMBA_CHUNK = 4, 128
"""Taps of its convolution, and tokens that its scan treats at once: constants of Megatron's (megatron/core/ssm/
mamba_mixer.py:179, 194), which no argument changes."""
DELTA_CHUNK = 64
"""Tokens that its kernels treat at once (megatron/core/ssm/gated_delta_net/gdn.py:67; flash-linear-attention)."""


class Architecture(Input):
    """Dimensions of a decoder-only transformer; an architecture with `num_experts: 0` is dense.

    Multi-head latent attention (MLA) is chosen by giving `kv_lora_rank`; `head_dim` is then ignored. With `index_topk`
    it is sparse (DeepSeek-V3.2, arXiv 2512.02556): an indexer chooses the keys that a query sees.
    """

    name: Name = "custom"
    source: str = ""
    hidden_size: Positive
    num_hidden_layers: Layers
    num_attention_heads: Positive
    num_key_value_heads: Positive = Field(default=None, validate_default=False)  # type: ignore[assignment]
    head_dim: Positive = Field(default=None, validate_default=False)  # type: ignore[assignment]
    vocab_size: Positive
    max_position_embeddings: Positive | None = None
    tie_word_embeddings: bool = False
    position_embedding: Literal["rope", "learned", "none"] = "rope"

    rope_theta: PositiveFloat | None = None
    """Base of the rotary embedding. This and the other constants that cost nothing are absent where not known."""
    partial_rotary_factor: Annotated[PositiveFloat, Field(le=1)] | None = None
    """Part of a head that is rotated (GLM-4.5: half); absent means all of it."""
    rope_scaling: RopeScaling | None = None

    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    rms_norm_eps: PositiveFloat | None = None
    """What norms of either kind add below the root."""
    zero_centered_norm: bool = False
    """Whether norms multiply by one plus their weight (Qwen3-Next); costs nothing."""
    norm_bias: bool = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """Whether a norm has a bias beside its weight; defaults to true for layernorm."""
    qk_norm: Literal["none", "head", "hidden"] = "none"
    """Norms on queries and keys: one weight vector of `head_dim` for all heads, or one over all heads together."""
    attention_bias: bool = False
    """Bias on the query, key and value projections (and on MLA's two down-projections)."""
    attention_output_bias: bool = False
    attention_sinks: bool = False
    """One learned logit a head (gpt-oss)."""
    attention_output_gate: bool = False
    """A sigmoid gate on attention's output, as wide as the queries and projected with them (Qwen3-Next)."""
    sliding_window: Positive | None = None
    window_pattern: LayerPattern | None = None
    """One 0 or 1 a layer: 1 where the layer sees only `sliding_window` keys; all layers when absent."""

    linear_attention_pattern: LayerPattern | None = None
    """One 0 or 1 a layer: 1 where a gated delta net (arXiv 2412.06464) stands in for attention; none when absent."""
    linear_num_key_heads: NonNegative = 0
    linear_num_value_heads: NonNegative = 0
    linear_key_head_dim: NonNegative = 0
    linear_value_head_dim: NonNegative = 0
    linear_conv_kernel_dim: NonNegative = 0
    """Taps of the causal convolution on its queries, keys and values."""

    hybrid_pattern: str | None = None
    """A hybrid's layers, one symbol each: M Mamba-2, * attention, - a dense block, E experts; absent: every layer has
    attention and a feed-forward block."""
    mamba_num_heads: NonNegative = 0
    mamba_head_dim: NonNegative = 0
    mamba_num_groups: NonNegative = 0
    mamba_state_dim: NonNegative = 0

    q_lora_rank: Positive | None = None
    kv_lora_rank: Positive | None = None
    qk_nope_head_dim: NonNegative = 0
    qk_rope_head_dim: NonNegative = 0
    v_head_dim: NonNegative = 0

    index_topk: Positive | None = None
    """Keys that a query sees, chosen by the indexer of sparse attention; absent: all earlier ones."""
    index_n_heads: NonNegative = 0
    index_head_dim: NonNegative = 0
    indexer_rope_interleave: bool = False
    """Whether the indexer's rotary embedding pairs neighbouring dimensions (GLM-5); costs nothing."""
    indexer_rotate_activation: bool = True
    """Whether a Hadamard transform rotates the indexer's queries and keys (DeepSeek-V3.2; not GLM-5)."""

    intermediate_size: NonNegative = 0
    """Width of the dense feed-forward block, where a layer has one."""
    gated: bool = True
    """True: three matrices (SwiGLU); false: two."""
    squared_relu: bool = False
    """Whether the activation between two matrices is the square of ReLU (Nemotron) instead of GELU; takes as long."""
    mlp_bias: bool = False
    """Bias on the linears of dense blocks, shared and routed experts."""
    lm_head_bias: bool = False

    num_experts: NonNegative = 0
    num_experts_per_tok: NonNegative = 0
    moe_intermediate_size: NonNegative = 0
    moe_latent_size: NonNegative = 0
    """Width that tokens are projected to before they go to routed experts, and from after (Nemotron 3 Super); 0: the
    experts take the hidden size."""
    shared_expert_intermediate_size: NonNegative = 0
    """Width of all shared experts together; 0 means none."""
    shared_expert_gate: bool = False
    router_bias: bool = False
    """A learned bias on the router's linear (gpt-oss); not the correction bias."""
    router_correction_bias: bool = False
    """The load-balancing bias that is updated without a gradient (DeepSeek-V3)."""
    router_score_function: Literal["softmax", "sigmoid"] = "softmax"
    norm_topk_prob: bool | None = None
    """Whether the chosen experts' weights are scaled to add up to 1."""
    routed_scaling_factor: PositiveFloat | None = None
    """What the routed experts' weights are multiplied with."""
    n_group: Positive | None = None
    topk_group: Positive | None = None
    first_k_dense_replace: NonNegative = 0
    moe_layer_freq: Positive | LayerPattern = 1
    """An integer N: layer i is MoE when i % N == 0 (Megatron, DeepSeek); or one 0 or 1 a layer."""
    num_nextn_predict_layers: Annotated[NonNegative, Field(le=MAX_LAYERS)] = 0
    """Multi-token-prediction (MTP) modules."""
    num_layers_at_start_in_bf16: NonNegative = 0
    """First layers that stay in bf16 under fp8, mxfp8 and nvfp4 (Megatron's name; without effect in 16 bits)."""
    num_layers_at_end_in_bf16: NonNegative = 0
    """The same of the last layers; MTP modules are not among them."""
    mtp_hybrid_pattern: str | None = None
    """The layers inside an MTP module of a hybrid, in the symbols of `hybrid_pattern` (Megatron writes them behind a
    slash: `M*ME/*E`)."""
    mtp_use_repeated_layer: bool = False
    """One MTP module's weights serve every depth (Megatron's --mtp-use-repeated-layer)."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Defaults that follow from other fields (all of them written out in a solution's problem)."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        heads = filled.get("num_attention_heads")
        hidden = filled.get("hidden_size")
        if filled.get("num_key_value_heads") is None:
            filled["num_key_value_heads"] = heads
        if filled.get("qk_norm") in (True, False):
            filled["qk_norm"] = "head" if filled["qk_norm"] else "none"
        if filled.get("norm_bias") is None:
            filled["norm_bias"] = filled.get("norm") == "layernorm"
        if isinstance(filled.get("moe_layer_freq"), list):
            filled["moe_layer_freq"] = tuple(filled["moe_layer_freq"])
        if filled.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            if filled.get("kv_lora_rank") is not None:
                filled["head_dim"] = filled.get("qk_nope_head_dim", 0) + filled.get("qk_rope_head_dim", 0) or None
            elif hidden % heads:
                raise ValueError(
                    f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}: give head_dim"
                )
            else:
                filled["head_dim"] = hidden // heads
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> "Architecture":
        check_dimensions(self)
        return self

    @property
    def is_hybrid(self) -> bool:
        """Whether a layer is one block alone."""
        return self.hybrid_pattern is not None

    @property
    def has_mamba(self) -> bool:
        """At least one layer is a Mamba-2 layer."""
        return "M" in (self.hybrid_pattern or "")

    @property
    def mamba_inner_dim(self) -> int:
        """Width of the heads of a Mamba-2 layer together."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def mamba_conv_dim(self) -> int:
        """Width of what it convolves: heads, and B and C of each group."""
        return self.mamba_inner_dim + 2 * self.mamba_num_groups * self.mamba_state_dim

    @property
    def mamba_projection_dim(self) -> int:
        """Width of its input projection: gate, what it convolves, and a step a head."""
        return self.mamba_inner_dim + self.mamba_conv_dim + self.mamba_num_heads

    @property
    def has_indexer(self) -> bool:
        """Whether attention is sparse: in every layer, also inside MTP modules."""
        return self.index_topk is not None

    @property
    def index_width(self) -> int:
        """Width of all queries of the indexer."""
        return self.index_n_heads * self.index_head_dim

    @property
    def has_delta_net(self) -> bool:
        """At least one layer has a gated delta net in place of attention."""
        return 1 in (self.linear_attention_pattern or ())

    @property
    def delta_net_key_dim(self) -> int:
        """Width of all queries, and of all keys, of a gated delta net."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def delta_net_value_dim(self) -> int:
        """Width of all its values, and of its output."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def delta_net_projection_dim(self) -> int:
        """Width of its input projection: queries, keys, values, output gate, write strength and decay."""
        return 2 * (self.delta_net_key_dim + self.delta_net_value_dim + self.linear_num_value_heads)

    @property
    def is_mla(self) -> bool:
        """Multi-head latent attention."""
        return self.kv_lora_rank is not None

    @property
    def is_yarn(self) -> bool:
        """Whether ordinary attention has YaRN: a position embedding of its own in Megatron (MLA's is part of it)."""
        scaling = self.rope_scaling
        rotary = self.position_embedding == "rope" and not self.is_mla
        return rotary and scaling is not None and scaling.rope_type == "yarn"

    @property
    def fuses_squared_relu(self) -> bool:
        """Whether a routed expert's activation takes its probability along in one kernel, as launches ask
        (--use-fused-weighted-squared-relu, which Nemotron's recipes have): with biases Megatron refuses."""
        return self.squared_relu and not self.gated and not self.mlp_bias

    @property
    def is_moe(self) -> bool:
        """At least one layer has routed experts."""
        return any(kind.ffn == "moe" for kind in self.layers)

    @property
    def expert_hidden_size(self) -> int:
        """Width of the tokens that routed experts see, and of those that are dispatched to them."""
        return self.moe_latent_size or self.hidden_size

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.is_mla else self.head_dim

    @property
    def value_head_dim(self) -> int:
        """Width of one value head."""
        return self.v_head_dim if self.is_mla else self.head_dim

    @cached_property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of each decoder layer, first to last (MTP modules apart: they copy the last layer's kind)."""
        return tuple(self._kind(i) for i in range(self.num_hidden_layers))

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The distinct layer kinds, in order of first appearance."""
        return tuple(self.layers_of_kind)

    @cached_property
    def layers_of_kind(self) -> dict[LayerKind, int]:
        """How many decoder layers there are of each kind, in order of first appearance."""
        return dict(Counter(self.layers))

    @cached_property
    def mtp_kinds(self) -> tuple[LayerKind, ...]:
        """The layers inside an MTP module: those of a hybrid's own pattern, else one, as Megatron copies the last
        decoder layer."""
        if self.mtp_hybrid_pattern is None:
            return (replace(self.layers[-1], in_bf16=False),)
        return tuple(hybrid_kind(symbol) for symbol in self.mtp_hybrid_pattern)

    @property
    def mtp_copies(self) -> int:
        """MTP modules with weights of their own: one where every depth uses the same."""
        return min(1, self.num_nextn_predict_layers) if self.mtp_use_repeated_layer else self.num_nextn_predict_layers

    @property
    def has_router(self) -> bool:
        """Whether tokens choose among experts: Megatron captures no router of a single one."""
        return self.is_moe and self.num_experts > 1

    @property
    def mtp_kind_by_stage(self) -> bool:
        """Whether the kind inside an MTP module depends on its stage: on one without decoder layers Megatron gives it
        experts and plain attention (gpt_builders.py:59-67), also where the last layer is dense or attention sparse."""
        if self.is_hybrid:
            return False
        return (self.is_moe and self.layers[-1].ffn == "dense") or self.has_indexer

    def _kind(self, index: int) -> LayerKind:
        beyond = self.num_hidden_layers - self.num_layers_at_end_in_bf16
        in_bf16 = index < self.num_layers_at_start_in_bf16 or index >= beyond
        return replace(self._plain_kind(index), in_bf16=in_bf16)

    def _plain_kind(self, index: int) -> LayerKind:
        if self.hybrid_pattern is not None:
            return hybrid_kind(self.hybrid_pattern[index])
        ffn: Block = "moe" if self._is_moe_layer(index) else "dense"
        if self.linear_attention_pattern is not None and self.linear_attention_pattern[index]:
            return LayerKind(ffn, mixer="delta_net")
        return LayerKind(ffn, self._window(index))

    def _is_moe_layer(self, index: int) -> bool:
        if not self.num_experts or index < self.first_k_dense_replace:
            return False
        if isinstance(self.moe_layer_freq, tuple):
            return bool(self.moe_layer_freq[index])
        return index % self.moe_layer_freq == 0

    def _window(self, index: int) -> int:
        if not self.sliding_window:
            return 0
        return self.sliding_window if self.window_pattern is None or self.window_pattern[index] else 0
