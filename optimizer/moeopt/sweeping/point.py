"""One point of a sweep: solve its problem and keep what a table needs. Runs in any process, on any machine."""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
"""One row: plain numbers and texts."""
SETTLED = ("optimal", "infeasible", "invalid")
"""Statuses that no further time would change."""


@dataclass(frozen=True)
class Task:
    """What one point's solve needs, as plain data that travels between processes."""

    key: str
    coordinates: Mapping[str, Any]
    problem: Mapping[str, Any]
    time_limit: float | None = None
    workers: int = 1
    seed: int = 0


def ignore_interrupts() -> None:
    """For worker processes: Ctrl-C is the parent's to handle, and what ends a process ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def solve_point(task: Task) -> Record:
    """The row of a point. Whatever goes wrong with it is a row too: status `invalid` (bad input) or `error`."""
    from moeopt.errors import InputError
    from moeopt.problem.loading import load_problem
    from moeopt.search import solve

    started = time.monotonic()
    try:
        answer = solve(load_problem(task.problem), time_limit=task.time_limit, workers=task.workers, seed=task.seed)
        found = answer_row(answer)
    except InputError as error:
        found = {"status": "invalid", "error": str(error)}
    except Exception as error:
        found = {"status": "error", "error": f"{type(error).__name__}: {error}"}
    return {**identity(task), **found, "seconds": round(time.monotonic() - started, 3)}


def identity(task: Task) -> Record:
    """What tells a row from the others, and how long it was allowed to take."""
    return {"key": task.key, **task.coordinates, "time_limit_seconds": task.time_limit}


def answer_row(answer: Mapping[str, Any]) -> Record:
    """The numbers of an answer that a table of many holds; what does not exist is left out."""
    objective = answer.get("objective") or {}
    row: Record = {
        "status": answer["status"],
        "objective": objective.get("name"),
        "objective_value": objective.get("value"),
        "objective_bound": objective.get("bound"),
        "objective_unit": objective.get("unit"),
    }
    if answer["status"] == "infeasible":
        row["error"] = (answer.get("explanation") or {}).get("text")
    if answer.get("layout"):
        row |= _layout_row(answer)
    return {name: value for name, value in row.items() if value is not None}


def _layout_row(answer: Mapping[str, Any]) -> Record:
    step, layout, cost = answer["step_time"], answer["layout"], answer.get("cost") or {}
    row: Record = {
        "step_time_ns": step["total_ns"],
        "tokens_per_second_per_gpu": step["tokens_per_second_per_gpu"],
        "model_tflops_per_gpu": step["model_tflops_per_gpu"],
        "mfu": step["mfu"],
        "peak_memory_bytes": answer["memory"]["peak_bytes"],
        "total_gpus": answer["gpus"]["total"],
        "sequences": answer["batch"]["sequences"],
        "gpu_hours_per_trillion_tokens": cost.get("gpu_hours_per_trillion_tokens"),
        "usd_per_trillion_tokens": cost.get("usd_per_trillion_tokens"),
        "layout": layout,
    }
    degrees = ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp", "micro_batch_size", "num_microbatches")
    return row | {name: layout[name] for name in degrees}
