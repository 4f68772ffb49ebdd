"""What CUDA graphs hold: static inputs, gradients of outputs, a pool of their own, launches and the driver's nodes."""

from typing import Any

import pytest

from memory_problems import DEEPSEEK_V3, QWEN3_30B, degrees, problem
from moeopt.accounting.launches import DENSE_LAUNCHES, ROUTER_LAUNCHES, captured_launches, launches, moe_launches
from moeopt.accounting.memory.activations import layer_ffn
from moeopt.accounting.memory.overhead import default_overheads, graph_launches, overhead_parts
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.memory.transients import block_moments, mixer_moments
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.host import host_ns
from moeopt.layout import Choices
from moeopt.problem.layer_kind import LayerKind

AT: dict[str, Any] = {"tp": 2, "pp": 4, "dp": 8, "cp": 2, "ep": 8, "edp": 4, "vpp": 2, "num_microbatches": 16}


def _choices(graphs: str, **more: Any) -> Choices:
    return Choices(cuda_graphs=graphs, sequence_parallel=True, **more)


def test_attention_under_graphs_keeps_a_mask_and_passes_apart() -> None:
    """Under graphs of attention a layer in flight keeps batch*s*(s/c) bytes more, a chunk 2*T*h, a stage the gradients
    of outputs and all that passes in attention; what passes beside them is the feed-forward block's alone."""
    asked, at = problem(DEEPSEEK_V3), degrees(**AT)
    eager, captured = (memory_terms(asked, at, _choices(name)) for name in ("none", "attention"))
    sizes = symbols(asked, at, _choices("none"))
    hidden = 2 * sizes.T * sizes.h
    mask = sizes.batch * sizes.s * sizes.s // 2
    for kind in asked.architecture.kinds:
        assert captured.kept_bytes[kind] - eager.kept_bytes[kind] == mask
        tensors = layer_ffn(asked, sizes, kind, _choices("none"), DEFAULT_RECIPE)
        block = block_moments(asked, sizes, kind, tensors, _choices("none"))
        assert captured.transient_bytes[kind] == max(*block.values(), mask)
    assert captured.chunk_kept_bytes - eager.chunk_kept_bytes == hidden
    inside = mixer_moments(asked, sizes, LayerKind("moe"), _choices("none"), DEFAULT_RECIPE)
    assert captured.present_bytes["layer"] - eager.present_bytes["layer"] == hidden + max(inside.values())
    outputs = 3 * hidden + 4 * sizes.T * sizes.E
    assert captured.present_bytes["moe"] - eager.present_bytes["moe"] == outputs


def test_router_graphs_keep_gradients_alone() -> None:
    """Graphs of routers take the hidden states that the layer keeps anyway: only gradients of outputs are more."""
    asked, at = problem(QWEN3_30B), degrees(**AT)
    eager, captured = (memory_terms(asked, at, _choices(name)) for name in ("none", "router"))
    sizes = symbols(asked, at, _choices("none"))
    assert captured.kept_bytes == eager.kept_bytes
    assert captured.transient_bytes == eager.transient_bytes
    assert captured.chunk_kept_bytes == eager.chunk_kept_bytes
    more = {name: captured.present_bytes[name] - size for name, size in eager.present_bytes.items()}
    expected = 4 * sizes.T * sizes.h + 4 * sizes.T * sizes.E
    assert {name: size for name, size in more.items() if size} == {"moe": expected}


def test_a_whole_iteration_needs_nothing_from_torch() -> None:
    """One graph of a whole iteration: the same torch bytes, and nodes for every launch."""
    asked, at = problem(QWEN3_30B), degrees(**AT)
    eager, captured = (memory_terms(asked, at, _choices(name)) for name in ("none", "full_iteration"))
    assert (captured.kept_bytes, captured.present_bytes) == (eager.kept_bytes, eager.present_bytes)
    assert captured.overhead_bytes > eager.overhead_bytes


@pytest.mark.parametrize(("pp", "overlap", "times"), [(1, False, 1), (1, True, 16), (4, False, 16), (4, True, 16)])
def test_layers_are_captured_for_every_micro_batch_of_a_pipeline(pp: int, overlap: bool, times: int) -> None:
    """Once without a pipeline, for all micro-batches with one or with the expert all-to-all overlapped; a whole
    iteration always for all. Nodes are priced by the table."""
    asked = problem(QWEN3_30B)
    at = degrees(**{**AT, "pp": pp, "dp": 32 // pp})
    chosen = _choices("attention", overlap={"ep_all_to_all": overlap})
    once = graph_launches(asked, degrees(**{**AT, "pp": 1, "dp": 32, "num_microbatches": 1}), chosen)
    assert abs(graph_launches(asked, at, chosen) * pp - once * times) < pp * times
    whole = graph_launches(asked, at, _choices("full_iteration"))
    layer = asked, at, chosen, asked.architecture.layers[0], False
    every = graph_launches(asked, at, _choices("attention", overlap={"ep_all_to_all": True}))
    assert abs(whole * captured_launches(*layer) - every * launches(*layer)) < 2 * launches(*layer)
    table = default_overheads()
    parts = overhead_parts(asked, at, chosen, table)
    assert parts["nodes of CUDA graphs (attention)"] == graph_launches(asked, at, chosen) * table.graph_launch_bytes
    assert overhead_parts(asked, at, _choices("none"), table)["nodes of CUDA graphs (none)"] == 0


GRAPHS = ("none", "router", "attention", "full_iteration")


@pytest.mark.parametrize(
    "kind", [LayerKind("moe"), LayerKind("dense"), LayerKind("none", mixer="mamba"), LayerKind("moe", mixer="none")]
)
def test_graphs_hold_the_launches_of_what_they_capture(kind: LayerKind) -> None:
    """Of a layer's launches graphs of routers hold the router's where there are experts, those of attention also all of
    its mixer's (and none of a dense block's), one of the iteration all; the host starts what is left, so each mode
    leaves no more than the one before."""
    asked, at = problem(QWEN3_30B), degrees(**AT)
    held = [captured_launches(asked, at, _choices(name), kind, False) for name in GRAPHS]
    whole = launches(asked, at, _choices("none"), kind, False)
    router = ROUTER_LAUNCHES if kind.ffn == "moe" else 0
    block = (
        moe_launches(asked, at, _choices("none"), False)
        if kind.ffn == "moe"
        else DENSE_LAUNCHES * (kind.ffn == "dense")
    )
    assert held == [0, router, whole - block + router, whole]
    assert sorted(held) == held
    left = [host_ns(asked, at, _choices(name), rates(asked), kind) for name in GRAPHS]
    each = rates(asked).efficiency.launch_ns.x86
    assert left == [(whole - count) * each for count in held]
