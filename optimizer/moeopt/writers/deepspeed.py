"""`--framework deepspeed`: Megatron-DeepSpeed's arguments and a DeepSpeed JSON, for the little that they can express.

Read from Megatron-DeepSpeed 4efb479 (July 2025): megatron/arguments.py, megatron/model/transformer.py:1061-1080 and
1650-1660, pretrain_gpt.py, and DeepSpeed's configuration JSON. Experts fold into data parallelism only (ep divides dp)
and work without a pipeline; ZeRO stage 1 is its distributed optimizer.
"""

import json
from typing import Any

from moeopt.problem.architecture import Architecture
from moeopt.writers.job import Job
from moeopt.writers.refusals import Refusal, refuse_first
from moeopt.writers.script import Payload
from moeopt.writers.shell import Group, flag

REVISION = "4efb479"
_SETTINGS = (
    flag("--tokenizer-type", "NullTokenizer"),
    flag("--train-iters", 50),
    flag("--lr", "3.0e-4"),
    flag("--min-lr", "3.0e-5"),
    flag("--lr-decay-style", "cosine"),
    flag("--weight-decay", "0.1"),
    flag("--clip-grad", "1.0"),
    flag("--init-method-std", "0.02"),
    flag("--attention-dropout", "0.0"),
    flag("--hidden-dropout", "0.0"),
    flag("--eval-iters", 0),
    flag("--log-interval", 1),
)


def payload(job: Job, stem: str = "train") -> Payload:
    """The Megatron-DeepSpeed run: arguments, and `<stem>_deepspeed.json`."""
    refuse_first("deepspeed", (*_architecture_refusals(job), *_layout_refusals(job), *_choice_refusals(job)))
    name = f"{stem}_deepspeed.json"
    run = (flag("--deepspeed"), flag("--zero-stage", _zero_stage(job)))
    return Payload(
        framework="deepspeed",
        root="MEGATRON_DEEPSPEED",
        root_meaning="a checkout of Megatron-DeepSpeed",
        program=f'"${{MEGATRON_DEEPSPEED}}/pretrain_gpt.py" --deepspeed_config "${{HERE}}/{name}"',
        groups=(
            Group("architecture", tuple(_architecture(job))),
            Group("parallelism", tuple(_parallelism(job))),
            Group("batch", tuple(_batch(job))),
            Group("deepspeed", run),
            Group("settings", _SETTINGS),
        ),
        environment={"CUDA_DEVICE_MAX_CONNECTIONS": ("1", "communication is queued in the order of the program")},
        notes=[
            f"Arguments are those of Megatron-DeepSpeed {REVISION}; add its data arguments (--data-path PREFIX).",
            "NullTokenizer counts one token beyond --vocab-size, which is therefore one less than the vocabulary.",
            "Without a capacity factor every expert is padded to the busiest one's tokens.",
        ],
        files={name: json.dumps(configuration(job), indent=2) + "\n"},
    )


