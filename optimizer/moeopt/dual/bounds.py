"""Time bounds of many candidates, raised by duality; and the best placements met while raising them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moeopt.dual.ascent import SLACK, Ascent, Best, ub2_at
from moeopt.dual.grid import Array, Grid, grid_of
from moeopt.dual.prices import Prices, Rows, Schedule
from moeopt.dual.tables import NEVER, Index, Tables
from moeopt.dual.walks import Placements
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.placement import ledger_many
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column

_LISTED_A_ROUND = 400
"""Placements of one candidate that are listed rather than given to a solver, for every round of the ascent."""
_SAMPLED_TOPS = 4
_MOST_ROWS = 384
"""Rows of one ascent; larger groups are taken in parts."""


@dataclass(frozen=True)
class Question:
    """Candidates of one schedule: their costs, the step's end at the mean rank, and what a step and a stage may take
    (columns), and a GPU hold."""

    problem: Problem
    schedule: Schedule
    costs: Costs
    end_ns: Column
    time_ns: Column
    longest_ns: Column
    memory_bytes: int


@dataclass(frozen=True)
class Answer:
    """For each candidate: a step that none of its placements that fit goes below (above `time_ns` where none is within
    it), the best placement met, where any fitted."""

    bound_ns: Column
    placed: list[PipelineLayout | None]
    left: list[list[PipelineLayout] | None]
    """Every placement that could be within the limits, where these are few enough to be listed; else None."""


def raised(question: Question, rounds: int, sampled: bool = False) -> Answer:
    """Bounds of a question's candidates. `sampled`: no bounds, but placements, from one base time each."""
    pp, vpp, *_ = question.schedule
    architecture = question.problem.architecture
    grid = grid_of(architecture.layers, pp, vpp, question.problem.mtp_layers)
    rows = Rows.of(question.schedule)
    prices = Prices.of(
        grid, rows, question.costs, question.end_ns.astype(float), (question.time_ns, question.longest_ns, question.memory_bytes)
    )
    size = len(question.time_ns)
    deepest = _deepest(grid, prices)
    best = Best(np.full(size, NEVER), np.zeros((size, grid.stages), dtype=np.int64), np.zeros(size, dtype=np.int64))
    low = np.full(size, NEVER)
    left: dict[int, _Left] = {}
    if deepest * grid.stages >= len(grid.layers):
        for of, base in _parts(*_bases(grid, rows, prices, deepest, sampled)):
            tops = [_tops(grid, prices, chunk, deepest, of, base, rows) for chunk in range(vpp)]
            if sampled:
                tops = [top[:, :_SAMPLED_TOPS] for top in tops]
            ascent = Ascent(Tables.of(grid, rows, prices.only(of), base, tops, deepest), of, best)
            ascent.run(rounds)
            np.minimum.at(low, ascent.of, ascent.value)
            if sampled:
                continue
            for candidate, base_ns, placed in ascent.listed(_LISTED_A_ROUND * rounds):
                known = left.setdefault(candidate, _Left())
                known.bases.append(base_ns)
                known.placed.append(placed)
    if sampled:
        placed = [_first(_layouts(question.problem, pp, best.placement(i, prices.target_ns))) for i in range(size)]
        return Answer(np.zeros_like(question.time_ns), placed, [None] * size)
    bound = low * (1 - SLACK) / (2 if vpp > 1 else 1) + prices.end_ns
    found = low < NEVER
    bound_ns = np.where(found, np.where(found, bound, 0).astype(np.int64), question.time_ns + 1)
    few = [_left(question, rows, prices.only(np.array([index])), grid, left.get(index)) for index in range(size)]
    return Answer(
        bound_ns,
        [_first(_layouts(question.problem, pp, best.placement(index, prices.target_ns))) for index in range(size)],
        [None if placed is None else _layouts(question.problem, pp, placed) for placed in few],
    )


@dataclass
class _Left:
    """Base times of one candidate that are open, and the placements left with each; None where there are too many."""

    bases: list[float] = field(default_factory=list)
    placed: list[Placements | None] = field(default_factory=list)


def _left(question: Question, rows: Rows, prices: Prices, grid: Grid, left: _Left | None) -> Placements | None:
    """The placements that are left of one candidate (`prices` has only that one) and within the limits, as far as its
    prices without padding and the mean rank's step end tell; None where there are too many to say."""
    if left is None:
        return Placements(np.zeros((0, grid.stages), dtype=np.int64), np.zeros(0, dtype=np.int64))
    listed = [placed for placed in left.placed if placed is not None]
    if len(listed) < len(left.placed):
        return None
    placed = Placements.unique(listed)
    held = prices.only(np.zeros(len(placed.ending), dtype=np.int64)).held(placed.counts, placed.ending)
    fits = (held[:, :, 2] @ rows.resident.T + held[:, :, 3] @ rows.flight.T <= prices.room + 1).all(axis=1)
    placed, held = placed.only(fits), held[fits]
    time = np.concatenate([held[:, :, 0], held[:, :, 1]], axis=1)
    row = (time @ rows.time.T + prices.hop_ns * rows.hops).max(axis=1)
    upper = [ub2_at(rows, np.full(len(row), base), held[:, :, 0] + held[:, :, 1]) for base in left.bases]
    near = row + np.minimum.reduce(upper) <= prices.target_ns * (1 + SLACK)
    placed, whole = placed.only(near), held[near][:, :, :2].astype(np.int64)
    pipeline = ledger_many(question.schedule, whole[:, :, 0], whole[:, :, 1], int(prices.hop_ns[0]))
    return placed.only(pipeline + int(prices.end_ns[0]) <= int(prices.step_ns[0]))


