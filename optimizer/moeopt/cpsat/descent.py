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

Goal = Literal["step_time", "peak_memory"]
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
) -> Descent:
    """The placement of least step time or memory within a limit on each; `effort` in the solver's deterministic time,
    for each solve. Ctrl-C stops the solve and is passed on."""
    best: Found | None = None
    finely, misfits = False, list[PipelineLayout]()
    model = ScaledLedger(candidate, limit_ns, limit_bytes)
    while len(misfits) <= _MISFITS and not settings.expired and not solvers.stopped:
        with solvers.one() as solver:
            outcome = model.solve(solver, settings, effort)
        if outcome.pipeline is None:
            return Descent(best, outcome.status == "none")
        found = Found.judge(candidate, outcome.pipeline)
        late = found.time_ns > limit_ns
        if late or found.peak_bytes > limit_bytes or not obeys(candidate, found.pipeline, found.time_ns):
            misfits.append(outcome.pipeline)
            if finely or not late:
                model.forbid(outcome.pipeline)
                continue
            finely = True
        else:
            best = found
            limit_ns = found.time_ns - 1 if goal == "step_time" else limit_ns
            limit_bytes = found.peak_bytes - 1 if goal == "peak_memory" else limit_bytes
        model = ScaledLedger(candidate, limit_ns, limit_bytes, finely)
        for pipeline in misfits:
            model.forbid(pipeline)
    return Descent(best, False)
