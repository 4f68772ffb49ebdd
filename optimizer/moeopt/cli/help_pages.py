"""docs/commands.md from the commands themselves: `python -m moeopt.cli.help_pages docs/commands.md` (`make docs`)."""

import sys
from inspect import cleandoc
from pathlib import Path

import click

from moeopt.cli import COMMANDS, cli

HEAD = """# Commands

Written by `make docs` from the commands' own help; a test compares the two.

| command | what it gives |
|---|---|
"""


def commands_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    rows = "".join(f"| [`moeopt {name}`](#moeopt-{name}) | {_cell(line)} |\n" for name, line in COMMANDS.items())
    return HEAD + rows + "".join(_section(name) for name in COMMANDS)


def _section(name: str) -> str:
    context = click.Context(cli, info_name="moeopt")
    command = cli.get_command(context, name)
    assert command is not None
    inner = click.Context(command, info_name=name, parent=context)
    usage = " ".join(["moeopt", name, *command.collect_usage_pieces(inner)])
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    table = "".join(f"| {_spelled(option)} | {_cell(_help(option))} |\n" for option in options)
    text = cleandoc(command.help or "")
    return f"\n## moeopt {name}\n\n```\n{usage}\n```\n\n{text}\n\n| option | meaning |\n|---|---|\n{table}"


def _spelled(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return _cell(f"`{', '.join(option.opts)}{value}`")


def _help(option: click.Option) -> str:
    text = option.help or ""
    shown = option.show_default and option.default not in (None, False)
    return f"{text.rstrip()} (default: {option.default})" if shown else text


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Write the page to the file that is named."""
    Path(arguments[0]).write_text(commands_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
