"""Problems, degrees and choices that the tests of the time formulas share."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, OptimizerChoices, Overlap, Recompute
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem

MEASURED = json.loads((Path(__file__).parent / "data" / "step_time_measurements.json").read_text(encoding="utf-8"))
SLOW_HOST = {"base": "h100-sxm", "host_bandwidth_bytes_per_s": 5e9}
"""Copies of activations to its host do not hide."""
GRID_POWERS = {"tp": 3, "pp": 4, "cp": 3, "dp": 6, "ep": 6, "etp": 2, "edp": 5, "vpp": 2, "micro_batch_size": 2}


def problem(
    architecture: Any = "deepseek-v3", cluster: Any = "gb200-nvl72", gpus: int = 256, **workload: Any
) -> Problem:
    """A problem with the fields that time depends on."""
    return load_problem({"architecture": architecture, "cluster": cluster, "gpus": gpus, "workload": workload})


def degrees(**given: int) -> Degrees:
    """Degrees, one where not given; dp and edp fill a grid of `gpus` (256 by default)."""
    gpus = given.pop("gpus", 256)
    values = {**dict.fromkeys((field.name for field in fields(Degrees)), 1), "num_microbatches": 16, **given}
    stage = gpus // values["pp"]
    values.setdefault("dp", 1)
    values["dp"] = given.get("dp", stage // (values["tp"] * values["cp"]))
    values["edp"] = given.get("edp", stage // (values["etp"] * values["ep"]))
    values["interleave_group"] = given.get("interleave_group", values["pp"])
    return Degrees(**values)


@st.composite
def some_degrees(draw: st.DrawFn) -> Degrees:
    """Degrees that are powers of two (not necessarily a legal grid: formulas must agree everywhere)."""
    values = {name: 2 ** draw(st.integers(0, power)) for name, power in GRID_POWERS.items()}
    return Degrees(**values, num_microbatches=8, interleave_group=values["pp"])


@st.composite
def some_choices(draw: st.DrawFn) -> Choices:
    """Choices of every kind that the time formulas read."""
    granularity = draw(st.sampled_from(["none", "selective", "full", "block"]))
    recompute = {
        "none": Recompute(),
        "selective": Recompute(modules=tuple(draw(st.sets(st.sampled_from(RECOMPUTE_MODULES), min_size=1)))),
        "full": Recompute(granularity="full"),
        "block": Recompute(granularity="full", method="block", num_layers=2),
    }[granularity]
    return Choices(
        recompute=recompute,
        distributed_optimizer=draw(st.booleans()),
        optimizer=OptimizerChoices(
            main_grads=draw(st.sampled_from(["fp32", "bf16"])), offload_fraction=draw(st.sampled_from([0.0, 0.5, 1.0]))
        ),
        sequence_parallel=draw(st.booleans()),
        dispatcher=draw(st.sampled_from(["alltoall", "deepep", "hybridep", "allgather"])),
        overlap=Overlap(
            grad_reduce=draw(st.booleans()),
            param_gather=draw(st.booleans()),
            ep_all_to_all=draw(st.booleans()) and granularity in ("none", "selective"),
            tp_comm=draw(st.booleans()),
        ),
        cuda_graphs=draw(st.sampled_from(["none", "router", "attention", "full_iteration"])),
        fsdp=draw(st.sampled_from(["none", "none", "none", "optim", "optim_grads", "optim_grads_params"])),
        offload=draw(st.sampled_from([(), (), ("core_attn", "attn_proj"), ("expert_fc1", "qkv_linear", "mlp_norm")])),
    )


def some_problems() -> st.SearchStrategy[Problem]:
    """Architectures with MLA, sparse attention, Mamba, windows, delta nets, biases, shared experts, on machines of
    every shape."""
    machines = [(cluster, name) for cluster in ("h100-sxm", "gb200-nvl72", "b300") for name in ("bf16", "fp8")]
    return st.builds(
        lambda machine, **given: problem(cluster=machine[0], precision=machine[1], **given),
        machine=st.sampled_from([*machines, (SLOW_HOST, "bf16"), ("gb200-nvl72", "nvfp4"), ("b300", "nvfp4")]),
        architecture=st.sampled_from(
            [
                "deepseek-v3",
                "glm-5",
                "nemotron-3-super-120b-a12b",
                "gpt-oss-120b",
                "qwen3-30b-a3b",
                "qwen3-next-80b-a3b",
                "llama-3-8b",
            ]
        ),
        sequence_length=st.sampled_from([4096, 1_048_576]),
        routing=st.sampled_from([{}, {"imbalance": 1.37}, {"capacity_factor": 1.25}]),
        optimizer=st.sampled_from(["adam", "adam", "muon"]),
        muon_tp_mode=st.sampled_from(["duplicated", "blockwise"]),
    )


def columns(rows: list[Degrees]) -> Degrees:
    """The same degrees as columns."""
    return Degrees(
        **{f.name: np.array([getattr(row, f.name) for row in rows], dtype=np.int64) for f in fields(Degrees)}
    )
