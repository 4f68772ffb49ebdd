"""A small answer in the contract's form, for tests of what is printed: no number in it is a claim about a real run."""

from typing import Any

from moeopt.layout import Layout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem

ARCHITECTURE = {
    "name": "tiny",
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "vocab_size": 32000,
    "gated": False,
    "num_experts": 64,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 2048,
}
GIB = 2**30


def problem(**changes: Any) -> Problem:
    """The seed's architecture on 512 H100."""
    fields = {"architecture": ARCHITECTURE, "cluster": "h100-sxm", "gpus": 512, **changes}
    return load_problem(fields)


def stage(number: int, activations: int = 8 * GIB) -> dict[str, int]:
    """One stage of the memory table; its total is the sum of its parts."""
    parts = {
        "weights_bytes": 3 * GIB,
        "gradients_bytes": 6 * GIB,
        "optimizer_bytes": 2 * GIB,
        "activations_bytes": activations,
        "buffers_bytes": GIB,
        "overhead_bytes": 4 * GIB,
    }
    return {"stage": number, **parts, "total_bytes": sum(parts.values())}


def answer(status: str = "optimal", stages: int = 4) -> dict[str, Any]:
    """An answer of `solve` (or `evaluate`) whose parts agree with each other."""
    per_stage = [stage(number, (8 + stages - number) * GIB) for number in range(stages)]
    layout = Layout(
        tp=8,
        pp=stages,
        cp=1,
        dp=64 // stages,
        ep=16,
        etp=1,
        edp=max(1, 32 // stages),
        num_microbatches=32,
        interleave_group=stages,
    )
    return {
        "schema": "moeopt/1",
        "status": status,
        "problem": problem().model_dump(mode="json"),
        "layout": {**layout.model_dump(mode="json"), "pipeline_layout": "Et*4|(t*4|)*2t*4L"},
        "gpus": {
            "total": 512,
            "equations": [
                f"512 = tp 8 * cp 1 * dp {64 // stages} * pp {stages}",
                f"512 = etp 1 * ep 16 * edp {32 // stages} * pp {stages}",
            ],
        },
        "parameters": {"total": 4_428_694_528, "active": 267_944_960, "per_stage": []},
        "memory": {
            "capacity_bytes": 80 * GIB,
            "peak_bytes": per_stage[0]["total_bytes"],
            "peak_stage": 0,
            "per_stage": per_stage,
        },
        "step_time": {
            "total_ns": 2_000_000_000,
            "parts": {"gemm": 1_200_000_000, "tp_comm": 500_000_000, "pipeline_bubble": 300_000_000},
            "tokens_per_second_per_gpu": 8192.0,
            "model_tflops_per_gpu": 396.0,
            "mfu": 0.4,
        },
        "schedule": {"simulated_ns": 1_990_000_000, "lower_bound_ns": 1_950_000_000, "gap": 0.0201, "certified": False},
        "objective": {"name": "step_time", "value": 2_000_000_000, "bound": 2_000_000_000, "unit": "ns"},
        "rules": [{"rule": "heads_by_tp", "holds": True, "equation": "16 % tp 8 = 0"}],
        "search": {"legal_layouts": 12_345, "seconds": 1.5, "engine": "ortools 9.15.6755", "seed": 0, "workers": 2},
    }
