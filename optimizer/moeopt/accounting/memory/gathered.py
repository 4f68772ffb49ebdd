"""What Megatron-FSDP holds for a while: gathered parameters ahead of their use, gradients until they are reduced.

Sources (Megatron-LM d98e8a6, megatron/core/distributed/fsdp/src/megatron_fsdp): megatron_fsdp.py:419-444 (how much is
gathered ahead and how much waits to be reduced), :684-706 and :977-1000 (a unit's parameters go after each pass),
param_and_grad_buffer.py:4388-4510 (whole buckets are gathered until the target is passed), :3880-3955 (finished
gradients wait in a queue that is only emptied at its capacity and at the end of a micro-batch), :4339-4363 (parameters
outside units stay gathered), :647-740 (double buffers: two units' buckets of the commonest shape, for parameters and
for gradients, shared by name among chunks; units of other shapes are allocated as without).
User buffers take no more; hybrid sharding's communication buffers are off, as by default.
Parameters kept in mxfp8 lie in two buffers, by rows and by columns, of a byte an element each (:2634-2690): a forward
pass gathers the one, a backward pass the other (:4673-4688), and what recomputes linears both, one unit's at a time.
Norms and the router, which stay in 16 bits, count so in their own unit; in those gathered ahead, a byte short.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from moeopt.accounting.fsdp import UnitElements, shards_gradients, unit_bytes, unit_elements
from moeopt.accounting.pieces import Piece, plain
from moeopt.arithmetic import Number, both, ceil_div, maximum, minimum, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

COMMUNICATION_ELEMENTS = 1_000_000_000
"""Least elements that may wait for their reduction; half of it is gathered ahead (megatron_fsdp.py:419-444)."""


@dataclass(frozen=True)
class Gathered:
    """Bytes of one piece under Megatron-FSDP, beyond its shards."""

    passing: Number
    """While the piece runs: its unit and those gathered ahead, and the gradients of the unit."""
    queued: Number
    """More gradients that wait than activations were freed meanwhile: the backward pass of a chunk peaks later where a
    unit's gradients are larger than what its layer keeps."""
    present: Number
    """For good: gathered parameters of no unit; and their gradients where backward passes start with them."""

    @property
    def transient(self) -> Number:
        """Everything that passes."""
        return self.passing + self.queued


def gathered(
    problem: Problem, degrees: Degrees, choices: Choices, gradient_bytes: int, kept: Mapping[Piece, Number]
) -> dict[Piece, Gathered]:
    """By piece. `kept` is what each keeps for one micro-batch under these choices. The units ahead are taken to be
    like the piece's own, and never more than the architecture has."""
    if not shards_gradients(choices):
        return {piece: Gathered(0, 0, 0) for piece in kept}
    units = {piece: unit_elements(problem, piece, degrees, choices) for piece in kept}
    if choices.fsdp_double_buffer:
        shared = commonest(problem)
        return {
            piece: _buffered(problem, piece, held, choices, gradient_bytes, shared) for piece, held in units.items()
        }
    layers = problem.architecture.layers
    total: Number = 0
    for piece, held in units.items():
        count = layers.count(piece) if isinstance(piece, LayerKind) else problem.mtp_layers
        total = total + count * held.unit
    return {
        piece: _of_piece(problem, piece, held, total, choices, gradient_bytes, kept[piece])
        for piece, held in units.items()
    }


def commonest(problem: Problem) -> LayerKind:
    """A layer kind of those that most units are of (MTP modules' layers count with theirs): units of equal parameters
    are alike, whatever window their attention has."""
    architecture = problem.architecture
    blocks = [kind.ffn for kind in (*architecture.layers, *architecture.mtp_kinds * problem.mtp_layers)]
    return max(architecture.kinds, key=lambda kind: blocks.count(kind.ffn))


def double_buffer_bytes(problem: Problem, degrees: Degrees, choices: Choices, gradient_bytes: int) -> Number:
    """Bytes that stay on a rank that holds a layer: two units' parameters and two units' gradients."""
    if not choices.fsdp_double_buffer or not shards_gradients(choices):
        return 0
    unit = unit_elements(problem, commonest(problem), degrees, choices).unit
    return 2 * unit * (unit_bytes(problem, choices)[0] + gradient_bytes)


def _buffered(
    problem: Problem, piece: Piece, held: UnitElements, choices: Choices, gradient_bytes: int, shared: LayerKind
) -> Gathered:
    """One piece where units of the commonest shape pass through the double buffers."""
    weight, _ = unit_bytes(problem, choices)
    if piece == "embedding":
        return Gathered(gradient_bytes * held.outside, 0 * held.outside, weight * held.outside)
    kind = problem.architecture.mtp_kinds[-1] if piece == "mtp" else plain(piece)
    own = 0 if kind == shared or piece == "loss" else (weight + gradient_bytes) * held.unit
    modules = problem.mtp_layers if piece == "mtp" else 1
    return Gathered(own, 0 * held.outside, (weight + gradient_bytes) * held.outside * modules)


def _of_piece(
    problem: Problem,
    piece: Piece,
    held: UnitElements,
    total: Number,
    choices: Choices,
    gradient_bytes: int,
    kept: Number,
) -> Gathered:
    weight, ahead_weight = unit_bytes(problem, choices)
    unit, outside = held.unit, held.outside
    if piece == "embedding":
        return Gathered(gradient_bytes * outside, 0 * outside, weight * outside)
    if piece == "loss":
        ahead = minimum(COMMUNICATION_ELEMENTS // 2, total)
        return Gathered(ahead_weight * ahead, 0 * outside, (weight + gradient_bytes) * outside)
    ahead = weight * unit + ahead_weight * minimum(ahead_elements(held), maximum(total - unit, 0))
    gradients = gradient_bytes * unit
    layers = problem.architecture.num_hidden_layers
    waiting = minimum(ceil_div(_capacity(unit), maximum(unit, 1)) + 2, layers)
    queued = maximum(gradients - kept, 0) * (waiting - 1)
    modules = problem.mtp_layers if piece == "mtp" else 1
    return Gathered(ahead + gradients, queued, (weight + gradient_bytes) * outside * modules)


def _capacity(unit: Number) -> Number:
    return maximum(2 * unit, COMMUNICATION_ELEMENTS)


def ahead_elements(held: UnitElements) -> Number:
    """Elements gathered ahead: whole buckets of the next units (forward: dense before experts; backward: the other way)
    until half of the communication size is reached."""
    unit = maximum(held.unit, 1)
    target = _capacity(held.unit) // 2
    rest = target - target // unit * unit
    first = where(held.dense >= rest, held.dense, held.unit)
    last = where(both(held.expert > 0, held.expert >= rest), held.expert, held.unit)
    return target // unit * unit + where(rest == 0, 0, maximum(first, last))
