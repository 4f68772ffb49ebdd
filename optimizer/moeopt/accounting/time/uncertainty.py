"""How far a predicted step time may be off, and why: one sigma, in per cent.

Published runs are predicted by constants that their own source, or their architecture on their GPU, did not enter
(benchmarks/calibrate.py). What two of three of them stay within is the range of a layout like them: on the same GPU
generation and precision, and in the same regimes. Where no published run of a known layout tests what a layout relies
on, the range is `UNTESTED_PERCENT`, twice the usual. Two layouts within 3 % of each other are a coin toss either way.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from math import ceil
from typing import Any

import yaml

from moeopt.accounting.fsdp import shards_gradients
from moeopt.accounting.muon.state import is_muon
from moeopt.accounting.time.efficiency import load_efficiency
from moeopt.accounting.time.topology import domains
from moeopt.arithmetic import ceil_div
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

UNTESTED_PERCENT = 20
FEWEST_ROWS = 3
"""A regime counts as tested by this many rows."""
FEW_MICROBATCHES, LONGEST_SEQUENCE, MOST_GPUS = 4, 8192, 512
LARGE_BUBBLE_PERCENT, LARGE_END_PERCENT = 25, 10
"""Shares of the step, idle and exposed at its end, that no calibration row exceeds."""
STEP_END_PARTS = ("gradient_reduce", "param_gather", "gradient_clear", "optimizer")
REASONS = {
    "eager": "without CUDA graphs launches on the host decide, and they differ by software release",
    "biased_experts": "biased experts with attention sinks: such rows scatter from 1.3 to 1.8 times their shapes",
    "overlap": "overlap of the expert all-to-all: published gains run from 11 to 24 %",
    "crossing_overlap": "expert parallelism crosses NVLink domains under overlap: published gains run from 11 to 24 %",
    "beyond_rack": "expert parallelism beyond a domain of more than 8 GPUs: no published run tests it",
    "few_microbatches": f"fewer than {FEW_MICROBATCHES} micro-batches: what a step costs once weighs more",
    "tensor_parallel": "tensor parallelism: few published MoE runs use it",
    "delta_net": "gated delta nets: no published training run of the fit has them",
    "mamba": "Mamba layers: no published training run of the fit has them, and of their scan no kernel is measured",
    "sparse_attention": "sparse attention: no published training run of the fit has it",
    "four_bits": "nvfp4: no published MoE run of the fit uses it (four dense runs are 6 % off in the mean)",
    "expert_tensor": "expert-tensor parallelism: no published run with a complete layout tests it",
    "context_parallel": "context parallelism: no published MoE run with a complete layout tests it",
    "long_sequence": f"sequences beyond {LONGEST_SEQUENCE} tokens: no published MoE run of the fit has them",
    "large_job": f"more than {MOST_GPUS} GPUs: no published run of the fit has them, congestion is not counted",
    "fsdp": "Megatron-FSDP: no published run of the fit uses it; of eight others most are predicted too fast",
    "full_recompute": "full recompute: no published run of the fit uses it",
    "moe_recompute": "recompute of the whole MoE block: no published run of the fit uses it",
    "muon": "Muon: no published run of the fit uses it, and its update is not measured",
    "host_optimizer": "optimizer state in host memory: one published range gives its speed",
    "assumed_gpu": "no published MoE run tests this GPU: its efficiencies are assumed",
    "large_bubble": f"more than {LARGE_BUBBLE_PERCENT} % of the step is pipeline bubble",
    "large_end": f"more than {LARGE_END_PERCENT} % of the step is exposed gradient reduction, gather and optimizer",
}


def regimes(problem: Problem, degrees: Degrees, choices: Choices, parts: Mapping[str, int] | None = None) -> list[str]:
    """Names of the regimes that a layout relies on, beside its GPU and precision; `parts` are those of its step."""
    return [name for name, holds in _regimes(problem, degrees, choices, parts or {}) if holds]


def _regimes(
    problem: Problem, degrees: Degrees, choices: Choices, parts: Mapping[str, int]
) -> Iterator[tuple[str, bool]]:
    architecture, workload, overlap = problem.architecture, problem.workload, choices.overlap.ep_all_to_all
    moe = architecture.is_moe
    crossing = moe and domains(problem, degrees, degrees.etp * degrees.ep) > 1
    step = sum(parts.values())
    end = sum(parts.get(part, 0) for part in STEP_END_PARTS)
    yield "assumed_gpu", load_efficiency(problem.cluster.efficiency).sources.get("gemm", "").startswith("assumed")
    yield "eager", moe and choices.cuda_graphs == "none"
    yield "biased_experts", architecture.mlp_bias and architecture.attention_sinks
    yield "overlap", overlap and not crossing
    yield "crossing_overlap", overlap and crossing
    yield "beyond_rack", crossing and problem.cluster.ranks_per_domain > 8
    yield "few_microbatches", degrees.num_microbatches < FEW_MICROBATCHES
    yield "tensor_parallel", degrees.tp > 1
    yield "delta_net", architecture.has_delta_net
    yield "mamba", architecture.has_mamba
    yield "sparse_attention", architecture.has_indexer
    yield "four_bits", workload.precision == "nvfp4"
    yield "expert_tensor", moe and degrees.etp > 1
    yield "context_parallel", degrees.cp > 1
    yield "long_sequence", workload.sequence_length > LONGEST_SEQUENCE
    yield "large_job", degrees.gpus > MOST_GPUS
    yield "fsdp", shards_gradients(choices)
    yield "full_recompute", choices.recompute.granularity == "full"
    yield "moe_recompute", choices.recompute.drops("moe")
    yield "muon", is_muon(problem)
    yield "host_optimizer", choices.optimizer.offload_fraction > 0
    yield "large_bubble", parts.get("pipeline_bubble", 0) * 100 > LARGE_BUBBLE_PERCENT * step
    yield "large_end", end * 100 > LARGE_END_PERCENT * step


@cache
def errors() -> dict[str, Any]:
    """The shipped table of errors (presets/step_time_errors.yaml)."""
    text = (files("moeopt.presets") / "step_time_errors.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


def _percent(entry: Mapping[str, Any] | None) -> float:
    return entry["percent"] if entry and entry["rows"] >= FEWEST_ROWS else UNTESTED_PERCENT


def _usual(problem: Problem) -> float:
    """Error on the problem's GPU generation and precision; that of all rows where fewer than three test it."""
    table = errors()
    entry = table["gpus"].get(problem.cluster.efficiency, {}).get(problem.workload.precision)
    return _percent(entry if entry and entry["rows"] >= FEWEST_ROWS else table["all"])


