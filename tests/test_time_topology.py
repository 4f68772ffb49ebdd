from fractions import Fraction

import pytest

from moeopt.accounting.time.collectives import context_ring_ns, expert_tensor_ns, hop_ns, tensor_block_ns
from moeopt.accounting.time.dispatch import dispatch_ns, hit_share
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.step_end import step_end, step_end_ns
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.accounting.time.topology import domains, ring_bytes_per_us, ring_latency_ns
from moeopt.errors import InputError
from moeopt.layout import Choices, OptimizerChoices, Overlap
from time_cases import degrees, problem

UNIT = 2**20


@pytest.mark.parametrize(
    ("cluster", "gpus", "block", "spanned"),
    [
        ("h100-sxm", 64, 8, 1),
        ("h100-sxm", 64, 1, 1),
        ("h100-sxm", 64, 16, 2),
        ("h100-sxm", 64, 64, 8),
        ("h100-sxm", 48, 6, 2),  # ranks 6-11 lie in two nodes of 8
        ("h100-sxm", 48, 12, 2),
        ("h100-sxm", 48, 24, 3),
        ("h100-sxm", 8, 6, 1),
        ("gb200-nvl72", 256, 64, 1),
        ("gb200-nvl72", 256, 128, 2),
    ],
)
def test_domains_of_a_block(cluster: str, gpus: int, block: int, spanned: int) -> None:
    """The worst-placed aligned block of consecutive ranks touches exactly as many domains as placing every block of the
    job on consecutive ranks shows."""
    asked = problem("qwen3-30b-a3b", cluster, gpus=gpus)
    size = asked.cluster.ranks_per_domain
    counted = max(
        len({rank // size for rank in range(start, start + block)}) for start in range(0, gpus - block + 1, block)
    )
    assert counted == spanned
    assert domains(asked, degrees(gpus=gpus), block) == counted


def test_rings_use_one_port_a_member_up_to_nvlink() -> None:
    """A gradient ring with m members in a node moves m ports' worth of bytes: stride 8 one port, stride 2 four,
    stride 1 eight or NVLink, whichever is less; inside a node NVLink."""
    asked = problem("qwen3-30b-a3b", "h100-sxm", gpus=64)
    rate = rates(asked)
    given = degrees(gpus=64)
    port, nvlink = rate.network_bytes_per_us, rate.nvlink_bytes_per_us
    for size, stride, expected in ((8, 8, port), (32, 2, 4 * port), (64, 1, min(8 * port, nvlink)), (8, 1, nvlink)):
        assert ring_bytes_per_us(asked, given, rate, size, stride) == expected


def test_group_limited_routing_visits_fewer_destinations() -> None:
    """DeepSeek-V3 sends a token to 4 of 8 groups: one of 8 ranks is visited with chance 1/2, against 1 - (7/8)^8 when
    the 8 choices are free; one of two domains nearly always, one of one always."""
    limited = problem("deepseek-v3").architecture
    free = problem("qwen3-30b-a3b").architecture
    assert hit_share(limited, 8) * 2 == 1
    assert float(hit_share(free, 8)) == pytest.approx(1 - (7 / 8) ** 8)
    assert float(hit_share(limited, 2)) == pytest.approx(1 - 1 / 70)
    for architecture in (limited, free):
        assert hit_share(architecture, 1) == 1


def test_no_group_no_communication() -> None:
    """Degrees of one send nothing: no dispatch, no ring, no hop, no reduction."""
    asked, one = problem("qwen3-30b-a3b", gpus=1), degrees(gpus=1)
    choices = Choices()
    counts, rate = tokens(asked, one, choices), rates(asked)
    assert dispatch_ns(asked, one, choices, counts, rate) == 0
    assert tensor_block_ns(asked, one, choices, counts, rate, gathered_bytes=Fraction(2)) == (0, 0)
    assert expert_tensor_ns(asked, one, counts, rate) == 0
    assert context_ring_ns(asked, one, counts, rate, 1024, (10**6, 10**6)) == (0, 0)
    assert hop_ns(asked, one, counts, rate) == 0
    ends = step_end_ns(time_terms(asked, one, choices), 10**9, 10**9, 0, 0)
    assert ends["gradient_reduce"] == ends["param_gather"] == 0


def test_deduplication_pays_across_nodes() -> None:
    """Across nodes DeepEP and HybridEP send a token once to a node, NCCL once an expert: EP 16 over two H100 nodes is
    at least three times cheaper for 8 choices; the capacity to save grows no further than the choices."""
    asked, given = problem("qwen3-30b-a3b", "h100-sxm", gpus=64), degrees(gpus=64, ep=16)
    times = {}
    for dispatcher in ("alltoall", "hybridep", "deepep"):
        choices = Choices(dispatcher=dispatcher)
        times[dispatcher] = dispatch_ns(asked, given, choices, tokens(asked, given, choices), rates(asked))
    assert times["hybridep"] == times["deepep"]
    assert 3 < times["alltoall"] / times["hybridep"] < 8


def test_tensor_parallel_transfers() -> None:
    """Forward exposes two transfers of 2 A h (t-1)/t bytes, backward two and a half; each fills its ring of t ranks at
    half the smallest all-gather a step. Gathers in 8 bits move half. User-buffer overlap leaves 0.4."""
    asked, given = problem("qwen3-235b-a22b", "h100-sxm"), degrees(tp=4)
    counts, rate = tokens(asked, given, Choices()), rates(asked)
    moving, filling = 2 * 4096 * 4096 * 3 // 4 * 1000 // rate.nvlink_bytes_per_us, 4 * 10_000 // 2
    forward, backward = tensor_block_ns(asked, given, Choices(), counts, rate, Fraction(2))
    assert forward == pytest.approx(2 * (moving + filling), abs=4)
    assert backward == pytest.approx(2.5 * (moving + filling), abs=4)
    eight = tensor_block_ns(asked, given, Choices(), counts, rate, Fraction(1))
    assert eight[0] == pytest.approx(1.5 * moving + 2 * filling, abs=4)
    assert eight[1] == pytest.approx(1.75 * moving + 2.5 * filling, abs=4)
    hidden = tensor_block_ns(asked, given, Choices(overlap=Overlap(tp_comm=True)), counts, rate, Fraction(2))
    assert hidden[0] == pytest.approx(0.4 * forward, abs=2)


def test_only_the_head_gathers_in_16_bits_in_8_bit_recipes() -> None:
    """In an fp8 recipe a layer's tensor-parallel time falls below that of bf16, the output head's does not."""
    parts = {}
    for precision in ("bf16", "fp8"):
        asked = problem("llama-3-70b", "h100-sxm", precision=precision)
        parts[precision] = time_terms(asked, degrees(tp=4), Choices()).forward_parts["tp_comm"]
    kind = asked.architecture.layers[0]
    assert parts["fp8"]["loss"] == parts["bf16"]["loss"]
    assert 0.7 < parts["fp8"][kind] / parts["bf16"][kind] < 0.85


def test_filling_a_ring_grows_with_its_ranks() -> None:
    """A ring's latency is its steps: half of the domain's smallest all-gather each inside a domain, NCCL's own 1.9 and
    4.0 us in rings over several; none for one rank. A gradient ring pays it once a bucket of max(40M, 1M * ranks)
    elements, so a price for a million elements stays below one step's latency however many GPUs there are."""
    asked, given = problem("qwen3-235b-a22b", "h100-sxm", gpus=2048), degrees(gpus=2048)
    assert ring_latency_ns(asked, given, 1, 8) == 0
    assert ring_latency_ns(asked, given, 8, 1) == 8 * 5_000
    assert ring_latency_ns(asked, given, 64, 1) == 56 * 1_900 + 8 * 4_000
    assert ring_latency_ns(asked, given, 256, 8) == 256 * 4_000
    for gpus in (64, 512, 2048, 131072):
        asked, given = problem("qwen3-235b-a22b", "h100-sxm", gpus=gpus), degrees(gpus=gpus)
        ends = step_end(asked, given, Choices(), rates(asked))
        bare = step_end(asked, given, Choices(overlap=Overlap(grad_reduce=False, param_gather=False)), rates(asked))
        added = (ends.reduce[0].dense - bare.reduce[0].dense) / 20
        assert 0 < added < 4_000


def test_context_ring_hides_behind_long_attention() -> None:
    """Of a ring that attention covers, the floor of 10 % (forward) and 20 % (backward) stays; of a bare ring all."""
    asked, given = problem("llama-3-8b", "h100-sxm", sequence_length=131072), degrees(cp=4)
    counts, rate = tokens(asked, given, Choices()), rates(asked)
    bare = context_ring_ns(asked, given, counts, rate, 2048, (0, 0))
    covered = context_ring_ns(asked, given, counts, rate, 2048, (10**12, 10**12))
    moved = 3 * (131072 // 4 * 2048 * 2 * 1000 // rate.nvlink_bytes_per_us + 10_000)
    assert bare == (pytest.approx(moved, abs=4), pytest.approx(2 * moved, abs=8))
    assert covered == (pytest.approx(0.1 * moved, abs=4), pytest.approx(0.4 * moved, abs=4))


def test_pipeline_hop_crosses_domains_when_the_job_does() -> None:
    """A hop sends 2 T h bytes: over NVLink while the job fits into one domain, over the network beyond."""
    for gpus, name, latency in ((8, "nvlink", 10_000), (16, "network", 20_000)):
        asked, given = problem("qwen3-30b-a3b", "h100-sxm", gpus=gpus), degrees(gpus=gpus, pp=2, ep=2)
        hop = hop_ns(asked, given, tokens(asked, given, Choices()), rates(asked))
        rate = getattr(rates(asked), f"{name}_bytes_per_us")
        assert hop == -(-4096 * 2 * 2048 * 1000 // rate) + latency


def test_step_end_prices() -> None:
    """One million elements on 8 H100: reduce-scatter of 4 bytes and all-gather of 2 over 7/8 of them, clearing of 4 and
    30 bytes of optimizer an element of the shard; without the distributed optimizer twice the reduction, no gather and
    the whole update; bf16 gradients halve the reduction."""
    asked, given = problem("qwen3-30b-a3b", "h100-sxm", gpus=8), degrees(gpus=8, ep=8)
    rate = rates(asked)
    off = Overlap(grad_reduce=False, param_gather=False)

    def ends(**changes: object) -> dict[str, float]:
        terms = time_terms(asked, given, Choices(overlap=off, **changes))
        return step_end_ns(terms, UNIT, 0, 0, 0)

    plain = ends()
    assert plain["gradient_reduce"] == pytest.approx(UNIT * 4 * 7 / 8 * 1000 / rate.nvlink_bytes_per_us, abs=2)
    assert plain["param_gather"] == pytest.approx(plain["gradient_reduce"] / 2, abs=2)
    assert plain["gradient_clear"] == pytest.approx(UNIT * 4 * 1000 / rate.memory_bytes_per_us, abs=2)
    assert plain["optimizer"] == pytest.approx(UNIT / 8 * 30 * 1000 / rate.memory_bytes_per_us, abs=2)
    replicated = ends(distributed_optimizer=False)
    assert replicated["gradient_reduce"] == pytest.approx(2 * plain["gradient_reduce"], abs=2)
    assert replicated["param_gather"] == 0
    assert replicated["optimizer"] == pytest.approx(8 * plain["optimizer"], abs=8)
    assert ends(optimizer=OptimizerChoices(main_grads="bf16"))["gradient_reduce"] == pytest.approx(
        plain["gradient_reduce"] / 2, abs=2
    )


def test_optimizer_offload_costs_what_was_published() -> None:
    """15-20 GB of optimizer state in Grace's memory cost 0.1-0.2 s a step (Megatron-Core report)."""
    asked, given = problem("deepseek-v3", "gb200-nvl72"), degrees(ep=64)
    elements = 17_500_000_000 // 12 * 4
    time = {
        fraction: step_end_ns(
            time_terms(asked, given, Choices(optimizer=OptimizerChoices(offload_fraction=fraction))), 0, elements, 0, 0
        )["optimizer"]
        for fraction in (0.0, 1.0)
    }
    assert 0.1e9 < time[1.0] - time[0.0] < 0.2e9


def test_gradients_across_nodes_hide_only_under_one_micro_batch() -> None:
    """With overlap the reduction hides under 0.6 of one micro-batch's stage time, and never below 15 % of what is
    sent; without the flag it is exposed in full. Overlapped, every bucket of 64M elements fills the ring of 8 nodes."""
    asked, given = problem("deepseek-v3", "h100-sxm", gpus=1024), degrees(gpus=1024, ep=8, pp=16)
    shown, hidden = (
        time_terms(asked, given, Choices(overlap=Overlap(grad_reduce=flag, param_gather=flag)))
        for flag in (False, True)
    )
    expert, stage = 10**10, 10**9
    full, some = (step_end_ns(terms, 0, expert, stage, 0) for terms in (shown, hidden))
    filling = expert * 8 * 4_000 / 64_000_000
    reduce, gather = full["gradient_reduce"] + filling, full["param_gather"] + filling
    assert some["gradient_reduce"] == pytest.approx(max(reduce - 0.6e9, 0.15 * (reduce + gather)), rel=1e-4)
    assert some["param_gather"] == pytest.approx(max(gather - 0.3e9, 0), rel=1e-4, abs=2)
    assert len(step_end(asked, given, Choices(), rates(asked)).rows) == 4


def test_precision_that_the_gpu_lacks_is_refused() -> None:
    """fp8 on A100 and mxfp8 and nvfp4 on Hopper have no rate; the error names the field."""
    for cluster, precision in (("a100-80g", "fp8"), ("h100-sxm", "mxfp8"), ("h100-sxm", "nvfp4")):
        with pytest.raises(InputError, match=r"workload\.precision: .* cannot be timed"):
            rates(problem("qwen3-30b-a3b", cluster, precision=precision))
