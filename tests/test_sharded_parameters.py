"""Megatron-FSDP: what it shards, what it gathers, what it costs, its launch and the way back."""

import json
import shlex
from math import ceil, lcm
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch_cases import solution
from memory_problems import DEEPSEEK_V3, LLAMA3_70B, QWEN3_30B, degrees, problem
from moeopt.accounting.fsdp import packed, unit_bytes, unit_elements
from moeopt.accounting.memory.explain import explain_stage
from moeopt.accounting.memory.gathered import ahead_elements, gathered
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.sharding import piece_elements
from moeopt.accounting.time.terms import time_terms
from moeopt.layout import Choices, Degrees, Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.readers import read
from moeopt.resolve import degrees_of, pipeline_of
from moeopt.writers.job import job_of
from moeopt.writers.megatron_lm import payload
from moeopt.writers.shell import words

BUCKETS = json.loads((Path(__file__).parent / "data" / "megatron_fsdp_buckets.json").read_text())["rows"]
GPT_OSS = {
    "hidden_size": 2880,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 2880,
    "mlp_bias": True,
    "attention_bias": True,
    "attention_output_bias": True,
    "attention_sinks": True,
    "router_bias": True,
}
BUCKET_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "deepseek-v3": DEEPSEEK_V3,
    "qwen3-30b": QWEN3_30B,
    "llama-70b": LLAMA3_70B,
    "gpt-oss": GPT_OSS,
}
STRATEGIES = ("none", "no_shard", "optim", "optim_grads", "optim_grads_params")
SHAPE = {"tp": 2, "pp": 2, "ep": 8, "etp": 1}
QUESTION: dict[str, Any] = {
    "architecture": "qwen3-30b-a3b",
    "cluster": "h100-sxm",
    "gpus": 64,
    "workload": {"sequence_length": 4096, "global_batch_size": 512},
}


def stage(strategy: str, **fields: Any) -> dict[str, int]:
    answer = solution({**SHAPE, **fields, "fsdp": strategy})
    found: dict[str, int] = answer["memory"]["per_stage"][0]
    return found


def test_each_strategy_shards_one_thing_more() -> None:
    """no_shard keeps the whole state; optim shards it; optim_grads also gradients; optim_grads_params also weights,
    each to less than before while the rest stays; the state is the same from optim on."""
    whole, state, gradients, weights = (stage(name) for name in STRATEGIES[1:])
    assert whole["optimizer_bytes"] > 3 * state["optimizer_bytes"]
    assert whole["gradients_bytes"] <= state["gradients_bytes"]
    assert state["optimizer_bytes"] == gradients["optimizer_bytes"] == weights["optimizer_bytes"]
    assert gradients["gradients_bytes"] == weights["gradients_bytes"] < state["gradients_bytes"] / 2
    assert gradients["weights_bytes"] == state["weights_bytes"]
    assert weights["weights_bytes"] < state["weights_bytes"] / 2


def test_sharded_bytes_are_a_shard_of_everything() -> None:
    """Under optim_grads_params, weights : gradients : state of a stage are 2 : 4 : 12, and exactly so (16 : 8 with the
    bf16 types), since all are shards of the same buckets."""
    found = stage("optim_grads_params")
    assert found["gradients_bytes"] == 2 * found["weights_bytes"]
    assert found["optimizer_bytes"] == 6 * found["weights_bytes"]
    small = stage("optim_grads_params", optimizer={"main_grads": "bf16", "moments": "bf16", "precision_aware": True})
    assert small["gradients_bytes"] == small["weights_bytes"]
    assert small["optimizer_bytes"] == 4 * small["weights_bytes"]  # whole fp32 master weights, two bf16 moments


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("architecture", [DEEPSEEK_V3, QWEN3_30B])
def test_buckets_end_at_ranks_times_rows(architecture: dict[str, Any], tp: int) -> None:
    """A unit's bucket holds its parameters and is padded by less than ranks * factor plus one factor a tensor, to a
    multiple of ranks * factor, where the factor is a common multiple of the row lengths that need one."""
    asked = problem(architecture)
    given = degrees(tp=tp, dp=16, ep=8, edp=2 * tp, etp=1)
    for kind in asked.architecture.kinds:
        held = unit_elements(asked, kind, given, Choices(fsdp="optim_grads_params"))
        plain = piece_elements(asked, kind, given)
        h = asked.architecture.hidden_size
        assert held.dense >= plain.dense
        assert held.expert >= plain.expert
        assert held.dense % (16 * h) == 0 or kind.ffn == "dense"
        assert held.expert % (2 * tp * h) == 0
        assert held.outside == 0


