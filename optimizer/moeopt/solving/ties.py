"""One layout among equals: fewest GPUs, least memory, smaller degrees, fewer layers on earlier stages.

Goals are settled one after the other, so the answer does not depend on threads, seeds or the order in which the search
met the candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moeopt.problem.problem import Problem
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings

Listed = Mapping[tuple[object, ...], Sequence[Found]]
"""Candidates (by their key) of which every placement that reaches the best value is known: these placements."""


Values = tuple[int | Fraction, ...]


@dataclass(frozen=True)
class Finalist:
    """A candidate's best values of every objective after the first, a layout that has them, and how to get the one of
    these with the fewest layers on earlier stages."""

    values: Values
    found: Found
    canonical: Callable[[], Found]


def break_tie(best: Found, equals: Sequence[Found], settings: Settings, listed: Listed) -> tuple[Found, bool]:
    """The canonical layout among those with the best layout's value, of which one of each candidate is given; and
    whether every further objective was proven (all but the order of layers on stages, which no objective names)."""
    finalists = []
    for found in equals:
        key = found.candidate.key
        finalist = _listed(best, listed[key]) if key in listed else _asked(found, settings)
        if finalist is None:
            return best, False
        finalists.append(finalist)
    return min(finalists, key=lambda item: (item.values, item.found.candidate.order)).canonical(), True


def _listed(best: Found, known: Sequence[Found]) -> Finalist:
    reaching = [found for found in known if found.score == best.score]
    found = min(reaching, key=lambda item: (_values(item), _placing(item)))
    return Finalist(_values(found), found, lambda: found)


def _asked(found: Found, settings: Settings) -> Finalist | None:
    from moeopt.cpsat.tie_break import settle  # half a second to import, rarely needed

    return settle(found, settings)


def _values(found: Found) -> Values:
    """Values of every objective after the first."""
    return tuple(found.value(name) for name in further_objectives(found.candidate.problem))


def _placing(found: Found) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers, and MTP modules, of every stage."""
    chunks = found.pipeline.chunks
    return tuple(chunk.layers for chunk in chunks), tuple(chunk.mtp for chunk in chunks)


def further_objectives(problem: Problem) -> list[str]:
    """The problem's own after the first; then fewest GPUs, and least peak memory (after peak memory: least time)."""
    own = [problem.objective, *problem.then]
    last = "step_time" if "peak_memory" in own else "peak_memory"
    return list(dict.fromkeys([*own, "gpus", last]))[1:]
