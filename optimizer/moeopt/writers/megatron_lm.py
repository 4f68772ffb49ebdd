"""`--framework megatron-lm`: every argument of pretrain_gpt.py that a solution decides.

Names and conditions are those of Megatron-LM d98e8a6 (22 August 2026); tests/data/launch_validation.json records that
its parser, validation, configuration, process groups and module build accept them.
"""

from collections.abc import Mapping

from moeopt.accounting.muon.state import is_layer_wise, is_muon
from moeopt.errors import InputError
from moeopt.frameworks.megatron_core.precision import compute_capability
from moeopt.layout import FLEX_DISPATCHERS
from moeopt.problem.architecture import Architecture
from moeopt.writers.environment import environment
from moeopt.writers.job import Job
from moeopt.writers.megatron.architecture import Flag, architecture_groups, needed
from moeopt.writers.megatron.constants import left_out
from moeopt.writers.megatron.sharding import fsdp_flags, gradient_flags, offload_flags
from moeopt.writers.refusals import refuse_first
from moeopt.writers.script import Payload
from moeopt.writers.shell import Group, flag, words

REVISION = "d98e8a6"
"""The commit of Megatron-LM whose parser the names were read from."""

RANK_CAPACITY = 1.5
"""Tokens that a rank's experts have room for, in means, under one graph of the whole iteration."""
SETTINGS = (
    flag("--mock-data"),
    flag("--tokenizer-type", "NullTokenizer"),
    flag("--train-iters", 50),
    flag("--lr", "3.0e-4"),
    flag("--min-lr", "3.0e-5"),
    flag("--lr-decay-style", "cosine"),
    flag("--lr-warmup-iters", 5),
    flag("--weight-decay", "0.1"),
    flag("--clip-grad", "1.0"),
    flag("--adam-beta1", "0.9"),
    flag("--adam-beta2", "0.95"),
    flag("--init-method-std", "0.02"),
    flag("--eval-iters", 0),
    flag("--eval-interval", 1000),
    flag("--log-interval", 1),
    flag("--log-throughput"),
    flag("--manual-gc"),
    flag("--manual-gc-interval", 100),
    flag("--distributed-timeout-minutes", 60),
    flag("--ckpt-format", "torch_dist"),
    flag("--no-create-attention-mask-in-dataloader"),
)
"""What a layout does not decide: data, learning rate, initialisation. These defaults train on random tokens; they are
changed in the script's SETTINGS_ARGS."""


def groups(job: Job, framework: str = "megatron-lm") -> list[Group]:
    """Every argument that the solution decides. Raises InputError naming a decision that Megatron-LM cannot express
    (for a framework that builds the same Megatron-Core: under that framework's name)."""
    return [
        *architecture_groups(job.problem, framework),
        Group("parallelism", tuple(_parallelism(job))),
        Group("batch", tuple(_batch(job))),
        Group("precision", tuple(_precision(job))),
        Group("optimizer", tuple(_optimizer(job))),
        *_optional(job),
    ]


def payload(job: Job, _stem: str = "train") -> Payload:
    """The Megatron-LM run: its environment, its arguments and the program that takes them."""
    te = job.problem.workload.cross_entropy == "te"
    why = "its arguments refuse Transformer Engine's loss; Megatron-Bridge takes it"
    refuse_first("megatron-lm", [("cross_entropy te", te, why)])
    return Payload(
        framework="megatron-lm",
        root="MEGATRON_LM",
        root_meaning="a checkout of Megatron-LM",
        program=f'"${{MEGATRON_LM}}/{program(job)}"',
        groups=(*groups(job), Group("settings", _settings(job))),
        environment=environment(job),
        notes=_notes(job),
    )


def program(job: Job) -> str:
    """The program that builds the architecture: pretrain_gpt.py never reads a hybrid's pattern."""
    return "pretrain_hybrid.py" if job.problem.architecture.is_hybrid else "pretrain_gpt.py"


