"""The pipeline replayed operation by operation: one row a rank, forward and backward of every chunk."""

from collections.abc import Mapping
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.report.html.markup import label, legend, paragraph, rectangle, section, svg, table
from moeopt.resolve import complete, degrees_of, pipeline_of
from moeopt.schedule.replay import Replay, replay
from moeopt.units import format_ns

MOST_BOXES = 4000
"""Operations drawn: about half a megabyte of page."""
MOST_ROWS = 64
WIDTH, ROW, LEFT = 1100, 16, 70


def timeline_section(answer: Mapping[str, Any]) -> str:
    """The picture, each rank's busy share, and what was left out; empty where the layout cannot be replayed."""
    problem = load_problem(answer["problem"])
    layout = complete(problem, read_fields(Layout, answer["layout"], "layout"), strict=False)
    pipeline = pipeline_of(layout)
    if pipeline is None:
        return ""
    ledger = Ledger(problem, degrees_of(layout), layout.choices)
    forward, backward = ledger.stage_times(ledger.contents(pipeline))
    pp, vpp, microbatches, group = ledger.schedule
    shown = _shown(pp, vpp, microbatches, group)
    hop, overlap = ledger.time_terms.hop_ns, layout.overlap.ep_all_to_all
    run = replay(pp, vpp, shown, group, forward, backward, hop, ep_overlap=overlap, exact=True)
    words = f"{shown} of {microbatches} micro-batches" if shown < microbatches else f"All {microbatches} micro-batches"
    words += f", {format_ns(run.total_ns)} from the first operation to the last. White gaps are the bubble."
    rows = [
        (rank, format_ns(busy), f"{busy / run.total_ns:.1%}")
        for rank, busy in enumerate(sum(end - start for start, end in _spans(run, rank)) for rank in range(pp))
    ]
    return section(
        "Pipeline timeline",
        "timeline",
        paragraph(words),
        _picture(run, pp, vpp),
        legend(
            [
                (f"{name}, chunk {chunk}", _colour(name == "backward", chunk, vpp))
                for chunk in range(min(vpp, 4))
                for name in ("forward", "backward")
            ]
        ),
        table(("rank", "busy", "share of the time shown"), rows, "How busy each pipeline rank is", (1, 2)),
    )


def _shown(pp: int, vpp: int, microbatches: int, group: int) -> int:
    """Micro-batches that fit in the picture, whole groups of them, and at least two groups."""
    size = pp if vpp == 1 else group
    most = max(MOST_BOXES // (2 * pp * vpp), 2 * size)
    if microbatches <= most:
        return microbatches
    return min(microbatches, microbatches % size + (most - microbatches % size) // size * size or size)


def _spans(run: Replay, rank: int) -> list[tuple[int, int]]:
    return sorted({(each.start_ns, each.end_ns) for each in run.operations(rank)})


def _picture(run: Replay, pp: int, vpp: int) -> str:
    scale = (WIDTH - LEFT - 10) / run.total_ns
    shapes = []
    for rank in range(min(pp, MOST_ROWS)):
        y = rank * (ROW + 3) + 2
        shapes.append(label(LEFT - 8, y + ROW - 4, f"rank {rank}", "end"))
        joint: dict[tuple[int, int], int] = {}
        for timed in run.operations(rank):
            span = (timed.start_ns, timed.end_ns)
            half = joint.get(span, 0)
            joint[span] = half + 1
            height = ROW / 2 if half else ROW
            operation = timed.operation
            name = "backward" if operation.backward else "forward"
            hint = (
                f"{name} of micro-batch {operation.microbatch}, chunk {operation.chunk}: {format_ns(span[1] - span[0])}"
            )
            x, width = LEFT + span[0] * scale, max((span[1] - span[0]) * scale - 0.3, 0.2)
            shapes.append(
                rectangle(x, y + ROW - height, width, height, _colour(operation.backward, operation.chunk, vpp), hint)
            )
    height_px = min(pp, MOST_ROWS) * (ROW + 3) + 22
    shapes.append(label(LEFT, height_px - 5, "0", class_="dim"))
    shapes.append(label(WIDTH - 10, height_px - 5, format_ns(run.total_ns), "end", "dim"))
    return svg(WIDTH, height_px, "Operations of each pipeline rank over time", shapes)


def _colour(backward: bool, chunk: int, vpp: int) -> str:
    light = 42 + 36 * chunk // max(vpp - 1, 1) if vpp > 1 else 55
    return f"hsl({28 if backward else 210},55%,{light}%)"
