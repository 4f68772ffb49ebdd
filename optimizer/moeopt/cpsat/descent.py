"""The best placement of one candidate by the scaled model: each placement that is found is the limit of the next solve.

The scaled model loses no placement, so once it has none, the last one that was found is the best: a proof. It has some
that do not fit. One that takes too long is within rounding of the limit, as many others may be (a step's end comes in
few lengths): from then on time is in nanoseconds. They are left out one by one; after a few of them the model tells too
little here, and the exact one (`moeopt.cpsat.encode`) has to be asked.
"""

from dataclasses import dataclass
from typing import Literal

from moeopt.candidate import Candidate
from moeopt.constraints.placements import obeys
from moeopt.cpsat.scaled import EFFORT, ScaledLedger
from moeopt.cpsat.solvers import Solvers
from moeopt.pipeline import PipelineLayout
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Settings

Goal = Literal["step_time", "peak_memory", "order"]
"""What each placement is to be better by: `order` is fewer layers on earlier stages (`Placement.precede`)."""
_MISFITS = 8
"""Placements that do not fit, in all: after more the scaled model tells too little."""


@dataclass(frozen=True)
class Descent:
    """The best placement met; `proven`: no other one within the limits is better, or there is none within them."""

    found: Found | None
    proven: bool


def descend(
    candidate: Candidate,
    limit_ns: int,
    limit_bytes: int,
    goal: Goal,
    settings: Settings,
    solvers: Solvers,
    effort: float = EFFORT,
    known: Found | None = None,
) -> Descent:
    """The placement of least step time or memory, or the first in order, within a limit on each; `effort` in the
    solver's deterministic time, for each solve. `known`: one that is within the limits, which others are as likely to
    reach exactly. Ctrl-C stops the solve and is passed on."""
    best, finely, misfits = known, known is not None, list[PipelineLayout]()
    limits = limit_ns, limit_bytes

    def model() -> ScaledLedger:
        built = ScaledLedger(candidate, *_better(best, goal, limits), finely)
        for pipeline in misfits:
            built.forbid(pipeline)
        if best is not None and goal == "order":
            built.placement.precede(best.pipeline)
        return built

    asked = model()
    while len(misfits) <= _MISFITS and not settings.expired and not solvers.stopped:
        with solvers.one() as solver:
            outcome = asked.solve(solver, settings, effort)
        if outcome.pipeline is None:
            return Descent(best, outcome.status == "none")
        found = Found.judge(candidate, outcome.pipeline)
        within_ns, within_bytes = _better(best, goal, limits)
        late = found.time_ns > within_ns
        if late or found.peak_bytes > within_bytes or not obeys(candidate, found.pipeline, found.time_ns):
            misfits.append(outcome.pipeline)
            if finely or not late:
                asked.forbid(outcome.pipeline)
                continue
            finely = True
        else:
            best = found
        asked = model()
    return Descent(best, False)


def _better(best: Found | None, goal: Goal, limits: tuple[int, int]) -> tuple[int, int]:
    """The limits on step time and memory of what is better than the best placement so far."""
    limit_ns, limit_bytes = limits
    if best is not None and goal == "step_time":
        limit_ns = min(limit_ns, best.time_ns - 1)
    if best is not None and goal == "peak_memory":
        limit_bytes = min(limit_bytes, best.peak_bytes - 1)
    return limit_ns, limit_bytes