def _first(found: list[PipelineLayout]) -> PipelineLayout | None:
    return found[0] if found else None


def _layouts(problem: Problem, pp: int, placed: Placements) -> list[PipelineLayout]:
    return [
        PipelineLayout.from_counts(pp, counts, problem.mtp_layers, ending if problem.mtp_layers else None)
        for counts, ending in zip(placed.counts.tolist(), placed.ending.tolist(), strict=True)
    ]


def _parts(of: Index, base: Array) -> Iterator[tuple[Index, Array]]:
    for first in range(0, len(of), _MOST_ROWS):
        yield of[first : first + _MOST_ROWS], base[first : first + _MOST_ROWS]


def _deepest(grid: Grid, prices: Prices) -> int:
    """Most layers of a stage within the longest time of any candidate."""
    times = prices.layers[:, 0] + prices.layers[:, 1]
    for count in range(1, len(grid.layers) + 1):
        shortest = (times[:, count:] - times[:, :-count]).min(axis=1)
        if (shortest > prices.longest_ns).all():
            return count - 1
    return len(grid.layers)


def _stage_times(grid: Grid, prices: Prices, chunk: int, deepest: int) -> Array:
    """Every time that a stage of a chunk position may take: candidates x times."""
    kinds = prices.kinds[:, :, 0] + prices.kinds[:, :, 1]
    listed = list(grid.compositions(chunk, deepest))
    layers = kinds @ np.array([composition for composition, _ in listed], dtype=float).T
    begins = np.array([begin for _, begin in listed])
    embedding, mtp, loss = (_time(piece)[:, None] for piece in (prices.embedding, prices.mtp, prices.loss))
    times = [layers + embedding * begins]
    if chunk == grid.vpp - 1:
        times += [times[0] + loss, times[0] + mtp, times[0] + mtp + loss] if grid.mtp_layers else [times[0] + loss]
    return np.concatenate(times, axis=1)


def _time(piece: Array) -> Array:
    return np.asarray(piece[:, 0] + piece[:, 1])


def _bases(grid: Grid, rows: Rows, prices: Prices, deepest: int, sampled: bool) -> tuple[Index, Array]:
    """The base times that the least UB2 within the target may have, candidate by candidate: UB2 is convex and its
    breakpoints are the times of stages, or zero."""
    size = len(prices.target_ns)
    if grid.vpp == 1:
        return np.arange(size), np.zeros(size)
    chunks = dict.fromkeys((0, min(1, grid.vpp - 1), grid.vpp - 1))
    times = np.concatenate([_stage_times(grid, prices, chunk, deepest) for chunk in chunks], axis=1)
    times = _distinct(np.concatenate([np.zeros((size, 1)), times], axis=1))
    work = _work(prices)[:, None]
    share = rows.waves + rows.rounds * grid.pp
    least = rows.span * times + share * np.maximum(work - grid.stages * times, 0) / grid.pp
    near = (times <= prices.longest_ns[:, None]) & (least + _least_row(grid, rows, prices)[:, None] <= _reach(prices))
    if sampled:
        near &= least == np.where(near, least, np.inf).min(axis=1)[:, None]
    of, column = np.nonzero(near)
    return of, times[of, column]


def _tops(grid: Grid, prices: Prices, chunk: int, deepest: int, of: Index, base: Array, rows: Rows) -> Array:
    """The maxima that a chunk position may have within the target: rows x tops, the base time first."""
    if grid.vpp == 1:
        return np.asarray(prices.longest_ns[of][:, None])
    times = _stage_times(grid, prices, chunk, deepest)[of]
    above = times - base[:, None]
    least = rows.span * base[:, None] + (rows.waves + rows.rounds) * above + _least_row(grid, rows, prices)[of][:, None]
    near = (above > 0) & (times <= prices.longest_ns[of][:, None]) & (least <= _reach(prices)[of])
    times = _distinct(np.where(near, times, np.inf))
    most = int(np.isfinite(times).sum(axis=1).max(initial=0))
    return np.concatenate([base[:, None], times[:, :most]], axis=1)


def _distinct(times: Array) -> Array:
    """Sorted along the last axis, repeated ones made infinite and put last."""
    ordered = np.sort(times, axis=1)
    again = np.zeros(ordered.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return np.sort(np.where(again, np.inf, ordered), axis=1)


def _work(prices: Prices) -> Array:
    return np.asarray(_time(prices.layers[:, :, -1]) + _time(prices.embedding) + _time(prices.mtp) + _time(prices.loss))


def _least_row(grid: Grid, rows: Rows, prices: Prices) -> Array:
    """M times the mean rank."""
    return rows.schedule[2] * _work(prices) / grid.pp


def _reach(prices: Prices) -> Array:
    """The target with the slack that floats need."""
    return np.asarray(prices.target_ns[:, None] * (1 + SLACK))
