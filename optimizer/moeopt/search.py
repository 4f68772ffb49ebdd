"""Solve a problem: screen, find a good layout, then prove with CP-SAT that none is better. Only wiring is here."""

import os
import time
from typing import Any

from moeopt.branch import Result, Search
from moeopt.cpsat.solve import Progress, Settings
from moeopt.explain import explain
from moeopt.problem.problem import Problem
from moeopt.solution import infeasible_answer, solved_answer, unknown_answer
from moeopt.space import gpu_counts

_MOST_WORKERS = 8


def solve(
    problem: Problem,
    *,
    time_limit: float | None = None,
    workers: int | None = None,
    top: int = 1,
    screening: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The best layout of a problem, with its proof, as the contract's JSON object.

    `time_limit` in seconds; `workers` solver threads (default: the machine's cores, at most 8); `top` adds the K best
    candidates; `screening` False gives the solver every legal candidate. Interrupted (Ctrl-C, time limit) it returns
    the best layout found and a bound that none can beat: status feasible, or unknown when none was found.
    """
    started = time.monotonic()
    settings = Settings(
        workers=workers or min(os.cpu_count() or 1, _MOST_WORKERS),
        seed=seed,
        deadline=None if time_limit is None else started + time_limit,
        progress=progress,
    )
    search, result = _fewest_gpus(problem, settings, top) if problem.objective == "gpus" else (None, None)
    if search is None or result is None:
        search = Search(problem, settings, top, screening)
        result = search.run()
    facts = search.facts(time.monotonic() - started)
    if result.best is not None:
        return solved_answer(problem, result, facts)
    if result.proven:
        return infeasible_answer(problem, explain(problem, workers=settings.workers), facts)
    return unknown_answer(problem, result.bound, facts)


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
