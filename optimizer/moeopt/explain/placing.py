"""Whether some layout fits, and a good one: the search itself, within a time limit."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from moeopt.branch import Search, Stopped
from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.solve import Settings, minimise
from moeopt.errors import InputError
from moeopt.explain.degrees import Undecided
from moeopt.frameworks.megatron_core import legal
from moeopt.incumbent import Found
from moeopt.problem.problem import Problem
from moeopt.screening import MOST_NS, Screening
from moeopt.space import row, select, with_chunks

_ROUNDS = 8
"""Steps of the first, heuristic look: up to 4.3 times the lowest bound."""

_LIGHT_ROWS = 20
"""Rows of a mode that the lightest layout is looked for in."""
_SECONDS_A_CANDIDATE = 1.0


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


class _First(Search):
    """A search that ends with the first layout that fits."""

    def _add(self, found: Found | None) -> None:
        super()._add(found)
        if self.pool:
            raise Stopped


def find(problem: Problem, clock: Clock) -> Found | None:
    """A layout that fits, or None where there is none (proven). Raises Undecided when the time is over.

    A first look at the problem's own objective comes before the search for anything that fits.
    """
    if clock.expired:
        raise Undecided
    objective = "step_time" if problem.objective in ("gpus", "peak_memory") else problem.objective
    search = _search(problem.model_copy(update={"objective": objective}), clock)
    least = search.screening.best_memory
    if least is None or least > search.limits(None).memory_bytes:
        return None
    with suppress(Stopped):
        search.find_first(_ROUNDS)
    if search.pool:
        return search.pool[0]
    if clock.expired:
        raise Undecided
    result = _search(problem.model_copy(update={"objective": "peak_memory"}), clock, _First).run()
    if result.best is None and not result.proven:
        raise Undecided
    return result.best


def _search(problem: Problem, clock: Clock, kind: type[Search] = Search) -> Search:
    try:
        return kind(problem, clock.settings)
    except InputError:  # a combination of choices that is evaluated, not searched
        raise Undecided from None


def lightest(problem: Problem, clock: Clock) -> tuple[Found, int] | None:
    """A layout that needs little on its fullest GPU, memory being no limit; and the bytes that no layout goes below.

    Rows of the screening are taken by their bound, lowest first, with the settings that recompute most; each is placed
    by the solver for least memory. The time limit ends it.
    """
    screening = Screening(problem)
    least = screening.best_memory
    if least is None:
        return None
    best: Found | None = None
    for bound, candidate in _light_candidates(problem, screening):
        if clock.expired or (best is not None and bound >= best.peak_bytes):
            break
        limit = problem.memory_limit if best is None else best.peak_bytes - 1
        encoding = Encoding(problem, [candidate], MOST_NS, limit)
        found = minimise(encoding, encoding.peak, clock.within(_SECONDS_A_CANDIDATE).settings, "lightest").found
        if found is not None and obeys(candidate, found.pipeline, found.time_ns):
            best = found
    return None if best is None else (best, least)


def _light_candidates(problem: Problem, screening: Screening) -> Iterator[tuple[int, Candidate]]:
    rows = [
        (int(block.memory[index]), number, int(index))
        for number, block in enumerate(screening.blocks)
        for index in np.argsort(block.memory, kind="stable")[:_LIGHT_ROWS]
    ]
    heaviest = [setting for setting in screening.recomputes if setting.granularity == "full"]
    heaviest += [max(screening.recomputes, key=lambda setting: len(setting.modules))]
    for bound, number, index in sorted(rows):
        block = screening.blocks[number]
        chunked, _ = with_chunks(problem, select(block.degrees, np.array([index])))
        for at in (row(chunked, position) for position in range(len(chunked.tp))):
            for setting in dict.fromkeys(heaviest):
                choices = block.mode.model_copy(update={"recompute": setting})
                if legal(problem, at, choices):
                    yield bound, Candidate(problem, at, choices, 0)
