"""What the pieces of rows cost in memory, as the bounds read it: the ledger's terms without padding, rounded down."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.persistent import Feature
from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, minimum
from moeopt.problem.architecture import LayerKind


@dataclass(frozen=True)
class Costs:
    """What the pieces of some rows cost: bytes that stay, bytes that one micro-batch in flight keeps, nanoseconds of
    one micro-batch (and of its forward pass), bytes that pass; by piece. Then bytes of a chunk in flight; bytes once on
    any rank, for each of its chunks, and by what it has (a feature); ns of a hop. All columns."""

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

    @classmethod
    def of(
        cls,
        terms: MemoryTerms,
        kept: Mapping[Piece, Number],
        piece_ns: Mapping[Piece, Number],
        rows: int,
        forward_ns: Mapping[Piece, Number] | None = None,
        hop_ns: Number = 0,
    ) -> "Costs":
        """As columns of so many rows. `kept` is what one micro-batch in flight keeps under the recompute setting."""
        passing = {piece: size - terms.queued_bytes.get(piece, 0) for piece, size in terms.transient_bytes.items()}
        costs = cls(
            {piece: _static_bytes(terms, piece) for piece in terms.kept_bytes},
            kept,
            piece_ns,
            forward_ns or {},
            passing,
            terms.chunk_kept_bytes,
            terms.overhead_bytes,
            terms.chunk_fixed_bytes,
            terms.present_bytes,
            hop_ns,
        )
        return costs.map(lambda value: np.broadcast_to(np.asarray(value, dtype=np.int64), (rows,)))

    @property
    def passing_layer(self) -> Number:
        """What passes in any decoder layer at least."""
        sizes = [size for piece, size in self.passing.items() if piece not in ("embedding", "loss")]
        return minimum(sizes[0], *sizes[1:])

    def once(self, features: Iterable[Feature]) -> Number:
        """Bytes once on a rank with all of these."""
        return sum((self.present.get(feature, 0) for feature in features), start=0)

    @property
    def with_layer(self) -> Number:
        """Bytes once on a rank with a decoder layer at least."""
        blocks = [self.once((ffn,)) for ffn in {piece.ffn for piece in self.static if isinstance(piece, LayerKind)}]
        return self.once(("layer",)) + minimum(blocks[0], *blocks[1:])

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
        """What a rank that runs a layer holds besides what layers keep."""
        return self.passing_layer + self.with_layer

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
        return self.map(lambda value: value[index])


def _static_bytes(terms: MemoryTerms, piece: Piece) -> Number:
    """Weights, gradients and optimizer state of one piece, unpadded and rounded down."""
    replicated = terms.weight_bytes_per_element + terms.gradient_bytes_per_element
    state = terms.optimizer_bytes_per_shard_element
    bytes_: Number = terms.quantized_bytes[piece]
    for elements, shards in (
        (terms.dense_elements[piece], terms.dense_shards),
        (terms.expert_elements[piece], terms.expert_shards),
    ):
        bytes_ = bytes_ + elements * replicated + elements * state.numerator // (state.denominator * shards)
    return bytes_
