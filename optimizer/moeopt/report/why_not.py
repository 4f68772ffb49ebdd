"""Why not another layout, for people: the rules it breaks, the bytes it lacks, or the parts in which it loses."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.units import format_ns


def render_why_not(answer: Mapping[str, Any], console: Console) -> None:
    """Nothing where it was not asked."""
    found = answer.get("why_not")
    if not found:
        return
    asked = ", ".join(f"{name} {_plain(value)}" for name, value in found["layout"].items())
    console.print()
    console.print(f"[bold]Why not {escape(asked)}[/bold]")
    console.print(Padding(escape(found["text"]), (0, 0, 0, 2)))
    for member in found.get("members") or ():
        console.print(Padding(escape(f"- {member['rule']}: {member['text']}"), (0, 0, 0, 4)))
    if found.get("parts"):
        console.print(Padding(_table(found), (0, 0, 0, 2)))


def _table(found: Mapping[str, Any]) -> Table:
    """Step-time parts of both layouts, largest difference first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part")
    for name in ("this layout", "the best", "difference"):
        table.add_column(name, justify="right")
    for part in found["parts"]:
        row = (part["given_ns"], part["best_ns"], part["difference_ns"])
        table.add_row(part["part"].replace("_", " "), *map(format_ns, row))
    totals = found["step_time"]
    for label, kind in (("step", ""), ("step, pipeline replayed", "replayed_")):
        given, best = totals[f"given_{kind}ns"], totals[f"best_{kind}ns"]
        table.add_row(f"[bold]{label}[/bold]", format_ns(given), format_ns(best), format_ns(given - best))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
