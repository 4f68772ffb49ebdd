"""`--framework megatron-bridge`: the solution as ConfigContainer fields (YAML) and the program that trains with them.

Megatron-Bridge builds the same Megatron-Core, so its fields follow from Megatron-LM's arguments: most have the
argument's name, the others stand in the tables below. Read from Megatron-Bridge 067f987 (22 August 2026):
models/{gpt,mla}_provider.py, training/{config,comm_overlap,mixed_precision}.py, recipes/common.py.
"""

import re
from typing import Any

import yaml

from moeopt.accounting.muon.state import is_layer_wise
from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.rope import YARN_DEFAULTS
from moeopt.writers.environment import environment
from moeopt.writers.job import Job
from moeopt.writers.megatron.architecture import needed
from moeopt.writers.megatron_lm import groups
from moeopt.writers.script import Payload
from moeopt.writers.shell import comment, words

REVISION = "067f987"
_RENAMED = {
    "fp8-format": "fp8",
    "fp4-format": "fp4",
    "num-experts": "num_moe_experts",
    "microbatch-group-size-per-virtual-pipeline-stage": "microbatch_group_size_per_vp_stage",
    "te-rng-tracker": "use_te_rng_tracker",
    "softmax-type": "softmax_type",
    "norm-epsilon": "layernorm_epsilon",
    "apply-layernorm-1p": "layernorm_zero_centered_gamma",
    "use-rope-scaling": "rope_scaling",
    "rotary-seq-len-interpolation-factor": "seq_len_interpolation_factor",
}
_MEANINGS: dict[str, dict[str, Any]] = {
    "squared-relu": {"gated_linear_unit": False, "activation_func": "squared_relu"},
    "swiglu": {"gated_linear_unit": True, "activation_func": "silu"},
    "disable-bias-linear": {"add_bias_linear": False},
    "untie-embeddings-and-output-weights": {"share_embeddings_and_output_weights": False},
    "no-bias-gelu-fusion": {"bias_activation_fusion": False},
    "no-bias-dropout-fusion": {"bias_dropout_fusion": False},
    "no-rope-fusion": {"apply_rope_fusion": False},
    "no-dsa-indexer-rotate-activation": {"dsa_indexer_rotate_activation": False},
    "no-yarn-correction-range-round-to-int": {"yarn_correction_range_round_to_int": False},
}
"""Arguments that stand for other fields with fixed values."""
_ELSEWHERE = {
    "micro-batch-size": "train",
    "global-batch-size": "train",
    "use-distributed-optimizer": "ddp",
    "overlap-grad-reduce": "ddp",
    "overlap-param-gather": "ddp",
    "num-distributed-optimizer-instances": "ddp",
    "use-megatron-fsdp": "ddp",
    "data-parallel-sharding-strategy": "ddp",
    "fsdp-double-buffer": "ddp",
    "optimizer": "optimizer",
    "muon-tp-mode": "optimizer",
    "use-precision-aware-optimizer": "optimizer",
    "main-grads-dtype": "optimizer",
    "main-params-dtype": "optimizer",
    "exp-avg-dtype": "optimizer",
    "exp-avg-sq-dtype": "optimizer",
    "optimizer-cpu-offload": "optimizer",
    "optimizer-offload-fraction": "optimizer",
    "overlap-cpu-optimizer-d2h-h2d": "optimizer",
    "overlap-moe-expert-parallel-comm": "comm_overlap",
    "tp-comm-overlap": "comm_overlap",
    "fp8-format": "mixed_precision",
    "fp8-recipe": "mixed_precision",
    "fp8-param-gather": "mixed_precision",
    "fp4-format": "mixed_precision",
    "fp4-recipe": "mixed_precision",
    "fp4-param-gather": "mixed_precision",
    "reuse-grad-buf-for-mxfp8-param-ag": "mixed_precision",
    "first-last-layers-bf16": "mixed_precision",
    "num-layers-at-start-in-bf16": "mixed_precision",
    "num-layers-at-end-in-bf16": "mixed_precision",
}
"""Sections of the arguments that are not fields of the architecture's provider."""
_IMPLIED = (
    "group-query-attention",
    "max-position-embeddings",
    "bf16",
    "fp16",
    "grad-reduce-in-bf16",
    "accumulate-allreduce-grads-in-fp32",
    "no-check-for-nan-in-loss-and-grad",
    "megatron-fsdp-main-params-dtype",
    "megatron-fsdp-main-grads-dtype",
    "megatron-fsdp-grad-comm-dtype",
    "no-use-layer-wise-param-layout",
)
"""Arguments that Megatron-Bridge says otherwise: `_fixed` does."""
_LISTS = ("recompute_modules", "cuda_graph_modules", "offload_modules", "moe_aux_loss_coeff")


