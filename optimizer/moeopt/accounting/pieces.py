"""The pieces that chunks are made of: decoder layers by kind, the embedding, MTP modules and the loss with its head.

Every cost is a cost a piece; a chunk's cost is a sum over its pieces. That linearity is what CP-SAT uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from moeopt.arithmetic import Number
from moeopt.layout import Recompute
from moeopt.pipeline import Chunk
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class Recomputed(LayerKind):
    """A decoder layer that full recompute by block covers: one of the first of its chunk. (A piece of its own, so that
    a chunk's cost stays a sum over its pieces; equal to no kind of layer.)"""

    @classmethod
    def of(cls, kind: LayerKind) -> "Recomputed":
        """Such a layer of a kind."""
        return cls(kind.ffn, kind.window, kind.mixer, kind.in_bf16)

    def __str__(self) -> str:
        return f"{super().__str__()}, recomputed"


Special: TypeAlias = Literal["embedding", "mtp", "loss"]
Piece: TypeAlias = LayerKind | Special


def pieces(architecture: Architecture) -> tuple[Piece, ...]:
    """All pieces of an architecture: its layer kinds in order of first appearance, then the special ones."""
    special: tuple[Special, ...] = ("embedding", "mtp", "loss")
    return (*architecture.kinds, *special)


def pieces_under(problem: Problem, recompute: Recompute) -> tuple[Piece, ...]:
    """All pieces of a problem under a recompute setting: without MTP modules where it has none, and by block every kind
    of layer recomputed as well."""
    again = map(Recomputed.of, problem.architecture.kinds if recompute.block_layers else ())
    return *(piece for piece in pieces(problem.architecture) if piece != "mtp" or problem.mtp_layers), *again


def plain(piece: Piece) -> Piece:
    """The same piece, not recomputed by block."""
    return LayerKind(piece.ffn, piece.window, piece.mixer, piece.in_bf16) if isinstance(piece, Recomputed) else piece


def is_recomputed(piece: Piece, recompute: Recompute) -> bool:
    """Whether full recompute covers a piece: by units every one, by block the first layers of a chunk (MTP modules are
    left out: megatron/core/transformer/multi_token_prediction.py)."""
    return isinstance(piece, Recomputed) if recompute.block_layers else recompute.granularity == "full"


def contents(architecture: Architecture, chunk: Chunk, block_layers: int = 0) -> dict[Piece, int]:
    """How many of each piece a chunk holds (pieces it does not hold are left out), when so many of its first layers are
    recomputed by block."""
    counts: dict[Piece, int] = {}
    for index, kind in enumerate(architecture.layers[chunk.first : chunk.last]):
        piece = Recomputed.of(kind) if index < block_layers else kind
        counts[piece] = counts.get(piece, 0) + 1
    if chunk.embedding:
        counts["embedding"] = 1
    if chunk.mtp:
        counts["mtp"] = chunk.mtp
    if chunk.loss:
        counts["loss"] = 1
    return counts


def piece_counts(problem: Problem, recomputed: bool = False) -> dict[Piece, int]:
    """How many of each piece the whole architecture holds; `recomputed`: when every layer is recomputed by block."""
    layers = problem.architecture.layers_of_kind
    counts: dict[Piece, int] = {Recomputed.of(kind) if recomputed else kind: count for kind, count in layers.items()}
    counts["embedding"] = counts["loss"] = 1
    if problem.mtp_layers:
        counts["mtp"] = problem.mtp_layers
    return counts


def priced_total(counts: Mapping[Piece, int], prices: Mapping[Piece, Number]) -> Number:
    """Counts times prices."""
    return sum(count * prices[piece] for piece, count in counts.items())
