"""`moeopt audit`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeopt.cli.completing import files
from moeopt.cli.options import output_options
from moeopt.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("claims", metavar="CLAIMS.yaml", shell_complete=files)
@click.option(
    "--reconcile", is_flag=True, help="Also the smallest changes of dimensions that make a parameter claim true."
)
@output_options
def audit(claims: str, **options: Any) -> int:
    """A deployment document's numbers, checked one by one with the arithmetic.

    CLAIMS.yaml holds the fields of a problem (or `problem:` with a path), `layout`, and `claims` as NAME: VALUE.
    Exit codes: 0 every claim holds and the layout is legal, 1 not so, 2 bad input.
    """
    output = Output(options)
    from moeopt.claims.audit import judge, read_audit, reconciliations

    read = read_audit(Path(claims))
    answer = judge(read.problem, read.layout, read.claims)
    answer["about"] = read.about
    if options["reconcile"]:
        answer["reconciliations"] = reconciliations(read, answer)
    output.emit(answer, partial(_render, verbose=output.verbose))
    held = all(claim["holds"] for claim in answer["claims"])
    return 0 if held and answer["status"] == "evaluated" else 1


def _render(answer: dict[str, Any], console: "Console", verbose: bool = False) -> None:
    from moeopt.report.audit import render_audit

    render_audit(answer, console, verbose)
