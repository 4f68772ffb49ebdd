"""`moeopt sweep`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeopt.cli.inputs import MAX_WORKERS, positive_integer, read_problem
from moeopt.cli.options import output_options, problem_options
from moeopt.cli.output import Output, SideFile
from moeopt.cli.solve import seed_of, time_limit_seconds
from moeopt.errors import InputError
from moeopt.problem.base import nearest, read_fields
from moeopt.units import parse_plain_count

if TYPE_CHECKING:
    from moeopt.problem.problem import Problem
    from moeopt.sweeping import Journal, Point, Record, Runner, Task

TABLES = (".csv", ".parquet", ".json")


@click.command()
@problem_options
@click.option("--time-limit", metavar="SEC", help="Stop each point after this long with its best layout (60, 5min).")
@click.option("--jobs", metavar="N", help="Points solved at once (default: one a core and worker).")
@click.option("--workers", metavar="N", default="1", show_default=True, help="Processes and threads of each point.")
@click.option("--seed", metavar="N", default="0", show_default=True, help="Seed of the solver.")
@click.option("--ray", metavar="ADDRESS", help="Solve on a Ray cluster; local starts one on this machine.")
@output_options
def sweep(**options: Any) -> int:
    """The best layout of every point of a grid: lists of architectures, clusters, GPUs, sequence lengths and batches.

    --architecture, --cluster, --gpus, --sequence-length, --global-batch-size and --precision take lists with commas;
    the grid is their cross product on top of PROBLEM. -o writes .csv, .parquet or .json, with a journal beside it
    (FILE.journal.jsonl): the same command again solves only what is missing, and adding values only adds points.
    A point without an answer is a row with its status. Exit codes: 0 every point has a row, 2 bad input,
    4 interrupted: the rows so far are kept.
    """
    output, path = _destination(options)
    from moeopt.sweeping import Journal, run

    points = _points(options)
    tasks = _tasks(points, options)
    journal = Journal(None if path is None else path.with_name(path.name + ".journal.jsonl"))
    if path is not None:
        _check_ours(path, journal, bool(options.get("force")))
    runner = _runner(options)
    if journal.torn:
        output.note(f"{journal.torn} unreadable lines of {journal.path} skipped")
    _add_invalid(points, journal)
    with _Progress(tasks, journal, output.quiet) as progress:
        complete = run(tasks, journal, runner, progress.done)
    rows = _rows(points, journal)
    answer = {"schema": "moeopt/1", "complete": complete, "points": len(points), "rows": rows}
    _write(answer, output, path)
    if not complete:
        output.note("interrupted: the rows so far are kept")
    return 0 if complete else 4


def _destination(options: dict[str, Any]) -> tuple[Output, Path | None]:
    """The answer's destination, and the table's file where one is given."""
    given = options.pop("output", None)
    output = Output({**options, "output": None})
    if given is None:
        return output, None
    path = Path(given)
    if path.suffix not in TABLES:
        raise InputError(f"output: {given!r} ends with none of {', '.join(TABLES)}{nearest(path.suffix, list(TABLES))}")
    SideFile(given, "output", True)
    if path.suffix == ".parquet":
        from moeopt.sweeping.table import require_parquet

        require_parquet()
    return output, path


def _check_ours(path: Path, journal: "Journal", force: bool) -> None:
    """A table that no journal stands behind is the user's own."""
    if path.exists() and not journal.records and not force:
        raise InputError(f"output: {path} exists already and has no journal beside it; --force replaces it")


def _points(options: Mapping[str, Any]) -> "list[Point]":
    from moeopt.sweeping.grid import AXES, grid, split

    axes = {name: split(options[name], name) for name in AXES if options.get(name) is not None}
    for name, values in axes.items():
        for value in values:
            _read_value(name, value)

    def build(coordinates: Mapping[str, Any]) -> "Problem":
        return read_problem({**options, **coordinates})

    return grid(axes, build)


