"""Each mechanism alone against what others measured (tests/data/step_time_measurements.json names the sources)."""

from typing import Any

import pytest

from moeopt.accounting.time import attention, gemm
from moeopt.accounting.time.dispatch import dispatch_ns
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.flops import sequence_flops
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.accounting.time.topology import ring_bytes_per_us, ring_latency_ns
from moeopt.layout import Choices, Overlap, Recompute
from time_cases import MEASURED, degrees, problem


@pytest.mark.parametrize("row", MEASURED["grouped_gemm"]["rows"], ids=str)
def test_grouped_gemms_follow_from_tensor_time_and_one_pass_over_the_weights(row: list[Any]) -> None:
    """SimuMax's grouped GEMMs on B200: time from FLOP and weight bytes alone, with the shipped shares of peak, is
    within 18 % forward and 20 % backward from 128 to 1,024 rows an expert, where the share of peak itself varies by 2
    to 4 times."""
    experts, rows, n, k, forward, dgrad, wgrad = row
    rate = rates(problem("deepseek-v3", "b200"))
    work = gemm.Products(2 * experts * rows * n * k, experts * n * k)
    ideal = work.flops / 2_250_000
    predicted = gemm.forward_ns(work, rate.gemm_flops_per_ns, 2, rate)
    backward = gemm.backward_ns(work, rate.gemm_flops_per_ns, 2, rate, Choices())
    assert predicted == pytest.approx(ideal / forward, rel=0.18)
    assert backward == pytest.approx(ideal / dgrad + ideal / wgrad, rel=0.20)


@pytest.mark.parametrize("row", MEASURED["dispatch"]["rows"], ids=str)
def test_dispatch_table(row: list[Any]) -> None:
    """The Megatron-Core report's dispatch and combine, EP 8 to 64 on NVL72 and on H100 nodes, HybridEP and NCCL: within
    17 % and 22 % of the mean of the two."""
    cluster, ep, *measured = row
    asked, given = problem("deepseek-v3", cluster, gpus=64), degrees(gpus=64, ep=ep)
    rate = rates(asked)
    for dispatcher, pair, tolerance in (("hybridep", measured[:2], 0.17), ("alltoall", measured[2:], 0.22)):
        choices = Choices(dispatcher=dispatcher)
        time = dispatch_ns(asked, given, choices, tokens(asked, given, choices), rate)
        assert time == pytest.approx(500 * sum(pair), rel=tolerance)


def fused_dispatch_ns(cluster: str, dispatcher: str, ranks: int, experts: int, sms: int) -> int:
    """One exchange of 4096 tokens of 7168, top 8, with so many SMs."""
    base = {"base": "qwen3-235b-a22b", "hidden_size": 7168, "num_experts": experts}
    asked, given = problem(base, cluster, gpus=64), degrees(gpus=64, ep=ranks)
    choices = Choices(dispatcher=dispatcher, dispatcher_sms=sms)  # type: ignore[arg-type]
    return int(dispatch_ns(asked, given, choices, tokens(asked, given, choices), rates(asked)))


@pytest.mark.parametrize("row", MEASURED["dispatch_rates"]["rows"], ids=str)
def test_dispatch_by_sms(row: list[Any]) -> None:
    """DeepEP and HybridEP with 4 to 48 SMs, in a node, in an NVL72 and over H100 nodes, against what their own table
    says: within 19 % of the mean of dispatch and combine. DeepEP's SMs limit it on Blackwell, HybridEP's hardly."""
    cluster, dispatcher, ranks, sms, *measured = row
    groups = ranks if cluster != "h100-sxm" else ranks // 8
    copies = groups * (1 - (1 - 1 / groups) ** 8)
    mean = sum(copies * 4096 * 7168 * 2 / rate for rate in measured) / 2
    assert fused_dispatch_ns(cluster, dispatcher, ranks, 8 * ranks, sms) == pytest.approx(mean, rel=0.19)


