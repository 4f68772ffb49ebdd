"""Exact parameter counts of an architecture, by component and by layer kind."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moeopt.problem.architecture import Architecture
from moeopt.units import format_count


def parameters_answer(architecture: Architecture) -> dict[str, Any]:
    """The JSON object of `moeopt params`. `total` leaves the MTP modules out; they stand apart in `mtp`."""
    from moeopt.accounting.parameters import count

    return count(architecture).to_json(architecture)


def render_parameters(answer: Mapping[str, Any], console: Console) -> None:
    """Total and active counts, components, layers."""
    console.print(f"[bold]{escape(answer['architecture'])}[/bold]")
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_row("total", f"{answer['total']:,}", format_count(answer["total"]))
    for name, label in (("active", "active for a token"), ("active_without_embeddings", "  without embeddings")):
        table.add_row(label, f"{answer[name]:,}", format_count(answer[name]))
    if answer["mtp"]:
        table.add_row("MTP modules, not in total", f"{answer['mtp']:,}", format_count(answer["mtp"]))
    console.print(table)
    console.print("\n[bold]components[/bold]")
    parts = Table.grid(padding=(0, 2))
    parts.add_column()
    parts.add_column(justify="right")
    parts.add_column(justify="right")
    for name, number in answer["components"].items():
        if number:
            share = f"{number / answer['total']:.2%}" if name != "mtp" else ""
            parts.add_row(name.replace("_", " "), f"{number:,}", share)
    console.print(parts)
    console.print("\n[bold]layers[/bold]")
    for layer in answer["layers"]:
        rest = ", ".join(f"{name} {_number(value)}" for name, value in layer.items() if name not in ("kind", "count"))
        console.print(f"{layer.get('count', 1)} x {escape(str(layer.get('kind')))}: {escape(rest)}")


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_number(item)}" for name, item in value.items() if item) + ")"
    return f"{value:,}" if isinstance(value, int) else str(value)