def _read_value(axis: str, value: str) -> None:
    """Raises InputError for a value that no problem can have."""
    from moeopt.problem.batches import read_batch
    from moeopt.problem.loading import load_architecture, load_cluster, load_gpus
    from moeopt.problem.workload import Workload

    if axis == "precision":
        read_fields(Workload, {"precision": value}, "workload")
    elif axis == "sequence_length":
        positive_integer(value, axis, parse=parse_plain_count)
    else:
        readers: dict[str, Callable[[str], Any]] = {
            "architecture": load_architecture,
            "cluster": load_cluster,
            "gpus": load_gpus,
            "global_batch_size": read_batch,
        }
        readers[axis](value)


def _tasks(points: "Sequence[Point]", options: Mapping[str, Any]) -> "list[Task]":
    from moeopt.sweeping import Task

    settings: dict[str, Any] = {
        "time_limit": time_limit_seconds(dict(options)),
        "workers": positive_integer(options["workers"], "workers", MAX_WORKERS) or 1,
        "seed": seed_of(dict(options)),
    }
    return [
        Task(point.key, point.columns, point.problem.model_dump(mode="json"), **settings)
        for point in points
        if point.problem is not None
    ]


def _runner(options: Mapping[str, Any]) -> "Runner":
    from moeopt.sweeping import processes, ray_cluster

    jobs = positive_integer(options["jobs"], "jobs", MAX_WORKERS)
    if options.get("ray") is not None:
        from importlib.util import find_spec

        if find_spec("ray") is None:
            raise InputError("ray: not installed: pip install 'moeopt[ray]'")
        return ray_cluster(options["ray"], jobs or 0)
    workers = positive_integer(options["workers"], "workers", MAX_WORKERS) or 1
    return processes(jobs or max(1, (os.cpu_count() or 1) // workers))


def _add_invalid(points: "Sequence[Point]", journal: "Journal") -> None:
    """Points that contradict themselves are rows without a solve."""
    for point in points:
        if point.problem is None and point.key not in journal.records:
            journal.add({"key": point.key, **point.columns, "status": "invalid", "error": point.error})


def _rows(points: "Sequence[Point]", journal: "Journal") -> "list[Record]":
    """The grid's rows in its order, then what earlier runs left in the journal."""
    keys = list(dict.fromkeys(point.key for point in points))
    ordered = [*(key for key in keys if key in journal.records), *(key for key in journal.records if key not in keys)]
    return [journal.records[key] for key in ordered]


def _write(answer: dict[str, Any], output: Output, path: Path | None) -> None:
    from moeopt.report.sweep import render_sweep

    if path is None:
        output.emit(answer, render_sweep)
        return
    from moeopt.sweeping.table import table_bytes

    if path.suffix == ".json":
        import json

        content = (json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    else:
        content = table_bytes(answer["rows"], path.suffix)
    SideFile(str(path), "output", True).write(content, output.note)
    if output.format == "json" or not output.quiet:
        output.emit(answer, render_sweep)


class _Progress:
    """A bar on stderr where that is a terminal, else a line a point."""

    def __init__(self, tasks: "Sequence[Task]", journal: "Journal", quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, quiet=quiet)
        self._lines = not console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=quiet or self._lines)
        self._console, self._total = console, len({task.key for task in tasks})
        known = {task.key for task in tasks if journal.done(task.key, task.time_limit)}
        self._done = len(known)
        self._row = self._bar.add_task("points", total=self._total, completed=self._done)
        if known:
            console.print(f"{len(known)} of {self._total} points are done already", highlight=False)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def done(self, record: "Record") -> None:
        """One more row."""
        from moeopt.report.sweep import record_text

        self._done += 1
        self._bar.advance(self._row)
        text = f"{self._done}/{self._total} {record_text(record)}" if self._lines else record_text(record)
        (self._console if self._lines else self._bar.console).print(text, highlight=False, markup=False, soft_wrap=True)
