"""Muon: what Megatron's emerging-optimizer path excludes. Sources: Megatron-LM d98e8a6."""

from moeopt.accounting.muon.state import is_muon
from moeopt.frameworks.rules import requires
from moeopt.layout import Choices
from moeopt.problem.problem import Problem

_LAYER_WISE = "megatron/core/optimizer/layer_wise_optimizer.py"


def _muon(problem: Problem, _choices: Choices) -> bool:
    return is_muon(problem)


MUON = (
    requires(
        "muon_without_precision_aware",
        "the precision-aware optimizer is Adam's alone",
        "workload.optimizer muon without optimizer.precision_aware",
        "megatron/core/optimizer/optimizer_config.py:450-453",
        _muon,
        lambda _problem, choices: not choices.optimizer.precision_aware,
    ),
    requires(
        "muon_without_fsdp",
        "Megatron-FSDP cuts the matrices that Muon needs whole",
        "workload.optimizer muon with fsdp none",
        "megatron/training/arguments.py:1150, 1740",
        _muon,
        lambda _problem, choices: choices.fsdp == "none",
    ),
    requires(
        "muon_without_instances",
        "the layer-wise optimizer knows no instances",
        "workload.optimizer muon with optimizer.instances 1",
        f"{_LAYER_WISE}: LayerWiseDistributedOptimizer.__init__ (the size of intra_dp_cp)",
        _muon,
        lambda _problem, choices: choices.optimizer.instances == 1,
    ),
    requires(
        "muon_without_fp16",
        "Megatron's emerging optimizers have no loss scale",
        "workload.optimizer muon without precision fp16",
        "megatron/core/optimizer/__init__.py:774-775",
        _muon,
        lambda problem, _choices: problem.workload.precision != "fp16",
    ),
    requires(
        "muon_without_nvfp4",
        "how the layer-wise optimizer gathers packed 4-bit parameters is not read",
        "workload.optimizer muon without precision nvfp4",
        "moeopt: megatron/core/distributed/param_and_grad_buffer.py:455-475 names 8-bit parameters alone",
        _muon,
        lambda problem, _choices: problem.workload.precision != "nvfp4",
        "moeopt",
    ),
)