@pytest.mark.parametrize(("cluster", "sms", "microseconds"), MEASURED["deepep_combine"]["rows"])
def test_deepep_by_sms(cluster: str, sms: int, microseconds: int) -> None:
    """DeepEP's combine in one node with 4 to 24 SMs on three generations: within 13 %."""
    assert fused_dispatch_ns(cluster, "deepep", 8, 256, sms) == pytest.approx(1000 * microseconds, rel=0.13)


@pytest.mark.parametrize(("sequence", "share"), MEASURED["attention"]["rows"])
def test_attention_core_by_sequence(sequence: int, share: float) -> None:
    """Causal GQA forward on H100: share of the bf16 peak within 4 % of the measured one from 1K to 16K; backward
    takes 2.5 times the FLOP at 0.8 of the rate."""
    asked = problem("qwen3-235b-a22b", "h100-sxm", sequence_length=sequence)
    forward, backward = attention.core_ns(asked, degrees(), rates(asked), window=0)
    flops = attention.core_flops(asked, degrees(), window=0)
    assert flops == 2 * sequence**2 * 64 * 2 * 128 // 2
    assert flops / forward / 989_500 == pytest.approx(share, rel=0.04)
    assert backward == pytest.approx(forward * 2.5 / 0.80, abs=1)


@pytest.mark.parametrize("row", MEASURED["attention_growth"]["rows"], ids=str)
def test_attention_grows_with_the_sequence_as_training_kernels_do(row: list[Any]) -> None:
    """Between two lengths forward and backward together speed up as measured training kernels do (cuDNN MLA on both
    generations, GQA on B200), within 5 %: what the core costs at 128K follows from that, not from its rate at 4K."""
    cluster, short, long, *measured = row
    architecture = "deepseek-v3" if measured[-1] == "mla" else "llama-3-70b"
    rates_at = []
    for sequence in (short, long):
        asked = problem(architecture, cluster, sequence_length=sequence, mtp=False)
        both = sum(attention.core_ns(asked, degrees(), rates(asked), window=0))
        rates_at.append(attention.core_flops(asked, degrees(), window=0) / both)
    forward_ratio, backward_ratio, backward_over_forward = measured[:3]
    share = 2.5 / backward_over_forward
    slower = (1 + share) / (1 / forward_ratio + share / backward_ratio)
    assert rates_at[1] / rates_at[0] == pytest.approx(slower, rel=0.05)


@pytest.mark.parametrize("row", MEASURED["ring_gather"]["rows"], ids=str)
def test_gathers_inside_a_domain(row: list[Any]) -> None:
    """NCCL's all-gather on 4 and 8 GPUs, 32 and 512 MiB: bytes over bandwidth and the filling of the ring give the
    measured time within 15 %; on 2 GPUs, where fewer channels run, it takes up to 1.5 times as long."""
    cluster, size, mib, bus = row
    asked = problem("qwen3-235b-a22b", cluster, gpus=64)
    rate = rates(asked)
    moved = mib * 2**20 * (size - 1) / size
    predicted = moved * 1000 / ring_bytes_per_us(asked, degrees(gpus=64), rate, size, 1)
    predicted += ring_latency_ns(asked, degrees(gpus=64), size, 1)
    measured = moved / bus
    if size == 2:
        assert 0.66 < predicted / measured < 1
    else:
        assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("row", MEASURED["fp8_products"]["rows"], ids=str)
