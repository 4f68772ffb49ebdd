"""A bound on the replayed step that no layout of a problem can beat, and the layout that reaches it.

The search proves the optimum of the ledger's time. For interleaved pipelines that is a figure between a bound and a
surrogate; the replay is the exact time of the same costs. Three bounds on a candidate's replayed step, in this order:

1. that of the screening: its heaviest rank's work, and what memory and time together let ranks hold;
2. critical paths of replays, combined by a linear program for each order of operations: the time that layers which
   could be cut anywhere would take (`moeopt.cpsat.relaxation`);
3. CP-SAT over the placements, with those paths as rows, in turns with replays (`moeopt.cpsat.replayed`).

The candidate with the lowest bound is taken first, so at any moment that bound holds for every layout.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moeopt.accounting.pieces import piece_counts
from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.cpsat.relaxation import Relaxation
from moeopt.cpsat.replayed import ReplayedModel
from moeopt.cpsat.solve import Settings
from moeopt.incumbent import Found
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.combined import CombinedRow, Counts
from moeopt.schedule.replay import MOST_EXACT_OPERATIONS
from moeopt.schedule.shape import Schedule
from moeopt.screening import Limits, Screening
from moeopt.space import row

_ROUNDS = 200
"""Rounds of the linear program of one schedule, at most (it ends by itself after 20 to 100)."""
_NEIGHBOURS = 120
"""Placements one layer away that are replayed for their cuts, each time that CP-SAT finds a placement."""


@dataclass(frozen=True)
class Replayed:
    """A placement with its replayed step."""

    found: Found
    step_ns: int
    cut: Counts | None
    """The critical path; None where the replay was extrapolated."""

    @classmethod
    def judge(cls, found: Found) -> "Replayed":
        """Replay a placement."""
        ledger = found.candidate.ledger
        step, result = ledger.step_time(found.pipeline), ledger.replay(found.pipeline)
        cut = None if result.cut is None else (result.cut.forward, result.cut.backward, result.cut.hops)
        return cls(found, step.total_ns - step.pipeline_ns + result.total_ns, cut)


@dataclass(frozen=True)
class Effort:
    """How much to spend: rows of the screening's first level that are looked at closer, operations replayed by the
    linear programs (None: any), and whether CP-SAT is asked."""

    rows: int | None
    operations: int | None
    solver: bool


CHEAP = Effort(600, 200_000, False)
"""What a solve does at most: about 2 ms a row."""
_ROWS, _ROWS_A_SECOND = 250, 100
"""Rows that a solve looks at closer however short it was, and more for each second of it: a fifth of its time."""
FULL = Effort(None, None, True)
"""`--certify`."""


@dataclass(frozen=True)
class Certificate:
    """`best`: the lowest replayed step known; `lower_bound_ns`: no layout of the problem replays faster."""

    best: Replayed
    lower_bound_ns: int
    candidates: int
    """Candidates whose first bound was below the best step."""
    refuted: int
    """Of these, the ones whose bound is not below it any more."""

    @property
    def closed(self) -> bool:
        """Whether the best layout is proven to have the best replayed step."""
        return self.best.cut is not None and self.lower_bound_ns >= self.best.step_ns


@dataclass(frozen=True, order=True)
class _Open:
    """A candidate with the best bound known on its replayed step."""

    bound_ns: int
    number: int
    end_ns: int = field(compare=False)
    candidate: Candidate = field(compare=False)


class Certifier:
    """Bounds of one problem's candidates, lowest first."""

    def __init__(self, screening: Screening, known: Sequence[Found], settings: Settings, effort: Effort) -> None:
        self.problem, self.screening = screening.problem, screening
        self.settings, self.effort = settings, effort
        self.best = min((Replayed.judge(found) for found in known), key=lambda item: item.step_ns)
        self.spent = 0
        self._rows: dict[Schedule, CombinedRow | None] = {}
        self._cuts: dict[Schedule, list[Counts]] = {}
        self._combined: set[int] = set()
        self._counts = piece_counts(self.problem)

    def run(self) -> Certificate:
        """As far as the effort and the deadline allow."""
        first = self._first_level()
        if len(first) > self.effort.rows if self.effort.rows is not None else self.settings.expired:
            lowest = min(first, default=self.best.step_ns)
            return Certificate(self.best, min(lowest, self.best.step_ns), len(first), 0)
        heap = self._open()
        heapq.heapify(heap)
        listed = len(heap)
        try:
            while heap and heap[0].bound_ns < self.best.step_ns:
                bound = self._better_bound(heap[0])
                if bound is None:
                    break
                heapq.heapreplace(heap, replace(heap[0], bound_ns=max(bound, heap[0].bound_ns)))
        except KeyboardInterrupt:
            self._say("interrupted before the gap was closed")
        lower = min((item.bound_ns for item in heap), default=self.best.step_ns)
        left = sum(item.bound_ns < self.best.step_ns for item in heap)
        return Certificate(self.best, min(lower, self.best.step_ns), listed, listed - left)

    def _first_level(self) -> list[int]:
        """Bounds below the best step of rows whose chunks are open: the busiest rank's share of the work."""
        bounds: list[int] = []
        for block in self.screening.blocks:
            near = (block.memory <= self.problem.memory_limit) & (block.time < self.best.step_ns)
            bounds += block.time[near].tolist()
        return bounds

    def _open(self) -> list[_Open]:
        """Every candidate that the screening leaves below the best step."""
        limits = Limits(self.problem.memory_limit, time_ns=self.best.step_ns - 1, replayed=True)
        items: list[_Open] = []
        for pair in self.screening.pairs(limits):
            choices = pair.mode.model_copy(update={"recompute": pair.recompute})
            ends = np.broadcast_to(np.asarray(pair.work.end_ns), pair.time.shape)
            for index, (bound, end) in enumerate(zip(pair.time.tolist(), ends.tolist(), strict=True)):
                candidate = Candidate(self.problem, row(pair.degrees, index), choices, bound)
                items.append(_Open(bound, len(items), end, candidate))
        return items

    def _better_bound(self, item: _Open) -> int | None:
        """A better bound of one candidate; the best step where none of its layouts is below it; None to stop."""
        if self.settings.expired:
            return None
        if item.number not in self._combined:
            schedule = Schedule(*item.candidate.schedule)
            if schedule not in self._rows and not self._refine(item.candidate, schedule):
                return None
            self._combined.add(item.number)
            return self._bound_of(item, schedule)
        if not self.effort.solver:
            return None
        return self._solve(item.candidate)

    def _bound_of(self, item: _Open, schedule: Schedule) -> int:
        """The bound of the schedule's combined row with a candidate's prices."""
        combined, candidate = self._rows[schedule], item.candidate
        if combined is None:
            return item.bound_ns
        terms = candidate.ledger.time_terms
        pipeline = combined.bound_ns(self._counts, terms.forward_ns, candidate.backward_ns, int(terms.hop_ns))
        return pipeline + item.end_ns

    def _refine(self, candidate: Candidate, schedule: Schedule) -> bool:
        """Combine critical paths for one order of operations; False where that exceeds the effort."""
        most = self.effort.operations
        if most is not None and self.spent + schedule.operations > most:
            return False
        if schedule.operations > MOST_EXACT_OPERATIONS:
            self._rows[schedule], self._cuts[schedule] = None, []
            return True
        relaxation = Relaxation(candidate, schedule)
        rounds = _ROUNDS if most is None else min(_ROUNDS, (most - self.spent) // (2 * schedule.operations))
        self._rows[schedule] = relaxation.refine(rounds, lambda: self.settings.expired)
        self._cuts[schedule] = relaxation.cuts
        self.spent += 2 * schedule.operations * relaxation.rounds
        self._say(f"replay: {schedule} in {relaxation.rounds} rounds")
        return True

    # CP-SAT and replays in turns ------------------------------------------------------------------------------------

    def _solve(self, candidate: Candidate) -> int | None:
        """The best step where no placement of the candidate is below it; None where the time was over before."""
        schedule = Schedule(*candidate.schedule)
        cuts, limit = self._cuts[schedule], self.best.step_ns - 1
        model = ReplayedModel(candidate, limit, self.problem.memory_limit, cuts)
        if model.refuted(self.settings):
            return self.best.step_ns
        while not self.settings.expired:
            outcome = model.solve(self.settings)
            if outcome.status == "none":
                return self.best.step_ns
            if outcome.pipeline is None:
                return None
            found = [self._judge(candidate, placed) for placed in self._around(candidate, outcome.pipeline)]
            new = [item.cut for item in found if item.cut is not None and item.cut not in cuts]
            if found[0].cut is None:
                return None
            cuts += dict.fromkeys(new)
            model.add_cuts(new)
            if self.best.step_ns <= limit:
                limit = self.best.step_ns - 1
                model.tighten(limit)
        return None

    def _judge(self, candidate: Candidate, pipeline: PipelineLayout) -> Replayed:
        """Replay a placement; the best one that fits is kept."""
        found = Found.judge(candidate, pipeline)
        item = Replayed.judge(found)
        fits = found.peak_bytes <= self.problem.memory_limit and obeys(candidate, pipeline, found.time_ns)
        if fits and item.step_ns < self.best.step_ns:
            self.best = item
            self._say(f"replay: best step {item.step_ns:,}")
        return item

    def _around(self, candidate: Candidate, pipeline: PipelineLayout) -> list[PipelineLayout]:
        """A placement, and some with one layer moved from one of its slowest chunks to one of its fastest."""
        forward, backward = candidate.ledger.stage_times(candidate.ledger.contents(pipeline))
        counts = [chunk.layers for chunk in pipeline.chunks]
        last = max(s for s, chunk in enumerate(pipeline.chunks) if chunk.mtp or (chunk.loss and not pipeline.mtp))
        moves = sorted(
            (forward[target] + backward[target] - forward[source] - backward[source], source, target)
            for source in range(last + 1)
            for target in range(last + 1)
            if source != target and counts[source] > (0 < source < last)
        )
        placed = [pipeline]
        for _, source, target in moves[:_NEIGHBOURS]:
            moved = [n - (s == source) + (s == target) for s, n in enumerate(counts)]
            placed.append(PipelineLayout.from_counts(pipeline.pp, moved, pipeline.mtp, last))
        return placed

    def _say(self, text: str) -> None:
        if self.settings.progress is not None:
            self.settings.progress(text)


def certify(
    screening: Screening, known: Sequence[Found], settings: Settings, seconds: float, full: bool = False
) -> Certificate:
    """A bound that no layout of the problem can beat by its replayed step; with `full`, as good a layout and bound as
    the deadline allows. `known` are layouts that fit, `seconds` what the search for them took."""
    assert CHEAP.rows is not None
    cheap = replace(CHEAP, rows=min(CHEAP.rows, _ROWS + int(_ROWS_A_SECOND * seconds)))
    return Certifier(screening, known, settings, FULL if full else cheap).run()