def configuration(job: Job) -> dict[str, Any]:
    """DeepSpeed's JSON."""
    layout, workload = job.layout, job.problem.workload
    return {
        "train_batch_size": workload.batch,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": layout.num_microbatches,
        "steps_per_print": 1,
        "zero_optimization": {"stage": _zero_stage(job), "overlap_comm": layout.overlap.grad_reduce},
        "bf16": {"enabled": workload.precision == "bf16"},
        "fp16": {"enabled": workload.precision == "fp16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": 1.0,
    }


def _zero_stage(job: Job) -> int:
    return int(job.layout.distributed_optimizer)


def _interval(architecture: Architecture) -> int | None:
    """N where exactly the layers N, 2N, 3N, ... (from 1) have experts; None for any other pattern."""
    kinds = [kind.ffn == "moe" for kind in architecture.layers]
    interval = kinds.index(True) + 1 if True in kinds else 1
    regular = [(index + 1) % interval == 0 for index in range(len(kinds))]
    return interval if kinds == regular or True not in kinds else None


def _architecture_refusals(job: Job) -> list[Refusal]:
    a = job.problem.architecture
    mixed = {kind.ffn for kind in a.layers} == {"dense", "moe"}
    windows = any(0 < kind.window < job.problem.workload.sequence_length for kind in a.layers)
    biases = {a.attention_bias, a.attention_output_bias, a.mlp_bias}
    return [
        ("hybrid_pattern", a.is_hybrid, "its layers have attention and a feed-forward block each"),
        ("kv_lora_rank", a.is_mla, "it has no multi-head latent attention"),
        (
            "num_nextn_predict_layers",
            job.problem.mtp_layers > 0,
            "it has no multi-token prediction; set workload.mtp false",
        ),
        (
            "shared_expert_intermediate_size",
            a.is_moe and a.shared_expert_intermediate_size > 0,
            "it has no shared experts",
        ),
        ("router_score_function", a.is_moe and a.router_score_function != "softmax", "its router is a softmax"),
        ("router_correction_bias", a.is_moe and a.router_correction_bias, "its router has none"),
        ("router_bias", a.is_moe and a.router_bias, "its router has none"),
        ("n_group", a.is_moe and (a.n_group or 1) > 1, "its router knows no groups of experts"),
        ("moe_layer_freq", _interval(a) is None, "experts sit in every N-th layer (--expert-interval), counted from 1"),
        (
            "moe_intermediate_size",
            mixed and a.moe_intermediate_size != a.intermediate_size,
            "dense blocks and experts have one width (--ffn-hidden-size)",
        ),
        ("qk_norm", a.qk_norm != "none", "queries and keys are not normed"),
        ("linear_attention_pattern", a.has_delta_net, "it has no gated delta nets"),
        ("moe_latent_size", a.moe_latent_size > 0, "its experts take the hidden size"),
        ("index_topk", a.has_indexer, "it has no sparse attention"),
        ("attention_output_gate", a.attention_output_gate, "its attention has no output gate"),
        ("zero_centered_norm", a.zero_centered_norm, "its norms multiply by their weight alone"),
        ("attention_sinks", a.attention_sinks, "it has none"),
        ("sliding_window", windows, "every layer sees the whole sequence"),
        ("attention_bias", len(biases) > 1 or a.lm_head_bias, "one switch (--disable-bias-linear) covers all linears"),
        ("norm_bias", a.norm_bias != (a.norm == "layernorm"), "LayerNorm has a bias, RMSNorm has none"),
        ("position_embedding", a.position_embedding == "none", "it is rotary or learned"),
        ("rope_scaling", a.rope_scaling is not None, "its rotary positions do not scale"),
        ("rope_theta", (a.rope_theta or 1) % 1 != 0, "it takes whole numbers"),
        ("routed_scaling_factor", a.is_moe and a.routed_scaling_factor not in (None, 1.0), "its router scales nothing"),
        (
            "norm_topk_prob",
            a.is_moe and a.norm_topk_prob is False and a.num_experts_per_tok > 1,
            "weights of several experts are scaled to add up to 1",
        ),
    ]


def _layout_refusals(job: Job) -> list[Refusal]:
    layout, moe = job.layout, job.problem.architecture.is_moe
    counts = {chunk.layers for chunk in job.pipeline.chunks}
    return [
        ("vpp", layout.vpp > 1, "its pipeline engine has one chunk a stage"),
        ("cp", layout.cp > 1, "it splits sequences by heads (Ulysses), not by a ring"),
        ("pp", moe and layout.pp > 1, "experts work without a pipeline only"),
        ("tp", moe and layout.tp > 1, "with experts, sequence parallelism is not available"),
        ("ep", moe and (layout.dp or 1) % layout.ep != 0, f"ep {layout.ep} must divide dp {layout.dp}: nothing folds"),
        ("etp", moe and layout.etp != 1, "experts are split with tp or not at all, and tp is 1"),
        ("pipeline_layout", len(counts) > 1, "layers are spread evenly (partition_method type:transformer)"),
    ]


def _choice_refusals(job: Job) -> list[Refusal]:
    layout, kept, workload = job.layout, job.layout.optimizer, job.problem.workload
    recompute = layout.recompute
    uniform = recompute.granularity == "none" or (recompute.method == "uniform" and recompute.num_layers == 1)
    return [
        ("precision", workload.precision not in ("bf16", "fp16"), "it trains in bf16 or fp16"),
        ("recompute", not uniform, f"{recompute}: it is none or full, layer by layer"),
        (
            "dispatcher",
            job.problem.architecture.is_moe and layout.dispatcher != "alltoall",
            "it has the all-to-all only",
        ),
        ("overlap.param_gather", layout.overlap.param_gather, "ZeRO gathers parameters after the step; set it false"),
        ("overlap.ep_all_to_all", layout.overlap.ep_all_to_all, "the all-to-all is not overlapped"),
        ("overlap.tp_comm", layout.overlap.tp_comm, "tensor-parallel communication is not overlapped"),
        ("cuda_graphs", layout.cuda_graphs != "none", "it captures none"),
        ("fsdp", layout.fsdp != "none", "that is Megatron-FSDP, which it does not run"),
        ("offload", bool(layout.offload), "activations of chosen modules cannot be offloaded"),
        ("workload.optimizer", workload.optimizer != "adam", "its configuration here has Adam"),
        ("optimizer.moments", kept.moments != "fp32", f"{kept.moments}: the optimizer's state is fp32"),
        ("optimizer.main_params", kept.main_params != "fp32", "main parameters are fp32"),
        ("optimizer.main_grads", kept.main_grads != "fp32", "gradients accumulate in fp32"),
        ("optimizer.precision_aware", kept.precision_aware, "it has no such optimizer"),
        ("optimizer.offload_fraction", kept.offload_fraction > 0, "stage 1 offloads all of the state or none"),
        ("optimizer.instances", kept.instances > 1, "ZeRO shards over all of dp"),
    ]


def _architecture(job: Job) -> list[tuple[str, ...]]:
    a, length = job.problem.architecture, job.problem.workload.sequence_length
    flags = [
        flag("--num-layers", a.num_hidden_layers),
        flag("--hidden-size", a.hidden_size),
        flag("--ffn-hidden-size", a.intermediate_size or a.moe_intermediate_size),
        flag("--num-attention-heads", a.num_attention_heads),
        flag("--num-key-value-heads", a.num_key_value_heads),
        flag("--kv-channels", a.head_dim),
        flag("--seq-length", length),
        flag("--max-position-embeddings", max(a.max_position_embeddings or length, length)),
        flag("--vocab-size", a.vocab_size - 1),
        flag("--make-vocab-size-divisible-by", job.problem.workload.make_vocab_size_divisible_by),
        flag("--normalization", a.norm),
    ]
    switches = {
        "--swiglu": a.gated,
        "--disable-bias-linear": not a.mlp_bias,
        "--untie-embeddings-and-output-weights": not a.tie_word_embeddings,
        "--use-rotary-position-embeddings": a.position_embedding == "rope",
        "--use-flash-attn-v2": job.problem.workload.attention_backend == "fused",
    }
    flags += [flag(name) for name, on in switches.items() if on]
    constants = {
        "--layernorm-epsilon": a.rms_norm_eps,
        "--rotary-position-embeddings-theta": None if a.rope_theta is None else int(a.rope_theta),
        "--rotary-percent": a.partial_rotary_factor,
    }
    flags += [flag(name, value) for name, value in constants.items() if value is not None]
    if a.is_moe:
        flags += [
            flag("--num-experts", a.num_experts),
            flag("--expert-interval", _interval(a)),
            flag("--topk", a.num_experts_per_tok),
            flag("--create-moe-param-group"),
        ]
    return flags


def _parallelism(job: Job) -> list[tuple[str, ...]]:
    layout = job.layout
    flags = [
        flag("--tensor-model-parallel-size", layout.tp),
        flag("--pipeline-model-parallel-size", layout.pp),
    ]
    if layout.pp == 1:
        flags.append(flag("--no-pipeline-parallel"))
    if layout.tp > 1 and layout.sequence_parallel:
        flags.append(flag("--sequence-parallel"))
    if job.problem.architecture.is_moe:
        factor = job.problem.workload.routing.capacity_factor
        flags.append(flag("--moe-expert-parallel-size", layout.ep))
        dropping = (
            flag("--disable-moe-token-dropping") if factor is None else flag("--moe-train-capacity-factor", factor)
        )
        flags.append(dropping)
    return flags


def _batch(job: Job) -> list[tuple[str, ...]]:
    workload = job.problem.workload
    flags = [
        flag("--micro-batch-size", job.layout.micro_batch_size),
        flag("--global-batch-size", workload.batch),
        flag(f"--{workload.precision}"),
    ]
    if job.layout.recompute.granularity == "full":
        flags += [flag("--checkpoint-activations"), flag("--deepspeed-activation-checkpointing")]
    return flags
