"""Architecture -> arguments of Megatron-LM's pretrain_gpt.py (d98e8a6): dimensions, attention, experts, MTP.

Each name is checked against that commit's parser by the recorded run (tests/data/launch_validation.json). What
Megatron-Core cannot build is refused with the field named. Not part of an Architecture, hence left to `SETTINGS` of the
script: initialisation, loss coefficients.
"""

from moeopt.problem.architecture import Architecture
from moeopt.problem.dimensions import DELTA_NET_FIELDS, MAMBA_FIELDS
from moeopt.problem.problem import Problem
from moeopt.writers.megatron import constants
from moeopt.writers.patterns import pattern
from moeopt.writers.refusals import refuse_first
from moeopt.writers.shell import Group, flag

Flag = tuple[str, ...]
SPARSE_ATTENTION = "dsa"
"""What Megatron calls sparse attention."""
DELTA_NET = "gated_delta_net"
"""What Megatron calls a gated delta net; since August 2026 also `gdn`."""


def architecture_groups(problem: Problem, framework: str) -> list[Group]:
    """The arguments that say what is trained. Raises InputError for what Megatron-Core cannot build."""
    refuse(problem, framework)
    architecture = problem.architecture
    groups = [Group("architecture", tuple(_dimensions(problem))), Group("attention", tuple(_attention(problem)))]
    if architecture.is_moe:
        groups.append(Group("experts", tuple(_experts(problem))))
    if problem.mtp_layers:
        flags = [flag("--mtp-num-layers", problem.mtp_layers)]
        if architecture.mtp_use_repeated_layer:
            flags.append(flag("--mtp-use-repeated-layer"))
        groups.append(Group("multi token prediction", tuple(flags)))
    return groups


def needed(architecture: Architecture) -> list[str]:
    """Packages beyond Megatron's own that the architecture is built with, as a README's reader must know them."""
    packages = {
        "Gated delta nets need the package flash-linear-attention.": architecture.has_delta_net,
        "Mamba layers need the packages mamba-ssm and causal-conv1d.": architecture.has_mamba,
        "Sparse attention needs the packages flash_mla and nvidia-cudnn-frontend[cutedsl] 1.25 or later"
        + (", and fast-hadamard-transform." if architecture.indexer_rotate_activation else "."): (
            architecture.has_indexer
        ),
    }
    return [sentence for sentence, needed_here in packages.items() if needed_here]


def refuse(problem: Problem, framework: str) -> None:
    """Raise InputError for the first field that Megatron-Core does not express."""
    a = problem.architecture
    biases = (a.attention_bias, a.attention_output_bias, a.mlp_bias)
    head_norm = "megatron-core norms queries and keys a head at a time (--qk-layernorm)"
    reasons = {
        "qk_norm": (a.qk_norm == "hidden", f"hidden: {head_norm}"),
        "qk_norm with MLA": (a.qk_norm != "none" and a.is_mla, "MLA has norms of its own on the latents"),
        "lm_head_bias": (a.lm_head_bias, "the output head has no bias there"),
        "norm_bias": (a.norm_bias != (a.norm == "layernorm"), "LayerNorm has a bias there, RMSNorm has none"),
        "attention_output_bias": (
            a.attention_output_bias != a.mlp_bias,
            "one switch (--disable-bias-linear) covers the output projection and the feed-forward blocks: "
            f"mlp_bias is {str(a.mlp_bias).lower()}",
        ),
        "attention_bias": (
            not biases[0] and any(biases[1:]) and not a.is_mla,
            "a bias on the other linears brings one on queries, keys and values",
        ),
        "attention_bias with MLA": (a.attention_bias and a.is_mla, "MLA's down-projections have no bias there"),
        "router_bias": (
            a.is_moe and a.router_bias != a.mlp_bias,
            f"the router has a bias exactly where the linears do: mlp_bias is {str(a.mlp_bias).lower()}",
        ),
        "router_correction_bias": (
            a.is_moe and a.router_correction_bias and a.router_score_function != "sigmoid",
            f"it needs router_score_function sigmoid, not {a.router_score_function}",
        ),
        "attention_output_gate with MLA": (a.attention_output_gate and a.is_mla, "MLA has no output gate there"),
        "mlp_bias with index_topk": (a.mlp_bias and a.has_indexer, "sparse attention has no biases there"),
        "attention_sinks with MLA": (a.attention_sinks and a.is_mla, "learned sinks are for ordinary attention"),
    }
    listed = [(field, applies, why) for field, (applies, why) in reasons.items()]
    refuse_first(framework, [*listed, *constants.refusals(a)])


