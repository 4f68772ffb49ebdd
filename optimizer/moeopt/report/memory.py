"""Memory of each pipeline stage as a bar against what a GPU holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from moeopt.units import GIB, format_bytes

KINDS = {
    "weights_bytes": ("weights", "weights", "█"),
    "gradients_bytes": ("grads", "gradients", "▓"),
    "optimizer_bytes": ("optim", "optimizer", "▒"),
    "activations_bytes": ("activ", "activations", "░"),
    "buffers_bytes": ("buffers", "buffers", "="),
    "overhead_bytes": ("fixed", "overhead", "-"),
}
"""Field of a stage, its column, its name and its mark in the bar (marks tell them apart without colour)."""
BAR = 24
MOST_ROWS = 16


def render_memory(answer: Mapping[str, Any], console: Console) -> None:
    """Bars and numbers, stages with equal numbers together; the peak is marked."""
    memory = answer.get("memory")
    if not memory:
        return
    capacity, peak = memory["capacity_bytes"], memory["peak_bytes"]
    limit = memory.get("limit_bytes", capacity)
    fits = "fits" if peak <= limit else "DOES NOT FIT"
    if limit < capacity:
        fits += f" within the limit of {format_bytes(limit)}"
    console.print(
        f"\n[bold]Memory: peak {format_bytes(peak)} of {format_bytes(capacity)} a GPU "
        f"({peak / capacity:.1%}) on stage {memory['peak_stage']}: {fits}[/bold]"
    )
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column(f"of {format_bytes(capacity)}", no_wrap=True)
    for name in ("total", *(column for column, _, _ in KINDS.values())):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    for label, stage in rows(memory):
        numbers = [stage["total_bytes"], *(stage[field] for field in KINDS)]
        table.add_row(label, bar(stage, capacity), *(f"{number / GIB:,.2f}" for number in numbers))
    console.print(Padding(table, (0, 0, 0, 2)))
    legend = "  ".join(f"{mark} {name}" for _, name, mark in KINDS.values())
    console.print(Padding(f"[dim]GiB on one GPU; * peak; {legend}[/dim]", (0, 0, 0, 2)))
    padded = default_layout_text(answer)
    if padded:
        console.print(Padding(padded, (0, 0, 0, 2)))


def default_layout_text(answer: Mapping[str, Any]) -> str:
    """What Megatron-LM's default buffers would add under Muon, where an evaluation says so; else nothing."""
    added = {stage["stage"]: stage.get("default_layout_bytes", 0) for stage in answer.get("ddp_buffers") or ()}
    worst = max(added, key=lambda stage: added[stage], default=None)
    if worst is None or added[worst] <= 0:
        return ""
    return (
        f"without --no-use-layer-wise-param-layout Megatron-LM pads Muon's buffers: {format_bytes(added[worst])} more "
        f"on stage {worst}"
    )


def bar(stage: Mapping[str, int], capacity: int) -> str:
    """The stage's bytes as marks, `BAR` of them for the capacity; what goes beyond is cut and marked `>`."""
    text, reached = "", 0
    for field, (_, _, mark) in KINDS.items():
        reached += stage[field]
        text += mark * (round(BAR * reached / capacity) - len(text))
    return text.ljust(BAR) + "|" if len(text) <= BAR else text[:BAR] + ">"


def rows(memory: Mapping[str, Any]) -> list[tuple[str, Mapping[str, int]]]:
    """Label and stage of each row: all stages when few; else equal neighbours joined, and the middle left out."""
    stages: Sequence[Mapping[str, int]] = memory["per_stage"]
    groups: list[list[Mapping[str, int]]] = []
    for stage in stages:
        same = groups and all(groups[-1][0][field] == stage[field] for field in KINDS)
        if same and len(stages) > MOST_ROWS:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    labelled = [(_label(group, memory["peak_stage"]), group[0]) for group in groups]
    if len(labelled) <= MOST_ROWS:
        return labelled
    head, tail = labelled[: MOST_ROWS // 2], labelled[-(MOST_ROWS // 2) + 1 :]
    middle = labelled[len(head) : -len(tail)]
    largest = max(middle, key=lambda row: row[1]["total_bytes"])
    return [*head, (f"{middle[0][0]}..{middle[-1][0]} max", largest[1]), *tail]


def _label(group: Sequence[Mapping[str, int]], peak_stage: int) -> str:
    first, last = group[0]["stage"], group[-1]["stage"]
    mark = "*" if first <= peak_stage <= last else ""
    return f"{mark}{first}" if first == last else f"{mark}{first}-{last}"
