"""`--framework torchtitan`: job file (TOML) and a flavor of the architecture, for what torchtitan can express.

Read from torchtitan v0.2.2, the last release configured by TOML: config/job_config.py, distributed/parallel_dims.py,
distributed/pipeline_parallel.py, models/{deepseek_v3,qwen3,moe}. torchtitan shards parameters too (FSDP), so moeopt's
memory is an upper estimate there, and its decisions fit where they name the same thing.
"""

from typing import Any

from moeopt.problem.architecture import Architecture
from moeopt.writers.job import Job
from moeopt.writers.refusals import Refusal, refuse_first
from moeopt.writers.script import Payload
from moeopt.writers.shell import comment
from moeopt.writers.torchtitan_flavor import family, flavor

RELEASE = "v0.2.2"


def payload(job: Job, stem: str = "train") -> Payload:
    """The torchtitan run: `<stem>.toml`, and `<stem>_flavor.py`, which it imports, with the dimensions."""
    refuse(job)
    head = f"# torchtitan {RELEASE} job of {comment(job.problem.architecture.name)}, written by moeopt.\n"
    return Payload(
        framework="torchtitan",
        root="",
        root_meaning="",
        program=f'torchtitan.train --job.config_file "${{HERE}}/{stem}.toml"',
        groups=(),
        environment=_environment(),
        notes=[
            f"Sections and fields are those of torchtitan {RELEASE}; later versions are configured in Python.",
            "FSDP shards parameters besides gradients and optimizer state (fsdp_reshard_after_forward never keeps them "
            "gathered within a step): memory and step time above are Megatron-Core's and only a guide here.",
            "torchtitan does not pad the vocabulary. Data, tokenizer assets and learning rate are placeholders.",
        ],
        files={
            f"{stem}.toml": head + _toml(sections(job, stem)),
            f"{stem}_flavor.py": flavor(job.problem.architecture),
        },
        module=True,
        imports=True,
    )


def _environment() -> dict[str, tuple[str, str]]:
    return {
        "PYTORCH_ALLOC_CONF": ("expandable_segments:True", "segments that grow keep fragmentation small"),
        "TORCH_NCCL_AVOID_RECORD_STREAMS": ("1", "communication buffers are freed in time, not at the next sync"),
    }


def refuse(job: Job) -> None:
    """Raise InputError for the first decision that no field of torchtitan expresses."""
    refuse_first("torchtitan", (*_architecture_refusals(job), *_grid_refusals(job), *_choice_refusals(job)))


def _architecture_refusals(job: Job) -> list[Refusal]:
    a, workload = job.problem.architecture, job.problem.workload
    dense = [kind.ffn == "dense" for kind in a.layers]
    first = sum(dense) if dense == sorted(dense, reverse=True) else None
    shared, width = a.shared_expert_intermediate_size, a.moe_intermediate_size
    windows = any(0 < kind.window < workload.sequence_length for kind in a.layers)
    return [
        ("hybrid_pattern", a.is_hybrid, "its layers have attention and a feed-forward block each"),
        (
            "num_nextn_predict_layers",
            job.problem.mtp_layers > 0,
            "it has no multi-token prediction; set workload.mtp false",
        ),
        ("norm", a.norm != "rmsnorm" or a.norm_bias, "its norms are RMSNorm without bias"),
        (
            "qk_norm",
            a.qk_norm == "hidden" or (a.is_mla and a.qk_norm != "none"),
            "queries and keys are normed a head at a time",
        ),
        (
            "attention_bias",
            a.attention_bias or a.attention_output_bias or a.mlp_bias or a.lm_head_bias,
            "its linears have no bias",
        ),
        ("linear_attention_pattern", a.has_delta_net, "it has no gated delta nets"),
        ("moe_latent_size", a.moe_latent_size > 0, "its experts take the hidden size"),
        ("index_topk", a.has_indexer, "it has no sparse attention"),
        ("attention_output_gate", a.attention_output_gate, "its attention has no output gate"),
        ("zero_centered_norm", a.zero_centered_norm, "its norms multiply by their weight alone"),
        ("attention_sinks", a.attention_sinks, "only its own gpt-oss has them"),
        ("sliding_window", windows, "these families see the whole sequence"),
        ("position_embedding", a.position_embedding != "rope", "these families are rotary"),
        ("partial_rotary_factor", not a.is_mla and (a.partial_rotary_factor or 1) < 1, "whole heads are rotated"),
        ("rope_scaling", not _scales(a), "only YaRN with one mscale, and only in its MLA family"),
        ("gated", not a.gated, "its feed-forward blocks have three matrices"),
        ("moe_layer_freq", a.is_moe and first is None, "dense layers come first or not at all"),
        (
            "first_k_dense_replace",
            a.is_moe and not a.is_mla and first != 0,
            "its GQA family has experts in every layer",
        ),
        (
            "shared_expert_intermediate_size",
            a.is_moe and shared % width != 0,
            "it must be a multiple of moe_intermediate_size",
        ),
        ("shared_expert_gate", a.is_moe and a.shared_expert_gate, "its shared experts have no gate"),
        ("router_bias", a.is_moe and a.router_bias, "its router has no learned bias here"),
        ("num_experts", a.is_mla and not a.is_moe, "its MLA family has experts"),
        (
            "tie_word_embeddings",
            a.tie_word_embeddings and (a.is_mla or job.layout.pp > 1),
            "a tied head works without a pipeline only",
        ),
        ("precision", workload.precision in ("fp16", "nvfp4"), "it trains in bfloat16, fp8 and mxfp8"),
        ("fp8_param_gather", workload.precision == "fp8" and workload.fp8_param_gather, "it quantises what it gathers"),
        (
            "num_layers_at_start_in_bf16, num_layers_at_end_in_bf16",
            workload.format.quantized and any(kind.in_bf16 for kind in a.layers),
            "it quantises the linears of every layer",
        ),
        ("routing.capacity_factor", workload.routing.capacity_factor is not None, "it drops no tokens"),
        ("attention_backend", workload.attention_backend == "unfused", "it always fuses attention"),
    ]


