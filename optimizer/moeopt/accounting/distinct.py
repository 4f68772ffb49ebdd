"""Rows of columns that a formula cannot tell apart are priced once.

What a piece costs follows from five or six of the eleven degrees, so of a sweep's rows few differ to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import Number, is_column
from moeopt.layout import Choices, Degrees

_FEW = 4096
"""Rows that are priced as they are: to find the distinct ones would take longer."""
_WORTH = 2
"""The same where there are fewer than so many rows for each distinct one."""


@dataclass(frozen=True)
class Distinct:
    """Degrees of which no two rows have the same keys, and how to get every row's values back."""

    degrees: Degrees
    rows: NDArray[np.int64] | None
    """For each row the distinct one that stands for it; None where every row stands for itself."""

    @classmethod
    def of(cls, degrees: Degrees, keys: Sequence[Number]) -> "Distinct":
        """The first row of each combination of keys (columns of numbers that are not negative)."""
        columns = [np.asarray(key, dtype=np.int64) for key in keys if is_column(key)]
        if not columns or len(columns[0]) < _FEW:
            return cls(degrees, None)
        code, count = np.zeros(len(columns[0]), dtype=np.int64), 1
        for column in columns:
            size = int(column.max()) + 1
            if count * size > np.iinfo(np.int64).max // 2:
                _, code = np.unique(code, return_inverse=True)
                count = int(code.max()) + 1
            code, count = code * size + column, count * size
        _, first, rows = np.unique(code, return_index=True, return_inverse=True)
        if len(first) * _WORTH > len(code):
            return cls(degrees, None)
        some = {field.name: getattr(degrees, field.name) for field in fields(Degrees)}
        return cls(Degrees(**{name: value[first] if is_column(value) else value for name, value in some.items()}), rows)

    @classmethod
    def of_pieces(cls, degrees: Degrees, choices: Choices, also: Number) -> "Distinct":
        """Rows whose pieces differ: what pieces need and take depends on these and one key more; what Megatron-FSDP
        shards and sends, on everything."""
        if choices.fsdp != "none":
            return cls(degrees, None)
        d = degrees
        return cls.of(d, (d.tp, d.cp, d.ep, d.etp, d.micro_batch_size, also))

    def spread(self, value: Number) -> Number:
        """Values of the distinct rows, for every row."""
        return value if self.rows is None or not is_column(value) else value[self.rows]
