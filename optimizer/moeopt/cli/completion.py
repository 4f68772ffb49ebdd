"""`moeopt completion`."""

from typing import Any

import click
from click.shell_completion import get_completion_class

from moeopt.cli.completing import words
from moeopt.cli.options import output_options
from moeopt.cli.output import Output
from moeopt.errors import InputError
from moeopt.problem.base import nearest

SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/moeopt.fish"}
"""Shell -> where it looks for completions."""


@click.command()
@click.argument("shell", metavar="bash|zsh|fish", shell_complete=words(*SHELLS))
@output_options
def completion(shell: str, **options: Any) -> int:
    """The script that teaches a shell to complete moeopt's commands, options, presets and objectives.

    For bash: eval "$(moeopt completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc; for fish: moeopt completion fish
    -o ~/.config/fish/completions/moeopt.fish.
    """
    output = Output(options)
    found = get_completion_class(shell)
    if shell not in SHELLS or found is None:
        raise InputError(f"completion: {shell!r} is none of {', '.join(SHELLS)}{nearest(shell, list(SHELLS))}")
    from moeopt.cli import cli

    source = found(cli, {}, "moeopt", "_MOEOPT_COMPLETE").source()
    if output.format == "json":
        answer = {"schema": "moeopt/1", "shell": shell, "script": source}
        output.emit(answer, lambda _, console: console.print(source, markup=False))
    else:
        output.page(source if source.endswith("\n") else f"{source}\n")
    return 0
