"""What a layout must stay within to matter."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Column: TypeAlias = NDArray[np.int64]
MOST_NS = 10**13
"""Longest step that is searched: 10,000 s."""


@dataclass(frozen=True)
class Limits:
    """What a layout must stay within to matter: `time_ns` for a step, or `gpu_ns` for GPUs times a step.

    The step is the ledger's, or with `replayed` the one whose pipeline part is replayed operation by operation.
    """

    memory_bytes: int
    time_ns: int | None = None
    gpu_ns: int | None = None
    replayed: bool = False

    @property
    def timed(self) -> bool:
        """Whether the time is limited at all."""
        return self.gpu_ns is not None or (self.time_ns is not None and self.time_ns < MOST_NS)

    def time_of(self, gpus: Column) -> Column:
        """Nanoseconds of a step allowed on so many GPUs."""
        most = np.full_like(gpus, MOST_NS if self.time_ns is None else self.time_ns)
        return most if self.gpu_ns is None else np.minimum(most, self.gpu_ns // gpus)
