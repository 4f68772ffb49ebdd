"""Activation offloading: copies to host memory under the forward pass, back under the backward pass.

Each layer's offloaded tensors go out on a stream of their own while later modules compute and come back one module
ahead (megatron/core/pipeline_parallel/fine_grained_activation_offload.py:1093-1240), so a pass shows only what its
computation does not cover, its recomputation included (`terms.added_ns`). Ranks that share a link or the host's memory
are not counted against each other.
"""

from fractions import Fraction

from moeopt.accounting.memory.activations import all_tensors, without_recompute
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.efficiency import exact
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.arithmetic import Number, ceil_div, maximum

HOST_BANDWIDTH_BYTES_PER_S = {"x86": 63_000_000_000, "grace": 225_000_000_000}
"""Where a cluster gives none: PCI Express 5.0 x16 one way; a quarter of the NVLink-C2C's 900 GB/s, which two GPUs share
both ways (the shipped clusters name their own)."""
SHARE = Fraction(17, 20)
"""Of that bandwidth, for large copies from and to pinned memory (assumed: nothing published isolates it)."""


def add_offload(scene: Scene, piece: Piece, timed: Timed) -> None:
    """Add what stays exposed of one piece's copies to its passes (part `offload`)."""
    choices = scene.choices
    if not choices.offload or piece in ("embedding", "loss"):
        return
    sizes = symbols(scene.problem, scene.degrees, choices)
    plain = without_recompute(choices)
    moved: Number = 0
    for item in all_tensors(scene.problem, sizes, piece, plain, DEFAULT_RECIPE):
        moved = moved + item.host_bytes(choices)
    copy = ceil_div(moved * 1000, _bytes_per_us(scene))
    timed.forward.add("offload", maximum(copy - timed.forward.total, 0))
    waited = maximum(copy - timed.backward.total, 0)
    timed.backward.add("offload", waited)
    timed.idle_backward = timed.idle_backward + waited


def _bytes_per_us(scene: Scene) -> int:
    cluster = scene.problem.cluster
    given = cluster.host_bandwidth_bytes_per_s
    bandwidth = exact(given) if given is not None else Fraction(HOST_BANDWIDTH_BYTES_PER_S[cluster.host])
    return int(bandwidth * SHARE / 10**6)