def _scales(a: Architecture) -> bool:
    scaling = a.rope_scaling
    if scaling is None:
        return True
    return a.is_mla and scaling.rope_type == "yarn" and (scaling.mscale or 1.0) == (scaling.mscale_all_dim or 1.0)


def _grid_refusals(job: Job) -> list[Refusal]:
    layout, moe = job.layout, job.problem.architecture.is_moe
    wanted = (1, layout.tp) if layout.ep > 1 else (layout.tp,)
    instances = layout.optimizer.instances
    assert layout.num_microbatches is not None
    return [
        (
            "etp",
            moe and layout.etp not in wanted,
            f"etp {layout.etp} must be {' or '.join(map(str, sorted(set(wanted))))}",
        ),
        ("interleave_group", layout.vpp > 1 and layout.interleave_group != layout.pp, "groups are pp micro-batches"),
        (
            "num_microbatches",
            layout.vpp > 1 and layout.num_microbatches % layout.pp != 0,
            f"the interleaved schedule needs a multiple of pp {layout.pp}, got {layout.num_microbatches}",
        ),
        (
            "pipeline_layout",
            any(not (chunk.layers or chunk.embedding or chunk.loss) for chunk in job.pipeline.chunks),
            "a stage must hold something",
        ),
        ("optimizer.instances", (layout.dp or 1) % instances != 0, f"dp {layout.dp} must be a multiple of {instances}"),
        (
            "distributed_optimizer",
            not layout.distributed_optimizer and (layout.cp > 1 or layout.ep > 1),
            "with cp or ep above 1 it always shards (FSDP)",
        ),
    ]


def _choice_refusals(job: Job) -> list[Refusal]:
    layout, kept, recompute = job.layout, job.layout.optimizer, job.layout.recompute
    moe = job.problem.architecture.is_moe
    plain = not recompute.modules and (recompute.granularity == "none" or recompute.num_layers == 1)
    return [
        ("recompute", not plain or recompute.method == "block", f"{recompute}: it is none or full, layer by layer"),
        ("sequence_parallel", layout.tp > 1 and not layout.sequence_parallel, "tensor parallelism brings it along"),
        ("dispatcher", moe and layout.dispatcher not in ("alltoall", "deepep"), "it has the all-to-all and deepep"),
        ("dispatcher_sms", layout.dispatcher_sms is not None, "its deepep takes the SMs that it chooses"),
        ("overlap.grad_reduce", not layout.overlap.grad_reduce, "FSDP always overlaps"),
        (
            "overlap.param_gather",
            layout.overlap.param_gather is not layout.distributed_optimizer,
            "FSDP always overlaps, and nothing is gathered without it",
        ),
        ("overlap.ep_all_to_all", layout.overlap.ep_all_to_all, "it overlaps under the DualPipeV schedule only"),
        ("cuda_graphs", layout.cuda_graphs != "none", "it captures none"),
        ("fsdp", layout.fsdp != "none", "that is Megatron-FSDP, which it does not run"),
        ("offload", bool(layout.offload), "activations of chosen modules cannot be offloaded"),
        ("workload.optimizer", job.problem.workload.optimizer != "adam", "its optimizer is AdamW"),
        ("optimizer.moments", kept.moments != "fp32", f"{kept.moments}: the optimizer's state is fp32"),
        ("optimizer.main_params", kept.main_params != "fp32", "parameters are kept in fp32"),
        ("optimizer.main_grads", kept.main_grads != "fp32", "gradients are reduced in fp32"),
        ("optimizer.precision_aware", kept.precision_aware, "AdamW keeps everything in fp32"),
        ("optimizer.offload_fraction", kept.offload_fraction > 0, "it offloads parameters with the state, or nothing"),
    ]