def _settings(job: Job) -> tuple[Flag, ...]:
    """The settings; Megatron-FSDP refuses every checkpoint format but its own (arguments.py:1169-1170)."""
    if job.layout.fsdp == "none":
        return SETTINGS
    return tuple(flag("--ckpt-format", "fsdp_dtensor") if item[0] == "--ckpt-format" else item for item in SETTINGS)


def _parallelism(job: Job) -> list[Flag]:
    layout = job.layout
    flags = [
        flag("--tensor-model-parallel-size", layout.tp),
        flag("--pipeline-model-parallel-size", layout.pp),
        flag("--context-parallel-size", layout.cp),
        flag("--expert-model-parallel-size", layout.ep),
        flag("--expert-tensor-parallel-size", layout.etp),
    ]
    if layout.sequence_parallel:  # Megatron-LM switches it off again where tp is 1 (arguments.py:1433-1439)
        flags.append(flag("--sequence-parallel"))
    if job.problem.architecture.is_hybrid:
        flags.append(flag("--hybrid-layer-pattern", hybrid_pattern(job)))
    elif layout.pp > 1:
        flags.append(flag("--pipeline-model-parallel-layout", job.layout_string))
    if layout.vpp > 1:
        flags.append(flag("--microbatch-group-size-per-virtual-pipeline-stage", layout.interleave_group))
    if layout.optimizer.instances > 1:
        flags.append(flag("--num-distributed-optimizer-instances", layout.optimizer.instances))
    return flags


def hybrid_pattern(job: Job) -> str:
    """A hybrid's layers, chunk by chunk: its stages and virtual stages follow from the bars
    (megatron/training/arguments.py:849-862); behind slashes the layers of every MTP module."""
    architecture = job.problem.architecture
    pattern, module = architecture.hybrid_pattern or "", architecture.mtp_hybrid_pattern or ""
    chunks = "|".join(pattern[chunk.first : chunk.last] for chunk in job.pipeline.chunks)
    return "/".join([chunks, *[module] * job.problem.mtp_layers])


def _batch(job: Job) -> list[Flag]:
    return [
        flag("--micro-batch-size", job.layout.micro_batch_size),
        flag("--global-batch-size", job.problem.workload.batch),
    ]


def _precision(job: Job) -> list[Flag]:
    """fp8 keeps 16-bit parameters unless the workload gathers 8-bit ones: block scaling on Hopper, whose kernels have
    it, else per tensor with current scaling. mxfp8 keeps its parameters quantised and gathers them through the gradient
    buffer, nvfp4 keeps and gathers them packed."""
    form = job.problem.workload.format
    precision = form.name
    if precision == "fp16":
        return [flag("--fp16")]
    flags = [flag("--bf16")]
    if precision == "fp8":
        recipe = "blockwise" if (compute_capability(job.problem) or (0, 0))[0] == 9 else "tensorwise"
        flags += [flag("--fp8-format", "e4m3" if recipe == "blockwise" else "hybrid"), flag("--fp8-recipe", recipe)]
        flags += [flag("--fp8-param-gather")] if job.problem.workload.fp8_param_gather else []
    if job.problem.workload.keeps_parameters and not job.layout.distributed_optimizer:
        raise InputError(
            f"distributed_optimizer: megatron-lm cannot express false with precision {precision}: quantised parameters "
            f"(--{form.peak}-param-gather) need it"
        )
    if precision == "nvfp4":
        flags += [flag("--fp4-format", "e2m1"), flag("--fp4-recipe", "nvfp4"), flag("--fp4-param-gather")]
    if precision == "mxfp8":
        flags += [flag("--fp8-format", "e4m3"), flag("--fp8-recipe", "mxfp8"), flag("--fp8-param-gather")]
        flags.append(flag("--reuse-grad-buf-for-mxfp8-param-ag"))
    flags += _in_bf16(job.problem.architecture) if form.quantized else []
    gathered = job.layout.dispatcher == "allgather"  # pads inside the experts instead (transformer_config.py:2649-2659)
    if form.quantized and job.problem.architecture.is_moe and not gathered:
        flags.append(flag("--moe-router-padding-for-quantization"))
    return flags


