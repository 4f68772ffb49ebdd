"""torchtitan TOML: degrees, batch and recomputation; the transformer itself is named by flavour.

Source: pytorch/torchtitan v0.2.2 torchtitan/config/job_config.py (Parallelism, Training, ActivationCheckpoint) and the
flavours of torchtitan/models/*/__init__.py. torchtitan shards parameters by FSDP; the run is priced as Megatron-Core
would do it, and the report says so.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from moeopt.errors import InputError
from moeopt.pipeline import PipelineLayout
from moeopt.problem.base import shown
from moeopt.readers.reading import Reading, integer, mapping
from moeopt.readers.torchtitan_flavour import read_flavour

_FLAVOURS = {
    ("deepseek_v3", "671B"): "deepseek-v3",
    ("deepseek_v3", "16B"): "deepseek-v2-lite",
    ("llama3", "8B"): "llama-3-8b",
    ("llama3", "70B"): "llama-3-70b",
    ("llama3", "405B"): "llama-3-405b",
    ("llama4", "17bx16e"): "llama-4-scout",
    ("llama4", "17bx128e"): "llama-4-maverick",
    ("qwen3", "30B-A3B"): "qwen3-30b-a3b",
    ("qwen3", "235B-A22B"): "qwen3-235b-a22b",
    ("gpt_oss", "20b"): "gpt-oss-20b",
    ("gpt_oss", "120b"): "gpt-oss-120b",
}
_DEGREES = {
    "tensor_parallel_degree": "tp",
    "pipeline_parallel_degree": "pp",
    "context_parallel_degree": "cp",
    "expert_parallel_degree": "ep",
    "expert_tensor_parallel_degree": "etp",
}
_INTERLEAVED = ("interleaved1f1b",)
_PIPELINES = ("1f1b", *_INTERLEAVED)


def parse_toml(text: str, where: str) -> Mapping[str, Any]:
    """The tables of a TOML text. Raises InputError with the parser's line."""
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content: Mapping[str, Any] = toml.loads(text)
    except (RecursionError, ValueError) as error:  # its own error is a ValueError
        raise InputError(f"{where}: {error}") from None
    return content


def read_torchtitan(
    content: Mapping[str, Any], where: str, module: Callable[[str], str | None] = lambda _: None
) -> Reading:
    """The reading of such a file. Raises InputError naming the field.

    `module` gives the text of a Python file that the job imports, for the dimensions of a flavour of its own.
    """
    reading = Reading("torchtitan TOML")
    parallelism = mapping(content.get("parallelism"), f"{where}: parallelism")
    training = mapping(content.get("training"), f"{where}: training")
    if not parallelism and not training:
        raise InputError(
            f"{where}: neither [parallelism] nor [training] is there, so it is no torchtitan configuration"
        )
    _flavour(mapping(content.get("model"), f"{where}: model"), reading)
    if reading.preset is None:
        _own_flavour(content, reading, where, module)
    _degrees(parallelism, reading, where)
    _training(training, reading, where)
    _pipeline(parallelism, reading, where)
    _recompute(mapping(content.get("activation_checkpoint"), f"{where}: activation_checkpoint"), reading)
    _batch(reading)
    reading.layout["overlap"] = {
        "grad_reduce": True,
        "param_gather": reading.layout.get("distributed_optimizer", True),
        "tp_comm": parallelism.get("enable_async_tensor_parallel") is True,
    }
    backend = parallelism.get("expert_parallel_comm_backend", "standard")
    reading.layout["dispatcher"] = "deepep" if backend == "deepep" else "alltoall"
    quantize = mapping(
        mapping(content.get("quantize"), f"{where}: quantize").get("linear"), f"{where}: quantize.linear"
    )
    reading.workload["precision"] = "mxfp8" if "mx" in quantize else "fp8" if "float8" in quantize else "bf16"
    reading.note("torchtitan shards by FSDP2; memory and time are those of the same degrees under Megatron-Core")
    for table in content:
        if table not in ("model", "parallelism", "training", "activation_checkpoint"):
            reading.ignore(f"[{table}]", "", "no part of the layout")
    return reading


def _flavour(model: Mapping[str, Any], reading: Reading) -> None:
    key = (str(model.get("name", "")), str(model.get("flavor", "")))
    reading.preset = _FLAVOURS.get(key)
    if reading.preset:
        reading.understand("model.name, model.flavor", " ".join(key), f"architecture {reading.preset}")
    else:
        reading.note(f"[model] {' '.join(key).strip() or 'absent'}: no shipped architecture; --architecture says which")


def _own_flavour(content: Mapping[str, Any], reading: Reading, where: str, module: Callable[[str], str | None]) -> None:
    model = mapping(content.get("model"), f"{where}: model")
    name = mapping(content.get("experimental"), f"{where}: experimental").get("custom_import")
    text = module(str(name)) if name else None
    fields = None if text is None else read_flavour(text, str(model.get("flavor", "")), f"{where}: {name}.py")
    if fields:
        reading.architecture = fields
        reading.understand("experimental.custom_import", name, "dimensions (read, not imported)")


