"""DeepSpeed JSON: batch, precision and the sharding of the optimizer; and the arguments of Megatron-DeepSpeed.

Source: DeepSpeed's configuration reference (docs/_pages/config-json.md): train_batch_size = micro batch a GPU *
gradient accumulation * data-parallel ranks; ZeRO stages 1 (optimizer), 2 (and gradients), 3 (and parameters).
"""

from collections.abc import Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading, integer, mapping

_ARGUMENTS = {
    "moe-expert-parallel-size": "expert-model-parallel-size",
    "topk": "moe-router-topk",
    "moe-train-capacity-factor": "moe-expert-capacity-factor",
    "rotary-position-embeddings": "use-rotary-position-embeddings",
    "rotary-position-embeddings-theta": "rotary-base",
    "layernorm-epsilon": "norm-epsilon",
}
"""Megatron-DeepSpeed's own names (4efb479, megatron/arguments.py) -> Megatron-LM's."""
_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "zero_optimization", "gradient_accumulation_steps")


def is_deepspeed(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping is such a configuration."""
    return any(key in content for key in _KEYS)


def read_deepspeed(content: Mapping[str, Any], where: str) -> Reading:
    """The reading of such a file. Raises InputError naming the field."""
    reading = Reading("DeepSpeed JSON")
    sizes = {name: _size(content.get(name), f"{where}: {name}") for name in _KEYS if name != "zero_optimization"}
    batch, micro, steps = (sizes[name] for name in (_KEYS[0], _KEYS[1], _KEYS[3]))
    if batch:
        reading.workload["global_batch_size"] = batch
        reading.understand("train_batch_size", batch, "global_batch_size")
    if micro:
        reading.layout["micro_batch_size"] = micro
        reading.understand("train_micro_batch_size_per_gpu", micro, "micro_batch_size")
    if batch and micro and steps:
        if batch % (micro * steps):
            raise InputError(
                f"{where}: train_batch_size: {batch} % (train_micro_batch_size_per_gpu {micro} * "
                f"gradient_accumulation_steps {steps}) = {batch % (micro * steps)}, must be 0"
            )
        reading.layout["dp"] = batch // (micro * steps)
        reading.understand("gradient_accumulation_steps", steps, f"dp {reading.layout['dp']}, num_microbatches {steps}")
    _precision(content, reading)
    _zero(mapping(content.get("zero_optimization"), f"{where}: zero_optimization"), reading, where)
    for name in content:
        if name not in (*_KEYS, "bf16", "fp16"):
            reading.ignore(str(name), "", "no part of the layout")
    reading.note("a DeepSpeed file gives neither degrees nor dimensions: --layout and --architecture do")
    return reading


def _size(value: Any, name: str) -> int | None:
    if value is None or value == "auto":
        return None
    size = integer(value, name)
    if size < 1:
        raise InputError(f"{name}: {size} is below 1")
    return size


def _precision(content: Mapping[str, Any], reading: Reading) -> None:
    for name in ("fp16", "bf16"):
        section = content.get(name)
        if isinstance(section, Mapping) and section.get("enabled") in (True, "true"):
            reading.workload["precision"] = name
            reading.understand(f"{name}.enabled", "true", "precision")


def _zero(values: Mapping[str, Any], reading: Reading, where: str) -> None:
    stage = integer(values.get("stage", 0), f"{where}: zero_optimization.stage")
    if stage >= 3:
        raise InputError(
            f"{where}: zero_optimization.stage: 3 shards the parameters, which is not priced (known: 0, 1, 2)"
        )
    reading.layout["distributed_optimizer"] = stage >= 1
    reading.understand("zero_optimization.stage", stage, "distributed_optimizer")
    if stage == 2:
        reading.warn(
            "zero_optimization.stage", "2 also shards gradients, which is priced as stage 1", "expect less memory"
        )
    overlap = values.get("overlap_comm", False) is True
    reading.layout["overlap"] = {"grad_reduce": overlap, "param_gather": False}
    offload = values.get("offload_optimizer")
    if isinstance(offload, Mapping) and offload.get("device") == "cpu":
        reading.layout["optimizer"] = {"offload_fraction": float(offload.get("ratio", 1.0))}
        reading.understand("zero_optimization.offload_optimizer", "cpu", "optimizer.offload_fraction")


def translate(flags: Flags) -> None:
    """Megatron-DeepSpeed's arguments in Megatron-LM's words, in place. Raises InputError for what is not priced."""
    for theirs, ours in _ARGUMENTS.items():
        if flags.given(theirs):
            flags.put(ours, *flags.values.pop(theirs), spelled=flags.spelled[theirs])
    _dense_and_experts(flags)
    stage = flags.integer("zero-stage") or 0
    if stage >= 3:
        raise InputError(f"--zero-stage: {stage} shards the parameters, which is not priced (known: 0, 1, 2)")
    if stage >= 1:
        flags.put("use-distributed-optimizer", spelled="--zero-stage")
    if flags.on("checkpoint-activations") or flags.on("deepspeed-activation-checkpointing"):
        name = "--checkpoint-activations"
        flags.put("recompute-granularity", "full", spelled=name)
        flags.put("recompute-method", "uniform", spelled=name)
        flags.put("recompute-num-layers", "1", spelled=name)
        flags.used.discard("checkpoint-activations")
    if flags.text("tokenizer-type") == "NullTokenizer" and flags.given("vocab-size"):
        flags.put("vocab-size", str((flags.integer("vocab-size") or 0) + 1), spelled="--vocab-size")
    if flags.on("use-flash-attn") or flags.on("use-flash-attn-v2"):
        flags.put("attention-backend", "fused", spelled="--use-flash-attn-v2")
    flags.put("cross-entropy-loss-fusion", spelled="--deepspeed")


def _dense_and_experts(flags: Flags) -> None:
    groups = flags.integer("num-key-value-heads")
    if groups is not None:
        flags.put("group-query-attention", spelled="--num-key-value-heads")
        flags.put("num-query-groups", str(groups), spelled="--num-key-value-heads")
    norm = flags.text("normalization")
    if norm is not None:
        proper = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}.get(norm.lower(), norm)
        flags.put("normalization", proper, spelled="--normalization")
    experts, layers = flags.integer("num-experts"), flags.integer("num-layers")
    if not experts or experts == 1:
        flags.values.pop("num-experts", None)
        return
    every = flags.integer("expert-interval") or 2
    if layers and every > 1:
        digits = ",".join(str(int((layer + 1) % every == 0)) for layer in range(layers))
        flags.put("moe-layer-freq", f"[{digits}]", spelled="--expert-interval")
    flags.used.add("expert-interval")
    flags.put("moe-token-dispatcher-type", "alltoall", spelled="--num-experts")
    flags.put("expert-tensor-parallel-size", "1", spelled="--num-experts")
    if not flags.given("moe-router-topk"):
        flags.put("moe-router-topk", "1", spelled="--topk")