def payload(job: Job, stem: str = "train") -> Payload:
    """The Megatron-Bridge run: `<stem>.py` reads `<stem>.yaml` beside it."""
    text = yaml.dump(sections(job), Dumper=_Dumper, sort_keys=False, width=120)
    head = f"# ConfigContainer fields of {comment(job.problem.architecture.name)}, written by moeopt.\n"
    return Payload(
        framework="megatron-bridge",
        root="",
        root_meaning="",
        program=f'"${{HERE}}/{stem}.py"',
        groups=(),
        environment=environment(job),
        notes=[
            f"Fields are those of Megatron-Bridge {REVISION}; it and Megatron-Core must be installed.",
            "Data, tokenizer and learning rate are _pretrain_common's defaults (random tokens): set them before a real "
            "run.",
            *needed(job.problem.architecture),
        ],
        files={f"{stem}.py": _PROGRAM.replace("@STEM@", stem), f"{stem}.yaml": head + text},
    )


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


def _list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(list, _list)


def sections(job: Job) -> dict[str, dict[str, Any]]:
    """ConfigContainer section -> field -> value. Raises InputError for what Megatron-Bridge cannot express."""
    _refuse(job)
    _refuse_fsdp(job)
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("model", "train", "dataset", "ddp", "optimizer", "mixed_precision", "comm_overlap")
    }
    for name, values in _arguments(words(groups(job, "megatron-bridge"))):
        if name in _IMPLIED:
            continue
        if name in _MEANINGS:
            found["model"].update(_MEANINGS[name])
            continue
        section = _ELSEWHERE.get(name, "model")
        field = _RENAMED.get(name, name.replace("-", "_"))
        found[section][field] = _value(field, values)
    _fixed(job, found)
    if job.problem.workload.cross_entropy == "te":
        found["model"]["cross_entropy_fusion_impl"] = "te"
    return found


def _refuse(job: Job) -> None:
    a, length = job.problem.architecture, job.problem.workload.sequence_length
    if a.is_hybrid and job.layout.vpp > 1:
        raise InputError(
            f"vpp: megatron-bridge cannot express {job.layout.vpp} with hybrid_pattern: its provider of hybrids takes "
            "no virtual stages; fix vpp 1"
        )
    if a.position_embedding == "learned" and a.max_position_embeddings != length:
        raise InputError(
            f"position_embedding: megatron-bridge cannot express learned with {a.max_position_embeddings} rows: its "
            f"table has sequence_length {length}"
        )


def _refuse_fsdp(job: Job) -> None:
    """Its YAML holds no torch types, so Megatron-FSDP's main gradients stay what they are by default."""
    if job.layout.fsdp != "none" and job.layout.optimizer.main_grads == "fp32":
        raise InputError(
            "optimizer.main_grads: megatron-bridge cannot express fp32 with fsdp in its YAML (they follow the "
            "parameters): make them bf16"
        )


def _arguments(given: list[str]) -> list[tuple[str, list[str]]]:
    """Argument names (without dashes) with their values."""
    found: list[tuple[str, list[str]]] = []
    for word in given:
        if re.match(r"--[a-z]", word):
            found.append((word[2:], []))
        else:
            found[-1][1].append(word)
    return found


def _value(field: str, values: list[str]) -> Any:
    if not values:
        return True
    if field in ("moe_layer_freq", "window_attn_skip_freq", "linear_attention_freq") and "[" in values[0]:
        return _pattern(values[0])
    if field == "window_size":
        return [int(part) for part in values[0].split(",")]
    read = [_scalar(value) for value in values]
    return read if field in _LISTS and (len(read) > 1 or field != "moe_aux_loss_coeff") else read[0]


def _pattern(text: str) -> list[int]:
    """A pattern that `patterns.pattern` wrote, unrolled: `([0]*3+[1]*58)`, `([0,1]*24)`."""
    found: list[int] = []
    for block, times in re.findall(r"\[([\d,]+)\]\*(\d+)", text):
        found += [int(value) for value in block.split(",")] * int(times)
    return found


