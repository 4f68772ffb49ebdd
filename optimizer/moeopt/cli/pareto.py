"""`moeopt pareto`."""

from pathlib import Path
from typing import Any

import click

from moeopt.cli.completing import lists_of, objectives
from moeopt.cli.inputs import MAX_WORKERS, positive_integer, read_problem
from moeopt.cli.options import output_options, problem_options
from moeopt.cli.output import Output, SideFile
from moeopt.cli.solve import seed_of, time_limit_seconds
from moeopt.errors import InputError
from moeopt.problem.base import nearest

PLOTS = (".png", ".svg", ".html")


@click.command()
@problem_options
@click.option(
    "--objectives",
    metavar="A,B[,C]",
    default="step_time,peak_memory",
    show_default=True,
    help="Two or more of step_time, peak_memory, gpus, cost.",
    shell_complete=lists_of(objectives),
)
@click.option(
    "--resolution",
    metavar="R",
    default="auto",
    show_default=True,
    help="exact, or how much better a layout must be to count: step_time=1%,peak_memory=64MiB.",
)
@click.option("--plot", metavar="FILE", help="A picture (.png, .svg), or a page with every point's layout (.html).")
@click.option("--csv", "csv_", metavar="FILE", help="The points as a table for spreadsheets.")
@click.option("--time-limit", metavar="SEC", help="Stop after this long with the points found so far (60, 5min).")
@click.option("--workers", metavar="N", help="Processes and solver threads (default: one a core, at most 8).")
@click.option("--seed", metavar="N", default="0", show_default=True, help="Seed of the solver.")
@output_options
def pareto(**options: Any) -> int:
    """Every layout that no other beats: the complete frontier of two or more objectives, each point proven.

    PROBLEM is a YAML file; options override its fields. With gpus or cost among the objectives give a range of GPUs
    (--gpus 64..512). Exit codes: 0 answered (also when interrupted with at least one point), 2 bad input, 3 proven
    that no layout exists, 4 no point within the time limit.
    """
    output = Output(options)
    plot, table = _side_files(options)
    from moeopt.frontier import pareto as search
    from moeopt.frontier.goals import check_objectives

    objectives = check_objectives([name.strip() for name in options["objectives"].split(",")])
    problem = read_problem(options)
    answer = search(
        problem,
        objectives,
        time_limit=time_limit_seconds(options),
        workers=positive_integer(options["workers"], "workers", MAX_WORKERS),
        seed=seed_of(options),
        resolution=options["resolution"],
        progress=output.progress,
    )
    from moeopt.report.frontier import frontier_csv, render_frontier

    if table is not None:
        table.write(frontier_csv(answer).encode(), output.note)
    if plot is not None:
        plot.write(_picture(answer, plot.path), output.note)
    output.emit(answer, render_frontier)
    if answer["points"]:
        return 0
    return 3 if answer["complete"] else 4


def _side_files(options: dict[str, Any]) -> tuple[SideFile | None, SideFile | None]:
    """The files of --plot and --csv, checked before the work."""
    force, files = bool(options.get("force")), []
    for name in ("plot", "csv_"):
        given = options[name]
        files.append(None if given is None else SideFile(given, name.rstrip("_"), force))
    plot, table = files
    if plot is not None:
        suffix = plot.path.suffix.lower()
        if suffix not in PLOTS:
            raise InputError(f"plot: {plot.path} ends with none of {', '.join(PLOTS)}{nearest(suffix, list(PLOTS))}")
        if suffix != ".html":
            from moeopt.report.frontier_plot import require_matplotlib

            require_matplotlib()
    given = [file.path.resolve() for file in (plot, table) if file is not None]
    given += [Path(options["output"]).resolve()] if options.get("output") else []
    if len(set(given)) < len(given):
        raise InputError("plot, csv, output: two of them are the same file")
    return plot, table


def _picture(answer: dict[str, Any], path: Path) -> bytes:
    if path.suffix.lower() == ".html":
        from moeopt.report.html.frontier import frontier_page

        return frontier_page(answer).encode()
    from moeopt.report.frontier_plot import frontier_plot

    return frontier_plot(answer, path.suffix.lower().lstrip("."))
