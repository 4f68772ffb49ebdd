"""FLOP of the transformer itself, for utilisation: what the mathematics needs, not what a layout makes the GPU do.

Per token, forward and backward (3 times forward): two FLOP a weight and token in every linear, the causal half of the
attention core (as Megatron-LM counts since 2025; older releases counted the full square), sliding windows by the keys
they see, gated delta nets by their recurrence (megatron/training/training.py:1201-1232: the convolution, and four
products of a key and a value width a head; the kernels do more), Mamba-2 layers with 7 FLOP a channel and state in the
scan (training.py:885-904, which takes twice the hidden size for the width of the heads, whatever it is), sparse
attention as the full one that it stands in for (Megatron-LM has no other count: neither the indexer nor the pairs that
are left out), the padded output head, MTP modules with their projection and head. Not counted: norms, activations,
router (Megatron-LM leaves it out), softmax, embedding, recompute, padding of experts.
Check: the GFLOP a token that Megatron-Bridge prints for its published runs, e.g. 259.99 for DeepSeek-V3 with MTP.
"""

from moeopt.arithmetic import round_up
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

PASSES = 3
"""Forward, and the two products of the backward pass."""


def delta_net_weights(architecture: Architecture) -> int:
    """What one token is multiplied with in a gated delta net: linears, convolution, and the recurrent states."""
    a = architecture
    linears = a.hidden_size * (a.delta_net_projection_dim + a.delta_net_value_dim)
    convolution = a.linear_conv_kernel_dim * (2 * a.delta_net_key_dim + a.delta_net_value_dim)
    return linears + convolution + 4 * a.linear_key_head_dim * a.delta_net_value_dim


def attention_weights(architecture: Architecture) -> int:
    """Weights of one attention block's linears."""
    heads, hidden = architecture.num_attention_heads, architecture.hidden_size
    wide = heads * architecture.value_head_dim
    if architecture.kv_lora_rank is not None:
        query = architecture.q_lora_rank
        queries = (
            hidden * query + query * heads * architecture.qk_head_dim
            if query
            else (hidden * heads * architecture.qk_head_dim)
        )
        compressed = architecture.kv_lora_rank
        keys_values = hidden * (compressed + architecture.qk_rope_head_dim) + compressed * heads * (
            architecture.qk_nope_head_dim + architecture.v_head_dim
        )
        return queries + keys_values + wide * hidden
    groups = architecture.num_key_value_heads * (architecture.qk_head_dim + architecture.value_head_dim)
    gate = wide if architecture.attention_output_gate else 0
    return hidden * (heads * architecture.qk_head_dim + groups + gate) + wide * hidden


def core_flops(architecture: Architecture, sequence: int, window: int) -> int:
    """FLOP of the attention core for one whole sequence, causal pairs only."""
    seen = min(window, sequence) if window else sequence
    pairs_twice: int = seen * (2 * sequence - seen)
    return pairs_twice * architecture.num_attention_heads * (architecture.qk_head_dim + architecture.value_head_dim)


def mamba_weights(architecture: Architecture) -> int:
    """What one token is multiplied with in a Mamba-2 layer: linears, and 7 FLOP a channel and state in the scan."""
    a = architecture
    linears = a.hidden_size * (a.mamba_projection_dim + a.mamba_inner_dim)
    return linears + 7 * a.mamba_inner_dim * a.mamba_state_dim // 2


def feed_forward_weights(architecture: Architecture, kind: LayerKind) -> int:
    """Weights that one token meets in a feed-forward block: its own experts only."""
    if kind.ffn == "none":
        return 0
    a, matrices = architecture, 3 if architecture.gated else 2
    if kind.ffn == "dense":
        return matrices * a.hidden_size * a.intermediate_size
    routed = a.num_experts_per_tok * a.moe_intermediate_size * a.expert_hidden_size
    latent = 2 * a.hidden_size * a.moe_latent_size
    return matrices * (routed + a.shared_expert_intermediate_size * a.hidden_size) + latent


def sequence_flops(problem: Problem) -> int:
    """FLOP of one whole sequence, forward and backward."""
    architecture, sequence = problem.architecture, problem.workload.sequence_length
    kinds = [*architecture.layers, *architecture.mtp_kinds * problem.mtp_layers]
    vocabulary: int = round_up(architecture.vocab_size, problem.workload.make_vocab_size_divisible_by)
    mixers = {
        "attention": attention_weights(architecture),
        "delta_net": delta_net_weights(architecture),
        "mamba": mamba_weights(architecture),
        "none": 0,
    }
    weights = sum(mixers[kind.mixer] + feed_forward_weights(architecture, kind) for kind in kinds)
    weights += architecture.hidden_size * vocabulary * (1 + problem.mtp_layers)
    weights += 2 * architecture.hidden_size**2 * problem.mtp_layers
    cores = sum(core_flops(architecture, sequence, kind.window) for kind in kinds if kind.mixer == "attention")
    return PASSES * (2 * weights * sequence + cores)
