"""Whether an architecture's dimensions go together."""

from typing import TYPE_CHECKING

from moeopt.problem.layer_kind import HYBRID_SYMBOLS

if TYPE_CHECKING:
    from moeopt.problem.architecture import Architecture

DELTA_NET_FIELDS = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
)
"""What a gated delta net is sized by."""
INDEX_FIELDS = ("index_topk", "index_n_heads", "index_head_dim")
"""What the indexer of sparse attention is sized by."""
MAMBA_FIELDS = ("mamba_num_heads", "mamba_head_dim", "mamba_num_groups", "mamba_state_dim")
"""What a Mamba-2 layer is sized by."""


def check_dimensions(given: "Architecture") -> None:
    """Raise ValueError, which names a field, its value and the equation that fails."""
    _check_attention(given)
    _check_experts(given)
    _check_lengths(given)
    _check_delta_net(given)
    _check_indexer(given)
    _check_hybrid(given)
    if any(kind.ffn == "dense" for kind in given.layers) and not given.intermediate_size:
        raise ValueError("intermediate_size is 0 and the architecture has dense layers")
    if given.position_embedding == "learned" and not given.max_position_embeddings:
        raise ValueError("position_embedding learned needs max_position_embeddings (its rows)")


def _check_attention(given: "Architecture") -> None:
    heads, groups = given.num_attention_heads, given.num_key_value_heads
    if not given.is_mla and heads % groups:
        raise ValueError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}: {heads} % {groups} "
            f"= {heads % groups}"
        )
    if given.is_mla and not (given.qk_nope_head_dim + given.qk_rope_head_dim and given.v_head_dim):
        raise ValueError("kv_lora_rank needs qk_nope_head_dim, qk_rope_head_dim and v_head_dim (MLA)")


def _check_experts(given: "Architecture") -> None:
    experts, chosen = given.num_experts, given.num_experts_per_tok
    if chosen > experts:
        raise ValueError(
            f"num_experts_per_tok {chosen} is above num_experts {experts}: a token cannot visit more experts than "
            "there are"
        )
    if experts and not (chosen and given.moe_intermediate_size):
        raise ValueError(f"num_experts {experts} needs num_experts_per_tok and moe_intermediate_size above 0")
    if given.moe_latent_size and not experts:
        raise ValueError(f"moe_latent_size {given.moe_latent_size} needs num_experts above 0")
    if given.n_group and experts % given.n_group:
        raise ValueError(f"num_experts {experts} is not a multiple of n_group {given.n_group}")


def _check_lengths(given: "Architecture") -> None:
    for field in ("moe_layer_freq", "window_pattern", "linear_attention_pattern"):
        pattern = getattr(given, field)
        if isinstance(pattern, tuple) and len(pattern) != given.num_hidden_layers:
            raise ValueError(f"{field} has {len(pattern)} entries and num_hidden_layers is {given.num_hidden_layers}")


def _check_delta_net(given: "Architecture") -> None:
    if not given.has_delta_net:
        return
    for field in DELTA_NET_FIELDS:
        if not getattr(given, field):
            raise ValueError(f"linear_attention_pattern has a 1 and needs {field} above 0")
    keys, values = given.linear_num_key_heads, given.linear_num_value_heads
    if values % keys:
        raise ValueError(
            f"linear_num_value_heads {values} is not a multiple of linear_num_key_heads {keys}: {values} % {keys} "
            f"= {values % keys}"
        )


def _check_indexer(given: "Architecture") -> None:
    if not given.has_indexer:
        return
    for field in ("kv_lora_rank", "q_lora_rank", *INDEX_FIELDS):
        if not getattr(given, field):
            raise ValueError(f"index_topk needs {field} above 0: an indexer reads the latents of MLA")
    if given.index_head_dim < given.qk_rope_head_dim:
        raise ValueError(
            f"index_head_dim {given.index_head_dim} is below its rotated part, qk_rope_head_dim "
            f"{given.qk_rope_head_dim}"
        )


def _check_hybrid(given: "Architecture") -> None:
    pattern = given.hybrid_pattern
    if pattern is None:
        if given.mtp_hybrid_pattern is not None:
            raise ValueError("mtp_hybrid_pattern needs hybrid_pattern: other MTP modules copy the last layer")
        return
    if len(pattern) != given.num_hidden_layers:
        raise ValueError(
            f"hybrid_pattern has {len(pattern)} symbols and num_hidden_layers is {given.num_hidden_layers}"
        )
    wrong = next((symbol for symbol in pattern if symbol not in HYBRID_SYMBOLS), None)
    if wrong is not None:
        raise ValueError(f"hybrid_pattern: {wrong!r} is none of {', '.join(HYBRID_SYMBOLS)}")
    for field in MAMBA_FIELDS if "M" in pattern else ():
        if not getattr(given, field):
            raise ValueError(f"hybrid_pattern has an M and needs {field} above 0")
    if "M" in pattern and given.mamba_num_heads % given.mamba_num_groups:
        raise ValueError(
            f"mamba_num_heads {given.mamba_num_heads} is not a multiple of mamba_num_groups {given.mamba_num_groups}"
        )
    if "E" in pattern and not given.num_experts:
        raise ValueError("hybrid_pattern has an E and needs num_experts above 0")
    for symbol in given.mtp_hybrid_pattern or "":
        if symbol not in pattern:
            raise ValueError(f"mtp_hybrid_pattern: {symbol!r} is no layer of hybrid_pattern")
    if given.num_nextn_predict_layers and not given.mtp_hybrid_pattern:
        raise ValueError("num_nextn_predict_layers of a hybrid needs mtp_hybrid_pattern, the layers of a module")
    others = ("window_pattern", "linear_attention_pattern", "kv_lora_rank")
    for field in (*others, "first_k_dense_replace", "sliding_window", "attention_output_gate"):
        if getattr(given, field):
            raise ValueError(f"hybrid_pattern excludes {field}: layers of a hybrid are counted without it")
    if given.moe_layer_freq != 1:
        raise ValueError("hybrid_pattern excludes moe_layer_freq: its E are the layers with experts")
