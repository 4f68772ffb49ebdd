"""Megatron-LM's arguments: what Megatron-LM itself accepted (recorded), and what it cannot express."""

from typing import Any

import pytest

from launch_cases import full_job, job, name, record, solution
from moeopt.errors import InputError
from moeopt.writers import megatron_lm
from moeopt.writers.job import read_solution
from moeopt.writers.patterns import pattern
from moeopt.writers.shell import words

CASES = record()
SCALINGS = ("yarn", "llama3", "linear")
IDS = [f"{index}-{name(case)}-{case['run']}" for index, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_megatron_accepts_the_arguments_and_builds_what_we_count(case: dict[str, Any]) -> None:
    """The arguments emitted today are those that Megatron-LM accepted, and every pipeline stage that it built from
    them holds as many parameters as `parameters.per_stage` says (dense and expert apart)."""
    found = job(case)
    payload = megatron_lm.payload(found)
    assert words(payload.groups) == case["flags"]
    assert found.gpus == case["world_size"]
    assert (found.layout.dp, found.layout.num_microbatches) == (case["data_parallel_size"], case["num_microbatches"])
    ours = [[stage["dense"], stage["expert"]] for stage in found.answer["parameters"]["per_stage"]]
    assert ours == case["stages"]


def test_the_record_covers_what_the_issue_names() -> None:
    """At least forty layouts over eight architectures: MLA, GQA, dense-first, shared experts, MTP, uneven layouts, vpp,
    etp other than tp, every recompute kind, FP8."""
    jobs = [full_job(case) for case in CASES if case["run"] == "layout"]
    assert len(jobs) >= 40
    assert len({each.problem.architecture.name for each in jobs}) >= 8
    architectures = [each.problem.architecture for each in jobs]
    for seen in (
        [a.is_mla for a in architectures],
        [a.num_key_value_heads < a.num_attention_heads for a in architectures],
        [a.first_k_dense_replace > 0 for a in architectures],
        [a.shared_expert_intermediate_size > 0 for a in architectures],
        [a.shared_expert_gate for a in architectures],
        [a.attention_sinks for a in architectures],
        [a.has_delta_net for a in architectures],
        [a.has_indexer for a in architectures],
        [a.has_mamba for a in architectures],
        [a.attention_output_gate for a in architectures],
        [a.zero_centered_norm for a in architectures],
        [each.problem.mtp_layers > 0 for each in jobs],
        [len({chunk.layers for chunk in each.pipeline.chunks}) > 1 for each in jobs],
        [each.layout.vpp > 1 for each in jobs],
        [each.layout.etp not in (1, each.layout.tp) for each in jobs],
        [each.layout.recompute.granularity == "full" for each in jobs],
        [each.layout.recompute.method == "block" for each in jobs],
        [each.problem.workload.precision == "fp8" for each in jobs],
        [each.problem.workload.precision == "mxfp8" for each in jobs],
        [each.problem.workload.precision == "nvfp4" for each in jobs],
        [each.layout.fsdp == "optim_grads_params" for each in jobs],
        [each.layout.offload != () for each in jobs],
        *([a.rope_scaling.rope_type == kind for a in architectures if a.rope_scaling] for kind in SCALINGS),
        [a.norm_topk_prob is False for a in architectures],
    ):
        assert any(seen)
    assert {module for each in jobs for module in each.layout.recompute.modules} >= {
        "layernorm",
        "mla_up_proj",
        "mlp",
        "moe",
        "moe_act",
        "shared_experts",
    }


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_expert_tensor_parallelism_is_always_said(case: dict[str, Any]) -> None:
    """Megatron's default for it is tp, so leaving it out would launch another layout."""
    flags = words(megatron_lm.groups(job(case)))
    assert flags.count("--expert-tensor-parallel-size") == 1


@pytest.mark.parametrize(
    ("cluster", "layout", "value"),
    [
        ("h100-sxm", {"tp": 2, "ep": 8, "etp": 1}, "1"),
        ("h100-sxm", {"tp": 1, "ep": 8, "etp": 1}, "1"),
        ("b200", {"tp": 2, "ep": 8, "etp": 1}, "32"),
        ("h100-sxm", {"tp": 1, "ep": 8, "etp": 1, "overlap": {"ep_all_to_all": True}}, "32"),
    ],
)
def test_hardware_queues_follow_megatrons_rule(cluster: str, layout: dict[str, Any], value: str) -> None:
    """One queue before compute capability 10 (Megatron-LM refuses tp or cp above 1 otherwise), many under overlap."""
    found = read_solution(solution(layout, cluster=cluster))
    assert megatron_lm.payload(found).environment["CUDA_DEVICE_MAX_CONNECTIONS"][0] == value


@pytest.mark.parametrize(
    ("architecture", "workload", "word"),
    [
        ("olmoe-1b-7b", {}, "qk_norm"),
        ("dbrx", {}, "norm_bias"),
        ("phi-3.5-moe", {}, "lm_head_bias"),
        ("ernie-4.5-300b", {}, "router_correction_bias"),
        ({"base": "qwen3-30b-a3b", "attention_output_bias": True}, {}, "attention_output_bias"),
        ({"base": "gpt-oss-20b", "router_bias": False}, {}, "router_bias"),
        ("qwen3-30b-a3b", {"cross_entropy": "te"}, "cross_entropy"),
        ({"base": "qwen3-30b-a3b", "rope_theta": 1.5}, {}, "rope_theta"),
        ({"base": "qwen3-30b-a3b", "rope_scaling": {"rope_type": "longrope"}}, {}, "rope_scaling"),
        ({"base": "qwen3-30b-a3b", "rope_scaling": {"rope_type": "linear", "factor": 1.5}}, {}, "rope_scaling"),
        ({"base": "llama-3-405b", "rope_scaling": {"high_freq_factor": 8}}, {}, "rope_scaling"),
        ({"base": "moonlight-16b-a3b", "norm_topk_prob": False}, {}, "norm_topk_prob"),
    ],
)
def test_what_megatron_cannot_build_is_refused_by_name(architecture: Any, workload: dict[str, Any], word: str) -> None:
    """A field that no argument expresses ends the launch with that field's name, never with another transformer."""
    layout = {} if "llama" in str(architecture) else {"ep": 16, "etp": 1}
    given = solution(layout, 64, architecture, {"base": "b300", "memory": "9TB"}, **workload)
    with pytest.raises(InputError, match=rf"^{word}.*megatron-lm cannot express"):
        megatron_lm.payload(read_solution(given))


def test_one_graph_of_the_iteration_fixes_token_counts() -> None:
    """Without a capacity factor hybridep's bound is passed, not below the workload's imbalance; with one it drops."""
    layout = {"ep": 8, "etp": 1, "cuda_graphs": "full_iteration"}
    roomy = {"base": "h100-sxm", "memory": "4TB"}
    given = solution({**layout, "dispatcher": "hybridep"}, cluster=roomy, routing={"imbalance": 2.0})
    bounded = words(megatron_lm.groups(read_solution(given)))
    assert bounded[bounded.index("--moe-expert-rank-capacity-factor") + 1] == "2.0"
    assert "--moe-paged-stash" in bounded
    given = solution(layout, cluster=roomy, routing={"capacity_factor": 1.25})
    dropping = words(megatron_lm.groups(read_solution(given)))
    assert dropping[dropping.index("--moe-expert-capacity-factor") + 1] == "1.25"
    assert "--moe-expert-rank-capacity-factor" not in dropping


@pytest.mark.parametrize(
    "values",
    [[0, 1] * 24, [0] * 3 + [1] * 58, [1], [0, 1, 1], [1, 1, 1, 0] * 12, [0, 0, 1, 0, 1], [1] * 7],
)
def test_patterns_evaluate_to_the_layers(values: list[int]) -> None:
    """The text is an expression of Megatron's notation (digits, brackets, + and *) whose value is the list."""
    text = pattern(values)
    assert not set(text) - set("0123456789,[]()+*")
    assert _value(text) == values


def _value(text: str) -> list[int]:
    """The notation read back: a sum of lists times counts, in one pair of brackets."""
    found: list[int] = []
    for part in text.removeprefix("(").removesuffix(")").split("+"):
        block, _, times = part.partition("*")
        found += [int(value) for value in block.strip("[]").split(",")] * int(times)
    return found
