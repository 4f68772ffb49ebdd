"""`moeopt report`."""

from pathlib import Path
from typing import Any

import click

from moeopt.cli.completing import files
from moeopt.cli.options import output_options
from moeopt.cli.output import Output


@click.command()
@click.argument("solution", shell_complete=files)
@output_options
def report(solution: str, **options: Any) -> int:
    """One self-contained HTML page about SOLUTION: the JSON that solve, evaluate or pareto wrote.

    It shows which GPU holds what, memory, step time, the pipeline's timeline, the proof and the sources. The page loads
    nothing and runs no script.
    """
    output = Output(options)
    from moeopt.problem.reading import read_file
    from moeopt.report.html import page

    text = page(read_file(Path(solution), "solution"))
    if output.format == "json":
        output.emit({"schema": "moeopt/1", "html": text}, lambda _, console: console.print(text))
    else:
        output.page(text)
    return 0
