"""The complete frontier of two or more objectives, each point proven. Only wiring is here."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from moeopt.clock import until
from moeopt.configurations import decisions
from moeopt.errors import InputError
from moeopt.frontier.answer import answer
from moeopt.frontier.candidates import Candidates
from moeopt.frontier.explore import Exploration
from moeopt.frontier.goals import Goals, check_objectives, essential
from moeopt.frontier.resolution import automatic, read_resolution
from moeopt.parallel import using
from moeopt.problem.problem import Problem, check_problem
from moeopt.solving.settings import Progress, Settings
from moeopt.space import check_names


def pareto(
    problem: Problem,
    objectives: Sequence[str] | str = ("step_time", "peak_memory"),
    *,
    time_limit: float | None = None,
    workers: int | None = None,
    seed: int = 0,
    resolution: str | Mapping[str, Any] = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every layout that no other beats, as the contract's JSON object: `points` are solutions, best first objective
    first.

    `objectives`: two or more of step_time, peak_memory, gpus, cost (or one text with commas). `resolution`: `exact`, or
    how much better a layout must be to count (`{"step_time": "1%", "peak_memory": "64MiB"}`); `auto` is exact for small
    problems and a coarse step for large ones (`moeopt.frontier.resolution`), and the answer states which. `complete` is
    True where it is proven that every layout is covered: some point is at least as good in each objective (within the
    resolution). Interrupted (Ctrl-C, time limit) it returns the points found; each tells by `proven` whether anything
    could still dominate it.
    """
    check_problem(problem)
    names = check_objectives(objectives)
    check_names(problem, decisions())
    if not problem.workload.batches.exact:
        raise InputError(
            f"pareto: a frontier is over layouts of one global_batch_size, not {problem.workload.batches}; give one, "
            "or solve for the cost of a token (objective cost)"
        )
    started = time.monotonic()
    settings = Settings.starting(started, time_limit, workers, seed, progress)
    with using(settings.workers), until(settings.deadline):
        candidates = Candidates(problem, settings)
        if resolution == "auto":
            resolution = automatic(problem, candidates.screening.rows, names)
        steps, stated = read_resolution(resolution, names)
        chosen = essential(problem, names, steps)
        goals = Goals(problem, tuple(names[j] for j in chosen))
        exploration = Exploration(goals, candidates, steps.only(chosen), settings)
        complete = exploration.run()
        facts = settings.facts(candidates.screening.rows, exploration.asked, time.monotonic() - started)
    return answer(Goals(problem, names), exploration, complete, stated, facts)
