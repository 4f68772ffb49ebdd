"""`moeopt evaluate`."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from moeopt.cli.inputs import parse_claims, read_layout, read_problem
from moeopt.cli.options import output_options, problem_options
from moeopt.cli.output import Output
from moeopt.errors import InputError
from moeopt.problem.base import read_fields

if TYPE_CHECKING:
    from moeopt.layout import Layout
    from moeopt.problem.problem import Problem


@click.command()
@problem_options
@click.option(
    "--layout", required=False, metavar="FILE|tp=8,pp=4,…", help="The layout: a YAML or JSON file, or a list."
)
@click.option(
    "--claim", multiple=True, metavar="NAME=VALUE", help="A number to check: gpus=512, params=30B, memory=149GB …"
)
@click.option("--explain-memory", metavar="STAGE", help="Also list every tensor kept on that stage, with its product.")
@output_options
def evaluate(**options: Any) -> int:
    """Legality, GPU total, memory and step time of one given layout, and whether claims about it hold.

    Exit codes: 0 legal and every claim holds, 1 not so, 2 bad input.
    """
    output = Output(options)
    claims = parse_claims(options["claim"])
    if claims:
        from moeopt.claims import check_readable

        check_readable(claims)
    if not options["layout"]:
        raise InputError("layout: not given; say which with --layout tp=8,pp=4,… or --layout FILE")
    from moeopt.layout import Layout

    layout = read_layout(options["layout"])
    problem = read_problem(options, gpus_if_absent=None if layout.dp is None else _total(layout))
    answer = _answer(problem, layout, claims)
    if options["explain_memory"] is not None and "memory" in answer:
        from moeopt.report.activations import kept_tensors_answer

        full = read_fields(Layout, answer["layout"], "layout")
        answer["kept_tensors"] = kept_tensors_answer(problem, full, _stage(options["explain_memory"]))
    from moeopt.report.text import render

    output.emit(answer, partial(render, verbose=output.verbose))
    held = all(claim["holds"] for claim in answer.get("claims", []))
    return 0 if answer["status"] == "evaluated" and held else 1


def _stage(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"explain-memory: {text!r} is not the number of a stage")
    return int(text)


def _total(layout: "Layout") -> int:
    return layout.tp * layout.cp * (layout.dp or 1) * layout.pp


def _answer(problem: "Problem", layout: "Layout", claims: list[tuple[str, str]]) -> dict[str, Any]:
    from moeopt.evaluate import evaluate as judge

    if not claims:
        return judge(problem, layout)
    from moeopt.claims import check_claims, nearest_reading

    reading = nearest_reading(problem, layout)
    answer = judge(reading.problem, reading.layout, strict=False)
    if reading.contradictions:
        named = {rule["rule"] for rule in reading.contradictions}
        rest = [rule for rule in answer.get("rules", []) if rule["rule"] not in named]
        answer["rules"] = [*reading.contradictions, *rest]
        answer["status"], answer["reading"] = "illegal", reading.note
    answer["claims"] = check_claims(problem, layout, answer, claims, reading)
    return answer