def _degrees(values: Mapping[str, Any], reading: Reading, where: str) -> None:
    for name, field in _DEGREES.items():
        value = values.get(name)
        if value is not None:
            reading.layout[field] = integer(value, f"{where}: parallelism.{name}")
            reading.understand(f"parallelism.{name}", value, field)
    tp = reading.layout.get("tp", 1)
    reading.layout.setdefault("etp", 1 if reading.layout.get("ep", 1) > 1 else tp)
    reading.layout["sequence_parallel"] = True  # it comes with tensor parallelism
    shard = integer(values.get("data_parallel_shard_degree", -1), f"{where}: parallelism.data_parallel_shard_degree")
    copies = integer(
        values.get("data_parallel_replicate_degree", 1), f"{where}: parallelism.data_parallel_replicate_degree"
    )
    if shard > 0:
        dp = shard * copies
        unit = tp * reading.layout.get("cp", 1) * reading.layout.get("pp", 1)
        reading.gpus = dp * unit
        reading.understand("parallelism.data_parallel_shard_degree", shard, f"dp {dp}, gpus {reading.gpus}")
    else:
        reading.note("data_parallel_shard_degree is -1: all GPUs that are left; --gpus says how many there are")
    if copies > 1 and shard == 1:
        reading.layout["distributed_optimizer"] = False
    elif copies > 1:
        reading.layout["optimizer"] = {"instances": copies}


def _training(values: Mapping[str, Any], reading: Reading, where: str) -> None:
    workload = reading.workload
    for name, field in (("seq_len", "sequence_length"), ("global_batch_size", "global_batch_size")):
        value = values.get(name)
        if value is not None and integer(value, f"{where}: training.{name}") > 0:
            workload[field] = integer(value, f"{where}: training.{name}")
            reading.understand(f"training.{name}", value, field)
    for name, value in values.items():
        if name not in ("seq_len", "global_batch_size", "local_batch_size", "batch_size"):
            reading.ignore(f"training.{name}", value, "no part of the layout")
    local = values.get("local_batch_size", values.get("batch_size", 1))
    reading.layout["micro_batch_size"] = integer(local, f"{where}: training.local_batch_size")
    reading.understand("training.local_batch_size", local, "sequences of a rank")


def _pipeline(values: Mapping[str, Any], reading: Reading, where: str) -> None:
    """With pipelining a rank's local batch is cut into micro-batches; without, it is one of them."""
    pp = reading.layout.get("pp", 1)
    micro = values.get("pipeline_parallel_microbatch_size")
    if pp == 1:
        return
    reading.layout["micro_batch_size"] = (
        1 if micro is None else integer(micro, f"{where}: pipeline_parallel_microbatch_size")
    )
    schedule = str(values.get("pipeline_parallel_schedule", "Interleaved1F1B"))
    if schedule.lower() not in _PIPELINES:
        raise InputError(
            f"{where}: pipeline_parallel_schedule: {shown(schedule)} is not priced (1F1B, Interleaved1F1B are)"
        )
    reading.understand("parallelism.pipeline_parallel_schedule", schedule, "vpp")
    parts = values.get("module_fqns_per_model_part")
    if isinstance(parts, list) and parts:
        _modules(parts, pp, reading, where)
        return
    each = values.get("pipeline_parallel_layers_per_stage")
    if schedule.lower() in _INTERLEAVED:
        reading.layout["vpp"] = 2
        reading.note("Interleaved1F1B: two stages a rank, unless pipeline_parallel_layers_per_stage says otherwise")
    if each is not None and reading.preset:
        from moeopt.problem.loading import load_architecture

        layers = load_architecture(reading.preset).num_hidden_layers
        reading.layout["vpp"] = max(1, -(-layers // integer(each, "pipeline_parallel_layers_per_stage")) // pp)


def _modules(parts: list[Any], pp: int, reading: Reading, where: str) -> None:
    """Stages as lists of module names, in looped order: stage i sits on rank i % pp."""
    if len(parts) % pp or not all(isinstance(part, list) for part in parts):
        raise InputError(f"{where}: module_fqns_per_model_part: {len(parts)} lists are no multiple of pp {pp}")
    counts = [sum(str(name).startswith("layers.") for name in part) for part in parts]
    reading.layout["vpp"] = len(parts) // pp
    reading.layout["pipeline_layout"] = str(PipelineLayout.from_counts(pp, counts))
    reading.understand("parallelism.module_fqns_per_model_part", f"{len(parts)} stages", "pipeline_layout")


def _recompute(values: Mapping[str, Any], reading: Reading) -> None:
    mode = str(values.get("mode", "selective"))
    if mode == "none":
        reading.layout["recompute"] = {"granularity": "none"}
    elif mode == "full":
        reading.layout["recompute"] = {"granularity": "full", "method": "uniform", "num_layers": 1}
    else:
        reading.layout["recompute"] = {"granularity": "none"}
        reading.warn(
            "activation_checkpoint.mode",
            f"{mode} keeps the results of expensive operators, which Megatron-Core cannot express; read as none",
            "compare with mode full, the other end",
        )
    reading.understand("activation_checkpoint.mode", mode, "recompute")


def _batch(reading: Reading) -> None:
    """Without a global batch a step is one local batch a data-parallel rank."""
    if "global_batch_size" in reading.workload or reading.gpus is None:
        return
    layout = reading.layout
    ranks = reading.gpus // (layout.get("tp", 1) * layout.get("cp", 1) * layout.get("pp", 1))
    local = next(each["value"] for each in reading.understood if each["name"] == "training.local_batch_size")
    reading.workload["global_batch_size"] = ranks * integer(local, "training.local_batch_size")
    reading.note(f"training.global_batch_size is absent: local_batch_size {local} * dp {ranks}")