def test_products_in_8_bits_pay_for_their_inputs_and_outputs(row: list[Any]) -> None:
    """Per-tensor fp8 products on H100, their quantisation taken out: a depth or width of 2,048 costs a quarter of the
    rate that 16,384 x 8,192 reaches; tensor time and one pass over all operands give every shape within 12 % (18 %
    where the output is the narrow side). In bf16 the same shapes lose nothing, and the formula less than 8 %."""
    m, n, k, tflops = row
    asked = problem("llama-3-70b", "h100-sxm", precision="fp8")
    rate = rates(asked)
    read = (2 + 1) * m * k / (rate.memory_bytes_per_us / 1000)  # quantising: 2 bytes read, 1 written
    measured = 2 * m * n * k / tflops / 1000 - read
    peak = 1979 * 0.83
    operands = (m * k + 2 * m * n + n * k) / (rate.weight_bytes_per_us / 1000)
    assert 2 * m * n * k / peak / 1000 + operands == pytest.approx(measured, rel=0.12 if n > 2048 else 0.18)
    work = gemm.product(m, n, k)
    assert (work.flops, work.weights, work.inputs, work.outputs) == (2 * m * n * k, n * k, m * k, m * n)
    added = gemm.forward_ns(work, rate.gemm_flops_per_ns, 1, rate)
    assert added == pytest.approx(2 * m * n * k / rate.gemm_flops_per_ns + operands, abs=3)
    plain = gemm.forward_ns(work, rate.bf16_gemm_flops_per_ns, 2, rate)
    assert plain == pytest.approx(2 * m * n * k / rate.bf16_gemm_flops_per_ns, rel=0.08)


@pytest.mark.parametrize(("name", "mtp", "gflops"), MEASURED["gflops_per_token"]["rows"])
def test_flops_per_token(name: str, mtp: bool, gflops: float) -> None:
    """FLOP of the architecture are those that Megatron-Bridge divides its published throughput by, to the printed
    digits: MLA, windows, shared experts and MTP included."""
    asked = problem(name, "h100-sxm", mtp=mtp)
    assert sequence_flops(asked) / 4096 / 1e9 == pytest.approx(gflops, abs=0.0051)


