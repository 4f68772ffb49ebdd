from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from moeopt.accounting.time.uncertainty import (
    REASONS,
    UNTESTED_PERCENT,
    doubts,
    errors,
    regimes,
    time_range,
    uncertainty_percent,
)
from moeopt.evaluation import evaluate
from moeopt.layout import Choices, Layout, OptimizerChoices, Overlap, Recompute
from moeopt.report.times import render_ties
from time_cases import degrees, problem

GRAPHED = Choices(dispatcher="hybridep", cuda_graphs="full_iteration")
MXFP8 = {"precision": "mxfp8"}
OFFLOAD = {"optimizer": OptimizerChoices(offload_fraction=0.5)}


def test_a_tuned_layout_raises_no_doubt() -> None:
    """What people publish and the constants were fitted on is trusted to the error of its GPU and precision, rounded up
    to a whole per cent: between 5 and 15 %."""
    assert doubts(problem(**MXFP8), degrees(ep=64), GRAPHED) == []
    shipped = errors()["gpus"]["blackwell"]["mxfp8"]["percent"]
    assert shipped <= uncertainty_percent(problem(**MXFP8), degrees(ep=64), GRAPHED) < shipped + 1
    assert 5 < shipped < 15


@pytest.mark.parametrize(
    ("name", "cluster", "given", "changes"),
    [
        ("assumed_gpu", "mi300x", {"ep": 8}, {}),
        ("beyond_rack", "gb200-nvl72", {"ep": 128}, {}),
        ("few_microbatches", "gb200-nvl72", {"ep": 8, "num_microbatches": 3}, {}),
        ("expert_tensor", "gb200-nvl72", {"ep": 8, "etp": 2}, {}),
        ("context_parallel", "gb200-nvl72", {"ep": 8, "cp": 2}, {}),
        ("large_job", "gb200-nvl72", {"ep": 8, "gpus": 2048}, {}),
        ("full_recompute", "gb200-nvl72", {"ep": 8}, {"recompute": Recompute(granularity="full")}),
        ("moe_recompute", "gb200-nvl72", {"ep": 8}, {"recompute": Recompute(modules=("moe",))}),
        ("host_optimizer", "gb200-nvl72", {"ep": 8}, OFFLOAD),
    ],
)
def test_what_no_run_tests_doubles_the_range(name: str, cluster: str, given: dict[str, int], changes: Any) -> None:
    """Each thin spot of the published data is named, alone, and widens the interval to at least 20 %."""
    asked = problem(cluster=cluster, gpus=given.get("gpus", 256))
    row, choices = degrees(**given), GRAPHED.model_copy(update=changes)
    assert doubts(asked, row, choices) == [REASONS[name]]
    assert uncertainty_percent(asked, row, choices) == UNTESTED_PERCENT


@pytest.mark.parametrize(
    ("name", "architecture", "cluster", "given", "changes"),
    [
        ("eager", "deepseek-v3", "gb200-nvl72", {"ep": 8}, {"cuda_graphs": "none"}),
        ("biased_experts", "gpt-oss-120b", "gb200-nvl72", {"ep": 8}, {}),
        ("overlap", "deepseek-v3", "gb200-nvl72", {"ep": 8}, {"overlap": Overlap(ep_all_to_all=True)}),
        ("crossing_overlap", "deepseek-v3", "h100-sxm", {"ep": 16}, {"overlap": Overlap(ep_all_to_all=True)}),
        ("tensor_parallel", "deepseek-v3", "gb200-nvl72", {"ep": 8, "tp": 2}, {}),
    ],
)
def test_what_runs_test_takes_their_error(
    name: str, architecture: str, cluster: str, given: dict[str, int], changes: Any
) -> None:
    """A regime that published runs are in is recognised, and its range is the larger of its own error and that of the
    GPU and precision."""
    asked, row, choices = problem(architecture, cluster), degrees(**given), GRAPHED.model_copy(update=changes)
    assert regimes(asked, row, choices) == [name]
    table = errors()
    assert table["regimes"][name]["rows"] >= 3
    usual = table["gpus"][asked.cluster.efficiency]["bf16"]["percent"]
    expected = max(usual, table["regimes"][name]["percent"])
    assert expected <= uncertainty_percent(asked, row, choices) < expected + 1


def test_long_sequences_and_shares_of_the_step() -> None:
    """Sequences beyond 8K, a bubble above a quarter and a step's end above a tenth are regimes that no row tests; just
    inside these limits they are not named."""
    asked, row = problem(**MXFP8), degrees(ep=64)
    assert regimes(problem(sequence_length=8192), row, GRAPHED) == []
    assert regimes(problem(sequence_length=16384), row, GRAPHED) == ["long_sequence"]
    inside = {"gemm": 65, "pipeline_bubble": 25, "optimizer": 6, "gradient_reduce": 4}
    assert regimes(asked, row, GRAPHED, inside) == []
    assert regimes(asked, row, GRAPHED, {**inside, "gemm": 64}) == ["large_bubble", "large_end"]


def test_the_range_contains_the_time() -> None:
    """low = t / (1 + p) and high = t (1 + p), rounded outwards, from the sum of the parts."""
    found = time_range(problem(**MXFP8), degrees(ep=64), GRAPHED, {"gemm": 999, "attention": 2})
    p = found["percent"]
    assert found == {
        "low_ns": 1001 * 100 // (100 + p),
        "high_ns": -(-1001 * (100 + p) // 100),
        "percent": p,
        "reasons": [],
    }
    assert found["low_ns"] < 1001 < found["high_ns"]


def test_every_answer_carries_its_range() -> None:
    """`evaluate` gives the range of the step time it prints, with its reasons."""
    asked = problem("qwen3-30b-a3b", "h100-sxm", gpus=16, global_batch_size=256)
    answer = evaluate(asked, Layout(tp=2, ep=8, etp=2))
    found, total = answer["step_time"]["range"], answer["step_time"]["total_ns"]
    assert found["low_ns"] < total < found["high_ns"]
    assert found["percent"] == UNTESTED_PERCENT
    assert REASONS["expert_tensor"] in found["reasons"]


def test_runners_up_within_the_range_are_named() -> None:
    """The table of the best layouts says how many a prediction of 10 % cannot tell apart: 109 is within 100's range,
    111 is not; nothing is said of objectives that are not times."""
    near, far = ({"objective": {"value": value}} for value in (109, 111))
    answer = {
        "step_time": {"range": {"percent": 10}},
        "objective": {"name": "step_time", "value": 100},
        "alternatives": [near, far],
    }
    assert "1 of the 2 runners-up lie" in ties(answer)
    assert "the runner-up lies" in ties({**answer, "alternatives": [near]})
    assert ties({**answer, "objective": {"name": "peak_memory", "value": 100}}) == ""
    assert ties({**answer, "alternatives": [far]}) == ""


def ties(answer: dict[str, Any]) -> str:
    stream = StringIO()
    render_ties(answer, Console(file=stream, width=200))
    return stream.getvalue()
