"""A bound on the replayed step that no layout of a problem can beat, and the layout that reaches it.

The search proves the optimum of the ledger's time. For interleaved pipelines that is a figure between a bound and a
surrogate; the replay is the exact time of the same costs. Bounds on a candidate's replayed step, in this order:

1. that of the screening: its heaviest rank's work, and what memory and time together let ranks hold;
2. the rows that no replay goes below, combined by duality over whole layers (`moeopt.dual`);
3. the same with critical paths of replays as further rows: of a linear program's points (`moeopt.cpsat.relaxation`),
   then of the placements that duality proposes, as long as these raise the bound;
4. CP-SAT over the placements, with those paths as rows in rounded numbers, in turns with replays, for several
   candidates at once (`moeopt.cpsat.closing`); where rounding and what it leaves out tell too little, exactly
   (`moeopt.cpsat.replayed`).

The schedules of the candidates with the lowest bounds are taken first, and at any moment the lowest bound that is left
holds for every layout.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from moeopt.candidate import Candidate
from moeopt.dual import Answer, Question, paired, raised
from moeopt.pipeline import PipelineLayout
from moeopt.schedule.replay import MOST_EXACT_OPERATIONS
from moeopt.schedule.shape import Schedule
from moeopt.screening import Limits, Screening
from moeopt.solving.incumbent import Found
from moeopt.solving.paths import CriticalPaths
from moeopt.solving.queue import Left, Queue
from moeopt.solving.replayed import Replayed, Timed, around, target_ns
from moeopt.solving.settings import Settings

if TYPE_CHECKING:
    from moeopt.cpsat.closing import Attempt

_TOGETHER, _SCHEDULES = 512, 8
"""Candidates of the lowest bounds that are looked at at once, and schedules of theirs."""
_RAISED = 400
"""Operations that could be replayed in the time that a candidate's bound is raised in."""
_TURNS = 2
"""Times that duality and replays take turns at one schedule, at most."""
_REPLAYED = 4
"""Placements of one candidate that are replayed in a turn where not all are known ..."""
_LISTED = 400
"""... and how many of them are all replayed, to settle it."""
_PAIRED = 128
"""Candidates whose neighbouring ranks are looked at at once: some milliseconds each."""
_AT_ONCE = 8
"""Candidates that CP-SAT is asked about before what it found is shared: for any number of workers, as answers depend
on it."""


@dataclass(frozen=True)
class Effort:
    """How much to spend: rows of the screening's first level that are looked at closer at first, those of the
    lowest bounds; rounds of a schedule's linear program, at most, and operations that they replay (None: any); rounds
    of duality each time that bounds are raised; and whether CP-SAT is asked."""

    rows: int | None
    rounds: int
    operations: int | None
    dual_rounds: int
    solver: bool
    gap: Fraction = Fraction(0)
    """Steps that are better by no more than this are not looked for ..."""
    near: Fraction = Fraction(0)
    """... and bounds that are within this of the best step are not raised further."""


CHEAP = Effort(1000, 16, 2_000_000, 2, False, near=Fraction(1, 100))
"""What a solve does: first little for every schedule, then more for those that the bound hangs on. (At the linear
program's weights, further rounds of duality raise hardly any bound.)"""
_GROWTH = 3
"""Where all rows that were looked at are settled, so many times as many are looked at next."""
FULL = Effort(None, 80, None, 12, True)
"""`--certify`; with `--gap` that gap is enough. (Placements that few critical paths leave are many to replay, and 100
rounds more raise a schedule's bound by some 0.03 % of the step.)"""


@dataclass(frozen=True)
class Certificate:
    """`best`: the lowest replayed step known; `lower_bound_ns`: no layout of the problem replays faster."""

    best: Replayed
    lower_bound_ns: int
    candidates: int
    """Candidates whose first bound was below the best step (or below what is within the gap of it)."""
    refuted: int
    """Of these, the ones whose bound is not below it any more."""

    @property
    def closed(self) -> bool:
        """Whether the best layout is proven to have the best replayed step."""
        return self.best.cut is not None and self.lower_bound_ns >= self.best.step_ns


