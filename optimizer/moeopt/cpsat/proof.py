"""What duality leaves of the candidates: settled by the scaled model, or asked one by one in full."""

from collections.abc import Callable, Sequence
from itertools import islice

from moeopt.candidate import Candidate
from moeopt.cpsat.descent import Descent, Goal, descend
from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.solve import minimise, rules_out
from moeopt.cpsat.solvers import Solvers
from moeopt.solving.best import Best
from moeopt.solving.incumbent import place
from moeopt.solving.queue import Queue
from moeopt.solving.raising import FEW, Listed, Raising
from moeopt.solving.settings import Settings, Stopped

_BATCH = 4
"""Candidates asked at once, a worker."""
_STEPS = 400
"""Of tabu search, for candidates that the scaled model does not settle."""
_LONG = 8.0
"""Deterministic time of a try to rule a candidate out by the smaller model: about as many seconds."""


class Proof:
    """Settles every candidate of a queue. `pause` is called before each step, and may raise; `listed` gets all
    placements of candidates that are settled by listing them."""

    def __init__(
        self,
        queue: Queue,
        best: Best,
        settings: Settings,
        pause: Callable[[], None],
        listed: Listed,
    ) -> None:
        self.queue, self.best, self.settings, self.pause, self._listed = queue, best, settings, pause, listed
        self.problem = best.problem
        self._solvers = Solvers()
        self._hard: set[tuple[object, ...]] = set()
        """Candidates that the smaller models left open."""
        self.asked = 0
        self.bound = 0
        """No layout that is still open is below it."""

    def run(self) -> None:
        """Ask every candidate whose bound is within the threshold, lowest bound first: the smaller models of all of
        them; what these leave is raised by many rounds of duality, which meet better layouts too; then the full one."""
        queue = self.queue
        raised = len(queue) <= FEW  # then duality has spent its many rounds already
        while positions := self._untried(_BATCH * self.settings.workers):
            self._begin()
            known = self.best.threshold
            batch = [queue.candidate(position) for position in positions]
            self.asked += len(batch)
            left = {candidate.key for candidate in self._possible(batch)}
            self._hard |= left
            queue.close([at for at, candidate in zip(positions, batch, strict=True) if candidate.key not in left])
            if self.best.threshold != known:
                queue.tighten(self.best.limits)
        if len(queue) and not raised:
            self._raise()
        while positions := queue.lowest(1):
            self._begin()
            known = self.best.threshold
            self._solve(queue.candidate(positions[0]))
            queue.close(positions)
            if self.best.threshold != known:
                queue.tighten(self.best.limits)

    def _raise(self) -> None:
        """Many rounds of duality for all that is left."""
        raising = Raising(self.queue, self.best, self.pause, self._listed)
        try:
            raising.further()
        finally:
            self.bound = max(self.bound, raising.bound)

    def _begin(self) -> None:
        """Before each step: what is known by now, and whether there is time for more."""
        self.bound = self.queue.least
        self.pause()
        self.best.say(f"bound {self.bound:,}, at most {len(self.queue)} candidates to ask")

    def _untried(self, count: int) -> list[int]:
        """Positions of candidates of the lowest bounds that no model was asked about."""
        positions = self.queue.lowest(len(self.queue))
        return list(islice((at for at in positions if self.queue.candidate(at).key not in self._hard), count))

    def _possible(self, batch: Sequence[Candidate]) -> list[Candidate]:
        """Those that could not be settled: neither by the scaled model nor, where no placement is known, ruled out by
        the smaller one."""
        descents = self._solvers.each(self._descend, batch, self.settings.workers)
        for descent in descents:
            self.best.add(descent.found)
        left = [candidate for candidate, descent in zip(batch, descents, strict=True) if not descent.proven]
        for candidate in left:
            self.pause()
            self.best.add(place(candidate, self.best.limits.memory_bytes, _STEPS))
        unknown = [candidate for candidate in left if self.best.known(candidate) is None]
        gone = self._solvers.each(self._ruled_out, unknown, self.settings.workers)
        hopeless = {candidate.key for candidate, done in zip(unknown, gone, strict=True) if done}
        return [candidate for candidate in left if candidate.key not in hopeless]

    def _descend(self, candidate: Candidate) -> Descent:
        """The candidate's best placement within the threshold, as far as the scaled model tells."""
        horizon_ns = self.best.horizon_ns(candidate)
        if horizon_ns < candidate.bound_ns:
            return Descent(None, True)
        goal: Goal = "peak_memory" if self.problem.objective == "peak_memory" else "step_time"
        limits = horizon_ns, self.best.limits.memory_bytes
        return descend(candidate, *limits, goal, self.settings, self._solvers, known=self.best.known(candidate))

    def _ruled_out(self, candidate: Candidate) -> bool:
        """Whether the smaller model shows that no placement is within the threshold."""
        if self.settings.expired:
            return False
        model = self._encode(candidate, few_rows=True)
        if model is None:
            return True
        with self._solvers.one() as solver:
            return rules_out(model, solver, self.settings, _LONG)

    def _solve(self, candidate: Candidate) -> None:
        """The best layout of one candidate, if it is within the threshold."""
        self.pause()
        encoding = self._encode(candidate)
        if encoding is None:
            return
        known = self.best.known(candidate)
        if known is not None:
            encoding.hint(known)
        goal = encoding.peak if self.problem.objective == "peak_memory" else encoding.time
        outcome = minimise(encoding, goal, self.settings, "candidate")
        self.best.add(outcome.found)
        if not outcome.proven:
            raise Stopped

    def _encode(self, candidate: Candidate, few_rows: bool = False) -> Encoding | None:
        """The model of a candidate within the threshold; None where its limits are below its bound."""
        horizon_ns, limit_bytes = self.best.horizon_ns(candidate), self.best.limits.memory_bytes
        if horizon_ns < candidate.bound_ns:
            return None
        return Encoding(self.problem, [candidate], horizon_ns, limit_bytes, "few" if few_rows else "all")
