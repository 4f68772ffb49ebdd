"""What a layout must stay within to matter."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.layout import Degrees

Column: TypeAlias = NDArray[np.int64]
MOST_NS = 10**13
"""Longest step that is searched: 10,000 s."""


@dataclass(frozen=True)
class Limits:
    """What a layout must stay within to matter: `time_ns` for a step, or `gpu_ns` for GPUs times a step; `shares`
    where steps of different batches are compared.

    The step is the ledger's, or with `replayed` the one whose pipeline part is replayed operation by operation.
    """

    memory_bytes: int
    time_ns: int | None = None
    gpu_ns: int | None = None
    replayed: bool = False
    shares: "tuple[Share, ...]" = ()

    @property
    def timed(self) -> bool:
        """Whether the time is limited at all."""
        steps = self.time_ns is not None and self.time_ns < MOST_NS
        return steps or self.gpu_ns is not None or bool(self.shares)

    def time_of(self, degrees: Degrees) -> Column:
        """Nanoseconds of a step allowed for rows."""
        allowed = [self.step_of(degrees), *(share.time_of(degrees) for share in self.shares)]
        return np.asarray(np.minimum.reduce(allowed))

    def step_of(self, degrees: Degrees) -> Column:
        """The same without the shares: what does not grow with the batch."""
        most = np.full_like(degrees.tp, MOST_NS if self.time_ns is None else self.time_ns)
        return most if self.gpu_ns is None else np.asarray(np.minimum(most, self.gpu_ns // degrees.gpus))


@dataclass(frozen=True)
class Share:
    """At most so many nanoseconds of a step (with `on_gpus` of GPUs times a step) for each sequence of its batch."""

    ns: Fraction
    on_gpus: bool = False

    def time_of(self, degrees: Degrees) -> Column:
        """Nanoseconds of a step allowed for rows: rounded down once, from exact fractions."""
        unit = degrees.gpus if self.on_gpus else np.ones_like(degrees.tp)
        cases, which = np.unique(np.stack([degrees.batch, unit], axis=1), axis=0, return_inverse=True)
        above, below = self.ns.numerator, self.ns.denominator
        times = [min(above * batch // (below * gpus), MOST_NS) for batch, gpus in cases.tolist()]
        return np.array(times, dtype=np.int64)[which.reshape(-1)]
