"""Solve a problem: screen, find a good layout, then prove with CP-SAT that none is better. Only wiring is here."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Any

from moeopt.errors import InputError
from moeopt.parallel import using
from moeopt.problem.base import shown
from moeopt.problem.problem import Problem, check_problem
from moeopt.solution import infeasible_answer, solved_answer, unknown_answer
from moeopt.solving.branch import Result, Search
from moeopt.solving.certify import certify as prove_replay
from moeopt.solving.settings import Progress, Settings
from moeopt.space import gpu_counts
from moeopt.units import parse_percent

PROVEN = "optimum proven"
"""What the line of progress begins with that says so."""
_EARLY = 0.2
"""Seconds that a solver may stop before its time limit."""


def solve(
    problem: Problem,
    *,
    time_limit: float | None = None,
    workers: int | None = None,
    top: int = 1,
    screening: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    explained: bool = True,
    replay_bound: bool = True,
    certify: bool = False,
    gap: Fraction | float | str = 0,
    proven: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The best layout of a problem, with its proof, as the contract's JSON object.

    `time_limit` in seconds; `workers` processes and solver threads (default: one a core, at most 8; no answer depends
    on it); `top` adds the K best candidates; `screening` False gives the solver every legal candidate. Interrupted
    (Ctrl-C, time limit) it returns the best layout found and a bound that none can beat: status feasible, or unknown
    when none was found. `explained` False leaves out why an infeasible problem has no layout, which takes as long as
    some twenty solves, and the bound on the replayed step over the whole problem; `replay_bound` False leaves out that
    bound alone, which takes longer than the proof for deep pipelines. `certify` goes on until a layout is proven to
    have the best replayed step, and returns that one (objective step_time); half of the time limit at most goes to the
    search before it. With `gap` (a share, or `1%`) it is enough that no layout replays faster by more. `proven` is
    called with the answer as soon as its optimum is proven, where the bound on other layouts' replayed steps is still
    to come and cannot change the layout.
    """
    check_problem(problem)
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError(f"top: {shown(top)} is not a whole number above 0")
    enough = _enough(problem, certify, replay_bound, gap)
    started = time.monotonic()
    settings = Settings.starting(started, time_limit, workers, seed, progress)
    with using(settings.workers):
        half = replace(settings, deadline=started + time_limit / 2) if certify and time_limit is not None else settings
        search, result = _searched(problem, half, top, screening)
        facts = search.facts(time.monotonic() - started)
        if result.best is not None:
            asked = certify or (explained and replay_bound)
            replays = problem.objective == "step_time" and problem.workload.batches.exact and asked
            full = certify and (result.proven or _over(half))
            if replays and result.proven and progress is not None:
                progress(f"{PROVEN} after {time.monotonic() - started:.1f} s; now how fast its replay is at best")
            certificate = None
            with suppress(KeyboardInterrupt):  # the answer is there without the bound
                if replays and result.proven and not certify and proven is not None:
                    proven(solved_answer(problem, result, facts))
                if replays:
                    known = [result.best, *result.alternatives]
                    certificate = prove_replay(search.screening, known, settings, full, enough)
            return solved_answer(problem, result, facts, certificate, by_replay=certify)
        if result.proven:
            reasons = _explained(problem, settings, time_limit) if explained else {}
            return infeasible_answer(problem, reasons, facts)
        return unknown_answer(problem, result.bound, facts)


def _enough(problem: Problem, certify: bool, replay_bound: bool, gap: Fraction | float | str) -> Fraction:
    """The gap that is enough. Raises InputError where what is asked for does not go together."""
    enough = read_gap(gap)
    if certify:
        if not replay_bound:
            raise InputError("certify: it bounds replayed steps, and replay_bound is false (--no-replay-bound)")
        check_certifiable(problem)
    elif enough:
        raise InputError(f"gap: {gap} says how far to certify, and certify is not asked for")
    return enough


def _explained(problem: Problem, settings: Settings, seconds: float | None) -> dict[str, Any]:
    """Why there is no layout (imported here, as most problems have one); nothing where the user interrupts."""
    from moeopt.explain import explain

    with suppress(KeyboardInterrupt):
        return explain(problem, workers=settings.workers, seconds=seconds)
    return {}


def _searched(problem: Problem, settings: Settings, top: int, screening: bool) -> tuple[Search, Result]:
    """The search that found an answer, and what it found."""
    if problem.objective == "gpus":
        search, result = _fewest_gpus(problem, settings, top)
        if search is not None and result is not None:
            return search, result
    search = Search(problem, settings, top, screening)
    return search, search.run()


def read_gap(given: Any) -> Fraction:
    """A gap as a share: a text with a per cent sign, or a number from 0 to 1. Raises InputError."""
    if isinstance(given, str):
        return parse_percent(given, "gap")
    if isinstance(given, bool) or not isinstance(given, (int, float, Fraction)) or not 0 <= given <= 1:
        raise InputError(f"gap: {shown(given)} is neither a percentage (1%) nor a share from 0 to 1")
    return Fraction(str(given)) if isinstance(given, float) else Fraction(given)


def check_certifiable(problem: Problem) -> None:
    """Raise InputError for a problem whose replayed step cannot be certified."""
    if problem.objective != "step_time":
        raise InputError(f"certify: the replayed step is certified for objective step_time, not {problem.objective}")
    if not problem.workload.batches.exact:
        raise InputError(
            f"certify: the replayed step is certified for one global_batch_size, not {problem.workload.batches}"
        )


def _over(settings: Settings) -> bool:
    """Whether the time is over: a search that ended unproven before that was interrupted by the user."""
    return settings.seconds_left is not None and settings.seconds_left <= _EARLY


def _fewest_gpus(problem: Problem, settings: Settings, top: int) -> tuple[Search | None, Result | None]:
    """The smallest GPU count with any layout, and the best on it by the next objective (step time where none is named):
    each smaller count is proven to have none."""
    second, *rest = problem.then or ("step_time",)
    for gpus in gpu_counts(problem):
        at = problem.model_copy(update={"gpus": gpus, "objective": second, "then": tuple(rest)})
        search = Search(at, settings, top)
        result = search.run()
        if result.best is not None or not result.proven:
            further = [result.bound, *result.further]
            return search, Result(result.best, result.best is not None, gpus, result.alternatives, further)
    return None, None
