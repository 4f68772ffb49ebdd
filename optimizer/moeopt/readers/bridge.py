"""Megatron-Bridge and NeMo YAML: their field names -> Megatron-LM's arguments, then read as those.

Sources: Megatron-Bridge 067f987, src/megatron/bridge/training/config.py and models/gpt_provider.py; NeMo 1's
megatron_gpt_config.yaml. Nothing that a file names (`_target_`) is imported or built.
"""

import re
from collections.abc import Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.reading import Reading, integer, mapping

SECTIONS = (
    "model",
    "train",
    "ddp",
    "optimizer",
    "dataset",
    "comm_overlap",
    "mixed_precision",
    "data",
    "trainer",
    "dist",
)
_NAMES = {
    "num_moe_experts": "num-experts",
    "virtual_pipeline_model_parallel_size": "num-virtual-stages-per-pipeline-rank",
    "num_layers_in_first_pipeline_stage": "decoder-first-pipeline-num-layers",
    "num_layers_in_last_pipeline_stage": "decoder-last-pipeline-num-layers",
    "microbatch_group_size_per_vp_stage": "microbatch-group-size-per-virtual-pipeline-stage",
    "sequence_length": "seq-length",
    "encoder_seq_length": "seq-length",
    "activations_checkpoint_granularity": "recompute-granularity",
    "activations_checkpoint_method": "recompute-method",
    "activations_checkpoint_num_layers": "recompute-num-layers",
    "cuda_graph_scope": "cuda-graph-modules",
    "tensor_parallel_size": "tensor-model-parallel-size",
    "moe_router_topk": "moe-router-topk",
    "overlap_grad_sync": "overlap-grad-reduce",
    "overlap_param_sync": "overlap-param-gather",
    "vocab_size": "vocab-size",
    "layernorm_epsilon": "norm-epsilon",
    "layernorm_zero_centered_gamma": "apply-layernorm-1p",
    "rope_scaling": "use-rope-scaling",
    "seq_len_interpolation_factor": "rotary-seq-len-interpolation-factor",
    "yarn_rotary_scaling_factor": "rotary-scaling-factor",
    "yarn_mscale": "mscale",
    "yarn_mscale_all_dim": "mscale-all-dim",
}
_NEGATED = {
    "add_bias_linear": "disable-bias-linear",
    "bias": "disable-bias-linear",
    "share_embeddings_and_output_weights": "untie-embeddings-and-output-weights",
    "grad_reduce_in_fp32": "grad-reduce-in-bf16",
    "apply_rope_fusion": "no-rope-fusion",
    "dsa_indexer_rotate_activation": "no-dsa-indexer-rotate-activation",
    "yarn_correction_range_round_to_int": "no-yarn-correction-range-round-to-int",
}
_GATED = ("fast-swiglu", "swiglu", "fast-geglu", "geglu", "reglu")
_TYPES = {
    "torch.bfloat16": "bf16",
    "torch.float32": "fp32",
    "torch.float16": "fp16",
    "torch.uint8": "fp8",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float16": "fp16",
}
_TARGETS = re.compile(r"(megatron|nemo|nemo_run|torch|transformers)\.[\w.]+")


