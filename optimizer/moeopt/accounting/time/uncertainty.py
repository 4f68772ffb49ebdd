"""How far a predicted step time may be off, and why: one sigma, in per cent.

Published runs that no constant was fitted on (leave one source, one architecture or one GPU out) are missed by about
10 % when a layout is like those that people publish: tuned, graphed, many micro-batches. Where the data are thin or the
software decides, take twice as much. Two layouts within 3 % of each other are a coin toss either way.
"""

from moeopt.accounting.time.efficiency import load_efficiency
from moeopt.accounting.time.topology import domains
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

USUAL_PERCENT, THIN_PERCENT = 10, 20
FEW_MICROBATCHES = 4


def doubts(problem: Problem, degrees: Degrees, choices: Choices) -> list[str]:
    """Reasons to trust this prediction less than usual, each a short sentence; empty when there are none."""
    architecture = problem.architecture
    moe = architecture.is_moe
    crossing = moe and domains(problem, degrees, degrees.etp * degrees.ep) > 1
    table = load_efficiency(problem.cluster.efficiency)
    found = {
        f"no published MoE run tests {problem.cluster.gpu}: its efficiencies are assumed": table.sources.get(
            "gemm", ""
        ).startswith("assumed"),
        "without CUDA graphs launches on the host decide, and they differ by software release": moe
        and choices.cuda_graphs == "none",
        "biased experts with attention sinks: rows of this kind scatter from 1.3 to 1.8 times their shapes": (
            architecture.mlp_bias and architecture.attention_sinks
        ),
        "expert parallelism crosses NVLink domains under overlap: published gains run from 11 to 24 %": crossing
        and choices.overlap.ep_all_to_all,
        f"fewer than {FEW_MICROBATCHES} micro-batches: what a step costs once weighs more": degrees.num_microbatches
        < FEW_MICROBATCHES,
        "expert-tensor parallelism: no published run with a complete layout tests it": moe and degrees.etp > 1,
        "full recompute: one published run tests it": choices.recompute.granularity == "full",
    }
    return [reason for reason, holds in found.items() if holds]


def uncertainty_percent(problem: Problem, degrees: Degrees, choices: Choices) -> int:
    """One sigma of the predicted step time: 10 %, or 20 % where `doubts` finds a reason."""
    return THIN_PERCENT if doubts(problem, degrees, choices) else USUAL_PERCENT
