"""Time bounds of many candidates, raised by duality; and the best placements met while raising them."""

from collections.abc import Callable

import numpy as np

from moeopt.dual.ascent import Listed
from moeopt.dual.by_neighbours import Width
from moeopt.dual.part import Answer, Part, Question
from moeopt.dual.ranks import whole_layers_ns
from moeopt.dual.tables import NEVER
from moeopt.dual.tops import SLACK
from moeopt.dual.walks import Placements
from moeopt.schedule.replay import MOST_EXACT_OPERATIONS
from moeopt.schedule.shape import Schedule

_LISTED_A_ROUND, _MOST_JUDGED = 400, 2000
"""Placements of one candidate that are listed rather than given to a solver, for every round of the ascent; and of
those, the ones that are left to be judged, at most: that takes as long as the solver does."""
_SAMPLED_TOPS = 4
"""Maxima of a chunk position that a sample looks at."""
_LISTED, _MOST_REPLAYED = 256, 400_000
"""Placements of one candidate that are left to be judged, and operations of their replays, at most."""
_BY_RANK_FROM = 2
"""From so many rounds on, what memory and the slowest rank rule out rank by rank is looked at first."""


def raised(
    question: Question,
    rounds: int,
    most: int | None = None,
    by_rank: bool = True,
    by_program: bool = False,
    pause: Callable[[], None] = lambda: None,
) -> Answer:
    """Bounds of a question's candidates, and what is left of them: all placements where they are at most `most`
    (default: some for every round; 0: nothing is listed). Not walked is, with `by_rank` and from a second round on,
    what is ruled out rank by rank; with `by_program`, what linear programs rule out, whose weights the others begin
    with. `pause` is called now and then, and may raise."""
    part = Part(question)
    if by_program:
        part.relax()
    if by_rank and rounds >= _BY_RANK_FROM:
        part.settle_by_rank(rounds)
    low = np.full(part.size, NEVER)
    left: dict[int, list[Listed]] = {}
    for ascent in part.ascents():
        pause()
        ascent.run(rounds)
        np.minimum.at(low, ascent.of, ascent.value)
        for listed in ascent.listed(_LISTED_A_ROUND * rounds if most is None else most) if most != 0 else ():
            left.setdefault(listed.candidate, []).append(listed)
    found = low < NEVER
    timed = found & part.rows.timed
    pipeline = (low * (1 - SLACK) + part.rows.even_hops * part.prices.hop_ns) / part.rows.share
    bound = np.where(timed, pipeline + part.prices.end_ns, 0.0)
    if most == 0:
        few = [(part.nothing, not open_) for open_ in found.tolist()]
    else:
        enough = _MOST_JUDGED if most is None else most
        few = [part.left(index, left.get(index, []), enough) for index in range(part.size)]
    return Answer(
        np.where(found, bound.astype(np.int64), question.time_ns + 1),
        [part.layouts(placed) + ([] if complete else part.met(i)) for i, (placed, complete) in enumerate(few)],
        [complete for _, complete in few],
    )


def relaxed(question: Question) -> Answer:
    """The candidates that linear programs rule out; no better bounds of the others, and no placements."""
    part = Part(question)
    part.relax()
    return _settled(part)


def filled(question: Question, rounds: int) -> Answer:
    """The candidates that are settled rank by rank, and placements of the others that were met; no better bounds."""
    part = Part(question)
    part.settle_by_rank(rounds)
    return _settled(part)


def _settled(part: Part) -> Answer:
    """The candidates that are settled before any walk, and placements that were met; no better bounds of the others."""
    open_ = [part.is_open(index) for index in range(part.size)]
    return Answer(
        np.where(open_, 0, part.question.time_ns + 1),
        [part.met(index) for index in range(part.size)],
        [not each for each in open_],
    )


def paired(question: Question, width: Width) -> Answer:
    """Bounds on replayed steps by what ranks next to each other may hold, and by replays where that leaves few
    placements; these, if they are fewer still."""
    part = Part(question)
    least = whole_layers_ns(part.grid, question.rows, part.prices, part.deepest)
    least = np.where(least <= part.prices.target_ns * (1 + SLACK), least, np.inf)
    listed: dict[int, Placements] = {}
    operations = Schedule(*question.rows.schedule).operations
    most = min(_MOST_REPLAYED // operations, _LISTED) if operations <= MOST_EXACT_OPERATIONS else 0
    for index in np.flatnonzero(np.isfinite(least)).tolist():
        bound, placed = part.least_by_neighbours(index, width)
        least[index] = max(least[index], bound)
        if placed is not None and 0 < len(placed.ending) <= most:
            listed[index] = placed
    open_ = np.isfinite(least)
    bound_ns = np.where(open_, least * (1 - SLACK) + part.prices.end_ns, 0.0)
    return Answer(
        np.where(open_, bound_ns.astype(np.int64), question.time_ns + 1),
        [part.layouts(listed.get(index, part.nothing)) for index in range(part.size)],
        [index in listed or not may for index, may in enumerate(open_.tolist())],
    )


def sampled(question: Question, rounds: int) -> Answer:
    """No bounds, but placements, from one base time of each candidate."""
    part = Part(question)
    for ascent in part.ascents(_SAMPLED_TOPS):
        ascent.run(rounds)
    placed = [part.met(index) for index in range(part.size)]
    return Answer(np.zeros_like(question.time_ns), placed, [False] * part.size)
