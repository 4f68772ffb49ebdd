"""An audit for people: each claim with its arithmetic, what would make it true, and the layout's legality."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.report.text import render_claims, render_gpus, render_headline, render_rules
from moeopt.units import format_count


def render_audit(answer: Mapping[str, Any], console: Console, verbose: bool = False) -> None:
    """Print an answer of `audit` to a rich console."""
    console.print(f"[bold]Audit: {escape(str(answer['about']))}[/bold]")
    render_headline(answer, console)
    render_claims(answer, console)
    for found in answer.get("reconciliations", []):
        render_reconciliation(found, console)
    render_gpus(answer, console)
    render_rules(answer, console, verbose)


def render_reconciliation(found: Mapping[str, Any], console: Console) -> None:
    """The ways to make a parameter claim true, smallest change first."""
    low, high = found["range"]
    console.print(f"\n[bold]What would make {escape(found['claim'])} {escape(found['claimed'])} true[/bold]")
    steps = ", ".join(f"{name} {step}" for name, step in found["multiples"].items())
    text = f"any of these gives {low:,} to {high:,} parameters, which round to it; heads and their width stay"
    console.print(Padding(escape(f"{text}; multiples of: {steps}"), (0, 0, 0, 2)))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("change", "parameters", ""):
        table.add_column(name, overflow="fold")
    for option in found["options"]:
        changes = ", ".join(f"{each['dimension']} {each['from']} -> {each['to']}" for each in option["changes"])
        proof = "smallest, proven" if option["smallest"] else "found, not proven smallest"
        table.add_row(escape(changes), f"{option['parameters']:,} ({format_count(option['parameters'])})", proof)
    console.print(Padding(table, (0, 0, 0, 2)))
    if found["options"]:
        console.print(Padding(escape(f"the first of them: {found['options'][0]['arithmetic']}"), (0, 0, 0, 2)))
    else:
        console.print(Padding("no change of these dimensions within a factor of 16 gives it", (0, 0, 0, 2)))
    if found["alone_impossible"]:
        names = ", ".join(found["alone_impossible"])
        console.print(Padding(escape(f"no multiple of these alone gives it: {names}"), (0, 0, 0, 2)))
