"""The pieces that chunks are made of: decoder layers by kind, the embedding, MTP modules and the loss with its head.

Every cost is a cost a piece; a chunk's cost is a sum over its pieces. That linearity is what CP-SAT uses.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from moeopt.arithmetic import Number
from moeopt.pipeline import Chunk
from moeopt.problem.architecture import Architecture, LayerKind
from moeopt.problem.problem import Problem

Special: TypeAlias = Literal["embedding", "mtp", "loss"]
Piece: TypeAlias = LayerKind | Special


def pieces(architecture: Architecture) -> tuple[Piece, ...]:
    """All pieces of an architecture: its layer kinds in order of first appearance, then the special ones."""
    special: tuple[Special, ...] = ("embedding", "mtp", "loss")
    return (*architecture.kinds, *special)


def contents(architecture: Architecture, chunk: Chunk) -> dict[Piece, int]:
    """How many of each piece a chunk holds (pieces it does not hold are left out)."""
    counts: dict[Piece, int] = {}
    for kind in architecture.layers[chunk.first : chunk.last]:
        counts[kind] = counts.get(kind, 0) + 1
    if chunk.embedding:
        counts["embedding"] = 1
    if chunk.mtp:
        counts["mtp"] = chunk.mtp
    if chunk.loss:
        counts["loss"] = 1
    return counts


def piece_counts(problem: Problem) -> dict[Piece, int]:
    """How many of each piece the whole architecture holds."""
    counts: dict[Piece, int] = {}
    for kind in problem.architecture.layers:
        counts[kind] = counts.get(kind, 0) + 1
    counts["embedding"] = counts["loss"] = 1
    if problem.mtp_layers:
        counts["mtp"] = problem.mtp_layers
    return counts


def priced_total(counts: Mapping[Piece, int], prices: Mapping[Piece, Number]) -> Number:
    """Counts times prices."""
    return sum(count * prices[piece] for piece, count in counts.items())
