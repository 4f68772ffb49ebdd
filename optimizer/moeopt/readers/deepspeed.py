"""DeepSpeed JSON: batch, precision and the sharding of the optimizer. Degrees and dimensions stand elsewhere.

Source: DeepSpeed's configuration reference (docs/_pages/config-json.md): train_batch_size = micro batch a GPU *
gradient accumulation * data-parallel ranks; ZeRO stages 1 (optimizer), 2 (and gradients), 3 (and parameters).
"""

from collections.abc import Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.readers.reading import Reading, integer, mapping

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
