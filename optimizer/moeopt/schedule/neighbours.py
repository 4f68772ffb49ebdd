"""Paths through the operations of two ranks next to each other: what no replay of an interleaved schedule is below.

Rank r warms up with w forwards and then runs F_i and B_(i-w) in turn; rank r + 1 warms up with two forwards less. F_i
of rank r + 1 needs F_i of rank r, and B_j of rank r needs B_j of rank r + 1. Laid side by side, with

    tick i:   rank r: F_i, B_(i-w)      rank r + 1: F_(i-1), B_(i-w+1)

a path goes on to the next tick on the same rank; or up, after its forward, to the other one's next tick, without its
backward; or down, after its backward, to the other one's next tick, without the forward there. With joint blocks
(overlap of the expert all-to-all) nothing is left out: each tick runs on the rank that is longer then, or on both in
turn, with a hop each time. In the warm-up a path may go up once, in the cool-down down once, where a chunk ends.

Left out are paths over more than two ranks; what is run before and after on the ranks below is counted at least.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeopt.schedule.order import backwards_by_chunk, forwards_by_chunk, schedule_table, warmup_forwards
from moeopt.schedule.shape import Schedule
from moeopt.schedule.tree_join import TooManyPairs, tree_join

Operations = NDArray[np.float64]
"""Operations of one rank: (paths x) forwards by chunk, then backwards by chunk."""
Times = NDArray[np.float64]
"""What they take: ways to fill a rank x (forwards by chunk, then backwards by chunk)."""
Matrix = NDArray[np.float32]
"""Ways of the lower rank x ways of the upper: nanoseconds, off by less than `SLACK` of themselves."""
Column = NDArray[np.float32]
Index = NDArray[np.int64]
SLACK = 3e-5
_CELLS = 2**15
"""Pairs of ways that are looked at together: what fits into a cache."""
_EVERY = 4
"""Where blocks are not joint every pair is looked at, for so many times as long."""
_APART_NS = 1e20
"""Ways at different places take so much longer than any step."""
_FEW = 2**11
"""Pairs that are looked at together, as it takes longer to sort them."""


class Both(NamedTuple):
    """What some paths run on the lower and on the upper rank: paths x operations."""

    lower: Operations
    upper: Operations

    @classmethod
    def of(cls, paths: Sequence[tuple[Operations, Operations]]) -> "Both":
        """From one path after the other."""
        return cls(np.array([lower for lower, _ in paths]), np.array([upper for _, upper in paths]))


class Ways(NamedTuple):
    """Ways to fill a rank: what they take, and the place between the ranks that they lead to, or begin at: ways of two
    ranks go together where it is the same."""

    times: Times
    place: Index


class Within(NamedTuple):
    """Pairs of ways: of the lower rank, of the upper, and nanoseconds, off by less than `SLACK` of themselves."""

    lower: Index
    upper: Index
    ns: Column

    @classmethod
    def none(cls) -> "Within":
        """No pair."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))

    @classmethod
    def of(cls, matrix: Matrix, limit_ns: float) -> "Within":
        """The pairs within a limit."""
        lower, upper = np.nonzero(matrix <= limit_ns)
        return cls(lower, upper, matrix[lower, upper])

    def only(self, mask: NDArray[np.bool_]) -> "Within":
        """Some of the pairs."""
        return self if mask.all() else Within(self.lower[mask], self.upper[mask], self.ns[mask])

    def after(self, lower: int) -> "Within":
        """The same, with so many ways of the lower rank before these."""
        return Within(self.lower + lower, self.upper, self.ns)


