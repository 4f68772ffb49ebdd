"""`moeopt report`."""

from pathlib import Path
from typing import Any

import click

from moeopt.cli.output import Output


@click.command()
@click.argument("solution")
@click.option("-o", "--output", metavar="FILE", help="The page; stdout where it is not given.")
@click.option("--force", is_flag=True, help="Let -o replace a file that exists.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Faults in full.")
def report(solution: str, **options: Any) -> int:
    """One self-contained HTML page about SOLUTION: the JSON that solve, evaluate or pareto wrote.

    It shows which GPU holds what, memory, step time, the pipeline's timeline, the proof and the sources. The page loads
    nothing and runs no script.
    """
    output = Output(options)
    from moeopt.problem.reading import read_file
    from moeopt.report.html import page

    output.page(page(read_file(Path(solution), "solution")))
    return 0
