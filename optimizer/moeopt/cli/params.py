"""`moeopt params`."""

from typing import Any

import click

from moeopt.cli.completing import presets_of
from moeopt.cli.options import output_options
from moeopt.cli.output import Output


@click.command()
@click.argument("architecture", shell_complete=presets_of("architectures"))
@output_options
def params(architecture: str, **options: Any) -> int:
    """Exact total and active parameters of ARCHITECTURE: a preset, a YAML file or a Hugging Face config.json."""
    output = Output(options)
    from moeopt.problem.loading import load_architecture

    loaded = load_architecture(architecture)
    from moeopt.report.parameters import parameters_answer, render_parameters

    output.emit(parameters_answer(loaded), render_parameters)
    return 0
