"""The global batch of a problem: one number of sequences, a range of them, or a list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, TypeAlias

from pydantic import model_validator

from moeopt.errors import InputError
from moeopt.problem.base import LARGEST, Input, Positive, read_fields, shown
from moeopt.units import is_count, parse_plain_count

MOST_LISTED, MOST_IN_RANGE = 1000, 10**6
"""Batches that a problem may list one by one, and in a range."""
_SMALL_FACTORS = 2**20 * 3**4 * 5**2 * 7
_RANGE = re.compile(r"\s*(\w+)\s*\.\.\s*(\w+)\s*(?:/\s*(\w+)\s*)?")


class BatchRange(Input):
    """Every multiple of `multiple_of` from `min` to `max` sequences, both included."""

    min: Positive
    max: Positive
    multiple_of: Positive = 1

    @model_validator(mode="after")
    def _some(self) -> "BatchRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if not self.values:
            raise ValueError(f"no multiple of {self.multiple_of} lies from min {self.min} to max {self.max}")
        if len(self.values) > MOST_IN_RANGE:
            raise ValueError(
                f"min {self.min} to max {self.max} are {len(self.values)} batches, more than the {MOST_IN_RANGE} that "
                "a range may have; give a larger multiple_of"
            )
        return self

    @property
    def values(self) -> range:
        """The batches, ascending."""
        return range(-(-self.min // self.multiple_of) * self.multiple_of, self.max + 1, self.multiple_of)


GlobalBatch: TypeAlias = Positive | BatchRange | tuple[Positive, ...]


@dataclass(frozen=True)
class Batches:
    """The batches that a layout may have, ascending, in sequences a step."""

    values: Sequence[int]

    @classmethod
    def of(cls, given: GlobalBatch) -> "Batches":
        """From the field of a workload."""
        if isinstance(given, BatchRange):
            return cls(given.values)
        return cls(given if isinstance(given, tuple) else (given,))

    @property
    def exact(self) -> bool:
        """Whether there is only one."""
        return len(self.values) == 1

    @property
    def least(self) -> int:
        """The smallest."""
        return self.values[0]

    @property
    def most(self) -> int:
        """The largest. Values of objectives are compared for steps of so many sequences."""
        return self.values[-1]

    @property
    def most_divisible(self) -> int:
        """The one that shares most with a number of many small factors; of several the smallest."""
        return max(self.values, key=lambda batch: gcd(batch, _SMALL_FACTORS))

    def __str__(self) -> str:
        if isinstance(self.values, range) and len(self.values) > 1:
            step = f" in multiples of {self.values.step}" if self.values.step > 1 else ""
            return f"{self.least} to {self.most}{step}"
        *others, last = map(str, self.values)
        return f"{', '.join(others)} or {last}" if others else last


def batches_of(given: Any) -> Batches:
    """From the field as an answer's JSON object writes it."""
    return Batches.of(
        BatchRange(**given) if isinstance(given, Mapping) else given if isinstance(given, int) else (*given,)
    )


def read_batch(given: Any, field: str = "global_batch_size") -> Any:
    """What a problem file or an option says, as the field's value: a count (`4096`, `4K`), a range (`{min: 1024, max:
    4096}`, `1024..4096`, `1024..4096/256` for multiples of 256) or a list (`[1024, 2048]`, `1024,2048`).

    A range or list of one value is that value. Raises InputError naming the field.
    """
    if isinstance(given, str) and "," in given:
        given = [part.strip() for part in given.split(",")]
    match = _RANGE.fullmatch(given) if isinstance(given, str) else None
    if match:
        names = ("min", "max", "multiple_of")
        given = {name: _count(text, field) for name, text in zip(names, match.groups(), strict=True) if text}
    if isinstance(given, Mapping):
        given = read_fields(BatchRange, given, field)
    if isinstance(given, BatchRange):
        return given.values[0] if len(given.values) == 1 else given
    if not isinstance(given, (list, tuple)):
        return _count(given, field)
    values = [_count(value, field) for value in given]
    if not values or len(values) > MOST_LISTED:
        raise InputError(f"{field}: a list of {len(values)} batches; it takes 1 to {MOST_LISTED}, or a range")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise InputError(f"{field}: {twice} is given twice")
    return values[0] if len(values) == 1 else tuple(sorted(values))


def _count(given: Any, field: str) -> int:
    count = 0
    if not isinstance(given, float) and is_count(given):
        count = parse_plain_count(given, field)
    if not 0 < count <= LARGEST:
        raise InputError(
            f"{field}: {shown(given)} is not a whole number from 1 to {LARGEST}; write it like 4096, 1024..4096 for a "
            "range, or 1024,2048 for a choice"
        )
    return count