def sections(job: Job, stem: str) -> dict[str, dict[str, Any]]:
    """Table -> field -> value of the job file."""
    layout, workload = job.layout, job.problem.workload
    assert layout.num_microbatches is not None
    piped = layout.pp > 1
    found: dict[str, dict[str, Any]] = {
        "job": {"dump_folder": "./outputs", "description": f"moeopt {stem}"},
        "model": {"name": family(job.problem.architecture), "flavor": "moeopt", "converters": _converters(job)},
        "optimizer": {"name": "AdamW", "lr": 3e-4},
        "lr_scheduler": {"warmup_steps": 5, "decay_type": "cosine"},
        "training": {
            "local_batch_size": layout.micro_batch_size * (layout.num_microbatches if piped else 1),
            "global_batch_size": workload.batch,
            "seq_len": workload.sequence_length,
            "steps": 50,
            "dataset": "c4_test",
            "dtype": "float32",
            "mixed_precision_param": "bfloat16",
            "mixed_precision_reduce": "float32",
        },
        "parallelism": _parallelism(job),
        "activation_checkpoint": {"mode": "full" if layout.recompute.granularity == "full" else "none"},
        "compile": {"enable": layout.overlap.tp_comm},
        "experimental": {"custom_import": f"{stem}_flavor"},
    }
    if workload.precision == "fp8":
        found["quantize.linear.float8"] = {"recipe_name": "rowwise", "filter_fqns": ["output", "router.gate"]}
        if job.problem.architecture.is_moe:
            found["quantize.grouped_mm.float8"] = {"fqns": ["experts"]}
    if workload.precision == "mxfp8":
        found["quantize.linear.mx"] = {"recipe_name": "mxfp8_cublas", "filter_fqns": ["output", "router.gate"]}
        if job.problem.architecture.is_moe:
            found["quantize.grouped_mm.mx"] = {"recipe_name": "mxfp8", "fqns": ["experts"]}
    return found


def _converters(job: Job) -> list[str]:
    kind = {"fp8": "float8", "mxfp8": "mx"}.get(job.problem.workload.precision)
    if kind is None:
        return []
    parts = ["linear", "grouped_mm"] if job.problem.architecture.is_moe else ["linear"]
    return [f"quantize.{part}.{kind}" for part in parts]


def _parallelism(job: Job) -> dict[str, Any]:
    layout = job.layout
    assert layout.dp is not None
    replicate = layout.optimizer.instances if layout.distributed_optimizer else layout.dp
    found: dict[str, Any] = {
        "data_parallel_replicate_degree": replicate,
        "data_parallel_shard_degree": layout.dp // replicate,
        "fsdp_reshard_after_forward": "never",
        "tensor_parallel_degree": layout.tp,
        "enable_async_tensor_parallel": layout.overlap.tp_comm,
        "context_parallel_degree": layout.cp,
        "pipeline_parallel_degree": layout.pp,
    }
    if layout.pp > 1:
        found["pipeline_parallel_schedule"] = "Interleaved1F1B" if layout.vpp > 1 else "1F1B"
        found["pipeline_parallel_microbatch_size"] = layout.micro_batch_size
        found["module_fqns_per_model_part"] = _modules(job)
    if job.problem.architecture.is_moe:
        found["expert_parallel_degree"] = layout.ep
        found["expert_tensor_parallel_degree"] = layout.etp
        found["expert_parallel_comm_backend"] = "deepep" if layout.dispatcher == "deepep" else "standard"
    return found


def _modules(job: Job) -> list[list[str]]:
    """Modules of every stage, in the order of the layout string (stage i on rank i % pp, as looped schedules place
    them); the final norm sits with the output, wherever the last layer is."""
    return [
        [
            *(["tok_embeddings"] if chunk.embedding else []),
            *(f"layers.{index}" for index in range(chunk.first, chunk.last)),
            *(["norm", "output"] if chunk.loss else []),
        ]
        for chunk in job.pipeline.chunks
    ]


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    """Tables of plain values, one field a line."""
    return (
        "\n".join(
            f"\n[{name}]\n" + "\n".join(f"{field} = {_literal(value)}" for field, value in fields.items())
            for name, fields in tables.items()
        )
        + "\n"
    )


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)
        inner = [_literal(item) for item in value]
        return "[\n" + "".join(f"    {item},\n" for item in inner) + "]" if nested else f"[{', '.join(inner)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
