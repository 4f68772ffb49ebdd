"""Memory of each stage and the parts of the step's time, drawn and in tables."""

from collections.abc import Mapping
from typing import Any

from moeopt.report.html.markup import label, legend, line, paragraph, rectangle, section, svg, table
from moeopt.units import GIB, format_bytes, format_ns

Answer = Mapping[str, Any]
MEMORY = {
    "weights_bytes": ("weights", "#4878a8"),
    "gradients_bytes": ("gradients", "#7aa6c2"),
    "optimizer_bytes": ("optimizer", "#5a9e6f"),
    "activations_bytes": ("activations", "#e0a84a"),
    "buffers_bytes": ("buffers", "#b58bb5"),
    "overhead_bytes": ("overhead", "#a0a0a0"),
}
PALETTE = ("#4878a8", "#e0a84a", "#5a9e6f", "#c4605a", "#7aa6c2", "#b58bb5", "#8c7a5b", "#d48fb0", "#6b8f3f", "#a0a0a0")
WIDTH, BAR, LEFT = 900, 18, 90


def memory_section(answer: Answer) -> str:
    """One bar a stage against what a GPU holds."""
    memory = answer["memory"]
    peak, capacity = memory["peak_bytes"], memory["capacity_bytes"]
    limit = memory.get("limit_bytes", capacity)
    share, stage_number = peak / capacity, memory["peak_stage"]
    words = f"Peak {format_bytes(peak)} of {format_bytes(capacity)} a GPU ({share:.1%}), on stage {stage_number}."
    words += " It fits." if peak <= limit else f" It does not fit: {format_bytes(peak - limit)} too many."
    rows = [
        (stage["stage"], *(f"{stage[field] / GIB:,.2f}" for field in MEMORY), f"{stage['total_bytes'] / GIB:,.2f}")
        for stage in memory["per_stage"]
    ]
    header = ("stage", *(name for name, _ in MEMORY.values()), "total")
    return section(
        "Memory",
        "memory",
        paragraph(words),
        _memory_bars(memory),
        legend(MEMORY.values()),
        table(header, rows, "GiB on one GPU of each stage, at its peak", range(1, len(header))),
    )


def _memory_bars(memory: Mapping[str, Any]) -> str:
    stages, capacity = memory["per_stage"], memory["capacity_bytes"]
    widest = max(capacity, *(stage["total_bytes"] for stage in stages))
    shapes = []
    for index, stage in enumerate(stages):
        x, y = float(LEFT), index * (BAR + 5) + 4
        shapes.append(label(LEFT - 8, y + BAR - 5, f"stage {stage['stage']}", "end"))
        for field, (name, colour) in MEMORY.items():
            width = stage[field] / widest * (WIDTH - LEFT - 90)
            shapes.append(rectangle(x, y, width, BAR, colour, f"{name} {format_bytes(stage[field])}"))
            x += width
        shapes.append(label(x + 6, y + BAR - 5, format_bytes(stage["total_bytes"])))
    height = len(stages) * (BAR + 5) + 24
    edge = LEFT + capacity / widest * (WIDTH - LEFT - 90)
    shapes.append(line(edge, 0, edge, height - 18, "limit"))
    shapes.append(label(edge, height - 5, f"a GPU: {format_bytes(capacity)}", "end", "dim"))
    return svg(WIDTH, height, "Memory of each stage against a GPU's", shapes)


def time_section(answer: Answer) -> str:
    """The parts of a step, which add up to it."""
    time = answer["step_time"]
    total = time["total_ns"]
    parts = sorted(((name, ns) for name, ns in time["parts"].items() if ns), key=lambda part: -part[1])
    colours = {name: PALETTE[index % len(PALETTE)] for index, (name, _) in enumerate(parts)}
    shapes, x = [], 0.0
    for name, ns in parts:
        width = ns / total * WIDTH if total else 0.0
        shapes.append(
            rectangle(x, 4, width, 34, colours[name], f"{name.replace('_', ' ')} {format_ns(ns)}, {ns / total:.1%}")
        )
        x += width
    rows = [(name.replace("_", " "), f"{ns / 1e6:,.3f}", f"{ns / total:.1%}") for name, ns in parts]
    rows.append(("total", f"{total / 1e6:,.3f}", "100.0%"))
    words = (
        f"One optimizer step takes {format_ns(total)}: {time['tokens_per_second_per_gpu']:,.0f} tokens/s a GPU, "
        f"{time['model_tflops_per_gpu']:,.0f} model TFLOP/s a GPU, MFU {time['mfu']:.1%}."
    )
    return section(
        "Step time",
        "time",
        paragraph(words),
        svg(WIDTH, 42, "Parts of the step time", shapes),
        legend((name.replace("_", " "), colour) for name, colour in colours.items()),
        table(("part", "ms", "share"), rows, "Parts of the busiest stage's step; they add up exactly", (1, 2)),
    )
