"""Communication of Megatron-FSDP within a micro-batch: parameters gathered around each pass, gradients reduced.

A unit's parameters are gathered once before its forward and once before its backward pass (recomputation inside the
backward pass uses the same gather), and its gradients are reduced right after, in every micro-batch (megatron_fsdp.py:
745-785, 794-830, 918-932). Gathers of the next units run under the current one, reductions under the ones after it: a
pass hides as much as it takes, what it recomputes included, but never all (`EXPOSED_FLOOR`, assumed as for the step's
end; published FSDP runs of MoE transformers give no figure for it). Parameters of no unit are gathered once a step, so
a micro-batch carries its share of that. Parameters kept in mxfp8 are gathered by rows before the one pass, by columns
before the other; what recomputes linears gathers rows once more, which is not counted.
"""

from moeopt.accounting.fsdp import shards_gradients, shards_parameters, unit_bytes, unit_elements
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.gemm import gradient_bytes
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.accounting.time.step_end import EXPOSED_FLOOR, STAGE_PARTS, ring_ns
from moeopt.arithmetic import Number, ceil_div, maximum


def add_sharded_communication(scene: Scene, piece: Piece, timed: Timed) -> None:
    """Add what stays exposed of one piece's gathers and reductions to its passes (part `fsdp_comm`)."""
    choices = scene.choices
    if not shards_gradients(choices):
        return
    held = unit_elements(scene.problem, piece, scene.degrees, choices)
    gradients = gradient_bytes(choices)
    rest = (scene.problem, scene.degrees, choices, scene.rates)
    reduce = ring_ns(*rest, gradients * (held.dense + held.outside), gradients * held.expert)
    gather: Number = 0
    outside: Number = 0
    if shards_parameters(choices):
        _, gathered = unit_bytes(scene.problem, choices)
        gather = ring_ns(*rest, gathered * held.dense, gathered * held.expert)
        outside = ceil_div(ring_ns(*rest, 2 * held.outside, 0), scene.degrees.num_microbatches)
    timed.forward.add("fsdp_comm", _exposed(gather + outside, timed.forward.total))
    exposed = _exposed(gather + reduce, timed.backward.total)
    timed.backward.add("fsdp_comm", exposed)
    timed.idle_backward = exposed - _least(gather + reduce)


def _exposed(communication: Number, hidden_under: Number) -> Number:
    return maximum(communication - hidden_under, _least(communication))


def _least(communication: Number) -> Number:
    return ceil_div(communication * EXPOSED_FLOOR, STAGE_PARTS)
