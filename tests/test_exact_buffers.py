"""Buffers to the last element in an evaluation, and how far the law that the proof uses is from them."""

import json
from typing import Any

import pytest

from launch_cases import solution
from memory_problems import DEEPSEEK_V3, QWEN3_30B, degrees, problem
from moeopt.accounting.memory.exact import exact_buffers
from moeopt.accounting.memory.explain import explain_stage
from moeopt.layout import Choices, Overlap
from moeopt.pipeline import PipelineLayout

SHAPES = ((1, 4, 1, 48, 8), (2, 2, 2, 6, 1), (4, 8, 1, 5, 4), (2, 2, 1, 10, 2), (1, 2, 3, 100, 4))
OFF = Overlap(grad_reduce=False, param_gather=False)


def found(architecture: dict[str, Any], shape: tuple[int, ...], overlap: Overlap) -> list[dict[str, Any]]:
    tp, pp, vpp, dp, ep = shape
    etp = tp if ep == 1 else 1
    asked, stages = problem(architecture), pp * vpp
    layers = asked.architecture.num_hidden_layers
    counts = [layers // stages + (stage < layers % stages) for stage in range(stages)]
    given = degrees(tp=tp, pp=pp, vpp=vpp, dp=dp, ep=ep, etp=etp, edp=tp * dp // (ep * etp), num_microbatches=2 * pp)
    pipeline = PipelineLayout.from_counts(pp, counts, asked.mtp_layers, stages - 1)
    result = exact_buffers(asked, given, Choices(overlap=overlap), pipeline)
    assert result is not None
    return result


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", [DEEPSEEK_V3, QWEN3_30B])
def test_the_law_stays_within_its_margin(architecture: dict[str, Any], shape: tuple[int, ...], tied: bool) -> None:
    """The law differs from the walk over parameters and buckets by less than the margin that the document states, with
    overlap on and off, and by nothing on a stage of one bucket a buffer whose experts have a buffer of their own and
    that shares no table."""
    layers = {**architecture, "tie_word_embeddings": tied}
    for overlap in (Overlap(), OFF):
        for stage in found(layers, shape, overlap):
            assert abs(stage["difference_bytes"]) <= stage["margin_bytes"]
            one = all(chunk[kind]["buckets"] <= 1 for chunk in stage["chunks"] for kind in ("dense", "expert"))
            inner = 0 < stage["stage"] < shape[1] - 1
            if one and inner and shape[4] > 1:
                assert stage["difference_bytes"] == 0


def test_the_final_norm_stays_with_the_last_layer() -> None:
    """With MTP modules and loss on stages without layers, the walk has the norm beside the last decoder layer and the
    law beside the loss: one differs by the norm upwards, the other downwards, both within the margin; and the lines
    that explain a stage walk as the buffers do."""
    asked = problem(DEEPSEEK_V3)
    layers, hidden = asked.architecture.num_hidden_layers, asked.architecture.hidden_size
    given = degrees(tp=1, pp=4, vpp=1, dp=4, ep=2, etp=1, edp=2, num_microbatches=8)
    pipeline = PipelineLayout.from_counts(4, [layers // 2, layers - layers // 2, 0, 0], asked.mtp_layers, 2)
    result = exact_buffers(asked, given, Choices(overlap=OFF), pipeline)
    assert asked.mtp_layers
    assert result is not None
    assert all(abs(stage["difference_bytes"]) <= stage["margin_bytes"] for stage in result)
    for stage in result:
        states = explain_stage(asked, given, Choices(overlap=OFF), pipeline, stage["stage"])["states"]
        walked = {line["name"]: line["bucket_walk"] for line in states if "bucket_walk" in line}
        assert walked["chunk 0, dense"] == stage["chunks"][0]["dense"]["numel"]
    assert result[1]["difference_bytes"] >= 6 * hidden
    assert result[3]["difference_bytes"] <= -6 * hidden


def test_overlap_cuts_the_first_chunk_only() -> None:
    """With overlapped reduction the first chunk of the first stage has several buckets, every other chunk one; without,
    none has more than one (but for a table of its own)."""
    on, off = (found(QWEN3_30B, (1, 2, 3, 100, 4), overlap) for overlap in (Overlap(), OFF))
    assert on[0]["chunks"][0]["dense"]["buckets"] > 1
    for stages in (on[0]["chunks"][1:], on[1]["chunks"], off[0]["chunks"], off[1]["chunks"]):
        assert all(chunk[kind]["buckets"] <= 1 for chunk in stages for kind in ("dense", "expert"))


def test_evaluate_says_them() -> None:
    """An evaluation lists them for a legal layout; weights are 2 bytes of every padded element, gradients 4, and the
    bytes less the reported ones are the difference that it states."""
    answer = solution()
    for exact, law in zip(answer["ddp_buffers"], answer["memory"]["per_stage"], strict=True):
        elements = sum(chunk[kind]["numel"] for chunk in exact["chunks"] for kind in ("dense", "expert"))
        assert (exact["weights_bytes"], exact["gradients_bytes"]) == (2 * elements, 4 * elements)
        keys = ("weights_bytes", "gradients_bytes", "optimizer_bytes")
        assert sum(exact[key] - law[key] for key in keys) == exact["difference_bytes"]


def test_there_are_none_without_the_buffers() -> None:
    """Megatron-FSDP has buckets of its own, and an illegal layout is not walked."""
    assert solution({"ep": 8, "etp": 1, "fsdp": "optim"})["ddp_buffers"] is None
    assert solution({"tp": 2, "ep": 8, "etp": 1, "sequence_parallel": False})["ddp_buffers"] is None
    assert json.dumps(solution()["ddp_buffers"])