class Neighbours:
    """Ranks `rank` and `rank` + 1 of a schedule."""

    def __init__(self, schedule: Schedule, rank: int) -> None:
        self.schedule = schedule
        self._shape = schedule.vpp, schedule.num_microbatches, schedule.group
        self._warmup, upper = (
            warmup_forwards(schedule.pp, *self._shape, each, schedule.ep_overlap) for each in (rank, rank + 1)
        )
        self._forwards = schedule.num_microbatches * schedule.vpp
        self.meets = schedule.vpp > 1 and upper + 2 == self._warmup < self._forwards
        """Whether there are ticks: else the ranks' own operations are all that is counted."""

    def _run(self, forwards: tuple[int, int] = (0, 0), backwards: tuple[int, int] = (0, 0)) -> Operations:
        """These of a rank's forwards and backwards, counted in its order."""
        forward = [np.array(forwards_by_chunk(end, *self._shape)) for end in forwards]
        backward = [np.array(backwards_by_chunk(end, *self._shape)) for end in backwards]
        return np.concatenate([forward[1] - forward[0], backward[1] - backward[0]]).astype(float)

    def _chunk_ends(self, first: int, last: int) -> list[int]:
        """Numbers of operations at which a chunk ends, between two; and the first of these."""
        group = self.schedule.group
        return [first, *range(group * (first // group + 1), last, group)]

    @cached_property
    def _head(self) -> Operations:
        """Before the first tick, on the lower rank."""
        return self._run((0, self._warmup))

    @cached_property
    def _ups(self) -> Both:
        """Before the first tick: from the start of the lower rank to the upper one, after some forward."""
        w = self._warmup
        return Both.of([(self._run((0, n)), self._run((n - 1, w - 1), (0, 1))) for n in self._chunk_ends(1, w - 1)])

    @cached_property
    def _tail(self) -> Operations:
        """After the last tick, on the lower rank."""
        return self._run(backwards=(self._forwards - self._warmup, self._forwards))

    @cached_property
    def _downs(self) -> Both:
        """After the last tick: from the upper rank to the end of the lower one, after some backward."""
        last, first = self._forwards, self._forwards - self._warmup + 1
        ends = (*self._chunk_ends(first + 1, last), last)
        return Both.of([(self._run((0, 0), (n - 1, last)), self._run((last - 1, last), (first, n))) for n in ends])

    def _chunks(self) -> NDArray[np.int64]:
        """Chunks that every tick runs: ticks x (forward and backward of the lower rank, of the upper)."""
        forward = np.array([chunk for _, chunk in schedule_table(*self._shape)])
        backward = self.schedule.vpp - 1 - forward
        tick = np.arange(self._warmup, self._forwards)
        behind = tick - self._warmup
        return np.stack([forward[tick], backward[behind], forward[tick - 1], backward[behind + 1]], axis=1)

    def _ticks(self, chunks: NDArray[np.int64]) -> Both:
        """One tick each of these chunks."""
        once = np.eye(self.schedule.vpp)
        lower = np.hstack([once[chunks[:, 0]], once[chunks[:, 1]]])
        return Both(lower, np.hstack([once[chunks[:, 2]], once[chunks[:, 3]]]))

    @cached_property
    def _alike(self) -> tuple[Both, NDArray[np.float64], NDArray[np.float64]]:
        """All ticks, those of the same chunks together: one of each, how many there are, and how many of these follow
        one of the same."""
        vpp = self.schedule.vpp
        code = np.ravel_multi_index(tuple(self._chunks().T), (vpp,) * 4)
        count, follows = np.bincount(code), np.bincount(code[1:][code[1:] == code[:-1]], minlength=int(code.max()) + 1)
        met = np.flatnonzero(count)
        chunks = np.stack(np.unravel_index(met, (vpp,) * 4), axis=1)
        return self._ticks(chunks), count[met].astype(float), follows[met].astype(float)

    @cached_property
    def _period(self) -> tuple[int, int]:
        """Ticks after which the order repeats itself, and how often it does."""
        length = self.schedule.vpp * self.schedule.group
        regular = self.schedule.num_microbatches // self.schedule.group * length
        return length, max(regular - self._warmup, 0) // length

    @cached_property
    def _in_turn(self) -> tuple[Both, NDArray[np.float64]]:
        """The ticks of one period in order, those in a row of the same chunks together: one of each, and how many."""
        chunks = self._chunks()[: self._period[0]]
        new = np.flatnonzero(np.any(np.diff(chunks, axis=0, prepend=-1) != 0, axis=1))
        return self._ticks(chunks[new]), np.diff(new, append=len(chunks)).astype(float)

    def within(
        self, lower: Ways, upper: Ways, fills_ns: tuple[float, float], hop_ns: float, limit_ns: float, most: int
    ) -> Within:
        """The pairs of ways to fill the ranks that no path rules out: none is above the limit. `fills_ns`: what each
        rank waits before its first and after its last operation at least. Raises TooManyPairs where more than `most`
        would be looked at."""
        if self.meets and self.schedule.ep_overlap:
            pair = _Pair(lower, upper, hop_ns)
            return self._not_alone(pair, self._joint_within(pair, limit_ns - fills_ns[0], most), fills_ns, limit_ns)
        if len(lower.place) * len(upper.place) * _EVERY > most:
            raise TooManyPairs
        found = [Within.none()]
        size = max(_CELLS // max(len(upper.place), 1), 1)
        for first in range(0, len(lower.place), size):
            part = Ways(lower.times[first : first + size], lower.place[first : first + size])
            pair = _Pair(part, upper, hop_ns)
            near = self._apart_within(pair, limit_ns - fills_ns[0]) if self.meets else Within.of(pair.full(0.0), np.inf)
            near = near.only(part.place[near.lower] == upper.place[near.upper])
            found.append(self._not_alone(pair, near, fills_ns, limit_ns).after(first))
        return Within(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _not_alone(self, pair: "_Pair", near: Within, fills_ns: tuple[float, float], limit_ns: float) -> Within:
        """With what each rank takes alone, beside the paths through both."""
        every = np.full(2 * self.schedule.vpp, float(self.schedule.num_microbatches))
        alone = pair.lower(every)[near.lower, 0] + np.float32(fills_ns[0])
        alone = np.maximum(alone, pair.upper(every)[0, near.upper] + np.float32(fills_ns[1]))
        near = near._replace(ns=np.maximum(near.ns + np.float32(fills_ns[0]), alone))
        return near.only(near.ns <= limit_ns)

    def _joint_within(self, pair: "_Pair", limit_ns: float, most: int) -> Within:
        """Every tick on the longer rank or on both in turn: their mean, and more by half of what they differ, or by a
        hop."""
        ticks, every, follows = self._halves
        tables = pair.places(np.float32(_APART_NS)), (pair.lowers(ticks.lower)[:, :, 0], pair.uppers(ticks.upper)[:, 0])
        own = pair.lower(self._head + self._tail + every.lower)[:, 0], pair.upper(every.upper)[0]
        least = np.concatenate([[0], follows * pair.hop_ns]).astype(np.float32)
        one, other = (np.concatenate(both) for both in zip(*tables, strict=True))
        levels = (
            self._levels if len(own[0]) * len(own[1]) > _FEW else [[tick for level in self._levels for tick in level]]
        )
        near = Within(*tree_join((one, other), own, least, levels, limit_ns, most))
        for both, alone in ((self._ups, self._head), (self._downs, self._tail)):
            longer = pair.longest(both, near) - pair.lower(alone)[near.lower, 0]
            np.add(near.ns, np.maximum(longer, np.float32(0)), out=near.ns)
        return near.only(near.ns <= limit_ns)

    @cached_property
    def _halves(self) -> tuple[Both, Both, NDArray[np.float64]]:
        """Half of all ticks of each kind; of all kinds together; and how many follow one of the same."""
        ticks, count, follows = self._alike
        half = count[:, None] / 2
        halves = Both(half * ticks.lower, half * ticks.upper)
        return halves, Both(*(each.sum(axis=0) for each in halves)), follows

    @cached_property
    def _levels(self) -> list[list[int]]:
        """Columns of a table of ways in an order in which these share as much as they can: first the place; then the
        most frequent kind of ticks, and always those with the fewest chunks that did not occur before. Those that bring
        in none belong together."""
        ticks, count, _ = self._alike
        vpp, met, levels = self.schedule.vpp, set[int](), [[0]]
        runs = [{column % vpp for column in np.flatnonzero(both).tolist()} for both in ticks.lower + ticks.upper]
        left = sorted(range(len(count)), key=lambda tick: -count[tick])
        while left:
            tick = min(left, key=lambda each: len(runs[each] - met))
            if not runs[tick] <= met:
                levels.append([])
            met |= runs[tick]
            levels[-1].append(1 + tick)
            left.remove(tick)
        return levels

    def _apart_within(self, pair: "_Pair", limit_ns: float) -> Within:
        """In every period the longest cycle from either rank to itself."""
        length, periods = self._period
        begin, end, w = self._warmup + periods * length, self._forwards, self._warmup
        stays = pair.full(0.0) + pair.lower(self._head + self._run((begin, end), (begin - w, end - w)) + self._tail)
        changes = pair.full(0.0) + pair.upper(self._run((begin - 1, end - 1), (begin - w + 1, end - w + 1)))
        if periods:
            cycles = self._cycles(pair)
            stays, changes = stays + periods * cycles[0], changes + periods * cycles[1]
        near = Within.of(np.maximum(stays, changes), limit_ns)
        turns = pair.longest(self._ups, near) + pair.longest(self._downs, near)
        changed = changes[near.lower, near.upper] + turns
        return near._replace(ns=np.maximum(stays[near.lower, near.upper], changed))

    def _cycles(self, pair: "_Pair") -> list[Matrix]:
        """The longest way through a period from the lower rank to itself, and from the upper."""
        ticks, count = self._in_turn
        passed = np.repeat(np.eye(2), self.schedule.vpp, axis=1)
        forwards, backwards = (pair.lowers(ticks.lower * part) for part in passed)
        lowers, uppers = pair.lowers(count[:, None] * ticks.lower), pair.uppers(count[:, None] * ticks.upper)
        hop, spare, found = np.float32(pair.hop_ns), pair.full(0.0), []
        for begin in (0, 1):
            low, high = (pair.full(0.0 if begin == rank else -np.inf) for rank in (0, 1))
            for number in range(len(count)):
                if number:
                    up = low + (hop - backwards[number - 1])
                    np.add(high, hop - forwards[number], out=spare)
                    np.maximum(low, spare, out=low)
                    np.maximum(high, up, out=high)
                low += lowers[number]
                high += uppers[number]
            found.append(high if begin else low)
        return found


class _Pair:
    """Ways of two ranks: rows for the lower, columns for the upper."""

    def __init__(self, lower: Ways, upper: Ways, hop_ns: float) -> None:
        self._lower, self._upper, self.hop_ns = lower.times, upper.times, hop_ns
        self._places = lower.place, upper.place

    def places(self, unit: np.float32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The places of both, as one row of numbers that are a unit apart."""
        one, other = (unit * place[None].astype(np.float32) for place in self._places)
        return one, other

    def full(self, value: float) -> Matrix:
        """One value for all pairs."""
        return np.full((len(self._lower), len(self._upper)), value, dtype=np.float32)

    def lowers(self, paths: Operations) -> Matrix:
        """What the lower rank takes for every path: paths x ways x 1."""
        return np.asarray(paths @ self._lower.T, dtype=np.float32)[:, :, None]

    def uppers(self, paths: Operations) -> Matrix:
        """What the upper rank takes for every path: paths x 1 x ways."""
        return np.asarray(paths @ self._upper.T, dtype=np.float32)[:, None, :]

    def lower(self, path: Operations) -> Matrix:
        """The same for one path."""
        return np.asarray(self.lowers(path[None])[0])

    def upper(self, path: Operations) -> Matrix:
        """The same for one path."""
        return np.asarray(self.uppers(path[None])[0])

    def longest(self, paths: Both, near: Within) -> Column:
        """The longest of some paths that change ranks once, for some pairs."""
        longest = np.full(len(near.ns), -np.inf, dtype=np.float32)
        for lower, upper in zip(self.lowers(paths.lower), self.uppers(paths.upper), strict=True):
            np.maximum(longest, lower[near.lower, 0] + upper[0, near.upper], out=longest)
        return np.asarray(longest + np.float32(self.hop_ns))


@lru_cache(maxsize=1024)
def neighbours(schedule: Schedule, rank: int) -> Neighbours:
    """Two ranks of a schedule, kept."""
    return Neighbours(schedule, rank)
