"""`moeopt solve`."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from moeopt.cli.inputs import MAX_TOP, MAX_WORKERS, layout_fields, positive_integer, read_problem
from moeopt.cli.options import output_options, problem_options
from moeopt.cli.output import Output
from moeopt.errors import InputError
from moeopt.problem.base import read_fields
from moeopt.units import parse_duration_ns

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = {"optimal": 0, "feasible": 0, "infeasible": 3, "unknown": 4}


@click.command()
@problem_options
@click.option("--top", metavar="K", help="Also the K best distinct layouts.")
@click.option("--time-limit", metavar="SEC", help="Stop after this long with the best layout and its bound (60, 5min).")
@click.option("--workers", metavar="N", help="Processes and solver threads (default: one a core, at most 8).")
@click.option("--seed", metavar="N", default="0", show_default=True, help="Seed of the solver.")
@click.option("--no-screening", is_flag=True, help="Give the solver every layout; slower, and the same optimum.")
@click.option(
    "--no-replay-bound",
    is_flag=True,
    help="Stop at the proven optimum, without the bound on other layouts' replayed steps: up to five times sooner.",
)
@click.option(
    "--certify",
    is_flag=True,
    help="Go on until the layout is proven the best by its replayed step time too, or say how far that got.",
)
@click.option(
    "--gap",
    metavar="PERCENT",
    help="Certify only that no layout replays faster by more than this (1%): several times sooner. With --certify.",
)
@click.option(
    "--why-not",
    metavar="FILE|tp=4,pp=8,…",
    help="Also what stands against this layout: the rule it breaks, the bytes it lacks, or what it loses and where.",
)
@output_options
def solve(**options: Any) -> int:
    """The best layout of a problem, with its proof.

    PROBLEM is a YAML file; options override its fields. Without it: qwen3-30b-a3b on h100-sxm, and --gpus is needed.
    Exit codes: 0 answered, 2 bad input, 3 proven infeasible, 4 no answer within the time limit.
    """
    output = Output(options)
    settings = _settings(options)
    given = None if options["why_not"] is None else _asked(options["why_not"])
    problem = read_problem(options)
    from moeopt.search import solve as search

    settings["progress"] = output.progress
    answer = search(
        problem,
        certify=options["certify"],
        gap=options["gap"] or 0,
        replay_bound=not options["no_replay_bound"],
        proven=lambda answer: output.begin(answer, partial(_render_solution, verbose=output.verbose)),
        **settings,
    )
    if given is not None:
        from moeopt.explain.why_not import why_not

        answer["why_not"] = why_not(problem, given, answer, **settings)
    output.emit(answer, partial(_render, verbose=output.verbose), _render_search)
    return EXIT_CODES.get(answer["status"], 0)


def _render(answer: Mapping[str, Any], console: "Console", verbose: bool) -> None:
    """As text. What prints it is loaded where it is asked for, after the search: JSON does without."""
    from moeopt.report.text import render

    render(answer, console, verbose)


def _render_solution(answer: Mapping[str, Any], console: "Console", verbose: bool) -> None:
    from moeopt.report.text import render_solution

    render_solution(answer, console, verbose)


def _render_search(answer: Mapping[str, Any], console: "Console") -> None:
    from moeopt.report.text import render_search

    render_search(answer, console)


def time_limit_seconds(options: dict[str, Any]) -> float | None:
    """--time-limit in seconds."""
    limit = options["time_limit"]
    limit_ns = None if limit is None else parse_duration_ns(limit, "time-limit")
    if limit_ns == 0:
        raise InputError(f"time-limit: {limit!r} is not above 0")
    return None if limit_ns is None else limit_ns / 10**9


def seed_of(options: dict[str, Any]) -> int:
    """--seed as an integer."""
    if not options["seed"].isdecimal() or int(options["seed"]) >= 2**31:
        raise InputError(f"seed: {options['seed']!r} is not a whole number from 0 to {2**31 - 1}")
    return int(options["seed"])


def _asked(text: str) -> dict[str, Any]:
    """The fields of the layout asked about, checked before the search begins."""
    from moeopt.layout import Layout
    from moeopt.pipeline import PipelineLayout

    fields = layout_fields(text)
    layout = read_fields(Layout, fields, "why-not")
    if layout.pipeline_layout is not None and "pp" in fields:
        PipelineLayout.parse(layout.pipeline_layout, layout.pp)
    return fields


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "time_limit": time_limit_seconds(options),
        "workers": positive_integer(options["workers"], "workers", MAX_WORKERS),
        "top": positive_integer(options["top"], "top", MAX_TOP) or 1,
        "screening": not options["no_screening"],
        "seed": seed_of(options),
    }