class Certifier:
    """Bounds of one problem's candidates, lowest first."""

    def __init__(self, screening: Screening, known: Sequence[Found], settings: Settings, effort: Effort) -> None:
        self.problem, self.screening = screening.problem, screening
        self.settings, self.effort = settings, effort
        self.best = min((Replayed.judge(found) for found in known), key=lambda item: item.step_ns)
        self.paths = CriticalPaths(settings, effort.rounds, effort.operations)
        self._ceiling_ns = self._target_ns
        """Rows that are not looked at have no bound below it."""
        self._paired = set[tuple[object, ...]]()
        """Candidates whose bounds were raised by what ranks next to each other hold."""
        self._raised: dict[tuple[object, ...], int] = {}
        """Candidates whose bounds were raised below the ceiling, and with how many rounds of their schedule's paths."""
        self._attempts: Counter[tuple[object, ...]] = Counter()
        """By candidate: how often CP-SAT was asked without an end."""

    def run(self) -> Certificate:
        """As far as the effort and the deadline allow."""
        bounds = self._first_level()
        looked_at = len(bounds) if self.effort.rows is None else self.effort.rows
        answer = Certificate(self.best, min(bounds, default=self._target_ns), len(bounds), 0)
        while not self.settings.expired:
            closer, settled = self._look_at(bounds, looked_at)
            answer = replace(closer, lower_bound_ns=max(closer.lower_bound_ns, answer.lower_bound_ns))
            near = answer.lower_bound_ns >= self._near_ns
            if near or not settled or looked_at >= len(bounds) or self.paths.spent_all:
                break
            looked_at *= _GROWTH
        return answer

    def _look_at(self, bounds: Sequence[int], count: int) -> tuple[Certificate, bool]:
        """The rows of so many of the lowest bounds; and whether all of them are settled."""
        beyond = bounds[count:]
        self._ceiling_ns, self._raised, self._paired = min(beyond, default=self._target_ns), {}, set()
        queue = Queue(self.problem, self.screening.pairs(self._limits), lambda pair: pair.time)
        listed = len(queue)
        lower, left = self._lowest(queue), listed
        try:
            while len(queue) and self._take_lowest(queue):
                lower, left = self._lowest(queue), len(queue)
                self._say(f"bound on replays {lower:,}, {left} candidates left")
            lower, left = self._lowest(queue), len(queue)
        except KeyboardInterrupt:  # in a step, candidates may be closed whose placements were not yet replayed
            self._say("interrupted before the gap was closed")
        return Certificate(self.best, lower, listed + len(beyond), listed - left), not left

    def _lowest(self, queue: Queue) -> int:
        """Below every layout's replayed step, between two steps."""
        known = min(self._ceiling_ns, self._target_ns)
        return min(queue.least, known) if len(queue) else known

    @property
    def _target_ns(self) -> int:
        """The bound that is enough: that of the best step, or within the gap of it."""
        return target_ns(self.best.step_ns, self.effort.gap)

    @property
    def _near_ns(self) -> int:
        """No bound is raised that is not below it."""
        return target_ns(self.best.step_ns, max(self.effort.gap, self.effort.near))

    @property
    def _limits(self) -> Limits:
        """What a layout with a better replay than is enough, and than what is not looked at, stays within."""
        better_ns = min(self._target_ns, self._ceiling_ns) - 1
        return Limits(self.problem.memory_limit, time_ns=better_ns, replayed=True)

    def _first_level(self) -> list[int]:
        """Bounds below the target of rows whose chunks are open, lowest first: the busiest rank's share of the
        work."""
        bounds: list[int] = []
        for block in self.screening.blocks:
            near = (block.memory <= self.problem.memory_limit) & (block.time < self._target_ns)
            bounds += block.time[near].tolist()
        return sorted(bounds)

    def _take_lowest(self, queue: Queue) -> bool:
        """Raise the lowest bounds; False to stop."""
        positions = [position for position in queue.lowest(_TOGETHER) if queue.bound[position] < self._near_ns]
        if self.settings.expired or not positions:
            return False
        lowest = [queue.candidate(position) for position in positions]
        if self._can_raise(lowest[0]):
            self._in_turns(queue, [at for at, each in zip(positions, lowest, strict=True) if self._can_raise(each)])
        elif self._is_ready(lowest[0]):
            ready = {at: each for at, each in zip(positions, lowest, strict=True) if self._is_ready(each)}
            self._pair(queue, dict(list(ready.items())[:_PAIRED]))
        elif not self._deepen(lowest) and not (self.effort.solver and self._close(queue)):
            return False
        queue.drop(self._limits)
        return True

    def _can_raise(self, candidate: Candidate) -> bool:
        """Whether there are critical paths that a candidate's bound was not yet raised with."""
        return self._raised.get(candidate.key, 0) < self.paths.rounds(Schedule(*candidate.schedule))

    def _is_ready(self, candidate: Candidate) -> bool:
        """Whether it is time to look at what ranks next to each other hold: where the first critical paths were no
        help."""
        schedule = Schedule(*candidate.schedule)
        tried = self.paths.rounds(schedule) or not self.paths.can_deepen(schedule)
        return bool(tried) and candidate.key not in self._paired and not self._can_raise(candidate)

    def _pair(self, queue: Queue, candidates: Mapping[int, Candidate]) -> None:
        """Raise bounds by what ranks next to each other hold."""
        self._paired.update(candidate.key for candidate in candidates.values())
        queue.raise_bounds(list(candidates), self._limits, paired)

    def _deepen(self, lowest: Sequence[Candidate]) -> bool:
        """More critical paths for schedules of candidates that were raised with all that there are, or have none;
        whether the first has more now."""
        schedules: dict[Schedule, Candidate] = {}
        for candidate in lowest:
            if not self._can_raise(candidate) and len(schedules) < _SCHEDULES:
                schedules.setdefault(Schedule(*candidate.schedule), candidate)
        self.paths.deepen(schedules)
        return self._can_raise(lowest[0])

    def _in_turns(self, queue: Queue, positions: Sequence[int]) -> None:
        """Raise bounds, add the critical paths of what duality proposes, and again where there are any."""
        for _ in range(_TURNS if self.effort.solver else 1):
            candidates = {position: queue.candidate(position) for position in positions}
            known = {schedule: len(cuts.rows) for schedule, cuts in self.paths.of.items()}
            self._raise(queue, candidates)
            grown = {schedule for schedule, count in known.items() if len(self.paths.of[schedule].rows) > count}
            if not grown or self.settings.expired or self.paths.spent_all:
                return
            keys = {each.key for each in candidates.values() if Schedule(*each.schedule) in grown}
            positions = [position for position in queue.lowest(_TOGETHER) if queue.candidate(position).key in keys]
            if not positions:
                return

    def _raise(self, queue: Queue, candidates: Mapping[int, Candidate]) -> None:
        """Bounds of candidates by duality; placements proposed are replayed."""
        schedules = {position: Schedule(*candidate.schedule) for position, candidate in candidates.items()}
        for position, candidate in candidates.items():
            self._raised[candidate.key] = self.paths.rounds(schedules[position])
        cuts = {(*schedule.shape, schedule.ep_overlap): self.paths.of[schedule] for schedule in schedules.values()}
        self.paths.spent += len(candidates) * _RAISED
        for left in queue.raise_bounds(list(candidates), self._limits, self._ask, cuts):
            self._replay(left, Schedule(*left.candidate.schedule))

    def _ask(self, question: Question) -> Answer:
        """Bounds of a schedule's candidates; what is left is listed where all of it would be replayed."""
        listed = self.effort.solver and Schedule(*question.rows.schedule).operations <= MOST_EXACT_OPERATIONS
        return raised(question, self.effort.dual_rounds, _LISTED if listed else 0)

    def _replay(self, left: Left, schedule: Schedule) -> None:
        """Placements of one candidate: all that are left, or the most promising ones."""
        for pipeline in left.placed if left.complete else left.placed[:_REPLAYED]:
            item = self._judge(left.candidate, pipeline)
            self.paths.spent += schedule.operations
            if item.cut is not None:
                self.paths.of[schedule].add(item.cut)

    # CP-SAT and replays in turns ------------------------------------------------------------------------------------

    def _close(self, queue: Queue) -> bool:
        """Ask CP-SAT about the lowest candidates, as far as duality raised their bounds; False to stop."""
        from moeopt.cpsat.closing import Asked, Closing  # half a second to import the solver, rarely needed

        limit, attempts = (self._target_ns - 1, self.problem.memory_limit), self._attempts
        positions, asked = [], []
        for position in queue.lowest(_AT_ONCE):
            candidate = queue.candidate(position)
            schedule = Schedule(*candidate.schedule)
            if self._can_raise(candidate) or self.paths.can_deepen(schedule):
                break
            positions.append(position)
            cuts = tuple(self.paths.of[schedule].rows)
            asked.append(Asked(candidate, *limit, cuts, attempts[candidate.key], self.effort.gap))
        found = Closing(self.settings).run(asked)
        closed = [self._take(attempt) for attempt in found]
        queue.close([position for position, done in zip(positions, closed, strict=True) if done])
        return closed[0] or (found[0].status == "open" and not self.settings.expired)

    def _take(self, attempt: "Attempt") -> bool:
        """Keep what an attempt found; whether its candidate is settled."""
        candidate = attempt.candidate
        for item in attempt.better:
            self._improve(item)
        for cut in attempt.cuts:
            self.paths.of[Schedule(*candidate.schedule)].add(cut)
        self._attempts[candidate.key] += 1
        return attempt.status == "closed" or (attempt.status == "loose" and self._solve(candidate))

    def _solve(self, candidate: Candidate) -> bool:
        """Whether no placement of the candidate is below the target, by the exact model; False where the time was over
        before."""
        from moeopt.cpsat.replayed import ReplayedModel

        cuts, limit = self.paths.of[Schedule(*candidate.schedule)], self._target_ns - 1
        model = ReplayedModel(candidate, limit, self.problem.memory_limit, cuts.rows)
        while not self.settings.expired:
            outcome = model.solve(self.settings)
            if outcome.pipeline is None:
                return outcome.status == "none"
            found = [self._judge(candidate, placed) for placed in around(candidate, outcome.pipeline)]
            new = [item.cut for item in found if item.cut is not None]
            for cut in new:
                cuts.add(cut)
            model.add_cuts(new)
            if self._target_ns <= limit:
                limit = self._target_ns - 1
                model.tighten(limit)
        return False

    def _judge(self, candidate: Candidate, pipeline: PipelineLayout) -> Timed:
        """Replay a placement; the best one that fits is kept."""
        timed = Timed.of(candidate, pipeline)
        better = timed.fitting() if timed.step_ns < self.best.step_ns else None
        if better is not None:
            self._improve(better)
        return timed

    def _improve(self, item: Replayed) -> None:
        """Keep a placement that fits, if it is the best."""
        if item.step_ns < self.best.step_ns:
            self.best = item
            self._say(f"replay: best step {item.step_ns:,}")

    def _say(self, text: str) -> None:
        if self.settings.progress is not None:
            self.settings.progress(text)


def certify(
    screening: Screening, known: Sequence[Found], settings: Settings, full: bool = False, gap: Fraction = Fraction(0)
) -> Certificate:
    """A bound that no layout of the problem can beat by its replayed step; with `full`, as good a layout and bound as
    the deadline allows, or as are within the gap. `known` are layouts that fit."""
    return Certifier(screening, known, settings, replace(FULL, gap=gap) if full else CHEAP).run()
