"""Candidates closed by CP-SAT, several at once: none of their placements is below the best replayed step.

For each candidate the scaled model is solved, the placement found is replayed, and its critical path (and those of
placements around it) are rows of the next solve; until no placement is left, or this was done often enough for once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from moeopt.candidate import Candidate
from moeopt.cpsat.replayed import Outcome
from moeopt.cpsat.scaled import EFFORT, ScaledReplays
from moeopt.cpsat.solvers import Solvers
from moeopt.schedule.combined import Counts
from moeopt.solving.replayed import Replayed, Timed, around, target_ns
from moeopt.solving.settings import Settings

_SOLVES = 12
"""Solves of an attempt: then what it found is given to other candidates of the schedule. Each further attempt at a
candidate has twice as many, and twice the time for each."""
_LOOSE = 3
"""Placements of an attempt that are fast enough and do not fit: after more the scaled model tells too little."""


@dataclass(frozen=True)
class Asked:
    """A candidate, the longest step that still matters, rows that are known, how often it was attempted, the gap that
    is enough, and the share of `EFFORT` that the first attempt has for a solve."""

    candidate: Candidate
    limit_ns: int
    limit_bytes: int
    cuts: Sequence[Counts]
    attempts: int
    gap: Fraction = Fraction(0)
    share: float = 1.0


@dataclass
class Attempt:
    """What came of it. `closed`: no placement is better than the limit and `better`; `open`: some may be; `loose`:
    the scaled model finds placements that do not fit; `extrapolated`: replays have no critical path."""

    candidate: Candidate
    status: Literal["closed", "open", "loose", "extrapolated"] = "open"
    better: list[Replayed] = field(default_factory=list)
    """Placements within the limit that fit, each better than the one before."""
    cuts: list[Counts] = field(default_factory=list)


class Closing:
    """Attempts at several candidates at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._solvers = Solvers()

    def run(self, asked: Sequence[Asked]) -> list[Attempt]:
        """One attempt each. Ctrl-C stops all of them and is passed on."""
        return self._solvers.each(self._attempt, asked, self.settings.workers)

    def _attempt(self, asked: Asked) -> Attempt:
        attempt = Attempt(asked.candidate)
        model, loose = self._model(asked, attempt), 0
        for _ in range(_SOLVES * 2**asked.attempts):
            outcome = self._solve(model, asked.share * EFFORT * 2**asked.attempts)
            if outcome.pipeline is None:
                attempt.status = "closed" if outcome.status == "none" else "open"
                break
            limit = model.limit_ns
            timed = [Timed.of(asked.candidate, placed) for placed in around(asked.candidate, outcome.pipeline)]
            if timed[0].cut is None:
                attempt.status = "extrapolated"
                break
            self._learn(asked, attempt, timed)
            if _limit_ns(asked, attempt) < limit:
                model = self._model(asked, attempt)
                continue
            model.add_cuts([item.cut for item in timed if item.cut is not None])
            model.forbid(outcome.pipeline)
            loose += timed[0].step_ns <= limit
            if loose > _LOOSE:
                attempt.status = "loose"
                break
        return attempt

    def _learn(self, asked: Asked, attempt: Attempt, timed: Sequence[Timed]) -> None:
        """Keep critical paths, and placements that are better."""
        for item in timed:
            if item.cut is not None:
                attempt.cuts.append(item.cut)
            better = item.fitting() if item.step_ns <= _limit_ns(asked, attempt) else None
            if better is not None:
                attempt.better.append(better)

    def _model(self, asked: Asked, attempt: Attempt) -> ScaledReplays:
        cuts = [*asked.cuts, *attempt.cuts]
        return ScaledReplays(asked.candidate, _limit_ns(asked, attempt), asked.limit_bytes, cuts)

    def _solve(self, model: ScaledReplays, effort: float) -> Outcome:
        if self._solvers.stopped or self.settings.expired:
            return Outcome("open")
        with self._solvers.one() as solver:
            return model.solve(solver, self.settings, effort)


def _limit_ns(asked: Asked, attempt: Attempt) -> int:
    """The longest step that still matters."""
    return target_ns(attempt.better[-1].step_ns, asked.gap) - 1 if attempt.better else asked.limit_ns
