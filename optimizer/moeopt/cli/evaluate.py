"""`moeopt evaluate`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeopt.cli.completing import files
from moeopt.cli.inputs import parse_claims, read_layout, read_problem
from moeopt.cli.options import output_options, problem_options
from moeopt.cli.output import Output, SideFile, to_json
from moeopt.errors import InputError
from moeopt.problem.base import read_fields

if TYPE_CHECKING:
    from rich.console import Console

    from moeopt.layout import Layout
    from moeopt.problem.problem import Problem


@click.command()
@problem_options
@click.option(
    "--layout",
    required=False,
    metavar="FILE|tp=8,pp=4,…",
    help="The layout: a YAML or JSON file, or a list.",
    shell_complete=files,
)
@click.option(
    "--claim", multiple=True, metavar="NAME=VALUE", help="A number to check: gpus=512, params=30B, memory=149GB …"
)
@click.option("--explain-memory", metavar="STAGE", help="Also list every tensor kept on that stage, with its product.")
@click.option(
    "--trace",
    metavar="FILE",
    help="Also write the predicted step as a Chrome or Perfetto trace (JSON).",
    shell_complete=files,
)
@click.option(
    "--from",
    "from_",
    metavar="FILE",
    help="Read it from a launch script, YAML, TOML or JSON; runs nothing.",
    shell_complete=files,
)
@click.option(
    "--arguments", metavar="'A B …'", help="With --from: what the script is called with, or what is appended to a list."
)
@click.option("--set", "set_", multiple=True, metavar="NAME=VALUE", help="With --from: a variable of its environment.")
@click.option("--vocab-size", metavar="N", help="With --from: where the file gives none.")
@click.option("--suggest", is_flag=True, help="Also the optimum of the same problem, and what it changes.")
@click.option("--time-limit", metavar="SEC", help="With --suggest: stop the search after this long.")
@output_options
def evaluate(**options: Any) -> int:
    """Legality, GPU total, memory and step time of one given layout, and whether claims about it hold.

    Exit codes: 0 legal and every claim holds, 1 not so, 2 bad input.
    """
    output = Output(options)
    trace_file = _trace_file(options)
    _check_together(options)
    claims = parse_claims(options["claim"])
    if claims:
        from moeopt.claims import check_readable

        check_readable(claims)
    if not options["layout"] and not options["from_"]:
        raise InputError("layout: not given; say which with --layout tp=8,pp=4,… or FILE, or read one --from FILE")
    from moeopt.layout import Layout

    reading = None
    if options["from_"]:
        from moeopt.cli.reading import read_from

        problem, layout, reading = read_from(options)
    else:
        layout = read_layout(options["layout"])
        problem = read_problem(options, gpus_if_absent=None if layout.dp is None else _total(layout))
    answer = _answer(problem, layout, claims)
    if options["explain_memory"] is not None and "memory" in answer:
        from moeopt.report.activations import kept_tensors_answer

        full = read_fields(Layout, answer["layout"], "layout")
        answer["kept_tensors"] = kept_tensors_answer(problem, full, _stage(options["explain_memory"]))
    if trace_file is not None:
        _write_trace(problem, answer, trace_file, output)
    if reading is not None:
        answer["read_from"] = {"file": options["from_"], **reading.to_json()}
    if options["suggest"]:
        answer["suggestion"] = _suggestion(problem, answer, options, output)
    output.emit(answer, partial(_render, verbose=output.verbose))
    held = all(claim["holds"] for claim in answer.get("claims", []))
    return 0 if answer["status"] == "evaluated" and held else 1


def _trace_file(options: dict[str, Any]) -> SideFile | None:
    """The file of --trace, checked before the work."""
    if options["trace"] is None:
        return None
    found = SideFile(options["trace"], "trace", bool(options["force"]))
    if options["output"] and found.path.resolve() == Path(options["output"]).resolve():
        raise InputError(f"trace, output: both are {found.path}")
    return found


def _check_together(options: dict[str, Any]) -> None:
    """Options that only a file read with --from can use are not passed over in silence."""
    for name in ("arguments", "set_", "vocab_size"):
        if options[name] and not options["from_"]:
            raise InputError(f"{name.rstrip('_').replace('_', '-')}: needs --from, the file that it completes")


def _write_trace(problem: "Problem", answer: dict[str, Any], file: SideFile, output: Output) -> None:
    from moeopt.layout import Layout

    if "step_time" not in answer:
        output.note("no trace: the layout is illegal in a way that leaves it without a step time")
        return
    from moeopt.report.trace import trace

    events = trace(problem, read_fields(Layout, answer["layout"], "layout"))
    file.write(to_json(events).encode(), output.note)


def _render(answer: dict[str, Any], console: "Console", verbose: bool = False) -> None:
    from moeopt.report.reading import render_reading, render_suggestion
    from moeopt.report.text import render

    if "read_from" in answer:
        render_reading(answer, console, verbose)
    render(answer, console, verbose=verbose)
    render_suggestion(answer, console)


def _suggestion(problem: "Problem", answer: dict[str, Any], options: dict[str, Any], output: Output) -> dict[str, Any]:
    from moeopt.report.reading import suggestion
    from moeopt.search import solve
    from moeopt.units import parse_duration_ns

    limit = options["time_limit"]
    limit_ns = None if limit is None else parse_duration_ns(limit, "time-limit")
    if limit_ns == 0:
        raise InputError(f"time-limit: {limit!r} is not above 0")
    best = solve(
        problem,
        time_limit=None if limit_ns is None else limit_ns / 10**9,
        progress=output.progress,
    )
    return suggestion(answer, best)


def _stage(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"explain-memory: {text!r} is not the number of a stage")
    return int(text)


def _total(layout: "Layout") -> int:
    return layout.tp * layout.cp * (layout.dp or 1) * layout.pp


def _answer(problem: "Problem", layout: "Layout", claims: list[tuple[str, str]]) -> dict[str, Any]:
    from moeopt.evaluation import evaluate as judge

    if not claims:
        return judge(problem, layout)
    from moeopt.claims.audit import judge as judge_claims

    return judge_claims(problem, layout, claims)
