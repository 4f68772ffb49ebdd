"""`evaluate --explain-memory`: its lines add up to the numbers of the stage."""

import pytest

from megatron_truth import CLUSTER
from memory_problems import DEEPSEEK_V3, QWEN3_30B
from moeopt.accounting.memory.explain import explain_stage
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of, pipeline_of

CASES = [
    (DEEPSEEK_V3, {"tp": 2, "pp": 4, "vpp": 2, "ep": 8, "etp": 1, "pipeline_layout": "Et*7|(t*8|)*6t*6mL"}),
    (DEEPSEEK_V3, {"pp": 4, "ep": 16, "pipeline_layout": "Et*15|t*16|t*16|t*14mL", "recompute": {"modules": ["moe"]}}),
    (QWEN3_30B, {"tp": 2, "pp": 2, "ep": 4, "recompute": {"granularity": "full", "method": "block", "num_layers": 5}}),
    (QWEN3_30B, {"tp": 2, "pp": 4, "vpp": 2, "ep": 4, "recompute": "full", "dispatcher": "allgather"}),
    (QWEN3_30B, {"ep": 8, "distributed_optimizer": False, "overlap": {"param_gather": False}}),
]


@pytest.mark.parametrize(("architecture", "fields"), CASES)
def test_lines_add_up_to_the_numbers_of_every_stage(architecture: dict[str, object], fields: dict[str, object]) -> None:
    """Weights, gradients, optimizer, activations, buffers and overhead of a stage are the sums of the lines listed, and
    the tensors of a layer are those that a micro-batch keeps."""
    asked = Problem.model_validate(
        {"architecture": architecture, "cluster": CLUSTER, "gpus": 64, "workload": {"global_batch_size": 256}}
    )
    answer = evaluate(asked, Layout.model_validate(fields))
    full = Layout.model_validate(answer["layout"])
    pipeline = pipeline_of(full)
    assert pipeline is not None
    for stage, given in enumerate(answer["memory"]["per_stage"]):
        lines = explain_stage(asked, degrees_of(full), full.choices, pipeline, stage)
        for name in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
            assert sum(line.get(name, 0) for line in lines["states"]) == given[name]
        assert lines["activations"]["total_bytes"] == given["activations_bytes"]
        largest = [of[0]["bytes"] for of in lines["activations"]["moments"].values()]
        assert lines["activations"]["passing_bytes"] <= max(largest)
        for section in ("buffers", "overhead"):
            assert sum(line["bytes"] for line in lines[section]) == given[f"{section}_bytes"]
        kept = {piece["piece"]: sum(tensor["bytes"] for tensor in piece["tensors"]) for piece in lines["pieces"]}
        for chunk in lines["chunks"]:
            again = {piece: number for piece, number in chunk["recomputed"].items() if piece in chunk["pieces"]}
            size = sum(number * lines["recomputed_layer_bytes"][piece] for piece, number in again.items())
            size += sum((number - again.get(piece, 0)) * kept[piece] for piece, number in chunk["pieces"].items())
            assert size == chunk["kept_bytes"]