def _in_bf16(architecture: Architecture) -> list[Flag]:
    """Layers at either end that stay in bf16."""
    first, last = architecture.num_layers_at_start_in_bf16, architecture.num_layers_at_end_in_bf16
    if not first and not last:
        return []
    return [
        flag("--first-last-layers-bf16"),
        flag("--num-layers-at-start-in-bf16", first),
        flag("--num-layers-at-end-in-bf16", last),
    ]


def _optimizer(job: Job) -> list[Flag]:
    layout, kept = job.layout, job.layout.optimizer
    flags = [flag("--optimizer", job.problem.workload.optimizer)]
    if layout.distributed_optimizer:
        flags.append(flag("--use-distributed-optimizer"))
    if is_muon(job.problem) and job.problem.workload.muon_tp_mode != "duplicated":
        flags.append(flag("--muon-tp-mode", job.problem.workload.muon_tp_mode))
    if is_layer_wise(job.problem, layout.choices):
        flags.append(flag("--no-use-layer-wise-param-layout"))
    if layout.overlap.grad_reduce:
        flags.append(flag("--overlap-grad-reduce"))
    if layout.overlap.param_gather:
        flags.append(flag("--overlap-param-gather"))
    if kept.precision_aware:
        flags += [
            flag("--use-precision-aware-optimizer"),
            flag("--main-grads-dtype", kept.main_grads),
            flag("--main-params-dtype", kept.main_params),
            flag("--exp-avg-dtype", kept.moments),
            flag("--exp-avg-sq-dtype", kept.moments),
        ]
    flags += gradient_flags(job)
    flags += fsdp_flags(job)
    if kept.offload_fraction > 0:
        flags += [flag("--optimizer-cpu-offload"), flag("--optimizer-offload-fraction", kept.offload_fraction)]
        flags.append(flag("--overlap-cpu-optimizer-d2h-h2d"))
    return flags


def _optional(job: Job) -> list[Group]:
    """Groups that are there only where a decision fills them."""
    found = (
        Group("recompute", tuple(_recompute(job))),
        Group("activation offloading", tuple(offload_flags(job))),
        Group("dispatcher", tuple(_dispatcher(job))),
        Group("overlap", tuple(_overlap(job))),
        Group("loss", tuple(_loss(job))),
        Group("cuda graphs", tuple(_cuda_graphs(job))),
    )
    return [group for group in found if group.flags]


def _recompute(job: Job) -> list[Flag]:
    chosen = job.layout.recompute
    if chosen.granularity == "none":
        return []
    flags = [flag("--recompute-granularity", chosen.granularity)]
    if chosen.granularity == "full":
        return [*flags, flag("--recompute-method", chosen.method), flag("--recompute-num-layers", chosen.num_layers)]
    return [*flags, flag("--recompute-modules", *chosen.modules)]


def _dispatcher(job: Job) -> list[Flag]:
    layout, routing = job.layout, job.problem.workload.routing
    if not job.problem.architecture.is_moe:
        return []
    if layout.dispatcher in FLEX_DISPATCHERS:
        flags = [flag("--moe-token-dispatcher-type", "flex"), flag("--moe-flex-dispatcher-backend", layout.dispatcher)]
        if layout.dispatcher_sms is not None:
            flags.append(flag("--moe-flex-dispatcher-num-sms", layout.dispatcher_sms))
    else:
        flags = [flag("--moe-token-dispatcher-type", layout.dispatcher)]
    flags.append(flag("--moe-router-load-balancing-type", _balancing(job)))
    flags.append(flag("--moe-aux-loss-coeff", "1e-4" if job.problem.architecture.router_correction_bias else "1e-3"))
    if routing.capacity_factor is not None:
        flags += [flag("--moe-expert-capacity-factor", routing.capacity_factor)]
        flags.append(flag("--moe-pad-expert-input-to-capacity"))
    return flags


def _balancing(job: Job) -> str:
    """A correction bias balances the experts; the loss beside it then looks at one sequence at a time (DeepSeek-V3)."""
    return "seq_aux_loss" if job.problem.architecture.router_correction_bias else "aux_loss"


