"""What the pieces of rows cost in memory, as the bounds read it: the ledger's terms without padding, rounded down."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.persistent import Feature, layer_features
from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece, Recomputed
from moeopt.arithmetic import Number, maximum, minimum
from moeopt.problem.layer_kind import LayerKind


@dataclass(frozen=True)
class Costs:
    """What the pieces of some rows cost: bytes that stay, bytes that one micro-batch in flight keeps, nanoseconds of
    one micro-batch (and of its forward pass), bytes that pass; by piece. Then bytes of a chunk in flight; bytes once on
    any rank, for each of its chunks, and by what it has (a feature); ns of a hop. Then full recompute by block: how
    many of a stage's first layers it covers (0: there is none), and, by kind, what one of these adds to the time and
    takes off the bytes kept. All columns."""

    static: Mapping[Piece, Number]
    kept: Mapping[Piece, Number]
    time: Mapping[Piece, Number]
    forward: Mapping[Piece, Number]
    passing: Mapping[Piece, Number]
    chunk_kept: Number
    fixed: Number
    chunk_fixed: Number
    present: Mapping[Feature, Number]
    hop_ns: Number
    block_layers: Number
    added_ns: Mapping[Piece, Number]
    freed_bytes: Mapping[Piece, Number]

    @classmethod
    def of(
        cls,
        terms: MemoryTerms,
        kept: Mapping[Piece, Number],
        piece_ns: Mapping[Piece, Number],
        rows: int,
        forward_ns: Mapping[Piece, Number] | None = None,
        hop_ns: Number = 0,
        block_layers: int = 0,
        full_recompute_ns: Mapping[Piece, Number] | None = None,
    ) -> "Costs":
        """As columns of so many rows. `kept` is what one micro-batch in flight keeps under the recompute setting; by
        block, what pieces that are not recomputed do. Then what passes in a layer is what does in a recomputed one:
        every stage with layers begins with it."""
        kinds = [piece for piece in kept if isinstance(piece, LayerKind)]
        passing = {piece: size - terms.queued_bytes.get(piece, 0) for piece, size in terms.transient_bytes.items()}
        again: dict[Piece, Piece] = {kind: Recomputed.of(kind) if block_layers else kind for kind in kinds}
        costs = cls(
            {piece: static_bytes(terms, piece) for piece in kept},
            kept,
            piece_ns,
            forward_ns or {},
            {piece: passing[again.get(piece, piece)] for piece in kept},
            terms.chunk_kept_bytes,
            terms.overhead_bytes,
            terms.chunk_fixed_bytes,
            terms.present_bytes,
            hop_ns,
            block_layers,
            {kind: (full_recompute_ns or {}).get(kind, 0) for kind in kinds},
            {kind: terms.kept_bytes[kind] - terms.kept_bytes[piece] for kind, piece in again.items()},
        )

        def column(value: Number) -> Number:  # most are columns already, and to broadcast takes longer than to look
            given = np.asarray(value, dtype=np.int64)
            return given if given.shape == (rows,) else np.broadcast_to(given, (rows,))

        return costs.map(column)

    @property
    def most_freed_bytes(self) -> Number:
        """What a layer recomputed by block takes off the bytes kept at most, no less than nothing."""
        first, *rest = self.freed_bytes.values()
        return maximum(first, *rest, 0)

    @property
    def passing_layer(self) -> Number:
        """What passes in any decoder layer at least."""
        first, *rest = (size for piece, size in self.passing.items() if isinstance(piece, LayerKind))
        return minimum(first, *rest)

    def once(self, features: Iterable[Feature]) -> Number:
        """Bytes once on a rank with all of these."""
        return sum((self.present.get(feature, 0) for feature in features), start=0)

    @property
    def with_layer(self) -> Number:
        """Bytes once on a rank with a decoder layer at least."""
        first, *rest = {layer_features(piece) for piece in self.static if isinstance(piece, LayerKind)}
        return minimum(self.once(first), *map(self.once, rest))

    @property
    def with_loss(self) -> Number:
        """Bytes once on the rank with the loss."""
        return self.once(("loss",))

    @property
    def with_embedding(self) -> Number:
        """Bytes once on the rank with the embedding."""
        return self.once(("embedding",))

    @property
    def layer(self) -> Number:
        """What a rank that runs a layer, or the MTP modules, holds besides what these keep."""
        return minimum(self.passing_layer, self.passing.get("mtp", self.passing_layer)) + self.with_layer

    @property
    def loss(self) -> Number:
        """The same for the rank with the loss."""
        return self.passing["loss"] + self.with_loss

    def map(self, change: Callable[[Number], Number]) -> "Costs":
        """Every number changed in the same way."""
        values = (getattr(self, field.name) for field in fields(self))
        return Costs(
            *(
                {piece: change(size) for piece, size in value.items()} if isinstance(value, Mapping) else change(value)
                for value in values
            )
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Costs"]) -> "Costs":
        """Columns one after the other."""
        values: list[Any] = []
        for field in fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            if isinstance(columns[0], Mapping):
                values.append({piece: np.concatenate([column[piece] for column in columns]) for piece in columns[0]})
            else:
                values.append(np.concatenate(columns))
        return cls(*values)

    def rows(self, index: NDArray[np.int64]) -> "Costs":
        """Some rows of columns."""
        return self.map(lambda value: value.take(index))


def static_bytes(terms: MemoryTerms, piece: Piece) -> Number:
    """Weights, gradients and optimizer state of one piece, unpadded and rounded down."""
    replicated = terms.weight_bytes_per_element + terms.gradient_bytes_per_element
    state = terms.optimizer_bytes_per_shard_element
    bytes_: Number = terms.beside_bytes(piece)
    for elements, shards in (
        (terms.dense_elements[piece], terms.dense_shards),
        (terms.expert_elements[piece], terms.expert_shards),
    ):
        bytes_ = bytes_ + elements * replicated + elements * state.numerator // (state.denominator * shards)
    return bytes_
