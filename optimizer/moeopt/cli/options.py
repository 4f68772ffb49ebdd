"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from moeopt import freedom
from moeopt.cli import completing

Command = TypeVar("Command", bound=Callable[..., Any])


def output_options(command: Command) -> Command:
    """--format, -o, --force, -q and -v."""
    for option in reversed(
        [
            click.option(
                "--format",
                "format_",
                metavar="text|json",
                help="text for people (default) or JSON for programs.",
                shell_complete=completing.words("text", "json"),
            ),
            click.option(
                "-o",
                "--output",
                metavar="FILE",
                help="Write there instead of stdout; .json means JSON.",
                shell_complete=completing.files,
            ),
            click.option("--force", is_flag=True, help="Let -o replace a file that exists."),
            click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr."),
            click.option("-v", "--verbose", is_flag=True, help="More: every rule with its numbers; faults in full."),
        ]
    ):
        command = option(command)
    return command


def problem_options(command: Command) -> Command:
    """PROBLEM and the options that stand for, or override, its fields."""
    for option in reversed(
        [
            click.argument("problem", required=False, metavar="[PROBLEM]", shell_complete=completing.files),
            click.option(
                "--architecture",
                metavar="A",
                help="Preset, YAML file or Hugging Face config.json.",
                shell_complete=completing.presets_of("architectures"),
            ),
            click.option(
                "--cluster",
                metavar="C",
                help="Preset or YAML file.",
                shell_complete=completing.presets_of("clusters"),
            ),
            click.option("--gpus", metavar="N", help="GPUs in all: 512, or a range 64..1024."),
            click.option("--sequence-length", metavar="S", help="Tokens in a sequence."),
            click.option(
                "--global-batch-size",
                metavar="B",
                help="Sequences in an optimizer step: 2048, a range 1024..4096 (1024..4096/256: its multiples of 256), "
                "or a choice 1024,2048.",
            ),
            click.option(
                "--precision",
                metavar="P",
                help="bf16, fp16, fp8, mxfp8 or nvfp4.",
                shell_complete=completing.words_of(completing.precisions),
            ),
            click.option(
                "--optimizer",
                metavar="O",
                help="adam or muon (Muon for matrices of weights, Adam for the rest).",
                shell_complete=completing.words_of(completing.optimizers),
            ),
            click.option(
                "--objective",
                metavar="O",
                help="step_time, gpus, cost or peak_memory; a chain (A,B): B among the optima of A.",
                shell_complete=completing.lists_of(completing.objectives),
            ),
            click.option("--fix", multiple=True, metavar="tp=8", help="A decision already made; repeat or use commas."),
            click.option(
                "--free",
                multiple=True,
                metavar="NAME",
                help="A decision that the search is to make too and that keeps its default otherwise; repeat or use "
                f"commas: {', '.join(freedom.names())}.",
                shell_complete=completing.lists_of(freedom.names),
            ),
            click.option("--limit", multiple=True, metavar="'ep<=64'", help="A bound on a degree or on peak_memory."),
            click.option(
                "--constraint",
                multiple=True,
                metavar="EXPR",
                help="A condition on the layout: 'tp * cp <= 8', 'ep >= 16 or etp == 1', 'peak_memory[0] <= 60GiB'.",
            ),
        ]
    ):
        command = option(command)
    return command
