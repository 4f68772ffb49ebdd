"""Where the memory of one stage comes from: every tensor that a piece keeps, with the product behind its bytes, and the
sums that lead to the stage's numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.units import format_bytes

Row = Sequence[str]
LEGEND = (
    "A tokens of a micro-batch on a GPU, T those outside tensor-parallel regions, R rows of its experts; widths are "
    "those of one GPU; in brackets the recompute modules that drop a tensor"
)


def kept_tensors_answer(problem: Problem, layout: Layout, stage: int) -> dict[str, Any]:
    """The lines of one stage's memory (`kept_tensors` of JSON); see `accounting.memory.explain`."""
    from moeopt.accounting.memory.explain import explain_stage
    from moeopt.resolve import degrees_of, pipeline_of

    if not 0 <= stage < layout.pp:
        raise InputError(f"explain-memory: stage {stage} is not one of 0 to {layout.pp - 1}")
    pipeline = pipeline_of(layout)
    if pipeline is None:
        raise InputError("explain-memory: the layout's stages are unknown")
    return explain_stage(problem, degrees_of(layout), layout.choices, pipeline, stage)


def render_kept_tensors(answer: Mapping[str, Any], console: Console) -> None:
    """One table a kind of piece, then the sums."""
    explained = answer.get("kept_tensors")
    if not explained:
        return
    console.print(f"\n[bold]Kept on one GPU of stage {explained['stage']} for each micro-batch in flight[/bold]")
    console.print(f"  [dim]{LEGEND}[/dim]")
    for piece in (piece for piece in explained["pieces"] if piece["tensors"]):
        total = sum(tensor["bytes"] for tensor in piece["tensors"])
        console.print(f"  {piece['count']} x {escape(piece['piece'])}: {format_bytes(total)} each")
        _table(console, (_tensor(tensor) for tensor in piece["tensors"]), indent=4)
        if piece.get("offloaded"):
            away = sum(tensor["bytes"] for tensor in piece["offloaded"])
            console.print(f"    [dim]in host memory between the passes, not kept: {format_bytes(away)}[/dim]")
            _table(console, (_tensor(tensor) for tensor in piece["offloaded"]), indent=6)
        if piece["dropped"]:
            again = sum(tensor["bytes"] for tensor in piece["dropped"])
            console.print(f"    [dim]computed again, not kept: {format_bytes(again)}[/dim]")
            _table(console, (_tensor(tensor) for tensor in piece["dropped"]), indent=6)
    for name, size in explained["recomputed_layer_bytes"].items():
        console.print(f"  {escape(name)} under full recomputation: {format_bytes(size)} each, its input")
    _render_activations(explained, console)
    console.print(f"\n[bold]States of stage {explained['stage']}: weights, gradients, optimizer[/bold]")
    _table(console, (_state(line) for line in explained["states"]), indent=2)
    for title, key in (("Buffers", "buffers"), ("Overhead, from measurements", "overhead")):
        console.print(f"\n[bold]{title} of stage {explained['stage']}: {format_bytes(_total(explained[key]))}[/bold]")
        _table(console, ((format_bytes(line["bytes"]), line["name"]) for line in explained[key]), indent=2)


def _render_activations(explained: Mapping[str, Any], console: Console) -> None:
    """Bytes a chunk times micro-batches in flight, and what passes while one piece runs."""
    found = explained["activations"]
    console.print(f"\n[bold]Activations of stage {explained['stage']}: {format_bytes(found['total_bytes'])}[/bold]")
    rows: list[Row] = []
    for chunk, (line, number) in enumerate(zip(explained["chunks"], found["in_flight"], strict=True)):
        inside = " + ".join(_pieces(line))
        sizes = f"{number} * {format_bytes(line['kept_bytes'])}"
        rows.append((format_bytes(number * line["kept_bytes"]), sizes, f"in flight in chunk {chunk} ({inside})"))
    if found["passing_bytes"]:
        piece = found["passing_piece"]
        moment = found["moments"][piece][0]["name"]
        rows.append((format_bytes(found["passing_bytes"]), "", f"passing while {piece} runs: {moment}"))
    _table(console, rows, indent=2)
    others = [vector for vector in found["vectors"] if vector != found["in_flight"]]
    if others:
        console.print(
            f"  [dim]largest of {len(found['vectors'])} states of the schedule; also {_vectors(others)}[/dim]"
        )


def _pieces(chunk: Mapping[str, Any]) -> Iterator[str]:
    for piece, number in chunk["pieces"].items():
        again = chunk["recomputed"].get(piece, 0) if piece not in ("embedding", "loss") else 0
        yield f"{number} {piece}" + (f", {again} recomputed" if again else "")


def _vectors(vectors: Sequence[Sequence[int]]) -> str:
    shown = ", ".join("/".join(map(str, vector)) for vector in vectors[:4])
    return shown + (", ..." if len(vectors) > 4 else "")


def _tensor(tensor: Mapping[str, Any]) -> Row:
    drops = f" [dim]({', '.join(tensor['dropped_by'])})[/dim]" if tensor["dropped_by"] else ""
    return format_bytes(tensor["bytes"]), escape(tensor["arithmetic"]), escape(tensor["name"]) + drops


def _state(line: Mapping[str, Any]) -> Row:
    if "padded" not in line:
        return format_bytes(line["weights_bytes"]), "", "", line["name"]
    walked = line["bucket_walk"] - line["padded"]
    exact = f" ({walked:+,} by the walk over buckets)" if walked else ""
    sizes = (format_bytes(line[f"{name}_bytes"]) for name in ("weights", "gradients", "optimizer"))
    text = (
        f"{line['name']}: {line['elements']:,} elements, padded {line['padded']:,}{exact}, state over {line['shards']}"
    )
    return *sizes, text


def _table(console: Console, rows: Iterator[Row] | Sequence[Row], indent: int) -> None:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for row in rows:
        table.add_row(*row)
    console.print(Padding(table, (0, 0, 0, indent)))


def _total(lines: Sequence[Mapping[str, Any]]) -> int:
    return sum(line["bytes"] for line in lines)
