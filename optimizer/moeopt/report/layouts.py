"""The layout's table, and the runners-up beside the winner."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.report.times import compared_value, render_ties
from moeopt.units import OBJECTIVE_UNITS, format_bytes, format_gpu_hours, format_ns

Answer = Mapping[str, Any]
DEGREES = {
    "tp": "tensor",
    "pp": "pipeline",
    "cp": "context",
    "dp": "data",
    "ep": "expert",
    "etp": "expert-tensor",
    "edp": "expert-data",
    "vpp": "chunks a stage",
}


def render_layout(answer: Answer, console: Console) -> None:
    """Degrees, batch, pipeline string and every other decision."""
    layout = answer["layout"]
    note = f", {answer['reading']}" if answer.get("reading") else ""
    console.print(f"\n[bold]Layout{escape(note)}[/bold]")
    degrees = Table.grid(padding=(0, 2))
    names = list(DEGREES)
    for row in (names[:4], names[4:]):
        degrees.add_row(
            *(f"{name:>3} [bold]{_known(layout.get(name))}[/bold] [dim]{DEGREES[name]}[/dim]" for name in row)
        )
    console.print(Padding(degrees, (0, 0, 0, 2)))
    table = Table.grid(padding=(0, 2))
    for name, value in decisions(layout).items():
        table.add_row(name, escape(value))
    console.print(Padding(table, (0, 0, 0, 2)))


def decisions(layout: Mapping[str, Any]) -> dict[str, str]:
    """The decisions of a layout that are not degrees, as label and text."""
    sequences = layout["micro_batch_size"]
    count = _known(layout.get("num_microbatches"))
    batch = f"{sequences} sequence{'s' * (sequences > 1)}; {count} a step through each pipeline"
    if layout.get("vpp", 1) > 1:
        batch += f", in groups of {layout.get('interleave_group') or layout['pp']}"
    return {
        "micro-batch": batch,
        "pipeline": _known(layout.get("pipeline_layout")),
        "recompute": recompute_text(layout.get("recompute")),
        "optimizer": _optimizer(layout),
        "sequence parallel": "on" if layout.get("sequence_parallel") and layout["tp"] > 1 else "off",
        "dispatcher": _dispatcher(layout),
        "overlap": ", ".join(name for name, on in (layout.get("overlap") or {}).items() if on) or "none",
        "CUDA graphs": str(layout.get("cuda_graphs", "none")),
        **_chosen(layout),
    }


def _chosen(layout: Mapping[str, Any]) -> dict[str, str]:
    """Choices that are told only where they are made."""
    found = {}
    if layout.get("fsdp", "none") != "none":
        buffers = ", double buffers" if layout.get("fsdp_double_buffer") else ""
        found["Megatron-FSDP"] = f"{layout['fsdp']}{buffers}"
    if layout.get("offload"):
        found["offloaded"] = ", ".join(layout["offload"])
    return found


def _dispatcher(layout: Mapping[str, Any]) -> str:
    sms = layout.get("dispatcher_sms")
    return f"{layout.get('dispatcher')}{f', {sms} SMs' if sms else ''}"


def _known(value: Any) -> str:
    """A question mark for what a broken rule leaves open."""
    return "?" if value is None else str(value)


def recompute_text(recompute: Any) -> str:
    """`none`, `selective: moe_act, layernorm` or `full: uniform, 1 layers`."""
    if not isinstance(recompute, Mapping):
        return str(recompute or "none")
    granularity = str(recompute.get("granularity", "none"))
    if granularity == "selective":
        return f"selective: {', '.join(recompute.get('modules', ()))}"
    if granularity == "full":
        return f"full: {recompute.get('method')}, num_layers {recompute.get('num_layers')}"
    return granularity


def _optimizer(layout: Mapping[str, Any]) -> str:
    optimizer = layout.get("optimizer") or {}
    parts = ["distributed" if layout.get("distributed_optimizer") else "replicated"]
    parts += [
        f"{name.replace('_', ' ')} {optimizer[name]}"
        for name in ("moments", "main_params", "main_grads")
        if name in optimizer
    ]
    if optimizer.get("offload_fraction"):
        parts.append(f"{optimizer['offload_fraction']:.0%} of it in host memory")
    return ", ".join(parts)


def value_text(value: Any, unit: str | None) -> str:
    """An objective's value in its unit, for people."""
    if value is None:
        return "unknown"
    if unit == "ns":
        return format_ns(int(value))
    if unit == "bytes":
        return format_bytes(int(value))
    if unit == OBJECTIVE_UNITS["cost"]:  # people read it in GPU-hours (of a step)
        return format_gpu_hours(value)
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return f"{number} {unit}" if unit else number


def ranked(answer: Answer) -> list[Answer]:
    """The answer's layout and its runners-up, best first; nothing where there are none. A layout that was chosen by its
    replayed step has its own time, not that of the ledger's optimum."""
    others = answer.get("alternatives")
    if not others:
        return []
    own = dict(answer["objective"])
    if answer.get("ledger_optimum"):
        own["value"] = answer["step_time"]["total_ns"]
    return [{"layout": answer["layout"], "objective": own}, *others]


def render_alternatives(answer: Answer, console: Console) -> None:
    """The K best distinct layouts, the winner first, with how much worse each of the others is."""
    layouts = ranked(answer)
    if not layouts:
        return
    console.print("\n[bold]Best layouts[/bold]")
    free = not isinstance(answer["problem"]["workload"]["global_batch_size"], int)
    columns = ("", *DEGREES, "mbs", *(["batch"] if free else []), "recompute", "dispatcher", "objective", "")
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(
            name, justify="left" if name in ("recompute", "dispatcher") else "right", no_wrap=name != "recompute"
        )
    best, unit = compared_value(answer["objective"]), answer["objective"].get("unit")
    for rank, each in enumerate(layouts, 1):
        layout, objective = each["layout"], each["objective"]
        loss = compared_value(objective) - best
        batch = layout["micro_batch_size"] * layout["dp"] * layout["num_microbatches"]
        table.add_row(
            str(rank),
            *(str(layout.get(name)) for name in DEGREES),
            str(layout["micro_batch_size"]),
            *([str(batch)] if free else []),
            escape(recompute_text(layout.get("recompute"))),
            str(layout.get("dispatcher")),
            value_text(objective["value"], unit),
            f"+{float(loss / best):.2%}" if best and (rank > 1 or loss) else "",
        )
    console.print(Padding(table, (0, 0, 0, 2)))
    render_ties(answer, console)
