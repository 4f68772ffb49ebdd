"""Activation and optimizer offloading, and the routing of a freshly initialised router."""

from math import sqrt
from typing import Any

import numpy as np
import pytest

from launch_cases import solution
from memory_problems import DEEPSEEK_V3, QWEN3_30B, degrees, problem
from moeopt.accounting.memory.activations import kept_tensors
from moeopt.accounting.memory.explain import explain_stage
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.routing import initial_imbalance, repetition
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.layout import Choices, Layout, Recompute
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.resolve import degrees_of, pipeline_of

GIVEN = degrees(tp=2, pp=2, dp=4, ep=4, edp=2, etp=1, micro_batch_size=1, num_microbatches=8, interleave_group=2)
MODULES = {
    "attn_norm": {"layer input (residual)"},
    "qkv_linear": {
        "attention input (normed)",
        "compressed query",
        "compressed query (normed)",
        "compressed key-value and rotary key",
        "compressed key-value (normed)",
    },
    "core_attn": {"query", "key (one a head)", "value"},
    "mlp_norm": {"feed-forward input (residual)"},
    "expert_fc1": {"routed fc1 input (sorted)"},
    "moe_act": {"routed fc1 output"},
}


def kept(choices: Choices, architecture: dict[str, Any] = DEEPSEEK_V3) -> dict[str, int]:
    asked = problem(architecture, mtp=False)
    kind = next(kind for kind in asked.architecture.kinds if kind.ffn == "moe")
    return {item.name: item.bytes for item in kept_tensors(asked, kind, GIVEN, choices)}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_takes_its_own_tensors_along(module: str) -> None:
    """Offloading one module moves just the large tensors that autograd saves inside it, and no other."""
    plain, away = kept(Choices()), kept(Choices(offload=(module,)))
    assert set(plain) - set(away) == MODULES[module]
    assert all(away[name] == plain[name] for name in away)


def test_the_projections_input_goes_with_the_core() -> None:
    """The attention output is saved by the core and by the projection: only offloading both takes it off the GPU."""
    assert "attention output" in kept(Choices(offload=("core_attn",)))
    assert "attention output" not in kept(Choices(offload=("attn_proj", "core_attn")))


def test_small_tensors_stay() -> None:
    """Below 2^20 elements nothing is moved (--min-offloaded-tensor-size)."""
    asked = problem({**QWEN3_30B, "hidden_size": 512}, sequence_length=512, mtp=False)
    small = degrees(tp=1, pp=1, dp=8, ep=8, edp=1, etp=1)
    choices = Choices(offload=("qkv_linear", "mlp_norm"))
    kind = asked.architecture.kinds[0]
    given, plain = (kept_tensors(asked, kind, small, each) for each in (choices, Choices()))
    moved = {item.name for item in plain} - {item.name for item in given}
    assert moved == {"query norm input"}  # 512 * 4096 elements; 512 * 512 of the others


@pytest.mark.parametrize("recompute", [Recompute(), Recompute(modules=("layernorm", "moe_act", "mla_up_proj"))])
def test_what_recompute_frees_is_not_freed_twice(recompute: Recompute) -> None:
    """Kept bytes are those of nothing recomputed less what each chosen module frees, with offloading too."""
    asked = problem(DEEPSEEK_V3, mtp=False)
    offload = ("core_attn", "attn_proj", "qkv_linear", "moe_act")
    plain = memory_terms(asked, GIVEN, Choices(offload=offload))
    chosen = memory_terms(asked, GIVEN, Choices(offload=offload, recompute=recompute))
    for piece, size in plain.kept_bytes.items():
        assert chosen.kept_bytes[piece] == size - sum(plain.freed_bytes[name][piece] for name in recompute.modules)
    for piece in asked.architecture.kinds:
        assert chosen.transient_bytes[piece] >= plain.transient_bytes[piece] - plain.queued_bytes[piece]


def test_offloaded_lines_are_told_and_add_up() -> None:
    """--explain-memory lists what waits in host memory apart from what is kept, and its sums are the stage's."""
    fields: dict[str, Any] = {"tp": 2, "pp": 2, "ep": 8, "etp": 1, "offload": ["core_attn", "attn_proj", "expert_fc1"]}
    answer = solution(fields)
    asked = load_problem(
        {
            "architecture": "qwen3-30b-a3b",
            "cluster": "h100-sxm",
            "gpus": 64,
            "workload": {"sequence_length": 4096, "global_batch_size": 512},
        }
    )
    full = read_fields(Layout, answer["layout"], "layout")
    pipeline = pipeline_of(full)
    assert pipeline is not None
    lines = explain_stage(asked, degrees_of(full), full.choices, pipeline, 0)
    assert lines["activations"]["total_bytes"] == answer["memory"]["per_stage"][0]["activations_bytes"]
    layer = lines["pieces"][0]
    assert {item["offloaded_by"] for item in layer["offloaded"]} == set(fields["offload"])
    less = solution({**fields, "offload": []})["memory"]["peak_bytes"] - answer["memory"]["peak_bytes"]
    assert less > sum(item["bytes"] for item in layer["offloaded"])


def test_copies_hide_under_computation_until_they_do_not() -> None:
    """Over a fast link offloading costs no time; over a slow one each pass shows what it cannot hide."""
    asked = problem(DEEPSEEK_V3, mtp=False)
    choices = Choices(offload=("core_attn", "attn_proj", "qkv_linear"))

    def at(bandwidth: float) -> tuple[int, int]:
        cluster = asked.cluster.model_copy(update={"host_bandwidth_bytes_per_s": bandwidth})
        terms = time_terms(asked.model_copy(update={"cluster": cluster}), GIVEN, choices)
        kind = asked.architecture.kinds[-1]
        return terms.forward_parts["offload"][kind], terms.backward_parts["offload"][kind]

    assert at(9e12) == (0, 0)
    slow = at(5e9)
    assert slow[0] > slow[1] > 0  # the backward pass is longer, and hides more
    assert at(2.5e9)[0] > 2 * slow[0]  # what is hidden stays the same while the copy takes twice the time


