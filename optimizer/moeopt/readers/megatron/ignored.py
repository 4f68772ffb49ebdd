"""Megatron-LM's arguments that no field stands for: those that change nothing that is priced, and those that do."""

import re
from collections.abc import Container

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading

_FAMILIES = {
    "learning rate, loss and initialisation": (
        r"(decoupled-)?(min-)?lr(-.*)?|weight-decay.*|(start|end)-weight.*|adam-.*|sgd-.*|muon-.*|clip-grad|init-.*|seed",
        r"override-opt.*|use-checkpoint-opt.*|.*-coeff|.*bias-update-rate|(loss|initial-loss|min-loss)-.*|hysteresis",
        r"mtp-loss.*|use-cpu-initialization|no-initialization|embedding-init.*|head-lr-mult|lion-beta.*|sample-rate",
        r"(apply-wd|no-weight-decay)-.*|.*-sync-interval",
    ),
    "data and length of the run": (
        r"train-(iters|samples|data.*|mode|tokens)|(valid|test|per-split)-.*|data-.*|dataset.*|split|num-dataset.*|mock-data",
        r"tokenizer.*|(patch|legacy)-tokenizer.*|vocab-file|merge-file|(vocab-)?extra.*|num-workers|dataloader.*|reset-.*",
        r"eod-.*|.*mask-in-dataloader|(no-)?mmap.*|tiktoken.*|max-padding-length|packing|max-epochs|.*prompt.*|exit-.*",
        r"fim-.*|null-tokenizer.*|(no-|disable-)(tokenizer|pad-vocab|save-tokenizer)-.*|chat-template|use-gigatoken",
        r"(full|multiple)-validation.*|validation-set.*|.*-eval-at-iter|iterations-to-skip|iter-per-epoch|mid-level.*",
        r"no-data-sharding|per-dataset.*|object-storage.*|phase-transition.*|decrease-batch.*|skip-train|.*ambiguous-pad.*|sft",
    ),
    "checkpoints, logging and evaluation": (
        r"log-.*|logging.*|tensorboard.*|wandb.*|eval-.*|(no-)?(save|load).*|(dist-)?ckpt-.*|.*checkpoint.*|finetune",
        r"auto-detect.*|async-.*|timing.*|profile.*|moe-per-layer.*|(no-|enable-)?one-logger.*|use-dist-ckpt|check-weight.*",
        r"(no-)?check-for.*|rerun.*|error-.*|throughput.*|use-persistent.*|no-use-tokenizer.*|(non-)?persistent.*",
        r"(no-|disable-)(ckpt|log)-.*|override-ckpt.*|.*fsdp-dtensor-load|.*fully-reshardable.*|verify-integrity|app-tag.*",
        r"config-logger.*|dump-param.*|moe-routing-trace.*|memory-snapshot.*|record-.*|nvtx.*|otel.*|result-rejected.*",
    ),
    "constants that cost nothing": (
        r"rotary-.*|rope-.*|no-rope-freq|use-rope.*|mscale.*|beta-(fast|slow)|yarn-.*|original-max.*|(layer)?norm-epsilon",
        r"attention-softmax.*|attention-dropout|hidden-dropout|glu-.*|activation-func.*",
        r"apply-query.*|moe-router-(load|pre-softmax|topk-scaling|dtype|force|fusion|padding|bias|z-loss|input-jitter).*",
        r"moe-(z-loss|input-jitter|token-drop|pad-expert).*|(no-|disable-)?clone-.*|test-mode|kitchen.*",
        r"(use-)?mup.*|openai-gelu|apply-residual.*|moe-.*glu-interleave.*|mrope-.*|mtp-detach.*|moe-router-quantile.*",
        r"moe-enable-routing-replay|moe-use-upcycling|(no-|disable-)dsa-indexer-scoring-relu|dsa-indexer-k-norm-fp32",
    ),
    "how kernels and processes run": (
        r"master-(addr|port)|node-rank|nproc.*|nnodes|num-nodes|num-gpus.*|rdzv.*|local-rank.*|tee|log-dir|redirects",
        r"max-restarts|distributed-(backend|timeout.*)|use-mcore-models|use-legacy.*|transformer-impl|deepspeed",
        r"enable-experimental|.*fusion|(no-)?fused-.*|use-flash.*|.*persist-layer-norm|manual-gc.*|te-rng.*|use-tp-pp-dp.*",
        r"empty-unused.*|ddp-average.*|calculate-per-token.*|accumulate-allreduce.*|nccl-.*|deterministic.*|no-async.*",
        r"use-ring.*|high-priority.*|(no-)?barrier.*|moe-grouped-gemm|no-bias.*|export-.*",
        r"enable-gpt-oss|trust-remote-code|bf16-.*|disable-bf16.*|attention-backend|no-masked.*|keep-mtp-spec.*",
        r"inprocess.*|(disable-|no-)?flight-recorder.*|(calc-)?ft-.*|enable-(ft|msc).*|disable-msc|fault-injector.*|gpu-sniff.*",
        r"(use-)?pytorch-profiler.*|(disable-)?straggler.*|adlr-.*|lazy-mpu.*|fake-process.*|(disable|use)-gloo.*|help",
        r"(disable-|no-)manual-gc.*|disable-jit.*|flash-attention-version|run-workload.*|replication.*|use-same-sampling.*",
        r"disable-(symmetric|straggler)-.*",
    ),
    "other kinds of runs: vision, BERT, retrieval, inference, reinforcement learning": (
        r"bert-.*|biencoder.*|dino-.*|ict-.*|vision-.*|swin-.*|retriever.*|(evidence|titles|block|embedding)-.*path|mask-.*",
        r"patch-dim|num-(channels|classes)|img-w|classes-.*|relative-attention.*|query-in-block.*|short-seq.*|use-one-sent.*",
        r"indexer-(batch|log)-.*|output-bert.*|(no-)?inference-.*|(no-)?rl-.*|grpo-.*|langrl.*|perform-rl.*|logits-.*",
        r"num-speculative.*|flash-decode|cache-mla.*|decode-only.*|.*chunked-prefill|onnx-safe|refit-.*",
        r"mamba-inference.*",
    ),
}
"""What a group of arguments is about -> patterns of their names."""
_PRICED_WITHOUT = (
    r"cpu-offloading.*|activation-offload.*|delta-offload.*|min-offloaded.*|distribute-saved.*|fsdp-.*|outer-dp.*",
    r"suggested-communication.*|megatron-fsdp-.*|enable-full-sharding.*|create-all-gather.*|delay-offload.*|use-custom-fsdp",
    r"hierarchical-context.*|cp-comm-type|fp[48]-.*|reuse-grad-buf.*",
    r"moe-shared-expert-overlap|ddp-.*|defer-embedding.*|moe-expert-rank.*|rampup-batch-size|keep-fp8.*",
    r"step-batch-size.*|overlap-cpu.*|overlap-param-gather-with.*|tp-comm-.*|(no-)?align-.*|use-nccl.*",
    r"moe-upcycling.*|use-dynamic-batch.*|max-tokens.*|moe-.*-num-sms.*|low-memory.*|moe-apply.*|moe-extended.*|use-turbo.*",
    r"no-gradient-acc.*|disable-mamba-mem.*|mamba-training-ssm.*|fp32-residual.*|fp16-lm.*",
    r"hybrid-context.*|max-seqlen-per.*|qk-(l2-norm|clip.*)|mlp-chunks.*|moe-paged.*|moe-(dispatch|combine)-.*dtype",
    r"moe-hybridep-.*|moe-ncclep.*|moe-permute-fusion-into.*|moe-(single-)?(use-)?grouped-(bias|weight|tensor)",
    r"use-grouped-gemm.*|ep-overlap-early.*|overlap-dispatch.*|wgrad-deferral.*|use-transformer-engine-op.*|mtp-standalone",
    r"use-te-activation.*|te-precision.*|use-kitchen-.*|symmetric-ar.*|(use-)?sharp.*|optimizer-cuda-graph|(no-)?pin-cpu.*",
    r"use-torch-optimizer.*|torch-fsdp2.*|cuda-graph-warmup.*|fine-grained-offloading-max.*|gtp-.*",
    r"output-logit.*|(no-|disable-)(fp8-wgrad|tp-comm-.*|align-.*)|batch-invariant.*|pipeline-model-parallel-comm.*",
    r"mhc-.*|gdp-.*|(no-)?overlap-p2p.*|no-bias-.*-fusion|no-rope-fusion",
)
_REFUSED = {
    "cpu-offloading": "offloading whole layers is not priced (by module it is: --fine-grained-activation-offloading)",
    "use-torch-fsdp2": "FSDP2 shards parameters and gradients, which is not priced",
    "hybrid-attention-ratio": "Megatron removed it; write --hybrid-layer-pattern",
    "hybrid-mlp-ratio": "Megatron removed it; write --hybrid-layer-pattern",
    "encoder-num-layers": "encoder-decoder transformers are not priced",
    "decoder-num-layers": "encoder-decoder transformers are not priced",
    "decoder-seq-length": "encoder-decoder transformers are not priced",
    "heterogeneous-layers-config-path": "layers of different widths are not priced",
    "heterogeneous-layers-config-encoded-json": "layers of different widths are not priced",
    "enable-mhc-connections": "hyper-connections are neither counted nor priced",
    "mtp-hsm": "hidden states mixed before MTP modules are neither counted nor priced",
    "freeze-all-layers": "a run that trains a part of its parameters is not priced",
    "yaml-cfg": "the arguments are in that file, which is not read",
    "tensor-parallel-num-weight-shards": "generalised tensor parallelism is not priced",
    "expert-tensor-parallel-num-weight-shards": "generalised tensor parallelism is not priced",
    "img-h": "transformers with a vision part are not priced",
    "language-model-type": "transformers with a vision part are not priced",
    **dict.fromkeys(
        ("bert-no-binary-head", "bert-embedder-type", "ict-head-size", "vision-pretraining"),
        "only decoder-only transformers of the GPT kind are priced",
    ),
    "model-provider": "models assembled from several parts are not priced",
    "model-parallel-size": "Megatron removed it; write --tensor-model-parallel-size",
    "batch-size": "Megatron removed it; write --micro-batch-size",
    "virtual-pipeline-model-parallel-size": "no such argument; write --num-virtual-stages-per-pipeline-rank",
}
_RENAMED = {
    "moe-router-padding-for-fp8": "--moe-router-padding-for-quantization",
    "moe-deepep-num-sms": "--moe-flex-dispatcher-num-sms",
    "moe-hybridep-num-sms": "--moe-flex-dispatcher-num-sms",
    "linear-attention-type": "--experimental-attention-variant",
    "use-rotary-position-embeddings": "--position-embedding-type rope",
    "checkpoint-activations": "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
    "no-position-embedding": "--position-embedding-type none, or leave it out beside rope",
    "fp8-param": "--fp8-param-gather",
    "warmup": "--lr-warmup-fraction",
}
"""Source: Megatron-LM d98e8a6, megatron/training/arguments.py:600-641, 1626-1634; transformer_config.py:1743-1811."""