def _widening(problem: Problem, names: list[str]) -> dict[str, float]:
    """Regimes whose error is above the usual one."""
    usual, table = _usual(problem), errors()["regimes"]
    found = {name: _percent(table.get(name)) for name in names}
    return {name: percent for name, percent in found.items() if percent > usual}


def doubts(problem: Problem, degrees: Degrees, choices: Choices, parts: Mapping[str, int] | None = None) -> list[str]:
    """Reasons to trust this prediction less than usual, each a short sentence; empty when there are none."""
    return [REASONS[name] for name in _widening(problem, regimes(problem, degrees, choices, parts))]


def uncertainty_percent(
    problem: Problem, degrees: Degrees, choices: Choices, parts: Mapping[str, int] | None = None
) -> int:
    """One sigma of the predicted step time, rounded up: that of the GPU and precision, or the widest regime's."""
    wider = _widening(problem, regimes(problem, degrees, choices, parts))
    return ceil(max([_usual(problem), *wider.values()]))


def time_range(problem: Problem, degrees: Degrees, choices: Choices, parts: Mapping[str, int]) -> dict[str, Any]:
    """The contract's `step_time.range`: nanoseconds low and high, one sigma in per cent, and the reasons that widen it.

    `parts` add up to the step. The true time is as likely to be a factor above as below: high = t (1 + p), low =
    t / (1 + p), both rounded outwards.
    """
    total, percent = sum(parts.values()), uncertainty_percent(problem, degrees, choices, parts)
    return {
        "low_ns": total * 100 // (100 + percent),
        "high_ns": ceil_div(total * (100 + percent), 100),
        "percent": percent,
        "reasons": doubts(problem, degrees, choices, parts),
    }