def _dimensions(problem: Problem) -> list[Flag]:
    a, length = problem.architecture, problem.workload.sequence_length
    rotary = "yarn" if a.is_yarn else "rope"
    positions = {"rope": rotary, "learned": "learned_absolute", "none": "none"}[a.position_embedding]
    longest = a.max_position_embeddings or length
    if a.position_embedding != "learned":
        longest = max(longest, length)
    flags = [
        *([] if a.is_hybrid else [flag("--num-layers", a.num_hidden_layers)]),
        flag("--hidden-size", a.hidden_size),
        *([flag("--ffn-hidden-size", a.intermediate_size)] if a.intermediate_size else []),
        flag("--seq-length", length),
        flag("--max-position-embeddings", longest),
        flag("--position-embedding-type", positions),
        flag("--normalization", "RMSNorm" if a.norm == "rmsnorm" else "LayerNorm"),
        *constants.norm_flags(a),
        flag("--vocab-size", a.vocab_size),
        flag("--make-vocab-size-divisible-by", problem.workload.make_vocab_size_divisible_by),
        flag("--attention-dropout", "0.0"),
        flag("--hidden-dropout", "0.0"),
        flag("--transformer-impl", "transformer_engine"),
    ]
    if a.gated:
        flags.append(flag("--swiglu"))
    elif a.squared_relu:
        flags.append(flag("--squared-relu"))
        if a.is_moe and a.fuses_squared_relu:
            flags.append(flag("--use-fused-weighted-squared-relu"))
    if not a.mlp_bias:
        flags.append(flag("--disable-bias-linear"))
        if not a.gated:  # the fused GELU adds a bias (transformer_config.py:2429)
            flags.append(flag("--no-bias-gelu-fusion"))
    elif a.is_moe:  # grouped experts with bias refuse the fused addition (moe/experts.py:205)
        flags.append(flag("--no-bias-dropout-fusion"))
    if not a.tie_word_embeddings:
        flags.append(flag("--untie-embeddings-and-output-weights"))
    return flags


def _attention(problem: Problem) -> list[Flag]:
    a = problem.architecture
    flags = [flag("--num-attention-heads", a.num_attention_heads)]
    flags += _latent(a) if a.is_mla else _heads(a)
    flags += constants.rotary_flags(a)
    if a.attention_bias and not a.mlp_bias:
        flags.append(flag("--add-qkv-bias"))
    if a.attention_sinks:
        flags.append(flag("--softmax-type", "learnable"))
    if a.attention_output_gate:
        flags.append(flag("--attention-output-gate"))
    if a.has_delta_net:
        flags += _delta_net(a)
    if a.has_indexer:
        flags += _indexer(a)
    if a.has_mamba:
        flags += [flag(f"--{field.replace('_', '-')}", getattr(a, field)) for field in MAMBA_FIELDS]
    unfused = problem.workload.attention_backend == "unfused"
    flags.append(flag("--attention-backend", "unfused" if unfused else "auto"))
    return flags + _windows(problem)


def _heads(a: Architecture) -> list[Flag]:
    flags = [flag("--kv-channels", a.head_dim)]
    if a.num_key_value_heads != a.num_attention_heads:
        flags += [flag("--group-query-attention"), flag("--num-query-groups", a.num_key_value_heads)]
    if a.qk_norm == "head":
        flags.append(flag("--qk-layernorm"))
    return flags


def _latent(a: Architecture) -> list[Flag]:
    """MLA. Its two latent norms are what --qk-layernorm switches on.

    --kv-channels is not read then, but its default asks for a hidden size that the heads divide (arguments.py:1331)."""
    flags = [flag("--multi-latent-attention"), flag("--qk-layernorm"), flag("--kv-lora-rank", a.kv_lora_rank)]
    if a.hidden_size % a.num_attention_heads:
        flags.append(flag("--kv-channels", a.qk_head_dim))
    if a.q_lora_rank is not None:
        flags.append(flag("--q-lora-rank", a.q_lora_rank))
    return [
        *flags,
        flag("--qk-head-dim", a.qk_nope_head_dim),
        flag("--qk-pos-emb-head-dim", a.qk_rope_head_dim),
        flag("--v-head-dim", a.v_head_dim),
    ]


