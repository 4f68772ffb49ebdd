"""Laws of scaling: what a step's parts must do when GPUs, sequence, a degree or the machine change, whatever the
constants are. Published rows test few of these regimes; a search visits them all."""

from itertools import pairwise
from typing import Any

import pytest

from moeopt.accounting.ledger import Ledger
from moeopt.accounting.time.dispatch import dispatch_ns
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.layout import Choices
from moeopt.pipeline import PipelineLayout
from time_cases import degrees, problem

FEW_TO_MANY = (64, 256, 1024, 2048, 8192, 131_072)


def parts(asked: Any, given: Any, choices: Choices = Choices()) -> dict[str, int]:  # noqa: B008 - frozen
    """Forward and backward time of the last layer kind, by part."""
    terms, kind = time_terms(asked, given, choices), asked.architecture.layers[-1]
    both = (terms.forward_parts, terms.backward_parts)
    return {name: sum(int(passes[name][kind]) for passes in both) for name in terms.forward_parts}


@pytest.mark.parametrize("microbatches", [1, 4, 32])
@pytest.mark.parametrize("choices", [Choices(), Choices(dispatcher="deepep", fsdp="optim_grads_params")], ids=str)
def test_more_gpus_never_make_a_gpu_faster(choices: Choices, microbatches: int) -> None:
    """Weak scaling: with the same micro-batches on every GPU a step never gets shorter as GPUs are added, but for the
    optimizer state, which is spread thinner; and DistributedDataParallel's overlapped gradients level off: from 1,024
    to 131,072 GPUs a step grows by less than 3 %."""
    steps = []
    for gpus in FEW_TO_MANY:
        asked = problem("mixtral-8x22b", "h100-sxm", gpus=gpus, global_batch_size=gpus // 2 * microbatches)
        given = degrees(gpus=gpus, tp=2, ep=8, num_microbatches=microbatches)
        pipeline = PipelineLayout.even(56, 1, 1, 0)
        assert pipeline is not None
        step = Ledger(asked, given, choices).step_time(pipeline)
        steps.append(step.total_ns - step.parts["optimizer"])
    assert steps == sorted(steps)
    if choices.fsdp == "none":
        assert steps[-1] < 1.03 * steps[2]


def test_doubling_the_sequence() -> None:
    """Twice the tokens of one sequence: the attention core takes between 3 and 4 times as long (4 times the pairs, by
    longer and better kernels), everything whose time is tokens twice as long; weights are read as often as before."""
    for architecture in ("qwen3-235b-a22b", "deepseek-v3"):
        for s in (4096, 16384, 65536):
            once, twice = (
                parts(problem(architecture, "h100-sxm", sequence_length=length, mtp=False), degrees(ep=8, pp=4))
                for length in (s, 2 * s)
            )
            assert 3 < twice["attention"] / once["attention"] <= 4
            assert twice["memory_bound"] == pytest.approx(2 * once["memory_bound"], rel=1e-4)
            assert 1.5 < twice["gemm"] / once["gemm"] < 2


def test_doubling_the_sequence_and_context_parallelism() -> None:
    """With cp doubled as well a GPU holds as many tokens as before: products and memory-bound kernels stay, the core
    doubles exactly (its ring steps are as long as before), so the model's rate falls only by attention and its ring."""
    for cp in (1, 2, 4, 8):
        once, twice = (
            parts(problem("qwen3-235b-a22b", "h100-sxm", sequence_length=8192 * c), degrees(ep=8, cp=c))
            for c in (cp, 2 * cp)
        )
        assert twice["gemm"] == once["gemm"]
        assert twice["memory_bound"] == once["memory_bound"]
        assert twice["attention"] == pytest.approx(2 * once["attention"], rel=1e-6)


def test_longer_rings_show_more() -> None:
    """One sequence over more GPUs: what stays exposed of the context ring never falls, and its share of the attention
    core grows with every doubling (less attention to hide behind, as many bytes as before)."""
    shown, shares = [], []
    for cp in (2, 4, 8, 16, 32, 64):
        found = parts(problem("mixtral-8x22b", "h100-sxm", sequence_length=131_072), degrees(ep=8, cp=cp))
        shown.append(found["cp_comm"])
        shares.append(found["cp_comm"] / found["attention"])
    assert shares == sorted(shares)
    assert shown == sorted(shown)


@pytest.mark.parametrize("cluster", ["h100-sxm", "h800", "gb200-nvl72"])
@pytest.mark.parametrize("architecture", ["deepseek-v3", "qwen3-235b-a22b", "kimi-k2"])
def test_expert_parallelism_over_more_gpus(architecture: str, cluster: str) -> None:
    """EP 8 to 256 at the same tokens a GPU: a dispatch never gets cheaper, a token that travels once to a domain never
    costs more than one that travels once to an expert (with SMs enough for NVLink), and across domains it costs as many
    copies as domains it visits, at most its choices (or groups)."""
    asked = problem(architecture, cluster, gpus=2048)
    rate, hidden = rates(asked), asked.architecture.hidden_size
    times: dict[str, list[int]] = {"alltoall": [], "deepep": []}
    for ep in (8, 16, 32, 64, 128):
        given = degrees(gpus=2048, ep=ep)
        for dispatcher, found in times.items():
            choices = Choices(dispatcher=dispatcher, dispatcher_sms=64)  # type: ignore[arg-type]
            found.append(int(dispatch_ns(asked, given, choices, tokens(asked, given, choices), rate)))
    for found in times.values():
        assert found == sorted(found)
    assert all(once <= each for once, each in zip(times["deepep"], times["alltoall"], strict=True))
    copies = asked.architecture.num_experts_per_tok
    most = 4096 * copies * 2 * hidden * 1000 // rate.network_bytes_per_us + 60_000
    assert times["deepep"][-1] <= most


def test_more_choices_a_token() -> None:
    """Twice the experts a token: NCCL's all-to-all carries twice the rows; DeepEP less, once a token visits every
    domain anyway nothing more across; products of the experts twice the FLOP and as many weights."""
    seen = []
    for top in (1, 2, 4, 8, 16):
        asked = problem({"base": "qwen3-30b-a3b", "num_experts_per_tok": top}, "h100-sxm", gpus=64)
        given = degrees(gpus=64, ep=16)
        pair = []
        for dispatcher in ("alltoall", "deepep"):
            choices = Choices(dispatcher=dispatcher)  # type: ignore[arg-type]
            fixed: int = getattr(rates(asked).efficiency.dispatch_latency_ns, dispatcher)
            pair.append(int(dispatch_ns(asked, given, choices, tokens(asked, given, choices), rates(asked))) - fixed)
        seen.append((*pair, parts(asked, given)["gemm"]))
    for fewer, more in pairwise(seen):
        assert more[0] == pytest.approx(2 * fewer[0], rel=1e-3)
        assert fewer[1] < more[1] < 2 * fewer[1]
        assert fewer[2] < more[2] < 2 * fewer[2]


def test_eight_bits_gain_less_where_layers_are_narrow() -> None:
    """fp8 on H100: products of a wide dense layer take little more than half of bf16's time, those of narrow experts
    gain less; the bytes of quantisation are paid on top, attention stays."""
    gains = {}
    for architecture, ep in (("llama-3-405b", 1), ("mixtral-8x22b", 8), ("qwen3-30b-a3b", 8)):
        found = [
            parts(problem(architecture, "h100-sxm", precision=precision), degrees(ep=ep, micro_batch_size=4))
            for precision in ("bf16", "fp8")
        ]
        gains[architecture] = found[0]["gemm"] / found[1]["gemm"]
        assert found[1]["memory_bound"] > found[0]["memory_bound"]
        assert found[1]["attention"] == found[0]["attention"]
    assert 1.6 < gains["llama-3-405b"] < 1.95
    assert gains["llama-3-405b"] > gains["mixtral-8x22b"] > gains["qwen3-30b-a3b"] > 1.1


def test_machines_that_differ_in_one_thing() -> None:
    """H200 is an H100 with more memory bandwidth: the same attention, memory-bound kernels shorter by 3.35/4.8. H800 is
    one with less NVLink: the same compute, transfers inside a node longer by 450/200, across nodes the same."""
    given = degrees(gpus=64, ep=8, tp=4)
    h100, h200, h800 = (
        parts(problem("qwen3-235b-a22b", name, gpus=64), given) for name in ("h100-sxm", "h200", "h800")
    )
    assert h200["attention"] == h100["attention"] == h800["attention"]
    assert h200["memory_bound"] == pytest.approx(h100["memory_bound"] * 3.35 / 4.8, rel=1e-3)
    assert h800["gemm"] == h100["gemm"]
    assert 1.5 < h800["tp_comm"] / h100["tp_comm"] < 450 / 200
    crossing = degrees(gpus=64, ep=64)
    far = [parts(problem("qwen3-235b-a22b", name, gpus=64), crossing)["ep_comm"] for name in ("h100-sxm", "h800")]
    assert far[0] == far[1]