def test_token_counts() -> None:
    """DeepSeek-V3 at micro-batch 1 and 4,096 tokens: 128 x EP rows an expert when balanced; ETP multiplies rows, fp8
    pads each expert to 16, mxfp8 to 32, nvfp4 to 128, imbalance and capacity factor scale them; tp and cp share the
    tokens out."""
    for ep in (8, 32, 64):
        counts = tokens(problem(), degrees(ep=ep), Choices())
        assert counts.local_experts == 256 // ep
        assert counts.expert_rows == 4096 * 8
        assert counts.expert_rows // counts.local_experts == 128 * ep
    assert tokens(problem(), degrees(ep=8, etp=2), Choices()).expert_rows == 2 * 4096 * 8
    half = tokens(problem(), degrees(ep=8, tp=2, cp=4), Choices())
    assert (half.attention, half.local, half.expert_rows) == (1024, 512, 512 * 8)
    assert tokens(problem(), degrees(tp=2), Choices(sequence_parallel=False)).local == 4096
    short = {"sequence_length": 1000}
    for precision, block in (("bf16", 1), ("fp8", 16), ("mxfp8", 32), ("nvfp4", 128)):
        rows = tokens(problem(precision=precision, **short), degrees(ep=8), Choices()).expert_rows
        assert rows == 32 * -(-250 // block) * block
    assert tokens(problem(routing={"imbalance": 1.5}), degrees(ep=8), Choices()).expert_rows == 1.5 * 4096 * 8
    assert tokens(problem(routing={"capacity_factor": 2.0}), degrees(ep=8), Choices()).routed == 2 * 4096 * 8


def layer_ns(asked: Any, given: Any, choices: Choices) -> int:
    """Forward and backward time of the last layer kind."""
    terms, kind = time_terms(asked, given, choices), asked.architecture.layers[-1]
    return int(terms.forward_ns[kind] + terms.backward_ns[kind])


def test_layer_of_deepseek_v3_on_nvl72() -> None:
    """A MoE layer of DeepSeek-V3 in mxfp8 on GB200, 4,096 tokens, EP 64: 11 to 13 ms of compute, of which 3.2 to 4.8
    memory-bound and 2.0 to 2.4 attention core, and 2.7 to 3.3 ms of all-to-all before hiding (derived by the publishers
    of the fit from the same bytes)."""
    asked = problem(precision="mxfp8")
    terms = time_terms(asked, degrees(ep=64, pp=4), Choices(dispatcher="hybridep", cuda_graphs="attention"))
    kind = asked.architecture.layers[-1]

    def both(part: str) -> float:
        return float(terms.forward_parts[part][kind] + terms.backward_parts[part][kind]) / 1e6

    assert 11 < both("gemm") + both("attention") + both("memory_bound") < 13
    assert 3.2 < both("memory_bound") < 4.8
    assert 2.0 < both("attention") < 2.4
    assert 2.7 < both("ep_comm") < 3.3


def test_head_and_loss_cost_more_than_a_layer() -> None:
    """Output head and loss of Qwen3-30B on H100 take 15 to 18 ms against about 9 ms a layer (1.2 to 2.4 layers): a
    pipeline that counts only layers is uneven."""
    asked, given = problem("qwen3-30b-a3b", "h100-sxm", gpus=16), degrees(gpus=16, ep=16)
    choices = Choices(dispatcher="hybridep", cuda_graphs="router")
    terms = time_terms(asked, given, choices)
    head = terms.forward_ns["loss"] + terms.backward_ns["loss"]
    assert 15e6 < head < 18e6
    assert 1.2 < head / layer_ns(asked, given, choices) < 2.4


def test_expert_parallelism_across_nodes_costs_what_was_published() -> None:
    """gpt-oss on 64 B200 with NCCL's all-to-all: EP 8 inside a node was 1.7 times as fast as EP 64 across eight
    (13,722 against 8,047 tokens/s in adjacent releases of Megatron-Bridge); on NVL72 the same change costs little."""
    choices = Choices(recompute=Recompute(modules=("layernorm", "moe_act")))
    ratios = {}
    for cluster in ("b200", "gb200-nvl72"):
        asked = problem("gpt-oss-120b", cluster, gpus=64)
        near, far = (layer_ns(asked, degrees(gpus=64, ep=ep, micro_batch_size=4), choices) for ep in (8, 64))
        ratios[cluster] = far / near
    assert 1.5 < ratios["b200"] < 2.2
    assert ratios["gb200-nvl72"] < 1.1


def test_full_iteration_graphs_remove_host_time() -> None:
    """Qwen3-30B on 8 B200 at micro-batch 1 is bound by launches: 8 to 11 ms a layer eager or with router graphs
    (9,299-9,691 tokens/s published), under half of it where the host is out of the way."""
    asked, given = problem("qwen3-30b-a3b", "b200", gpus=8, precision="mxfp8"), degrees(gpus=8, ep=8)
    eager = layer_ns(asked, given, Choices(cuda_graphs="router"))
    assert 8e6 < eager < 11e6
    assert 2 * layer_ns(asked, given, Choices(cuda_graphs="full_iteration")) < eager
    assert (
        time_terms(asked, given, Choices(cuda_graphs="full_iteration")).forward_parts["host"][
            asked.architecture.layers[-1]
        ]
        == 0
    )


def test_overlap_hides_as_much_as_published_pairs() -> None:
    """Qwen3-30B over two H100 nodes with HybridEP: overlap of the all-to-all took 14.7 to 18.5 % off the step (24.71 s
    to 21.07 and 20.15 s); predicted off one layer: 10 to 25 %."""
    asked, given = problem("qwen3-30b-a3b", "h100-sxm", gpus=16), degrees(gpus=16, ep=16)
    off, on = (
        layer_ns(
            asked, given, Choices(dispatcher="hybridep", cuda_graphs="router", overlap=Overlap(ep_all_to_all=hide))
        )
        for hide in (False, True)
    )
    assert 0.10 < 1 - on / off < 0.25


def test_biased_experts_follow_from_fields_not_from_a_name() -> None:
    """The slowdown of gpt-oss blocks hangs on `mlp_bias` and `attention_sinks`; without either it is gone."""
    given = degrees(gpus=64, ep=64)
    for architecture, slow in (
        ("gpt-oss-120b", True),
        ({"base": "gpt-oss-120b", "mlp_bias": False}, False),
        ({"base": "gpt-oss-120b", "attention_sinks": False}, False),
        ({"base": "gpt-oss-120b", "name": "another"}, True),
    ):
        asked = problem(architecture, gpus=64)
        unfused = time_terms(asked, given, Choices()).forward_parts["unfused"]
        assert (unfused[asked.architecture.layers[0]] > 0) == slow
