"""Megatron-LM's arguments that no field stands for: those that change nothing that is priced, and those that do."""

import re

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading

_FAMILIES = {
    "learning rate, loss and initialisation": (
        r"(decoupled-)?(min-)?lr(-.*)?|weight-decay.*|(start|end)-weight.*|adam-.*|sgd-.*|muon-.*|clip-grad|init-.*|seed",
        r"override-opt.*|use-checkpoint-opt.*|.*-coeff|.*bias-update-rate|(loss|initial-loss|min-loss)-.*|hysteresis",
        r"mtp-loss.*|use-cpu-initialization",
    ),
    "data and length of the run": (
        r"train-(iters|samples|data.*|mode|tokens)|(valid|test|per-split)-.*|data-.*|dataset.*|split|num-dataset.*|mock-data",
        r"tokenizer.*|(patch|legacy)-tokenizer.*|vocab-file|merge-file|(vocab-)?extra.*|num-workers|dataloader.*|reset-.*",
        r"eod-.*|.*mask-in-dataloader|(no-)?mmap.*|tiktoken.*|max-padding-length|packing|max-epochs|.*prompt.*|exit-.*",
    ),
    "checkpoints, logging and evaluation": (
        r"log-.*|logging.*|tensorboard.*|wandb.*|eval-.*|(no-)?(save|load).*|(dist-)?ckpt-.*|.*checkpoint.*|finetune",
        r"auto-detect.*|async-.*|timing.*|profile.*|moe-per-layer.*|(no-|enable-)?one-logger.*|use-dist-ckpt|check-weight.*",
        r"(no-)?check-for.*|rerun.*|error-.*|throughput.*|use-persistent.*|no-use-tokenizer.*|non-persistent.*",
    ),
    "constants that cost nothing": (
        r"rotary-.*|rope-.*|(no-|use-)rope.*|mscale.*|beta-(fast|slow)|yarn-.*|original-max.*|(layer)?norm-epsilon",
        r"attention-softmax.*|attention-dropout|hidden-dropout|glu-.*|activation-func.*",
        r"apply-query.*|moe-router-(load|pre-softmax|topk-scaling|dtype|force|fusion|padding|bias|z-loss|input-jitter).*",
        r"moe-(z-loss|input-jitter|token-drop|pad-expert).*|clone-.*|test-mode|kitchen.*",
    ),
    "how kernels and processes run": (
        r"master-(addr|port)|node-rank|nproc.*|nnodes|num-nodes|num-gpus.*|rdzv.*|local-rank.*|tee|log-dir|redirects",
        r"max-restarts|distributed-(backend|timeout.*)|use-mcore-models|use-legacy.*|transformer-impl|deepspeed",
        r"enable-experimental|.*fusion|(no-)?fused-.*|use-flash.*|.*persist-layer-norm|manual-gc.*|te-rng.*|use-tp-pp-dp.*",
        r"empty-unused.*|ddp-average.*|calculate-per-token.*|accumulate-allreduce.*|nccl-.*|deterministic.*|no-async.*",
        r"use-ring.*|high-priority.*|(no-)?barrier.*|(no-)?overlap-p2p.*|moe-grouped-gemm|no-bias.*|export-.*",
        r"enable-gpt-oss|trust-remote-code|bf16-.*|disable-bf16.*|attention-backend|no-masked.*|keep-mtp-spec.*",
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
    r"no-gradient-acc.*|use-fused-weighted.*|disable-mamba-mem.*|mamba-training-ssm.*",
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
    "tensor-parallel-num-weight-shards": "generalised tensor parallelism is not priced",
    "expert-tensor-parallel-num-weight-shards": "generalised tensor parallelism is not priced",
    "img-h": "transformers with a vision part are not priced",
    "language-model-type": "transformers with a vision part are not priced",
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


def explain_rest(flags: Flags, reading: Reading) -> None:
    """Every argument that became no field: why it is ignored, and its new name where Megatron renamed it."""
    for name in flags.values:
        spelled = flags.spelled[name]
        if name in _RENAMED:
            reading.warn(spelled, "renamed or deprecated", f"write {_RENAMED[name]}")
        if name in flags.used:
            continue
        reading.ignore(spelled, flags.shown(name), _why(name))
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
