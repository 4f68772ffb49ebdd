"""Peak memory of many placements of one candidate at once, close enough to steer a heuristic.

The same composition as `moeopt.accounting.memory.stage` in arrays, without the padding of buffers (below a megabyte a
chunk) and with every feature present on every rank that runs layers. What the heuristic ends with is judged exactly.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.pieces import Recomputed
from moeopt.candidate import Candidate
from moeopt.problem.layer_kind import LayerKind
from moeopt.schedule.in_flight import in_flight_vectors

Array = NDArray[Any]


class MemoryGauge:
    """Prices of a candidate by layer and by stage, with the MTP modules on a given stage."""

    def __init__(self, candidate: Candidate, mtp_stage: int) -> None:
        self._pp, self._vpp = candidate.grid
        problem, memory, kept = candidate.problem, candidate.ledger.memory_terms, candidate.kept_bytes
        layers, stages = problem.architecture.layers, self._pp * self._vpp
        static = {piece: _static_bytes(candidate, piece) for piece in memory.kept_bytes}
        self._static = np.cumsum([0.0, *(static[kind] for kind in layers)])
        self._kept = np.cumsum([0.0, *(kept[kind] for kind in layers)])
        self._block = candidate.block_layers
        again = [kept[Recomputed.of(kind)] - kept[kind] if self._block else 0 for kind in layers]
        self._again = np.cumsum([0.0, *again])
        self._extra_static, self._extra_kept = np.zeros(stages), np.full(stages, float(memory.chunk_kept_bytes))
        passing = max(size for piece, size in memory.transient_bytes.items() if isinstance(piece, LayerKind))
        self._passing = np.full(stages, float(passing))
        special = [("embedding", 0, 1), ("loss", stages - 1, 1)]
        if problem.mtp_layers:
            special.append(("mtp", mtp_stage, problem.mtp_layers))
        for piece, stage, count in special:
            self._extra_static[stage] += count * static[piece]  # type: ignore[index]
            self._extra_kept[stage] += count * kept[piece]  # type: ignore[index]
            self._passing[stage] = max(self._passing[stage], memory.transient_bytes[piece])  # type: ignore[index]
        self._fixed = np.full(self._pp, float(memory.overhead_bytes + self._vpp * memory.chunk_fixed_bytes))
        self._fixed += sum(
            size for feature, size in memory.present_bytes.items() if feature in ("layer", "dense", "moe")
        )
        self._fixed[0] += memory.present_bytes["embedding"]
        self._fixed[-1] += memory.present_bytes["loss"]
        for rank in {stage % self._pp for _, stage, _ in special}:
            self._fixed[rank] += memory.present_bytes["vocabulary"]
        vectors = [
            np.array(in_flight_vectors(*candidate.schedule[:4], rank, candidate.schedule[4]), dtype=float)
            for rank in range(self._pp)
        ]
        runs = zip(vectors, self._passing.reshape(self._vpp, self._pp).T, strict=True)
        self._flights = [(each.T, np.where(each > 0, passing, 0.0).max(axis=1)) for each, passing in runs]
        """By rank: micro-batches in flight of every vector, and the bytes that pass in the chunks that have some."""

    def peaks(self, counts: Array) -> Array:
        """Bytes of the fullest rank for each row of decoder layers a stage (integers, rounded up)."""
        return np.asarray(self.ranks(counts).max(axis=1))

    def ranks(self, counts: Array) -> Array:
        """Bytes of every rank, one row a placement."""
        ends = np.cumsum(counts, axis=1)
        starts = ends - counts
        shape = (len(counts), self._vpp, self._pp)
        static = (self._static[ends] - self._static[starts] + self._extra_static).reshape(shape).sum(axis=1)
        again = self._again[starts + np.minimum(counts, self._block)] - self._again[starts]
        kept = (self._kept[ends] - self._kept[starts] + again + self._extra_kept).reshape(shape)
        total = np.empty((len(counts), self._pp))
        for rank, (vectors, running) in enumerate(self._flights):
            total[:, rank] = static[:, rank] + (kept[:, :, rank] @ vectors + running).max(axis=1)
        return np.asarray(np.ceil(total + self._fixed), dtype=np.int64)


def _static_bytes(candidate: Candidate, piece: Any) -> float:
    memory = candidate.ledger.memory_terms
    replicated = memory.weight_bytes_per_element + memory.gradient_bytes_per_element
    state = float(memory.optimizer_bytes_per_shard_element)
    return float(
        memory.beside_bytes(piece)
        + memory.dense_elements[piece] * (replicated + state / memory.dense_shards)
        + memory.expert_elements[piece] * (replicated + state / memory.expert_shards)
    )
