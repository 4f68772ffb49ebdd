"""The objectives of a frontier: each is a function of a layout's step time, peak memory and GPU count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from moeopt.constraints.guide import ceilings
from moeopt.errors import InputError
from moeopt.frontier.boxes import Corner, Point, Resolution
from moeopt.problem.base import nearest
from moeopt.problem.problem import Problem
from moeopt.screening import MOST_NS, Limits
from moeopt.solving.incumbent import Found

GOALS: dict[str, Callable[[int, int, int], int]] = {
    "step_time": lambda time_ns, _peak_bytes, _gpus: time_ns,
    "peak_memory": lambda _time_ns, peak_bytes, _gpus: peak_bytes,
    "gpus": lambda _time_ns, _peak_bytes, gpus: gpus,
    "cost": lambda time_ns, _peak_bytes, gpus: gpus * time_ns,
}
"""Objective -> its value from nanoseconds of a step, bytes of the fullest GPU, and GPUs. None falls as one of these
rises, so a limit on it is a limit on them."""


def check_objectives(names: Sequence[str] | str) -> tuple[str, ...]:
    """The names as a tuple; a text is split at its commas. Raises InputError for one that is unknown or given twice,
    and for fewer than two."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    for name in names:
        if name not in GOALS:
            raise InputError(f"objectives: {name!r} is none of {', '.join(GOALS)}{nearest(name, list(GOALS))}")
        if list(names).count(name) > 1:
            raise InputError(f"objectives: {name} is given twice")
    if len(names) < 2:
        raise InputError(f"objectives: a frontier needs two or more of {', '.join(GOALS)}, got {', '.join(names)!r}")
    return tuple(names)


def essential(problem: Problem, names: Sequence[str], resolution: Resolution) -> list[int]:
    """Positions of the objectives that decide the frontier: without one that never differs, and without cost where
    the step time and the GPUs decide it."""
    fixed = problem.gpu_range.min == problem.gpu_range.max
    kept = [j for j, name in enumerate(names) if not (fixed and name == "gpus")]
    if "cost" in names and "step_time" in names and (fixed or "gpus" in names):
        cost, time = names.index("cost"), names.index("step_time")
        same_gpus = fixed or not (resolution.share[j := names.index("gpus")] or resolution.units[j])
        if same_gpus and not resolution.units[time] and resolution.share[time] <= resolution.share[cost]:
            kept.remove(cost)
    return kept


@dataclass(frozen=True)
class Region:
    """Everything within a box of objective values: what a layout may take to matter."""

    limits: Limits
    gpus: int
    """At most so many GPUs."""

    def time_ns(self, gpus: int) -> int:
        """Nanoseconds of a step allowed on so many GPUs."""
        time_ns = MOST_NS if self.limits.time_ns is None else min(MOST_NS, self.limits.time_ns)
        return time_ns if self.limits.gpu_ns is None else min(time_ns, self.limits.gpu_ns // gpus)


@dataclass(frozen=True)
class Goals:
    """Some objectives, in order, for one problem."""

    problem: Problem
    names: tuple[str, ...]

    def point(self, found: Found) -> Point:
        """A layout's objective values."""
        return self.values(found.time_ns, found.peak_bytes, int(found.candidate.degrees.gpus))

    def values(self, time_ns: int, peak_bytes: int, gpus: int) -> Point:
        """Objective values of these integers."""
        return tuple(GOALS[name](time_ns, peak_bytes, gpus) for name in self.names)

    @property
    def most(self) -> Corner:
        """The box of every layout that the problem allows."""
        memory, longest_ns = self._ceilings
        return self.values(MOST_NS if longest_ns is None else longest_ns, memory, self.problem.gpu_range.max)

    @cached_property
    def _ceilings(self) -> tuple[int, int | None]:
        """Bytes and nanoseconds that no layout may exceed, by the problem."""
        return ceilings(self.problem)

    def region(self, corner: Corner) -> Region:
        """The limits that keep a layout in the box of a corner."""
        given = dict(zip(self.names, corner, strict=True))
        memory, longest_ns = self._ceilings
        return Region(
            Limits(
                min(memory, given.get("peak_memory", memory)),
                time_ns=min(given.get("step_time", MOST_NS), longest_ns or MOST_NS),
                gpu_ns=given.get("cost"),
            ),
            min(self.problem.gpu_range.max, given.get("gpus", self.problem.gpu_range.max)),
        )
