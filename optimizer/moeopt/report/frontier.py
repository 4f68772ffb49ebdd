"""A frontier for people (a table) and for spreadsheets (CSV): one line a point."""

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.report.layouts import DEGREES, recompute_text, value_text
from moeopt.report.proof import search_text
from moeopt.report.text import render_headline

Answer = Mapping[str, Any]


def render_frontier(answer: Answer, console: Console) -> None:
    """The question, the points and what is proven about them."""
    render_headline(answer, console)
    points, names = answer["points"], answer["objectives"]
    console.print(f"\n[bold]Frontier of {escape(', '.join(names))}: {len(points)} points[/bold]")
    if points:
        console.print(Padding(_table(answer), (0, 0, 0, 2)))
    console.print()
    console.print(escape(completeness(answer)))


def _table(answer: Answer) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in (*answer["objectives"], *DEGREES, "mbs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("recompute")
    table.add_column("", no_wrap=True)
    for point in answer["points"]:
        layout = point["layout"]
        table.add_row(
            *(value_text(item["value"], item["unit"]) for item in point["objectives"]),
            *(str(layout[name]) for name in DEGREES),
            str(layout["micro_batch_size"]),
            escape(short_recompute(layout.get("recompute"))),
            "" if point["proven"] else "not proven",
        )
    return table


def short_recompute(recompute: Any) -> str:
    """`none`, `layernorm+moe_act` or `full`, for a column of a table."""
    given = recompute if isinstance(recompute, Mapping) else {}
    return "+".join(given.get("modules") or ()) or str(given.get("granularity", "none"))


def completeness(answer: Answer) -> str:
    """What is proven about the frontier, in a sentence or two."""
    search = search_text(answer["search"])
    steps = {name: step for name, step in (answer.get("resolution") or {}).items() if step != "exact"}
    proven = sum(bool(point["proven"]) for point in answer["points"])
    if not answer["complete"]:
        what = f"INCOMPLETE: {proven} of {len(answer['points'])} points are proven; others may be missing"
    elif not answer["points"]:
        what = "Complete: proven that no legal layout exists"
    elif steps:
        what = "Complete within the resolution: no legal layout is better than every point by more than that in any way"
    else:
        what = "Complete: every layout that no other beats is a point; no legal layout beats any of them"
    finest = ", ".join(f"{name} {_step(name, step)}" for name, step in steps.items())
    return f"{what}{f' (resolution: {finest})' if finest else ''}; {search}."


def _step(name: str, step: Any) -> str:
    unit = {"step_time": "ns", "peak_memory": "bytes"}.get(name)
    return step if isinstance(step, str) else value_text(step, unit)


def frontier_csv(answer: Answer) -> str:
    """A header and one line a point: the objectives, time, memory, GPUs, then every decision of its layout."""
    stream = StringIO()
    names = list(answer["objectives"])
    columns = [f"{name}_{_COLUMN_UNITS[name]}" if _COLUMN_UNITS[name] else name for name in names]
    extra = [name for name in ("step_time_ns", "peak_memory_bytes", "gpus") if name not in columns]
    decisions = list(answer["points"][0]["layout"]) if answer["points"] else []
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*columns, *extra, "proven", *decisions])
    for point in answer["points"]:
        own = {
            "step_time_ns": point["step_time"]["total_ns"],
            "peak_memory_bytes": point["memory"]["peak_bytes"],
            "gpus": point["gpus"]["total"],
        }
        values = [item["value"] for item in point["objectives"]]
        layout = [_cell(name, point["layout"][name]) for name in decisions]
        writer.writerow([*values, *(own[name] for name in extra), str(point["proven"]).lower(), *layout])
    return stream.getvalue()


_COLUMN_UNITS = {"step_time": "ns", "peak_memory": "bytes", "gpus": "", "cost": "gpu_ns"}


def _cell(name: str, value: Any) -> Any:
    """A decision as the command line writes it."""
    if name == "recompute":
        return recompute_text(value)
    if isinstance(value, Mapping):
        return ";".join(f"{key}={str(item).lower()}" for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else value