@pytest.mark.parametrize(
    ("tensors", "taken", "factor"),
    [
        ([(7168 * 64, 7168), (16384 * 7168, 16384), (7168, 1)], 7168 * (16 * 4 + 16384 + 1), lcm(7168, 16384)),
        ([(2048 * 8, 2048), (2048 * 1024, 1024), (2048, 1)], 2048 * (8 + 1024 + 1), 2048),
        ([(512 * 512, 512), (100, 1), (412, 1), (13, 1)], 512 * 512 + 525, 512),
        ([(12, 4), (9, 3)], 12 + 9, 12),
        ([(13, 4), (8, 4), (3, 1)], 16 + 8, 4),
        ([(13, 4), (10, 4), (2, 1)], 16 + 8 + 2, 4),
    ],
)
def test_tensors_are_packed_by_rows(tensors: list[tuple[int, int]], taken: int, factor: int) -> None:
    """Whole rows of the factor, with the rest of one other tensor and tensors shorter than a row in the gap; the factor
    is the longest row, widened for a row that does not divide it or whose tensor is no multiple of it."""
    assert packed(tensors) == (taken, factor)


@pytest.mark.parametrize("row", BUCKETS, ids=lambda row: f"{row['architecture']}-{row['piece']}-{row['degrees']}")
def test_buckets_are_megatrons(row: dict[str, Any]) -> None:
    """A unit's buckets have the elements that Megatron-FSDP's own functions give, and what lies outside of units within
    0.02 % (Megatron closes a bucket at 40 million elements)."""
    asked = problem(BUCKET_ARCHITECTURES[row["architecture"]])
    used = [*asked.architecture.kinds, "embedding", "loss", "mtp"]
    piece = next(piece for piece in used if str(piece) == row["piece"])
    held = unit_elements(asked, piece, degrees(**row["degrees"]), Choices(fsdp="optim_grads_params"))  # type: ignore[arg-type]
    assert (held.dense, held.expert) == (row["elements"]["dense"], row["elements"]["expert"])
    assert held.outside == pytest.approx(row["elements"]["outside"], rel=2e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_columns_say_what_integers_say(strategy: str) -> None:
    """Every price of memory and time is the same in a column of layouts as alone."""
    asked, choices = problem(DEEPSEEK_V3, mtp=True), Choices(fsdp=strategy)
    rows = [
        degrees(tp=t, pp=2, dp=d, ep=8, edp=t * d // 8, etp=1, num_microbatches=8, interleave_group=2)
        for t, d in ((1, 16), (2, 8), (4, 16), (8, 4))
    ]
    names = vars(rows[0])
    column = Degrees(**{name: np.array([getattr(row, name) for row in rows]) for name in names})
    memory, time = memory_terms(asked, column, choices), time_terms(asked, column, choices)
    for index, row in enumerate(rows):
        alone, ns = memory_terms(asked, row, choices), time_terms(asked, row, choices)
        for field in ("dense_elements", "expert_elements", "transient_bytes", "present_bytes", "queued_bytes"):
            for key, value in getattr(alone, field).items():
                assert np.broadcast_to(getattr(memory, field)[key], 4)[index] == value, (field, key)
        for key, value in ns.backward_ns.items():
            assert np.broadcast_to(time.backward_ns[key], 4)[index] == value


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_lines_add_up(strategy: str) -> None:
    """The lines of --explain-memory are the stage's numbers under every strategy."""
    answer = solution({**SHAPE, "fsdp": strategy})
    asked, full = load_problem(QUESTION), read_fields(Layout, answer["layout"], "layout")
    pipeline = pipeline_of(full)
    assert pipeline is not None
    for rank, given in enumerate(answer["memory"]["per_stage"]):
        lines = explain_stage(asked, degrees_of(full), full.choices, pipeline, rank)
        for name in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
            assert sum(line.get(name, 0) for line in lines["states"]) == given[name]
        assert sum(line["bytes"] for line in lines["buffers"]) == given["buffers_bytes"]
        assert lines["activations"]["total_bytes"] == given["activations_bytes"]
        largest = max(of[0]["bytes"] for of in lines["activations"]["moments"].values())
        assert lines["activations"]["passing_bytes"] <= largest


def test_reducing_every_microbatch_costs_time() -> None:
    """From optim_grads on every micro-batch reduces, and with sharded parameters gathers twice; nothing is left for the
    step's end but the optimizer. More micro-batches of the same step take more of it."""
    plain, gradients, weights = (
        solution({**SHAPE, "fsdp": name})["step_time"]["parts"]
        for name in ("optim", "optim_grads", "optim_grads_params")
    )
    assert "fsdp_comm" not in plain
    assert 0 < gradients["fsdp_comm"] < weights["fsdp_comm"]
    assert weights.get("gradient_reduce", 0) == weights.get("param_gather", 0) == 0
    assert weights["optimizer"] == pytest.approx(gradients["optimizer"], rel=1e-4)  # of the rank that ends last
    larger = solution({**SHAPE, "fsdp": "optim_grads_params", "micro_batch_size": 2})["step_time"]["parts"]
    assert larger["fsdp_comm"] < weights["fsdp_comm"]


def test_parameters_in_mxfp8_are_sharded_in_two_buffers() -> None:
    """Rows and columns of a byte each make the shards of 16-bit parameters, beside whole scales; what is gathered ahead
    of a unit, and sent for a pass, is half; the unit itself, by rows and by columns, is as large."""
    asked = load_problem({**QUESTION, "cluster": "b200"})
    eight = load_problem({**QUESTION, "cluster": "b200", "workload": {**QUESTION["workload"], "precision": "mxfp8"}})
    full = read_fields(Layout, solution({**SHAPE, "fsdp": "optim_grads_params"})["layout"], "layout")
    at, choices = degrees_of(full), full.choices
    kind = asked.architecture.kinds[0]
    plain, narrow = (memory_terms(each, at, choices) for each in (asked, eight))
    assert narrow.sharded_weight_bytes_per_element == plain.sharded_weight_bytes_per_element == 2
    assert narrow.quantized_bytes[kind] > plain.quantized_bytes[kind] == 0
    kept = dict.fromkeys(plain.kept_bytes, 10**15)  # so that no gradient waits
    ahead = [gathered(each, at, choices, 4, kept)[kind].passing for each in (asked, eight)]
    unit = unit_elements(asked, kind, at, choices)
    assert ahead[0] - ahead[1] == min(ahead_elements(unit), (asked.architecture.num_hidden_layers - 1) * unit.unit)
    assert unit_bytes(asked, choices) == (2, 2)
    assert unit_bytes(eight, choices) == (2, 1)
    assert unit_bytes(eight, Choices()) == (0, 0)


def test_double_buffers_bound_what_is_gathered() -> None:
    """Two layers' parameters and gradients stay, and nothing is gathered ahead of them: less than without where a layer
    is small beside half of 10^9 elements, and the lines still add up."""
    fields = {**SHAPE, "fsdp": "optim_grads_params"}
    plain, doubled = solution(fields), solution({**fields, "fsdp_double_buffer": True})
    assert doubled["memory"]["peak_bytes"] < plain["memory"]["peak_bytes"]
    asked, full = load_problem(QUESTION), read_fields(Layout, doubled["layout"], "layout")
    pipeline, at = pipeline_of(full), degrees_of(full)
    assert pipeline is not None
    lines = explain_stage(asked, at, full.choices, pipeline, 1)
    assert sum(line["bytes"] for line in lines["buffers"]) == doubled["memory"]["per_stage"][1]["buffers_bytes"]
    unit = unit_elements(asked, asked.architecture.kinds[0], at, full.choices).unit
    found = [line["bytes"] for line in lines["buffers"] if line["name"].startswith("double buffers")]
    assert found == [2 * unit * (2 + 4)]


def test_launch_and_back(tmp_path: Any) -> None:
    """The launch names the strategy, its types, its checkpoint format and more than one hardware queue; reading the
    script gives the same layout back."""
    fields = {
        **SHAPE,
        "fsdp": "optim_grads_params",
        "fsdp_double_buffer": True,
        "offload": ["core_attn", "attn_proj"],
    }
    answer = solution(fields)
    given = payload(job_of(load_problem(QUESTION), read_fields(Layout, answer["layout"], "layout")))
    line = shlex.join(words(given.groups))
    for text in (
        "--use-megatron-fsdp",
        "--data-parallel-sharding-strategy optim_grads_params",
        "--megatron-fsdp-main-grads-dtype fp32",
        "--ckpt-format fsdp_dtensor",
        "--fine-grained-activation-offloading",
        "--offload-modules attn_proj core_attn",
    ):
        assert text in line
    assert line.count("--ckpt-format") == 1
    assert given.environment["CUDA_DEVICE_MAX_CONNECTIONS"][0] != "1"
    script = tmp_path / "run.sh"
    script.write_text(f"torchrun --nproc-per-node 8 --nnodes 8 pretrain_gpt.py {line}\n")
    found = read(script).layout
    assert (found["fsdp"], found["fsdp_double_buffer"]) == ("optim_grads_params", True)
    assert found["offload"] == ["attn_proj", "core_attn"]
    assert found["optimizer"]["main_grads"] == "fp32"


def test_megatrons_defaults_are_read(tmp_path: Any) -> None:
    """Without a strategy it is optim_grads_params, without a type main gradients are the parameters' (bf16), and the
    distributed optimizer is on."""
    script = tmp_path / "run.sh"
    script.write_text(
        "torchrun --nproc-per-node 8 pretrain_gpt.py --use-megatron-fsdp --num-layers 2 --hidden-size 64 "
        "--num-attention-heads 4 --micro-batch-size 1 --seq-length 128 --bf16 --num-experts 4 --swiglu\n"
    )
    found = read(script).layout
    assert (found["fsdp"], found["optimizer"]["main_grads"]) == ("optim_grads_params", "bf16")
    assert found["distributed_optimizer"] is True


def test_less_is_claimed_where_nothing_is_gathered_ahead() -> None:
    """The bound on passing bytes for all recompute settings leaves out what falls as kept bytes rise."""
    asked = problem(DEEPSEEK_V3, mtp=False)
    given = degrees(pp=4, dp=64, ep=64, edp=1, etp=1, num_microbatches=16, interleave_group=4)
    full = memory_terms(asked, given, Choices(fsdp="optim_grads_params", recompute="full"))
    none = memory_terms(asked, given, Choices(fsdp="optim_grads_params"))
    for kind in asked.architecture.kinds:
        assert full.queued_bytes[kind] >= none.queued_bytes[kind]
        assert full.transient_bytes[kind] - full.queued_bytes[kind] >= ceil(none.transient_bytes[kind] / 100)
