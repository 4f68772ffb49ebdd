"""Megatron-LM's default buffers under Muon: matrices in shards that cut none, which pads them.

Without --no-use-layer-wise-param-layout a bucket of matrices has one shard a data-parallel rank, each as long as the
fullest, and at least as long as the bucket's largest matrix: with more ranks than matrices of one size most of it is
padding. Source: Megatron-LM d98e8a6, megatron/core/optimizer/layer_wise_optimizer.py:_compute_per_buffer_param_layout
(what closes a bucket, which shard takes a matrix) and param_layout.py (alignments). What Adam updates lies in buffers
of its own, padded as a distributed optimizer pads them (`buffers.bucket_padded`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from moeopt.accounting.buffers import (
    BUCKET_ALIGNMENT_ELEMENTS,
    bucket_elements,
    bucket_padded,
    chunk_tensors,
)
from moeopt.accounting.muon.state import is_matrix
from moeopt.accounting.parameters import Parameter
from moeopt.accounting.sharding import ALIGNMENT_ELEMENTS
from moeopt.arithmetic import round_up
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk
from moeopt.problem.problem import Problem

FULL_PERCENT = 90
"""A bucket closes from so much of its ranks times its largest matrix on, if that is more than the bucket size."""
LONGER_PERCENT = 30
"""A shard takes a matrix by the work that it brings unless that makes it so much longer than the mean."""


@dataclass(frozen=True)
class Matrix:
    """One matrix on one GPU, of so many rows and columns."""

    rows: int
    columns: int

    @property
    def numel(self) -> int:
        """Its elements."""
        return self.rows * self.columns

    @property
    def cost(self) -> int:
        """What Megatron takes for the work of orthogonalising it."""
        return self.numel * min(self.rows, self.columns)


def layer_wise_elements(
    problem: Problem, degrees: Degrees, choices: Choices, chunk: Chunk, first_chunk_of_first_stage: bool
) -> int:
    """Elements of all buffers of a chunk (16-bit parameters)."""
    size = bucket_elements(degrees) if first_chunk_of_first_stage and choices.overlap.grad_reduce else None
    elements = 0
    shards = degrees.dp * degrees.cp, degrees.edp
    for held, ranks in zip(chunk_tensors(problem, degrees, chunk), shards, strict=True):
        matrices = [_local_matrix(parameter, tensor.numel) for parameter, tensor in held if is_matrix(parameter)]
        others = [tensor for parameter, tensor in held if not is_matrix(parameter)]
        elements += padded_numel(matrices, ranks, size) + bucket_padded(others, ranks, size).numel
    return elements


def _local_matrix(parameter: Parameter, numel: int) -> Matrix:
    """The shape of a matrix on one GPU."""
    columns = parameter.columns * numel // parameter.numel if parameter.cut_by_columns else parameter.columns
    return Matrix(numel // columns, columns)


def padded_numel(matrices: Sequence[Matrix], shards: int, bucket_size: int | None) -> int:
    """Elements of one buffer of matrices, in registration order. `bucket_size` None is one bucket."""
    layout = _Layout(shards)
    bucket: list[Matrix] = []
    fill = [0] * shards
    for matrix in reversed(matrices):
        if bucket and bucket_size is not None:
            largest = max(each.numel for each in bucket)
            enough = max(bucket_size, shards * largest * FULL_PERCENT // 100)
            if sum(each.numel for each in bucket) >= enough and not layout.absorbs(fill, matrix.numel):
                layout.close(bucket)
                bucket, fill = [], [0] * shards
        least = fill.index(min(fill))
        fill[least] = round_up(fill[least], ALIGNMENT_ELEMENTS) + matrix.numel
        bucket.append(matrix)
    layout.close(bucket)
    return layout.numel


class _Layout:
    """Buckets of one buffer, one after the other; the work of a shard adds up over all of them."""

    def __init__(self, shards: int) -> None:
        self.shards, self.numel = shards, 0
        self._divisor = lcm(ALIGNMENT_ELEMENTS, lcm(shards, BUCKET_ALIGNMENT_ELEMENTS) // shards)
        self._work = [0] * shards

    def absorbs(self, fill: Sequence[int], numel: int) -> bool:
        """Whether one more matrix fits into what is padding so far."""
        return bool(round_up(min(fill), ALIGNMENT_ELEMENTS) + numel <= round_up(max(fill), self._divisor))

    def close(self, bucket: Sequence[Matrix]) -> None:
        """Give the matrices of a bucket to shards, the costliest first, each to the one with the least work that it
        does not make too long, or to the shortest."""
        if not bucket:
            return
        most = sum(matrix.numel for matrix in bucket) * (100 + LONGER_PERCENT) // (100 * self.shards)
        ends = [0] * self.shards
        for matrix in sorted(bucket, key=lambda matrix: -matrix.cost):
            starts = [round_up(end, ALIGNMENT_ELEMENTS) for end in ends]
            fitting = [shard for shard, start in enumerate(starts) if start + matrix.numel <= most]
            by = self._work if fitting else ends
            chosen = min(fitting or range(self.shards), key=by.__getitem__)
            ends[chosen] = starts[chosen] + matrix.numel
            self._work[chosen] += matrix.cost
        self.numel += self.shards * round_up(max(ends), self._divisor)
