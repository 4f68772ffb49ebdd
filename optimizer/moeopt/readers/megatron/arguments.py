"""Megatron-LM's arguments -> fields: architecture, workload and layout, and the list of what was understood."""

from moeopt.errors import InputError
from moeopt.problem.dimensions import DELTA_NET_FIELDS
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.architecture import read_architecture
from moeopt.readers.megatron.attention import INDEXER
from moeopt.readers.megatron.ignored import explain_rest, refuse
from moeopt.readers.megatron.layout import read_layout
from moeopt.readers.reading import Reading

_MEANS = {
    "num-layers": "num_hidden_layers",
    "num-query-groups": "num_key_value_heads",
    "kv-channels": "head_dim",
    "ffn-hidden-size": "intermediate_size",
    "moe-ffn-hidden-size": "moe_intermediate_size",
    "moe-router-topk": "num_experts_per_tok",
    "moe-shared-expert-intermediate-size": "shared_expert_intermediate_size",
    "moe-shared-expert-gate": "shared_expert_gate",
    "moe-router-score-function": "router_score_function",
    "moe-router-enable-expert-bias": "router_correction_bias",
    "moe-router-num-groups": "n_group",
    "moe-router-group-topk": "topk_group",
    "mtp-num-layers": "num_nextn_predict_layers",
    "mtp-hybrid-override-pattern": "mtp_hybrid_pattern",
    "mtp-use-repeated-layer": "mtp_use_repeated_layer",
    "swiglu": "gated",
    "quick-geglu": "gated",
    "normalization": "norm",
    "qk-layernorm": "qk_norm",
    "disable-bias-linear": "mlp_bias, attention_bias",
    "add-qkv-bias": "attention_bias",
    "untie-embeddings-and-output-weights": "tie_word_embeddings",
    "softmax-type": "attention_sinks",
    "norm-epsilon": "rms_norm_eps",
    "rotary-base": "rope_theta",
    "rotary-percent": "partial_rotary_factor",
    "rotary-scaling-factor": "rope_scaling",
    "rotary-seq-len-interpolation-factor": "rope_scaling",
    "rope-scaling-factor": "rope_scaling",
    "use-rope-scaling": "rope_scaling",
    "rope-type": "rope_scaling",
    "mscale": "rope_scaling",
    "mscale-all-dim": "rope_scaling",
    "yarn-original-max-position-embeddings": "rope_scaling",
    "yarn-beta-fast": "rope_scaling",
    "yarn-beta-slow": "rope_scaling",
    "no-yarn-correction-range-round-to-int": "rope_scaling",
    "original-max-position-embeddings": "rope_scaling",
    "beta-fast": "rope_scaling",
    "beta-slow": "rope_scaling",
    "moe-router-pre-softmax": "norm_topk_prob",
    "moe-router-topk-scaling-factor": "routed_scaling_factor",
    "apply-layernorm-1p": "zero_centered_norm",
    "attention-output-gate": "attention_output_gate",
    "experimental-attention-variant": "linear_attention_pattern, index_topk",
    "linear-attention-type": "linear_attention_pattern",
    **INDEXER,
    **dict.fromkeys(
        (
            "dsa-kernel-backend",
            "dsa-indexer-k-norm-epsilon",
            "dsa-indexer-loss-coeff",
            "dsa-indexer-skip-topk-offset",
            "dsa-indexer-topk-freq",
            "dsa-indexer-use-sparse-loss",
        ),
        "index_topk",
    ),
    "dsa-indexer-rope-interleaved": "indexer_rope_interleave",
    "no-dsa-indexer-rotate-activation": "indexer_rotate_activation",
    "disable-dsa-indexer-rotate-activation": "indexer_rotate_activation",
    "linear-attention-freq": "linear_attention_pattern",
    **{field.replace("_", "-"): field for field in DELTA_NET_FIELDS},
    "hybrid-layer-pattern": "hybrid_pattern, pipeline_layout",
    "hybrid-override-pattern": "hybrid_pattern, pipeline_layout",
    "is-hybrid-model": "hybrid_pattern",
    "spec": "hybrid_pattern",
    "mamba-head-dim": "mamba_head_dim",
    "mamba-num-groups": "mamba_num_groups",
    "mamba-num-heads": "mamba_num_heads",
    "mamba-state-dim": "mamba_state_dim",
    "q-lora-rank": "q_lora_rank",
    "kv-lora-rank": "kv_lora_rank",
    "qk-head-dim": "qk_nope_head_dim",
    "qk-pos-emb-head-dim": "qk_rope_head_dim",
    "v-head-dim": "v_head_dim",
    "squared-relu": "squared_relu",
    "use-fused-weighted-squared-relu": "squared_relu",
    "moe-latent-size": "moe_latent_size",
    "window-size": "sliding_window",
    "window-attn-skip-freq": "window_pattern",
    "seq-length": "sequence_length",
    "bf16": "precision",
    "fp16": "precision",
    "fp8-format": "precision",
    "fp8-recipe": "precision",
    "fp8-param-gather": "workload.fp8_param_gather",
    "first-last-layers-bf16": "num_layers_at_start_in_bf16, num_layers_at_end_in_bf16",
    "num-layers-at-start-in-bf16": "num_layers_at_start_in_bf16",
    "num-layers-at-end-in-bf16": "num_layers_at_end_in_bf16",
    "fp4-format": "precision",
    "fp4-recipe": "precision",
    "tensor-model-parallel-size": "tp",
    "pipeline-model-parallel-size": "pp",
    "context-parallel-size": "cp",
    "expert-model-parallel-size": "ep",
    "expert-tensor-parallel-size": "etp",
    "pipeline-model-parallel-layout": "pipeline_layout",
    "num-layers-per-virtual-pipeline-stage": "vpp",
    "num-virtual-stages-per-pipeline-rank": "vpp",
    "microbatch-group-size-per-virtual-pipeline-stage": "interleave_group",
    "optimizer": "workload.optimizer",
    "no-use-layer-wise-param-layout": "workload.optimizer",
    "muon-tp-mode": "workload.muon_tp_mode",
    "use-distributed-optimizer": "distributed_optimizer",
    "use-megatron-fsdp": "fsdp",
    "data-parallel-sharding-strategy": "fsdp",
    "fsdp-double-buffer": "fsdp_double_buffer",
    "use-nccl-ub": "fsdp_double_buffer",
    "megatron-fsdp-main-params-dtype": "optimizer.main_params",
    "megatron-fsdp-main-grads-dtype": "optimizer.main_grads",
    "fine-grained-activation-offloading": "offload",
    "offload-modules": "offload",
    "moe-token-dispatcher-type": "dispatcher",
    "moe-flex-dispatcher-backend": "dispatcher",
    "moe-flex-dispatcher-num-sms": "dispatcher_sms",
    "moe-deepep-num-sms": "dispatcher_sms",
    "moe-hybridep-num-sms": "dispatcher_sms",
    "overlap-grad-reduce": "overlap.grad_reduce",
    "overlap-param-gather": "overlap.param_gather",
    "overlap-moe-expert-parallel-comm": "overlap.ep_all_to_all",
    "delay-wgrad-compute": "overlap.delay_wgrad",
    "tp-comm-overlap": "overlap.tp_comm",
    "cross-entropy-loss-fusion": "cross_entropy",
    "cross-entropy-fusion-impl": "cross_entropy",
    "moe-expert-capacity-factor": "routing",
    "grad-reduce-in-bf16": "optimizer.main_grads",
    "accumulate-allreduce-grads-in-fp32": "optimizer.main_grads",
    "exp-avg-dtype": "optimizer.moments",
    "exp-avg-sq-dtype": "optimizer.moments",
    "main-grads-dtype": "optimizer.main_grads",
    "main-params-dtype": "optimizer.main_params",
    "use-precision-aware-optimizer": "optimizer.precision_aware",
    "optimizer-cpu-offload": "optimizer.offload_fraction",
    "optimizer-offload-fraction": "optimizer.offload_fraction",
    "num-distributed-optimizer-instances": "optimizer.instances",
    "cuda-graph-impl": "cuda_graphs",
    "cuda-graph-modules": "cuda_graphs",
}


def apply(flags: Flags, reading: Reading, where: str) -> None:
    """Fill a reading from arguments. Raises InputError naming the argument that cannot be used."""
    try:
        refuse(flags)
        read_architecture(flags, reading)
        read_layout(flags, reading)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for name in flags.values:
        if name in flags.used:
            means = _MEANS.get(name, _recompute_name(name))
            reading.understand(flags.spelled[name], flags.shown(name), means)
    explain_rest(flags, reading, _MEANS)


def _recompute_name(name: str) -> str:
    return f"recompute.{name.removeprefix('recompute-')}" if name.startswith("recompute-") else name.replace("-", "_")
