"""Megatron-FSDP's buckets: what one piece's parameters take, padded, and which of them are gathered and released.

Sources (Megatron-LM d98e8a6, megatron/core/distributed/fsdp/src/megatron_fsdp/param_and_grad_buffer.py): :1731-1963
(every TransformerLayer is a unit; its routed experts and its other parameters are one bucket each; parameters outside
units have buckets of their own), :1900-1930 (a bucket's chunk factor: the row length that all its tensors share),
:258-383 (a bucket's end is a multiple of ranks * factor), mcore_fsdp_adapter.py:165-173 (units are TransformerLayers).
Megatron's own functions give the same for every unit of four architectures in five layouts, to the element
(tests/data/megatron_fsdp_buckets.json). One simplification: parameters outside units end one bucket a piece, where
Megatron closes buckets at 40 million elements and across pieces (0.01 % of an MTP module's).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from moeopt.accounting.parameters import Parameter, piece_parameters
from moeopt.accounting.pieces import Piece
from moeopt.accounting.sharding import local_numel
from moeopt.arithmetic import Number, ceil_div, is_column, maximum, round_up, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

_WHOLE = Degrees(*[1] * len(Degrees.__dataclass_fields__))
_ROW_PARALLEL = ("linear_proj.weight", "linear_fc2.weight")


@dataclass(frozen=True)
class UnitElements:
    """Padded elements on one GPU of one piece, gathered: its unit's dense and expert buckets, and what lies outside."""

    dense: Number
    expert: Number
    outside: Number
    """Parameters of no unit (embedding, output head, norms, MTP projections): gathered once a step, then kept."""

    @property
    def unit(self) -> Number:
        """The whole unit."""
        return self.dense + self.expert


def shards_parameters(choices: Choices) -> bool:
    """Whether weights are sharded, so that they are gathered around every use."""
    return choices.fsdp == "optim_grads_params"


def shards_gradients(choices: Choices) -> bool:
    """Whether gradients are sharded, so that every micro-batch reduces them."""
    return choices.fsdp in ("optim_grads", "optim_grads_params")


def shards_state(choices: Choices) -> bool:
    """Whether the optimizer's state is sharded."""
    return choices.distributed_optimizer and choices.fsdp != "no_shard"


def unit_bytes(problem: Problem, choices: Choices) -> tuple[int, int]:
    """Bytes an element of a unit's parameters where it runs, and where it is gathered for a pass (parameters kept in
    mxfp8: by rows or by columns)."""
    if not shards_parameters(choices):
        return 0, 0
    return 2, 1 if problem.workload.precision == "mxfp8" else 2


def unit_elements(problem: Problem, piece: Piece, degrees: Degrees, choices: Choices) -> UnitElements:
    """Elements of a piece as Megatron-FSDP pads them (with `no_shard` nothing is padded)."""
    inside: list[Parameter] = []
    outside: list[Parameter] = []
    for parameter in piece_parameters(problem.architecture, piece):
        if parameter.trainable:
            (inside if _in_unit(piece, parameter) else outside).append(parameter)
    instances = choices.optimizer.instances
    dense = ceil_div(degrees.dp * degrees.cp, instances)
    expert = ceil_div(degrees.edp, instances)
    experts = [parameter for parameter in inside if parameter.sharding == "expert"]
    others = [parameter for parameter in inside if parameter.sharding != "expert"]
    rest = [parameter for parameter in outside if parameter.origin != "pipeline_copy"]
    copies = [parameter for parameter in outside if parameter.origin == "pipeline_copy"]
    held = _bucket(problem, rest, degrees, choices, dense)
    if copies:
        share = _bucket(problem, copies, degrees, choices, dense)
        if piece == "mtp":
            share = round_up(ceil_div(share, max(1, problem.mtp_layers)), dense)
        held = held + where(degrees.pp > 1, share, 0)
    return UnitElements(
        _bucket(problem, others, degrees, choices, dense), _bucket(problem, experts, degrees, choices, expert), held
    )


def _in_unit(piece: Piece, parameter: Parameter) -> bool:
    if isinstance(piece, LayerKind):
        return True
    return piece == "mtp" and parameter.origin != "pipeline_copy" and not parameter.name.startswith("mtp.")


