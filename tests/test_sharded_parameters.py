"""Megatron-FSDP: what it shards, what it gathers, what it costs, its launch and the way back."""

import shlex
from math import ceil, lcm
from typing import Any

import numpy as np
import pytest

from launch_cases import solution
from memory_problems import DEEPSEEK_V3, QWEN3_30B, degrees, problem
from moeopt.accounting.fsdp import chunk_factor, unit_elements
from moeopt.accounting.memory.explain import explain_stage
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

STRATEGIES = ("none", "no_shard", "optim", "optim_grads", "optim_grads_params")
SHAPE = {"tp": 2, "pp": 2, "ep": 8, "etp": 1}
QUESTION = {
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
    ("rows", "sizes", "factor"),
    [
        ([7168, 16384, 1], [7168 * 64, 16384 * 7168, 7168], lcm(7168, 16384)),
        ([2048, 1024, 1], [2048 * 8, 2048 * 1024, 2048], 2048),
        ([2048, 1024], [2048 * 8, 1024 * 3], 2048 * 1),
        ([512, 1], [512 * 512, 100], 512),
    ],
)
def test_chunk_factor_is_megatrons(rows: list[int], sizes: list[int], factor: int) -> None:
    """The longest row; widened to a common multiple only for a tensor whose row does not divide it, or whose elements
    are no multiple of it, unless the whole tensor is shorter than one row. Columns say the same as integers."""
    expected = factor
    if rows == [2048, 1024] and sizes[1] % 2048:
        expected = lcm(2048, 1024)
    assert chunk_factor(rows, sizes) == expected
    columns = chunk_factor([np.array([row, row]) for row in rows], [np.array([size, size]) for size in sizes])
    assert list(np.broadcast_to(columns, 2)) == [expected, expected]


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
    assert weights["optimizer"] == gradients["optimizer"]
    larger = solution({**SHAPE, "fsdp": "optim_grads_params", "micro_batch_size": 2})["step_time"]["parts"]
    assert larger["fsdp_comm"] < weights["fsdp_comm"]


def test_launch_and_back(tmp_path: Any) -> None:
    """The launch names the strategy, its types, its checkpoint format and more than one hardware queue; reading the
    script gives the same layout back."""
    fields = {**SHAPE, "fsdp": "optim_grads_params", "offload": ["core_attn", "attn_proj"]}
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
    assert found["fsdp"] == "optim_grads_params"
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
