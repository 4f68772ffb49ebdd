"""The best replayed step known, and what follows from it."""

from collections.abc import Sequence

from moeopt.candidate import Candidate
from moeopt.pipeline import PipelineLayout
from moeopt.solving.effort import Effort
from moeopt.solving.incumbent import Found
from moeopt.solving.replayed import Replayed, Timed, target_ns
from moeopt.solving.settings import Progress


class Record:
    """Of one certificate. `known` are layouts that fit."""

    def __init__(self, known: Sequence[Found], effort: Effort, progress: Progress | None) -> None:
        self.effort, self._progress = effort, progress
        self.best = min((Replayed.judge(found) for found in known), key=lambda item: item.step_ns)
        self.settled_ns: int | None = None
        """Candidates are left out that have no step below it; None while there are none."""

    @property
    def target_ns(self) -> int:
        """The bound that is enough: that of the best step, or within the gap of it."""
        return target_ns(self.best.step_ns, self.effort.gap)

    @property
    def near_ns(self) -> int:
        """No bound is raised that is not below it."""
        return target_ns(self.best.step_ns, self.effort.enough)

    def settle(self) -> int:
        """What a step must be below to be looked for, where bounds that are near enough are left alone: candidates
        without one are left out from now on."""
        self.settled_ns = min(self.near_ns, self.settled_ns or self.near_ns)
        return self.near_ns

    def judge(self, candidate: Candidate, pipeline: PipelineLayout) -> Timed:
        """Replay a placement; the best one that fits is kept."""
        timed = Timed.of(candidate, pipeline)
        better = timed.fitting() if timed.step_ns < self.best.step_ns else None
        if better is not None:
            self.improve(better)
        return timed

    def improve(self, item: Replayed) -> None:
        """Keep a placement that fits, if it is the best."""
        if item.step_ns < self.best.step_ns:
            self.best = item
            self.say(f"replay: best step {item.step_ns:,}")

    def say(self, text: str) -> None:
        """A line of progress."""
        if self._progress is not None:
            self._progress(text)
