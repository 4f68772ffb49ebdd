"""The points of a sweep: the cross product of lists, each point a problem (or the reason why it is none)."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.problem import Problem
from moeopt.units import parse_count

AXES = ("architecture", "cluster", "gpus", "sequence_length", "global_batch_size", "precision")
"""What a sweep may vary, outermost first."""


COORDINATES = (*AXES[:3], "gpus_min", *AXES[3:5], "global_batch_size_min", *AXES[5:])
"""The columns that say which point a row is; `gpus` and `global_batch_size` are the most of a range, and `gpus_min` and
`global_batch_size_min` its least."""


@dataclass(frozen=True)
class Point:
    """One cell of the grid: its coordinates as given, and its problem, or why it cannot be one."""

    coordinates: Mapping[str, str]
    problem: Problem | None
    error: str | None = None

    @property
    def key(self) -> str:
        """The same for the same problem in any run: a digest of everything that decides the answer."""
        asked = self.problem.model_dump(mode="json") if self.problem is not None else dict(self.coordinates)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def columns(self) -> dict[str, Any]:
        """Every coordinate, also those that do not vary; of a point without a problem, those given."""
        if self.problem is None:
            return {name: _number(value) for name, value in self.coordinates.items()}
        problem, workload = self.problem, self.problem.workload
        reach, batches = problem.gpu_range, workload.batches
        return {
            "architecture": self.coordinates.get("architecture") or problem.architecture.name,
            "cluster": self.coordinates.get("cluster") or problem.cluster.name,
            "gpus": reach.max,
            **({"gpus_min": reach.min} if reach.min < reach.max else {}),
            "sequence_length": workload.sequence_length,
            "global_batch_size": batches.most,
            **({} if batches.exact else {"global_batch_size_min": batches.least}),
            "precision": workload.precision,
        }


def _number(text: str) -> Any:
    try:
        return parse_count(text)
    except InputError:
        return text


def split(text: str, axis: str) -> list[str]:
    """The values of a comma list. Raises InputError for an empty one and for a value given twice."""
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise InputError(f"{axis}: {text!r} has an empty value; write it like a,b,c")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{axis}: {value!r} is given twice")
    return values


def grid(axes: Mapping[str, Sequence[str]], build: Callable[[Mapping[str, Any]], Problem]) -> list[Point]:
    """Every combination, `build` making the problem of its coordinates. A combination that contradicts itself becomes
    a point with its error; an error that all of them share is raised.
    """
    names = [name for name in AXES if axes.get(name)]
    points = [_point(dict(zip(names, values, strict=True)), build) for values in product(*(axes[n] for n in names))]
    errors = {point.error for point in points}
    if len(errors) == 1 and None not in errors:
        raise InputError(str(errors.pop()))
    return points


def _point(coordinates: dict[str, str], build: Callable[[Mapping[str, Any]], Problem]) -> Point:
    try:
        return Point(coordinates, build(coordinates))
    except InputError as error:
        return Point(coordinates, None, str(error))
