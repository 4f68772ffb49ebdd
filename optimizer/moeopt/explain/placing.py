"""Whether some layout fits, and a good one: the search itself, within a time limit."""

import time
from contextlib import suppress
from dataclasses import dataclass

from moeopt.errors import InputError
from moeopt.explain.degrees import Undecided
from moeopt.problem.problem import Problem
from moeopt.solving.best import Best
from moeopt.solving.branch import Search
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings, Stopped

_ROUNDS = 7
"""Steps of the first, heuristic look: up to 3.6 times the lowest bound."""

_ABOVE_LEAST = (110, 125, 150, 200, 300, 500, 1000, 3000)
"""Memory in which a light layout is looked for, in per cent of the bytes that no layout goes below."""


@dataclass(frozen=True)
class Clock:
    """When to stop, and with how many threads to work."""

    deadline: float
    workers: int = 1

    @classmethod
    def after(cls, seconds: float, workers: int = 1) -> "Clock":
        """So many seconds from now."""
        return cls(time.monotonic() + seconds, workers)

    def within(self, seconds: float) -> "Clock":
        """No later than this clock, and at most so many seconds from now."""
        return Clock(min(self.deadline, time.monotonic() + seconds), self.workers)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.deadline

    @property
    def settings(self) -> Settings:
        """For a search."""
        return Settings(workers=self.workers, deadline=self.deadline)


@dataclass(frozen=True)
class Light:
    """A layout that needs little memory, and the bytes that no layout goes below."""

    found: Found
    least_bytes: int


class _First(Best):
    """Ends a search with the first layout that fits."""

    def add(self, found: Found | None) -> None:
        super().add(found)
        if self.pool:
            raise Stopped


def find(problem: Problem, clock: Clock) -> Found | None:
    """A layout that fits, or None where there is none (proven). Raises Undecided when the time is over.

    A first look at the problem's own objective comes before the search for anything that fits.
    """
    if clock.expired:
        raise Undecided
    objective = "step_time" if problem.objective in ("gpus", "peak_memory") else problem.objective
    search = _search(problem.model_copy(update={"objective": objective, "then": ()}), clock)
    least = search.screening.best_memory
    if least is None or least > search.best.within(None).memory_bytes:
        return None
    with suppress(Stopped):
        search.find_first(_ROUNDS)
    if search.best.pool:
        return search.best.pool[0]
    if clock.expired:
        raise Undecided
    light = problem.model_copy(update={"objective": "peak_memory", "then": ()})
    further = Search(light, clock.settings, screening=False)
    further.best = _First(light, 1, further.best.say)
    result = further.run()
    if result.best is None and not result.proven:
        raise Undecided
    return result.best


def _search(problem: Problem, clock: Clock) -> Search:
    try:
        search = Search(problem, clock.settings)
    except InputError:  # a combination of choices that is evaluated, not searched
        raise Undecided from None
    if not search.screening.complete:
        raise Undecided
    return search


def lightest(problem: Problem, above_bytes: int, clock: Clock) -> Light | None:
    """A layout that needs little on its fullest GPU, of a problem whose memory is no limit, and which has no layout
    that needs `above_bytes` or less.

    Memory is limited to a little more than any layout needs, then to more and more, until a layout is found.
    """
    least = _search(problem, clock).screening.best_memory
    for percent in _ABOVE_LEAST if least is not None else ():
        limit = least * percent // 100 if least is not None else 0
        if clock.expired:
            break
        if limit <= above_bytes:
            continue
        limits = problem.limits.model_copy(update={"peak_memory": limit})
        search = _search(problem.model_copy(update={"limits": limits, "objective": "step_time", "then": ()}), clock)
        with suppress(Stopped):
            search.find_first(_ROUNDS)
        if search.best.pool:
            found = min(search.best.pool, key=lambda each: each.peak_bytes)
            return Light(found, max(least or 0, above_bytes + 1))
    return None