def _scalar(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fixed(job: Job, found: dict[str, dict[str, Any]]) -> None:
    """What Megatron-Bridge wants said that Megatron-LM derives, and the other way round."""
    layout, workload = job.layout, job.problem.workload
    model, precision = found["model"], found["mixed_precision"]
    model.setdefault("num_query_groups", job.problem.architecture.num_key_value_heads)
    if job.problem.architecture.is_mla:
        model.pop("num_query_groups")
    _rotary(job.problem.architecture, model)
    model["should_pad_vocab"] = True
    model["share_embeddings_and_output_weights"] = job.problem.architecture.tie_word_embeddings
    model["sequence_parallel"] = layout.tp > 1 and layout.sequence_parallel
    model["virtual_pipeline_model_parallel_size"] = layout.vpp if layout.vpp > 1 else None
    model["cross_entropy_loss_fusion"] = workload.cross_entropy != "unfused"
    found["dataset"]["seq_length"] = workload.sequence_length
    kind = "fp16" if workload.precision == "fp16" else "bf16"
    dtype = "float16" if kind == "fp16" else "bfloat16"
    whole = layout.optimizer.main_grads == "fp32"
    precision.update({kind: True, "params_dtype": dtype, "pipeline_dtype": dtype, "grad_reduce_in_fp32": whole})
    for name in ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"):
        found["ddp"].setdefault(name, False)
    found["ddp"]["grad_reduce_in_fp32"] = whole
    found["ddp"]["check_for_nan_in_grad"] = layout.cuda_graphs != "full_iteration"
    found["optimizer"]["use_distributed_optimizer"] = layout.distributed_optimizer
    if is_layer_wise(job.problem, layout.choices):  # named by its optimizer, and no distributed one to DDP
        found["optimizer"]["optimizer"] = "dist_muon"
        found["optimizer"]["use_distributed_optimizer"] = found["ddp"]["use_distributed_optimizer"] = False
    overlap = found["comm_overlap"]
    overlap["tp_comm_overlap"] = layout.overlap.tp_comm
    overlap["overlap_grad_reduce"] = layout.overlap.grad_reduce
    overlap["overlap_param_gather"] = layout.overlap.param_gather
    overlap["overlap_moe_expert_parallel_comm"] = layout.overlap.ep_all_to_all
    overlap["delay_wgrad_compute"] = layout.overlap.delay_wgrad


def _rotary(architecture: Architecture, model: dict[str, Any]) -> None:
    """YaRN's fields: prefixed for ordinary attention; for MLA, more of them than Megatron-LM has arguments for."""
    scaling = architecture.rope_scaling
    if architecture.is_yarn:
        for name in ("rotary_scaling_factor", "mscale", "mscale_all_dim"):
            model[f"yarn_{name}"] = model.pop(name)
    elif architecture.is_mla and scaling is not None:
        for name, default in YARN_DEFAULTS.items():
            model[name] = getattr(scaling, name) or default


_PROGRAM = '''"""Train with the fields of @STEM@.yaml on Megatron-Bridge. Written by moeopt."""

from pathlib import Path

import torch
import yaml
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.bridge.models.mla_provider import MLAModelProvider
from megatron.bridge.recipes.common import _pretrain_common
from megatron.bridge.training.comm_overlap import CommOverlapConfig
from megatron.bridge.training.config import ConfigContainer
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.mixed_precision import MixedPrecisionConfig
from megatron.bridge.training.pretrain import pretrain
from megatron.core.activations import squared_relu
from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
    get_transformer_block_with_experimental_attention_variant_spec,
)
from megatron.core.transformer.enums import AttnBackend

FIELDS = yaml.safe_load((Path(__file__).parent / "@STEM@.yaml").read_text(encoding="utf-8"))
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.uint8,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def converted(values: dict) -> dict:
    """Values that YAML cannot write: types, functions, enumerations, tuples."""
    found = dict(values)
    for name, value in values.items():
        if name.endswith("_dtype") and name != "moe_router_dtype":
            found[name] = DTYPES[value]
    if "activation_func" in found:
        known = {"silu": torch.nn.functional.silu, "squared_relu": squared_relu}
        found["activation_func"] = known[found["activation_func"]]
    if "attention_backend" in found:
        found["attention_backend"] = AttnBackend[found["attention_backend"]]
    if "window_size" in found:
        found["window_size"] = tuple(found["window_size"])
    return found


def configuration() -> ConfigContainer:
    """The container that the run trains with."""
    config = _pretrain_common()
    model = converted(FIELDS["model"])
    provider = MLAModelProvider if model.get("multi_latent_attention") else GPTModelProvider
    if "hybrid_layer_pattern" in model:
        provider = HybridModelProvider
    config.model = provider(**model)
    if "experimental_attention_variant" in model:
        config.model.transformer_layer_spec = get_transformer_block_with_experimental_attention_variant_spec
    config.mixed_precision = MixedPrecisionConfig(**converted(FIELDS["mixed_precision"]))
    config.comm_overlap = CommOverlapConfig(**FIELDS["comm_overlap"])
    config.tokenizer.tokenizer_type = "NullTokenizer"
    config.tokenizer.vocab_size = model["vocab_size"]
    config.tokenizer.use_tokenizer_vocab_size = False
    if model.get("cuda_graph_impl") == "full_iteration":
        config.rerun_state_machine.check_for_nan_in_loss = False
    for section in ("train", "dataset", "ddp", "optimizer"):
        for name, value in converted(FIELDS[section]).items():
            setattr(getattr(config, section), name, value)
    return config


if __name__ == "__main__":
    pretrain(config=configuration(), forward_step_func=forward_step)
'''
