"""Where the activations of one stage come from: every tensor that a piece keeps, with the product behind its bytes."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.units import format_bytes


def kept_tensors_answer(problem: Problem, layout: Layout, stage: int) -> dict[str, Any]:
    """The tensors that each kind of piece on one stage keeps for one micro-batch in flight (`kept_tensors` of JSON)."""
    from moeopt.accounting.memory.activations import kept_tensors
    from moeopt.accounting.pieces import Piece, contents
    from moeopt.resolve import degrees_of, pipeline_of

    if not 0 <= stage < layout.pp:
        raise InputError(f"explain-memory: stage {stage} is not one of 0 to {layout.pp - 1}")
    pipeline = pipeline_of(layout)
    counts: dict[Piece, int] = {}
    for chunk in pipeline.of_rank(stage) if pipeline is not None else ():
        for piece, number in contents(problem.architecture, chunk).items():
            counts[piece] = counts.get(piece, 0) + number
    pieces = [
        {
            "piece": str(piece),
            "count": number,
            "tensors": [
                {"name": item.name, "bytes": int(item.bytes), "arithmetic": item.arithmetic, "source": item.source}
                for item in kept_tensors(problem, piece, degrees_of(layout), layout.choices)
            ],
        }
        for piece, number in counts.items()
    ]
    return {"stage": stage, "pieces": pieces}


def render_kept_tensors(answer: Mapping[str, Any], console: Console) -> None:
    """One table a kind of piece."""
    explained = answer.get("kept_tensors")
    if not explained:
        return
    console.print(f"\n[bold]Kept on one GPU of stage {explained['stage']} for each micro-batch in flight[/bold]")
    for piece in (piece for piece in explained["pieces"] if piece["tensors"]):
        total = sum(tensor["bytes"] for tensor in piece["tensors"])
        console.print(f"  {piece['count']} x {escape(piece['piece'])}: {format_bytes(total)} each")
        table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
        for tensor in piece["tensors"]:
            table.add_row(format_bytes(tensor["bytes"]), escape(tensor["arithmetic"]), escape(tensor["name"]))
        console.print(Padding(table, (0, 0, 0, 4)))
