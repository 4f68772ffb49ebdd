"""The command line: parse, call, print. No formula lives here, and a command's imports happen when it runs.

One file a command. `moeopt --help` and `moeopt presets` stay quick because nothing here imports the solver or numpy.
"""

from difflib import get_close_matches
from importlib import import_module

import click

from moeopt import __version__

COMMANDS = {
    "solve": "the best layout of a problem, with its proof",
    "evaluate": "legality, GPUs, memory and step time of one given layout; claims checked",
    "pareto": "every layout that no other beats in two or more objectives",
    "sweep": "the best layout of every point of a grid, in parallel and resumable",
    "launch": "files that start the run of a solution",
    "audit": "a deployment document's numbers checked one by one",
    "report": "one HTML page about a solution",
    "params": "exact total and active parameters of an architecture",
    "presets": "architectures and clusters that ship",
    "completion": "the script that teaches a shell to complete all this",
}
"""Command and one line about it; each lives in `moeopt.cli.<command>` as a click command of the same name."""


class _Lazy(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"moeopt.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS and not ctx.resilient_parsing:
            close = get_close_matches(name, list(COMMANDS), n=1)
            raise click.UsageError(
                f"command: no command is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="moeopt", message="%(prog)s %(version)s")
def cli() -> None:
    """Find the provably optimal Megatron training layout of a Mixture-of-Experts transformer.

    Start with: moeopt solve --gpus 512
    """