def _overlap(job: Job) -> list[Flag]:
    flags = []
    if job.layout.overlap.ep_all_to_all:
        flags.append(flag("--overlap-moe-expert-parallel-comm"))
    if job.layout.overlap.delay_wgrad:
        flags.append(flag("--delay-wgrad-compute"))
    if job.layout.overlap.tp_comm:
        flags.append(flag("--tp-comm-overlap"))
    return flags


def _loss(job: Job) -> list[Flag]:
    if job.problem.workload.cross_entropy == "unfused":
        return []
    return [flag("--cross-entropy-loss-fusion"), flag("--cross-entropy-fusion-impl", "native")]


def _cuda_graphs(job: Job) -> list[Flag]:
    graphs, architecture = job.layout.cuda_graphs, job.problem.architecture
    if graphs == "none":
        return []
    if graphs == "full_iteration":
        return [
            flag("--cuda-graph-impl", "full_iteration"),
            flag("--te-rng-tracker"),
            flag("--no-check-for-nan-in-loss-and-grad"),
            *_fixed_token_counts(job),
        ]
    mixers = ["attn", "mamba"] if architecture.has_mamba else ["attn"]
    modules = ["moe_router", "moe_preprocess"] if graphs == "router" else mixers
    if graphs == "attention" and architecture.has_router and not job.layout.recompute.drops("moe"):
        modules += ["moe_router", "moe_preprocess"]
    return [
        flag("--cuda-graph-impl", "transformer_engine"),
        flag("--cuda-graph-modules", *modules),
        flag("--te-rng-tracker"),
    ]


def _fixed_token_counts(job: Job) -> list[Flag]:
    """One graph of the iteration needs expert buffers of one size. Without a capacity factor that is hybridep's bound
    on a rank's tokens (1.5 times the mean as in Megatron-Bridge's recipes, perf_recipes/deepseek/common.py, or the
    workload's imbalance where that is more), Transformer Engine's fused experts and the paged stash, which keeps only
    the tokens that came (docs/user-guide/features/paged_stash.md, moe/experts.py:382-456)."""
    routing = job.problem.workload.routing
    if not job.problem.architecture.is_moe or routing.capacity_factor is not None:
        return []
    return [
        flag("--moe-expert-rank-capacity-factor", max(RANK_CAPACITY, routing.imbalance)),
        flag("--use-transformer-engine-op-fuser"),
        flag("--moe-paged-stash"),
    ]


def _notes(job: Job) -> list[str]:
    """What a reader must know beyond the arguments."""
    notes = [
        f"Arguments are named as Megatron-LM's parser names them at commit {REVISION}; there is no "
        f"--data-parallel-size (dp {job.layout.dp} follows) and no --virtual-pipeline-model-parallel-size (vpp "
        f"{job.layout.vpp} follows from the layout string).",
        "SETTINGS_ARGS trains on random tokens with placeholders: data, tokenizer, learning rate, initialisation. Set "
        "them before a real run.",
        *left_out(job.problem.architecture),
        *needed(job.problem.architecture),
    ]
    if job.problem.architecture.gated and job.problem.architecture.attention_sinks:
        notes.append(
            "Activation: --swiglu; gpt-oss itself clamps a scaled sigmoid (--quick-geglu), which costs the same."
        )
    if job.layout.dispatcher in FLEX_DISPATCHERS:
        notes.append(f"The {job.layout.dispatcher} dispatcher needs the DeepEP package with that backend installed.")
    if "--moe-paged-stash" in words(groups(job)):
        notes.append("One graph of the whole iteration with experts needs Transformer Engine 2.14 or later.")
    if job.layout.offload and job.layout.cuda_graphs == "attention":  # transformer_layer.py:1600-1614
        notes.append("Offloading from a captured attention needs Transformer Engine 2.14 or later.")
    if job.layout.overlap.tp_comm:
        notes.append("--tp-comm-overlap needs Transformer Engine's userbuffers and all tp ranks in one NVLink domain.")
    return notes


def environment_of(job: Job) -> Mapping[str, str]:
    """Variable -> value."""
    return {name: value for name, (value, _) in environment(job).items()}
