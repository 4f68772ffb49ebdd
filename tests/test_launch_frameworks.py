"""Megatron-Bridge, torchtitan and Megatron-DeepSpeed: the same decisions in their words, or a refusal by name."""

import json
import re
from typing import Any

import pytest
import yaml

from launch_cases import expressible, full_job, name, record, solution
from moeopt.errors import InputError
from moeopt.writers import deepspeed, megatron_bridge, megatron_lm, torchtitan
from moeopt.writers.job import Job, read_solution
from moeopt.writers.shell import words

LAYOUTS = [case for case in record() if case["run"] == "layout"]
IDS = [f"{index}-{name(case)}" for index, case in enumerate(LAYOUTS)]
ROOMY = {"base": "h100-sxm", "memory": "4TB"}
DENSE = {"base": "llama-3-8b", "name": "dense"}
PLAIN = {"base": "mixtral-8x7b", "name": "plain"}
IN_BF16 = {"base": "llama-3-8b", "name": "ends", "num_layers_at_start_in_bf16": 1, "num_layers_at_end_in_bf16": 2}


def asked(layout: dict[str, Any], architecture: Any = "qwen3-30b-a3b", gpus: int = 64, **workload: Any) -> Job:
    return read_solution(solution(layout, gpus, architecture, ROOMY, **workload))


@pytest.mark.parametrize("case", LAYOUTS, ids=IDS)
def test_bridge_says_the_same_as_megatron(case: dict[str, Any]) -> None:
    """Degrees, batch, layout string, recompute and layer pattern of the YAML are the layout's; every value that
    Megatron-LM's arguments carry for an architecture's size is in it; the program beside it is Python. Of hybrids with
    virtual stages it says that its provider takes none."""
    job = full_job(case)
    hybrid = job.problem.architecture.hybrid_pattern
    if not expressible(case, "megatron-bridge"):
        with pytest.raises(InputError, match="vpp: megatron-bridge cannot express"):
            megatron_bridge.payload(job, "train")
        return
    payload = megatron_bridge.payload(job, "train")
    fields = yaml.safe_load(payload.files["train.yaml"])
    model, layout = fields["model"], job.layout
    expected = {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
        "sequence_parallel": layout.tp > 1 and layout.sequence_parallel,
    }
    assert {field: model[field] for field in expected} == expected
    assert fields["train"] == {
        "micro_batch_size": layout.micro_batch_size,
        "global_batch_size": job.problem.workload.global_batch_size,
    }
    string = job.layout_string if layout.pp > 1 and hybrid is None else None
    assert model.get("pipeline_model_parallel_layout") == string
    if hybrid is not None:
        decoder, *modules = model["hybrid_layer_pattern"].split("/")
        stages = decoder.split("|")
        assert "".join(stages) == hybrid
        assert (
            modules == [job.problem.architecture.mtp_hybrid_pattern] * job.problem.architecture.num_nextn_predict_layers
        )
        assert [len(stage) for stage in stages] == [chunk.layers for chunk in job.pipeline.chunks]
    assert tuple(model.get("recompute_modules", ())) == layout.recompute.modules
    kinds = [int(kind.ffn == "moe") for kind in job.problem.architecture.layers]
    if job.problem.architecture.is_moe and hybrid is None:
        freq = model["moe_layer_freq"]
        assert (freq if isinstance(freq, list) else [1] * len(kinds)) == kinds
    sizes = {word for word in words(megatron_lm.groups(job)) if word.isdecimal()}
    carried = {str(value) for section in fields.values() for value in section.values()}
    assert sizes - carried <= {str(job.problem.architecture.max_position_embeddings)}
    compile(payload.files["train.py"], "train.py", "exec")


def test_bridge_takes_transformer_engines_loss() -> None:
    """The loss kernel that Megatron-LM's arguments refuse is a field of Megatron-Bridge."""
    job = asked({"ep": 8, "etp": 1}, cross_entropy="te")
    with pytest.raises(InputError, match="cross_entropy"):
        megatron_lm.payload(job)
    assert megatron_bridge.sections(job)["model"]["cross_entropy_fusion_impl"] == "te"