def _bucket(
    problem: Problem, parameters: Sequence[Parameter], degrees: Degrees, choices: Choices, ranks: Number
) -> Number:
    """Elements of one bucket: its tensors packed by rows of the chunk factor, the end a multiple of ranks * factor.

    Packing is a walk over tensors, so columns of layouts walk once for each value of the degrees that cut a tensor.
    """
    if not parameters:
        return 0
    cutting = ("ep", "etp") if parameters[0].sharding == "expert" else ("tp",)
    columns = [getattr(degrees, name) for name in cutting]
    if not any(is_column(column) for column in columns):
        return _ended(*_shape(problem, parameters, cutting, columns, choices), ranks)
    values, where_from = np.unique(np.stack(np.broadcast_arrays(*columns)), axis=1, return_inverse=True)
    found = [_shape(problem, parameters, cutting, [int(v) for v in row], choices) for row in values.T]
    taken, factor = np.array(found, dtype=np.int64)[where_from.ravel()].T
    return _ended(taken, factor, ranks)


def _ended(taken: Number, factor: Number, ranks: Number) -> Number:
    return where(factor == 0, taken, round_up(taken, ranks * maximum(factor, 1)))


def _shape(
    problem: Problem, parameters: Sequence[Parameter], cutting: Sequence[str], values: Sequence[int], choices: Choices
) -> tuple[int, int]:
    """Elements of a bucket before its end is rounded up, and its chunk factor (0: `no_shard`, which pads nothing)."""
    degrees = replace(_WHOLE, **dict(zip(cutting, values, strict=True)))
    tensors: list[tuple[int, int]] = []
    for parameter in parameters:
        numel = int(local_numel(problem, parameter, degrees))
        copies = ceil_div(parameter.copies, degrees.ep) if parameter.sharding == "expert" else 1
        tensors += [(numel, _row_length(problem, parameter, numel))] * copies
    if choices.fsdp == "no_shard":
        return sum(numel for numel, _ in tensors), 0
    return packed(tensors)


def packed(tensors: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Elements that tensors of (elements, row length) take in a bucket, and its chunk factor.

    Longest rows first. A tensor takes whole rows; the rest of another tensor, or tensors shorter than a row, may share
    its last one.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor[1])
    factor = chunk_factor(ordered)
    small = [numel for numel, _ in ordered if numel < factor]
    left = [numel for numel, _ in ordered if numel >= factor]
    end = 0
    while left:
        numel = left.pop(0)
        end += round_up(numel, factor)
        space = -numel % factor
        partner = next((i for i, other in enumerate(left) if space and 0 < other % factor <= space), None)
        if partner is not None:
            other = left.pop(partner)
            end += other // factor * factor
            space -= other % factor
        for item in list(small):
            if item <= space:
                space -= item
                small.remove(item)
    return end + sum(small), factor


def chunk_factor(ordered: Sequence[tuple[int, int]]) -> int:
    """The row length that a bucket is cut by: the longest row, widened to a common multiple wherever another row
    neither divides it nor belongs to a tensor that is shorter than it."""
    factor = ordered[0][1]
    for numel, row in ordered:
        if not (row == factor or (factor % row == 0 and numel % factor == 0) or numel < factor):
            factor = lcm(factor, row)
    return factor


def _row_length(problem: Problem, parameter: Parameter, numel: int) -> int:
    """Elements of a local tensor's row: its shape without the first dimension (one for vectors)."""
    architecture, name = problem.architecture, parameter.name
    if not name.endswith("weight") or "norm" in name:
        return 1
    seen = architecture.expert_hidden_size if parameter.sharding == "expert" else architecture.hidden_size
    if name.endswith(_ROW_PARALLEL):
        return int(ceil_div(numel, seen))
    if "fc2_latent_proj" in name:
        return architecture.moe_latent_size
    if "q_up_proj" in name:
        return architecture.q_lora_rank or 1
    if "kv_up_proj" in name:
        return architecture.kv_lora_rank or 1
    return seen * (2 if "eh_proj" in name else 1)
