"""Who updates which tensor under Megatron's layer-wise optimizer, and the state that makes on every GPU of a stage.

Source: Megatron-LM d98e8a6, megatron/core/optimizer/layer_wise_optimizer.py:_shard_params_ping_pong: the tensors of all
chunks of a rank, dense and expert ones apart, sorted by size and dealt to the data-parallel ranks back and forth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from moeopt.accounting.buffers import chunk_tensors
from moeopt.accounting.muon.state import MATRIX_BYTES, OTHER_BYTES, is_layer_wise, is_matrix
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class Held:
    """One tensor of a rank that data-parallel ranks share out."""

    numel: int
    is_matrix: bool

    @property
    def state_bytes(self) -> int:
        """Its state, on the one rank that updates it."""
        return self.numel * (MATRIX_BYTES if self.is_matrix else OTHER_BYTES)


@dataclass(frozen=True)
class Dealt:
    """The tensors of one pipeline stage, those of experts apart (where they do not lie with the dense ones)."""

    dense: tuple[Held, ...]
    expert: tuple[Held, ...]

    def margin_bytes(self, whole_bytes: int) -> int:
        """What the busiest rank and the law, which counts `whole_bytes` for the largest tensor, can differ by: more by
        one more of the largest tensors, less by what the law counts for one, and by what Adam needs beyond Muon."""
        largest = sum(max((held.state_bytes for held in tensors), default=0) for tensors in (self.dense, self.expert))
        beyond = sum(held.state_bytes - MATRIX_BYTES * held.numel for held in (*self.dense, *self.expert))
        return max(largest, whole_bytes) + beyond


def stage_tensors(problem: Problem, degrees: Degrees, chunks: Sequence[Chunk]) -> Dealt:
    """The tensors of one pipeline stage that Muon's layer-wise optimizer shares out."""
    held = [chunk_tensors(problem, degrees, chunk) for chunk in chunks]
    dense, expert = (
        tuple(Held(tensor.numel, is_matrix(parameter)) for parameter, tensor in chain.from_iterable(tensors))
        for tensors in zip(*held, strict=True)
    )
    return Dealt(dense, expert)


def rank_state_bytes(problem: Problem, degrees: Degrees, choices: Choices, dealt: Dealt) -> list[int]:
    """State of every GPU of a pipeline stage, in the order of ranks: dealt out to dp * cp ranks, and to edp; without a
    distributed optimizer all of it on each."""
    ranks = range(degrees.tp * degrees.dp * degrees.cp)
    shared = is_layer_wise(problem, choices)
    dense = _dealt(dealt.dense, degrees.dp * degrees.cp if shared else 1)
    expert = _dealt(dealt.expert, degrees.edp if shared else 1)
    if not shared:
        return [dense[0] + expert[0] for _ in ranks]
    return [dense[rank // degrees.tp] + expert[rank // (degrees.etp * degrees.ep)] for rank in ranks]


def _dealt(tensors: Iterable[Held], ranks: int) -> list[int]:
    """State bytes by rank: the smallest tensor first, to the first rank, on to the last and back again."""
    held = [0] * ranks
    order = [*range(ranks), *reversed(range(ranks))]
    for index, tensor in enumerate(sorted(tensors, key=lambda tensor: tensor.numel)):
        held[order[index % len(order)]] += tensor.state_bytes
    return held