def test_copies_hide_under_what_is_recomputed_too() -> None:
    """A backward pass that waits for the host takes no longer with something recomputed, until that takes longer than
    the wait; gathers of Megatron-FSDP that it waits for as well count once."""
    asked = problem(DEEPSEEK_V3, mtp=False)
    cluster = asked.cluster.model_copy(update={"host_bandwidth_bytes_per_s": 5e9})
    slow = asked.model_copy(update={"cluster": cluster})
    kind = asked.architecture.kinds[-1]
    for fsdp in ("none", "optim_grads_params"):
        choices = Choices(offload=("core_attn", "attn_proj", "qkv_linear"), fsdp=fsdp)
        plain, again = (
            time_terms(slow, GIVEN, choices.with_recompute(Recompute(modules=modules)))
            for modules in ((), ("moe_act", "mla_up_proj"))
        )
        assert 0 < again.backward_parts["recompute"][kind] < plain.idle_ns[kind]
        assert again.backward_ns[kind] == plain.backward_ns[kind]


def test_an_offloaded_optimizer_leaves_what_megatron_leaves() -> None:
    """With the precision-aware optimizer, a fraction f in host memory leaves 12 (1 - f) bytes a shard element: fp32
    master and moments whatever types are given. Without it (Megatron-Bridge) fp32 masters stay: 4 + 8 (1 - f)."""
    asked = problem(QWEN3_30B)
    for fraction in (0.25, 0.5, 1.0):
        aware = {"offload_fraction": fraction, "precision_aware": True, "moments": "bf16"}
        terms = memory_terms(asked, GIVEN, Choices(optimizer=aware))
        assert terms.optimizer_bytes_per_shard_element == 12 * (1 - fraction)
        plain = memory_terms(asked, GIVEN, Choices(optimizer={"offload_fraction": fraction}))
        assert plain.optimizer_bytes_per_shard_element == 4 + 8 * (1 - fraction)


def test_more_ranks_or_fewer_choices_are_less_even() -> None:
    """The factor is one without experts or with one rank, and grows with ep, with fewer experts a token, and with a
    smaller vocabulary (its types repeat more)."""
    of = problem(DEEPSEEK_V3).architecture
    factors = [initial_imbalance(of, ep) for ep in (1, 2, 8, 64)]
    assert factors[0] == 1000
    assert factors == sorted(factors)
    fewer = problem({**DEEPSEEK_V3, "num_experts_per_tok": 2}).architecture
    smaller = problem({**DEEPSEEK_V3, "vocab_size": 1000}).architecture
    assert initial_imbalance(fewer, 8) > factors[2] < initial_imbalance(smaller, 8)
    assert (
        initial_imbalance(
            problem(
                {
                    **QWEN3_30B,
                    "num_experts": 0,
                    "num_experts_per_tok": 0,
                    "moe_intermediate_size": 0,
                    "intermediate_size": 64,
                }
            ).architecture,
            1,
        )
        == 1000
    )


@pytest.mark.parametrize(("experts", "chosen", "ep"), [(8, 2, 4), (8, 2, 8), (64, 8, 16), (128, 8, 8)])
def test_the_formula_is_what_drawing_gives(experts: int, chosen: int, ep: int) -> None:
    """Token types weighed by Zipf's law, each sent to random experts: the mean excess of the busiest rank over many
    draws is the formula's within a quarter (a few heavy types make it skew, most with few experts), plus noise."""
    vocabulary = 2000
    shape = {**QWEN3_30B, "num_experts": experts, "num_experts_per_tok": chosen, "vocab_size": vocabulary}
    weights = 1 / (np.arange(1, vocabulary + 1) + 2.7)
    weights /= weights.sum()
    assert repetition(vocabulary) == pytest.approx(float((weights**2).sum()))
    rng, busiest = np.random.default_rng(7), []
    for _ in range(300):
        chosen_experts = rng.random((vocabulary, experts)).argpartition(chosen, axis=1)[:, :chosen]
        ranks = chosen_experts // (experts // ep)
        loads = np.bincount(ranks.ravel(), weights=np.repeat(weights, chosen), minlength=ep)
        busiest.append(loads.max() / loads.mean())
    excess = float(np.mean(busiest)) - 1
    noise = 2 * float(np.std(busiest)) / sqrt(300)
    formula = initial_imbalance(problem(shape).architecture, ep) / 1000 - 1
    assert formula == pytest.approx(excess, abs=0.25 * excess + noise + 0.001)


def test_initial_routing_is_in_rows_and_time_alike() -> None:
    """The busiest rank's rows grow by the factor in memory and in time; columns say what integers say."""
    asked, even = problem(QWEN3_30B, routing="initial"), problem(QWEN3_30B)
    factor = initial_imbalance(asked.architecture, 4)
    assert tokens(asked, GIVEN, Choices()).routed * 1000 == pytest.approx(
        tokens(even, GIVEN, Choices()).routed * factor, rel=1e-3
    )
    kind = asked.architecture.kinds[0]
    grown = memory_terms(asked, GIVEN, Choices()).kept_bytes[kind]
    assert grown > memory_terms(even, GIVEN, Choices()).kept_bytes[kind]
    column = initial_imbalance(asked.architecture, np.array([1, 4, 8, 4]))
    assert list(column) == [initial_imbalance(asked.architecture, ep) for ep in (1, 4, 8, 4)]
    assert asked.workload.routing.description.startswith("initial")
