"""Host (launch) time of a layer, and how it combines with GPU time.

Dropless routing reads token counts back in every MoE layer, so the host cannot run ahead: neither the sum nor the
maximum of the two fits published runs, the root of the sum of squares does best.
"""

import math

import numpy as np

from moeopt.accounting.launches import captured_launches, launches
from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div, is_column
from moeopt.layout import Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem


def launched_ns(count: Number, problem: Problem, rates: Rates, moe: bool) -> Number:
    """Host time of launch-equivalents in a layer that no graph holds. Halved where tokens are dropped and padded to
    capacity: no count is read back (assumed from the token-drop rows of Megatron-Bridge 25.09)."""
    each: int = getattr(rates.efficiency.launch_ns, problem.cluster.host)
    padded = moe and problem.workload.routing.capacity_factor is not None
    return ceil_div(count * each, 2 if padded else 1)


def host_ns(problem: Problem, degrees: Degrees, choices: Choices, rates: Rates, kind: LayerKind) -> Number:
    """Host time of a layer, forward and backward, nothing recomputed."""
    layer = (problem, degrees, choices, kind, rates.format.quantized)
    return launched_ns(launches(*layer) - captured_launches(*layer), problem, rates, kind.ffn == "moe")


def exposed_host_ns(gpu_ns: Number, host: Number) -> Number:
    """What host time adds to a layer: sqrt(gpu^2 + host^2) - gpu, rounded up; integers and columns agree exactly."""
    if not is_column(host) and host == 0:
        return 0
    gpu, launch = gpu_ns * 1.0, host * 1.0
    squares = gpu * gpu + launch * launch
    if is_column(squares):
        return np.ceil(np.sqrt(squares)).astype(np.int64) - gpu_ns
    return math.ceil(math.sqrt(squares)) - gpu_ns