def _delta_net(a: Architecture) -> list[Flag]:
    """Gated delta nets under the name that older releases know too (a deprecated one: transformer_config.py:308). An
    integer N leaves attention to every N-th layer."""
    linear = [int(kind.mixer == "delta_net") for kind in a.layers]
    every = linear.index(0) + 1 if 0 in linear else len(linear) + 1
    regular = linear == [int((index + 1) % every != 0) for index in range(len(linear))]
    return [
        flag("--experimental-attention-variant", DELTA_NET),
        flag("--linear-attention-freq", every if regular and 0 in linear else pattern(linear)),
        *(flag(f"--{field.replace('_', '-')}", getattr(a, field)) for field in DELTA_NET_FIELDS),
    ]


def _indexer(a: Architecture) -> list[Flag]:
    """Sparse attention. Its indexer learns from a loss over the chosen keys, with the coefficient that Megatron-Bridge
    gives GLM-5; without one it never learns (dsa.py:1890-1896)."""
    flags = [
        flag("--experimental-attention-variant", SPARSE_ATTENTION),
        flag("--dsa-indexer-n-heads", a.index_n_heads),
        flag("--dsa-indexer-head-dim", a.index_head_dim),
        flag("--dsa-indexer-topk", a.index_topk),
        flag("--dsa-indexer-loss-coeff", 0.001),
        flag("--dsa-indexer-use-sparse-loss"),
        flag("--dsa-kernel-backend", "cudnn"),
        flag("--dsa-indexer-k-norm-epsilon", "1e-06"),
        flag("--no-rope-fusion"),
        flag("--cp-comm-type", "allgather"),
    ]
    if a.indexer_rope_interleave:
        flags.append(flag("--dsa-indexer-rope-interleaved"))
    if not a.indexer_rotate_activation:
        flags.append(flag("--no-dsa-indexer-rotate-activation"))
    return flags


def _windows(problem: Problem) -> list[Flag]:
    """A layer whose window is W sees itself and W - 1 earlier keys (Transformer Engine counts keys to the left).

    Windows that no sequence of the workload fills are left out: they change nothing."""
    length = problem.workload.sequence_length
    windows = [kind.window if kind.window < length else 0 for kind in problem.architecture.layers]
    sizes = sorted(set(windows) - {0})
    if not sizes:
        return []
    flags = [flag("--window-size", f"{sizes[0] - 1},0")]
    if 0 in windows:
        flags.append(flag("--window-attn-skip-freq", pattern([int(bool(window)) for window in windows])))
    return flags


def _experts(problem: Problem) -> list[Flag]:
    a = problem.architecture
    flags = [flag("--num-experts", a.num_experts), flag("--moe-ffn-hidden-size", a.moe_intermediate_size)]
    kinds = [int(kind.ffn == "moe") for kind in a.layers]
    if not a.is_hybrid:
        flags.append(flag("--moe-layer-freq", pattern(kinds) if 0 in kinds else 1))
    if a.moe_latent_size:
        flags.append(flag("--moe-latent-size", a.moe_latent_size))
    if a.shared_expert_intermediate_size:
        flags.append(flag("--moe-shared-expert-intermediate-size", a.shared_expert_intermediate_size))
        if a.shared_expert_gate:
            flags.append(flag("--moe-shared-expert-gate"))
    flags += [flag("--moe-router-topk", a.num_experts_per_tok)]
    flags += [flag("--moe-router-score-function", a.router_score_function)]
    flags += constants.routing_flags(a)
    if a.n_group and a.topk_group:
        flags += [flag("--moe-router-num-groups", a.n_group), flag("--moe-router-group-topk", a.topk_group)]
    if a.router_correction_bias:
        flags.append(flag("--moe-router-enable-expert-bias"))
    return [*flags, flag("--moe-router-dtype", "fp32"), flag("--moe-grouped-gemm"), flag("--moe-permute-fusion")]