@pytest.mark.parametrize(
    ("layout", "architecture", "workload"),
    [
        ({"tp": 2, "pp": 4, "ep": 8, "etp": 1, "vpp": 2}, "qwen3-30b-a3b", {}),
        ({"tp": 2, "pp": 4, "ep": 4, "etp": 2, "pipeline_layout": "Et*7|t*9|t*9|t*7L"}, "mixtral-8x7b", {}),
        ({"tp": 4, "cp": 2, "etp": 1, "recompute": "full"}, "llama-3-8b", {"precision": "fp8"}),
        ({"tp": 2, "pp": 2, "ep": 8, "etp": 1, "pipeline_layout": "Et*13|t*14L"}, "moonlight-16b-a3b", {}),
        ({"ep": 8, "etp": 1, "dispatcher": "deepep", "optimizer": {"instances": 2}}, "deepseek-v2-lite", {}),
    ],
)
def test_torchtitan_holds_the_layout(layout: dict[str, Any], architecture: str, workload: dict[str, Any]) -> None:
    """Degrees of the job file multiply to the GPUs, its batch is the workload's, its stages hold each layer once and in
    order, and the flavor that it imports has the architecture's dimensions."""
    tomllib = pytest.importorskip("tomllib")
    job = asked(layout, architecture, **workload)
    payload = torchtitan.payload(job, "train")
    fields = tomllib.loads(payload.files["train.toml"])
    grid = fields["parallelism"]
    replicas = grid["data_parallel_replicate_degree"] * grid["data_parallel_shard_degree"]
    names = ("tensor_parallel_degree", "context_parallel_degree", "pipeline_parallel_degree")
    product = replicas
    for each in names:
        product *= grid[each]
    assert product == job.gpus
    assert replicas == job.layout.dp
    assert grid.get("expert_parallel_degree", 1) == job.layout.ep
    assert grid.get("expert_tensor_parallel_degree", 1) == job.layout.etp
    training, a = fields["training"], job.problem.architecture
    accumulated = training["global_batch_size"] // (training["local_batch_size"] * replicas)
    steps = training["local_batch_size"] // job.layout.micro_batch_size * accumulated
    assert steps == job.layout.num_microbatches
    if job.layout.pp > 1:
        stages = grid["module_fqns_per_model_part"]
        assert len(stages) == job.layout.pp * job.layout.vpp
        flat = [module for stage in stages for module in stage]
        layers = [f"layers.{index}" for index in range(a.num_hidden_layers)]
        assert flat == ["tok_embeddings", *layers, "norm", "output"]
    flavor = payload.files["train_flavor.py"]
    compile(flavor, "train_flavor.py", "exec")
    for field, value in {"n_layers": a.num_hidden_layers, "dim": a.hidden_size, "vocab_size": a.vocab_size}.items():
        assert f"{field}={value}," in flavor
    assert fields["experimental"]["custom_import"] == "train_flavor"


REFUSED_BY_TORCHTITAN = [
    ({"ep": 8, "etp": 1}, "deepseek-v3", {}, "num_nextn_predict_layers"),
    ({"ep": 8, "etp": 1}, "gpt-oss-20b", {}, "attention_bias"),
    ({"ep": 8, "etp": 1}, "qwen2-57b-a14b", {}, "attention_bias"),
    ({"tp": 4, "ep": 8, "etp": 2}, "mixtral-8x7b", {}, "etp"),
    ({"tp": 4, "etp": 1}, "mixtral-8x7b", {}, "etp"),
    ({"ep": 8, "etp": 1, "dispatcher": "hybridep"}, "mixtral-8x7b", {}, "dispatcher"),
    ({"ep": 8, "etp": 1, "recompute": {"modules": ["moe_act"]}}, "mixtral-8x7b", {}, "recompute"),
    ({"ep": 8, "etp": 1, "optimizer": {"moments": "bf16", "precision_aware": True}}, PLAIN, {}, "optimizer.moments"),
    ({"ep": 8, "etp": 1, "overlap": {"ep_all_to_all": True}}, "mixtral-8x7b", {}, "overlap.ep_all_to_all"),
    ({"ep": 8, "etp": 1, "cuda_graphs": "attention"}, "mixtral-8x7b", {}, "cuda_graphs"),
    ({"ep": 8, "etp": 1, "dispatcher": "deepep", "dispatcher_sms": 24}, "mixtral-8x7b", {}, "dispatcher_sms"),
    ({"ep": 8, "etp": 1}, "mixtral-8x7b", {"precision": "fp16"}, "precision"),
    ({"pp": 4, "vpp": 2, "ep": 8, "etp": 1, "interleave_group": 8}, "mixtral-8x7b", {}, "interleave_group"),
    ({"etp": 1}, "mixtral-8x7b", {"precision": "fp8", "fp8_param_gather": True}, "fp8_param_gather"),
    ({"etp": 1}, IN_BF16, {"precision": "fp8"}, "num_layers_at_start_in_bf16, num_layers_at_end_in_bf16"),
]