def is_bridge(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping has the sections of such a file."""
    model = content.get("model")
    return isinstance(model, Mapping) and any(
        str(name).endswith("_parallel_size") or name in ("num_layers", "_target_") for name in model
    )


def read_bridge(content: Mapping[str, Any], where: str) -> Reading:
    """The reading of such a file. Raises InputError naming the field."""
    _refuse_targets(content, where)
    nemo = isinstance(content.get("trainer"), Mapping)
    reading = Reading("NeMo YAML" if nemo else "Megatron-Bridge YAML")
    flags = Flags()
    for section in SECTIONS:
        if section == "mixed_precision" and isinstance(content.get(section), str):
            _precision(str(content[section]), flags)
            continue
        read_section(mapping(content.get(section), f"{where}: {section}"), section, flags, f"{where}: {section}")
    if nemo:
        _trainer(mapping(content["trainer"], f"{where}: trainer"), flags, reading, where)
    leave_out_stages(flags)
    for section in content:
        if section not in SECTIONS:
            reading.ignore(str(section), "", "no part of the layout")
    reading.note("a field that is absent has Megatron-Core's default here; a recipe under the file may say otherwise")
    apply(flags, reading, where)
    return reading


def leave_out_stages(flags: Flags) -> None:
    """Leave out the number of virtual stages where a layout string is given, from which it follows."""
    if flags.given("pipeline-model-parallel-layout"):
        flags.values.pop("num-virtual-stages-per-pipeline-rank", None)


def read_section(values: Mapping[str, Any], section: str, flags: Flags, where: str) -> None:
    """One section's fields as Megatron-LM's arguments, under the names that the file gives them."""
    for name, value in values.items():
        if value is None or name == "_target_":
            continue
        spelled = f"{section}.{name}" if section else str(name)
        if isinstance(value, Mapping):
            _nested(name, value, spelled, flags, where)
        elif name in _NEGATED and isinstance(value, bool):
            if not value:
                flags.put(_NEGATED[name], spelled=spelled)
            elif name == "grad_reduce_in_fp32":  # said for fp16, whose gradients follow the parameters elsewhere
                flags.put("accumulate-allreduce-grads-in-fp32", spelled=spelled)
        elif name == "gated_linear_unit" or name == "activation":
            if value is True or value in _GATED:
                flags.put("swiglu", spelled=spelled)
        elif name == "activation_func":
            if str(value).rpartition(".")[2] == "squared_relu":
                flags.put("squared-relu", spelled=spelled)
        elif name in ("normalization",):
            flags.put(
                name,
                {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "layernorm1p": "LayerNorm"}.get(
                    str(value).lower(), str(value)
                ),
                spelled=spelled,
            )
        elif name == "num_query_groups":
            flags.put("group-query-attention", spelled=spelled)
            flags.put("num-query-groups", str(value), spelled=spelled)
        elif name == "pipeline_model_parallel_layout":
            flags.put("pipeline-model-parallel-layout", _layout(value, spelled), spelled=spelled)
        elif name == "name" and section == "optimizer":
            flags.put("use-distributed-optimizer", "true" if "distributed" in str(value) else "false", spelled=spelled)
        else:
            _plain(name, value, spelled, flags)


def _nested(name: str, value: Mapping[Any, Any], spelled: str, flags: Flags, where: str) -> None:
    if name in ("optim", "config", "optimizer_config", "ddp"):
        inner = "optimizer" if name == "optim" else name
        read_section(mapping(value, spelled), inner, flags, where)
    else:
        flags.put(name.replace("_", "-"), "", spelled=spelled)


def _plain(name: str, value: Any, spelled: str, flags: Flags) -> None:
    flag = _NAMES.get(name, name.replace("_", "-"))
    if flag in ("moe-layer-freq", "window-attn-skip-freq", "linear-attention-freq") and isinstance(value, list):
        flags.put(flag, "[" + ",".join(str(each) for each in value) + "]", spelled=spelled)
    elif isinstance(value, list):
        flags.put(
            flag, ",".join(map(str, value)) if flag == "window-size" else " ".join(map(str, value)), spelled=spelled
        )
    elif isinstance(value, bool):
        flags.put(flag, "true" if value else "false", spelled=spelled)
    elif flag in ("fp8", "fp4"):
        flags.put(f"{flag}-format", str(value), spelled=spelled)
    else:
        flags.put(flag, _TYPES.get(str(value), str(value)), spelled=spelled)


def _layout(value: Any, name: str) -> str:
    """Megatron's string, or Bridge's list of stages, each a list of layer names."""
    letters = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(stage, list) for stage in value):
        raise InputError(f"{name}: {shown(value)} is neither Megatron's string nor a list of stages")
    for stage in value:
        for layer in stage:
            if layer not in letters:
                raise InputError(f"{name}: {shown(layer)} is no layer (known: {', '.join(letters)})")
    return "|".join("".join(letters[layer] for layer in stage) for stage in value)


_IN_BF16 = {"nemotron_h": (2, 2), "nanov2": (2, 2), "nemotron_3_super": (0, 14), "fp8_current_scaling": (1, 1)}
"""Layers at the start and at the end that a recipe leaves in bf16, by what its name has (Megatron-Bridge 067f987,
training/mixed_precision.py:285-429)."""


_KEPT = ("mxfp8", "fp8_current_scaling", "fp8_delayed_scaling")
"""Recipes that keep parameters in 8 bits (the same file: fp8_param_gather)."""


def _precision(text: str, flags: Flags) -> None:
    """Recipe names such as `bf16_with_mxfp8_mixed`."""
    name = next((name for name in _IN_BF16 if name in text), None)
    if name is not None and ("fp8" in text or "fp4" in text):
        flags.put("first-last-layers-bf16", spelled="mixed_precision")
        for end, number in zip(("start", "end"), _IN_BF16[name], strict=True):
            flags.put(f"num-layers-at-{end}-in-bf16", str(number), spelled="mixed_precision")
    flags.put("fp16" if text.startswith("fp16") else "bf16", spelled="mixed_precision")
    if "mxfp8" in text:
        flags.put("fp8-recipe", "mxfp8", spelled="mixed_precision")
    if any(name in text for name in _KEPT):
        flags.put("fp8-param-gather", spelled="mixed_precision")
    if "fp8" in text:
        flags.put("fp8-format", "hybrid", spelled="mixed_precision")
    if "fp4" in text:
        flags.put("fp4-format", "e2m1", spelled="mixed_precision")
        flags.put("fp4-param-gather", spelled="mixed_precision")


def _trainer(values: Mapping[str, Any], flags: Flags, reading: Reading, where: str) -> None:
    precision = str(values.get("precision", ""))
    if "bf16" in precision:
        flags.put("bf16", spelled="trainer.precision")
    elif precision in ("16", "16-mixed", "fp16"):
        flags.put("fp16", spelled="trainer.precision")
    devices, nodes = values.get("devices"), values.get("num_nodes", 1)
    if devices is not None and not isinstance(devices, (list, Mapping)) and str(devices) != "auto":
        each = integer(devices, f"{where}: trainer.devices")
        reading.gpus_per_node = each
        reading.gpus = each * integer(nodes, f"{where}: trainer.num_nodes")
        reading.understand("trainer.num_nodes * trainer.devices", reading.gpus, "gpus")


def _refuse_targets(value: Any, where: str) -> None:
    """A `_target_` names what a framework would build; anything but its own configurations is refused unread."""
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if target is not None and not (isinstance(target, str) and _TARGETS.fullmatch(target)):
            raise InputError(f"{where}: _target_: {shown(target)} is refused: nothing is built from a file")
        for inner in value.values():
            _refuse_targets(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _refuse_targets(inner, where)