def refuse(flags: Flags) -> None:
    """Raise InputError for a setting that changes what is trained or how it is sharded, and that is not priced."""
    for name, why in _REFUSED.items():
        if flags.given(name) and flags.on(name):
            raise InputError(f"{flags.spelled[name]}: {why}")


def is_refused(name: str) -> bool:
    """Whether an argument is refused wherever it is given."""
    return name in _REFUSED


def explain_rest(flags: Flags, reading: Reading, fields: Container[str]) -> None:
    """Every argument that became no field: why it is ignored, and its new name where Megatron renamed it. `fields`:
    arguments that become one in other launches."""
    for name in flags.values:
        spelled = flags.spelled[name]
        if name in _RENAMED:
            reading.warn(spelled, "renamed or deprecated", f"write {_RENAMED[name]}")
        if name in flags.used:
            continue
        why = "without effect beside the other arguments" if name in fields else _why(name)
        reading.ignore(spelled, flags.shown(name), why)
    for name in dict.fromkeys(flags.repeated):
        reading.note(f"{flags.spelled[name]} is given more than once; the last one counts")


def _why(name: str) -> str:
    if _matches(_PRICED_WITHOUT, name):
        return "changes memory or time, and is priced as if absent"
    if name in _RENAMED:
        return "renamed or deprecated"
    return next((what for what, patterns in _FAMILIES.items() if _matches(patterns, name)), "not known to moeopt")


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
