"""The rows of a sweep for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.report.frontier import short_recompute
from moeopt.units import format_bytes, format_ns

_DEGREES = ("tp", "pp", "cp", "dp", "ep", "etp", "vpp", "micro_batch_size")
"""Shown where they are above 1."""
_SHORT = {"micro_batch_size": "mbs", "sequence_length": "sequence", "global_batch_size": "batch"}
_COORDINATES = ("architecture", "cluster", "gpus", "sequence_length", "global_batch_size", "precision")


def render_sweep(answer: Mapping[str, Any], console: Console) -> None:
    """One line a point: what varies, the status and the numbers; then a count by status."""
    rows = answer["rows"]
    varying = [name for name in _COORDINATES if len({str(row.get(name)) for row in rows}) > 1] or ["gpus"]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in (*varying, "status", "step time", "tokens/s/GPU", "MFU", "peak memory"):
        justify = "left" if name in ("architecture", "cluster", "precision", "status") else "right"
        table.add_column(_SHORT.get(name, name), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("layout")
    table.add_column("recompute")
    for row in rows:
        table.add_row(*(escape(str(row.get(name, ""))) for name in varying), row["status"], *_numbers(row))
    console.print(Padding(table, 0))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    console.print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items()) or 'no rows'}")
    for row in rows:
        if row["status"] in ("invalid", "error"):
            console.print(Padding(escape(record_text(row)), (0, 0, 0, 2)))
    if not answer["complete"]:
        console.print("INCOMPLETE: interrupted; the same command goes on from here")


def _numbers(row: Mapping[str, Any]) -> list[str]:
    if "step_time_ns" not in row:
        return []
    return [
        format_ns(row["step_time_ns"]),
        f"{row['tokens_per_second_per_gpu']:,.0f}",
        f"{row['mfu']:.1%}",
        format_bytes(row["peak_memory_bytes"]),
        " ".join(f"{_SHORT.get(name, name)} {row[name]}" for name in _DEGREES if row[name] > 1),
        escape(short_recompute(row["layout"].get("recompute"))),
    ]


def record_text(row: Mapping[str, Any]) -> str:
    """One row in one line."""
    where = ", ".join(f"{_SHORT.get(name, name)} {row[name]}" for name in _COORDINATES if row.get(name) is not None)
    if "step_time_ns" in row:
        numbers = f"{format_ns(row['step_time_ns'])}, {row['tokens_per_second_per_gpu']:,.0f} tokens/s/GPU"
        return f"{where}: {row['status']}, {numbers}"
    return f"{where}: {row['status']}" + (f" ({row['error']})" if row.get("error") else "")