@pytest.mark.parametrize(("layout", "architecture", "workload", "word"), REFUSED_BY_TORCHTITAN)
def test_torchtitan_refuses_by_name(
    layout: dict[str, Any], architecture: Any, workload: dict[str, Any], word: str
) -> None:
    """A decision that no field expresses ends the launch with its name."""
    with pytest.raises(InputError, match=rf"^{re.escape(word)}: torchtitan cannot express it"):
        torchtitan.payload(asked(layout, architecture, **workload))


QUIET = {"overlap": {"param_gather": False}}


@pytest.mark.parametrize(
    ("layout", "architecture"),
    [
        ({"tp": 2, "pp": 4, "etp": 1, **QUIET}, DENSE),
        ({"ep": 8, "etp": 1, **QUIET}, PLAIN),
        ({"etp": 1, "distributed_optimizer": False, "recompute": "full", **QUIET}, DENSE),
    ],
)
def test_deepspeed_holds_the_layout(layout: dict[str, Any], architecture: Any) -> None:
    """Batch = micro-batch * accumulation * dp in the JSON, ZeRO stage 1 exactly with the distributed optimizer, and the
    degrees on the command line."""
    job = asked(layout, architecture)
    payload = deepspeed.payload(job, "train")
    fields = json.loads(payload.files["train_deepspeed.json"])
    micro, accumulation = fields["train_micro_batch_size_per_gpu"], fields["gradient_accumulation_steps"]
    assert fields["train_batch_size"] == micro * accumulation * (job.layout.dp or 0)
    assert fields["zero_optimization"]["stage"] == int(job.layout.distributed_optimizer)
    given = words(payload.groups)
    assert given[given.index("--tensor-model-parallel-size") + 1] == str(job.layout.tp)
    assert given[given.index("--pipeline-model-parallel-size") + 1] == str(job.layout.pp)
    assert ("--moe-expert-parallel-size" in given) == job.problem.architecture.is_moe
    assert ("--checkpoint-activations" in given) == (job.layout.recompute.granularity == "full")


@pytest.mark.parametrize(
    ("layout", "architecture", "word"),
    [
        ({"ep": 8, "etp": 1}, PLAIN, "overlap.param_gather"),
        ({"ep": 8, "etp": 1, **QUIET}, "deepseek-v2-lite", "kv_lora_rank"),
        ({"ep": 8, "etp": 1, **QUIET}, "qwen3-30b-a3b", "qk_norm"),
        ({"ep": 8, "etp": 1, "pp": 2, **QUIET}, PLAIN, "pp"),
        ({"ep": 8, "etp": 1, "tp": 2, **QUIET}, PLAIN, "tp"),
        ({"ep": 8, "etp": 1, "cp": 2, **QUIET}, PLAIN, "cp"),
        ({"pp": 4, "vpp": 2, "etp": 1, **QUIET}, DENSE, "vpp"),
        ({"pp": 2, "etp": 1, "pipeline_layout": "Et*15|t*17L", **QUIET}, DENSE, "pipeline_layout"),
    ],
)
def test_deepspeed_refuses_by_name(layout: dict[str, Any], architecture: Any, word: str) -> None:
    """Folding, experts in a pipeline, uneven stages and newer attention are refused with the decision's name."""
    with pytest.raises(InputError, match=rf"^{re.escape(word)}: deepspeed cannot express it"):
        deepspeed.payload(asked(layout, architecture))
