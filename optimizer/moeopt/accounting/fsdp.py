"""Megatron-FSDP's buckets: what one piece's parameters take, padded, and which of them are gathered and released.

Sources (Megatron-LM d98e8a6, megatron/core/distributed/fsdp/src/megatron_fsdp/param_and_grad_buffer.py): :1731-1963
(every TransformerLayer is a unit; its routed experts and its other parameters are one bucket each; parameters outside
units have buckets of their own), :1900-1930 (a bucket's chunk factor: the row length that all its tensors share),
:258-383 (a bucket's end is a multiple of ranks * factor), mcore_fsdp_adapter.py:165-173 (units are TransformerLayers).
Two simplifications, both upwards: a tensor whose elements are no multiple of the factor takes the next one (Megatron
may put the rest of another tensor, or a small one, into the gap), and the embedding, the output head and the norms
beside them end a bucket each (Megatron may close one bucket over several).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from moeopt.accounting.parameters import Parameter, piece_parameters
from moeopt.accounting.pieces import Piece
from moeopt.accounting.sharding import local_numel
from moeopt.arithmetic import Number, both, ceil_div, either, is_column, lcm, round_up, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import LayerKind
from moeopt.problem.problem import Problem

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


def _bucket(problem: Problem, parameters: list[Parameter], degrees: Degrees, choices: Choices, ranks: Number) -> Number:
    """Elements of one bucket: each tensor in whole rows of the chunk factor, the end a multiple of ranks * factor."""
    if not parameters:
        return 0
    sizes = [local_numel(problem, parameter, degrees) for parameter in parameters]
    counts = [
        ceil_div(parameter.copies, degrees.ep) if parameter.sharding == "expert" else 1 for parameter in parameters
    ]
    if choices.fsdp == "no_shard":
        return _sum(size * count for size, count in zip(sizes, counts, strict=True))
    rows = [_row_length(problem, parameter, size) for parameter, size in zip(parameters, sizes, strict=True)]
    factor = chunk_factor(rows, sizes)
    taken = _sum(
        where(size < factor, size, round_up(size, factor)) * count for size, count in zip(sizes, counts, strict=True)
    )
    return round_up(taken, ranks * factor)


def _sum(values: Iterable[Number]) -> Number:
    total: Number = 0
    for value in values:
        total = total + value
    return total


def _row_length(problem: Problem, parameter: Parameter, numel: Number) -> Number:
    """Elements of a local tensor's row: its shape without the first dimension (one for vectors)."""
    architecture, name = problem.architecture, parameter.name
    if not name.endswith("weight") or "norm" in name:
        return 1 + 0 * numel
    if name.endswith(_ROW_PARALLEL):
        return ceil_div(numel, architecture.hidden_size)
    if "q_up_proj" in name:
        return architecture.q_lora_rank or 1
    if "kv_up_proj" in name:
        return architecture.kv_lora_rank or 1
    return architecture.hidden_size * (2 if "eh_proj" in name else 1)


def chunk_factor(rows: list[Number], sizes: list[Number]) -> Number:
    """The row length that a bucket is cut by: the longest row, widened to a common multiple wherever another row
    neither divides it nor belongs to a tensor that is shorter than it."""
    order = _longest_first(rows)
    factor = order(rows)[0]
    for row, size in zip(order(rows), order(sizes), strict=True):
        fits = either(row == factor, both(factor % row == 0, size % factor == 0), size < factor)
        factor = where(fits, factor, lcm(factor, row))
    return factor


def _longest_first(rows: list[Number]) -> Callable[[list[Number]], list[Number]]:
    """A stable sort by row length, descending; in columns, of each layout by itself."""
    if not any(is_column(row) for row in rows):
        order = sorted(range(len(rows)), key=lambda index: -rows[index])
        return lambda values: [values[index] for index in order]
    table = np.stack(np.broadcast_arrays(*rows))
    columns = np.argsort(-table, axis=0, kind="stable")

    def arranged(values: list[Number]) -> list[Number]:
        stacked = np.stack([np.broadcast_to(value, table.shape[1:]) for value in values])
        return list(np.take_along_axis(stacked, columns, axis=0))

    return arranged
