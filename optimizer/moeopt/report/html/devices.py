"""Which rank holds what: pipeline stages as rows of nodes, GPUs coloured by their expert-parallel group.

Order of ranks, fastest first (Megatron-LM d98e8a6, megatron/core/parallel_state.py:582-617, 857-896): dense tp, cp, dp,
pp; experts etp, ep, edp, pp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeopt.pipeline import PipelineLayout
from moeopt.report.html.markup import hue, label, paragraph, rectangle, section, svg, table

Answer = Mapping[str, Any]
MOST_STAGES, MOST_GPUS = 16, 128
"""Stages and GPUs of a stage that are drawn; the rest repeats them and is said in words."""
LARGEST_CELL, SMALLEST_CELL, GAP, LEFT, TOP, ROW = 15, 7, 5, 210, 30, 22


@dataclass(frozen=True)
class Grid:
    """The degrees of a complete layout and the machine they lie on."""

    tp: int
    cp: int
    dp: int
    pp: int
    etp: int
    ep: int
    edp: int
    node: int

    @classmethod
    def of(cls, answer: Answer) -> "Grid":
        """From an answer's layout and cluster."""
        layout = answer["layout"]
        degrees = {name: int(layout[name]) for name in ("tp", "cp", "dp", "pp", "etp", "ep", "edp")}
        return cls(**degrees, node=int(answer["problem"]["cluster"]["gpus_per_node"]))

    @property
    def stage(self) -> int:
        """GPUs of one pipeline stage."""
        return self.tp * self.cp * self.dp

    def place(self, rank: int) -> dict[str, int]:
        """Coordinates of a rank in both grids."""
        inner = rank % self.stage
        return {
            "stage": rank // self.stage,
            "tp": inner % self.tp,
            "cp": inner // self.tp % self.cp,
            "dp": inner // (self.tp * self.cp),
            "etp": inner % self.etp,
            "ep": inner // self.etp % self.ep,
            "edp": inner // (self.etp * self.ep),
        }


def devices_section(answer: Answer) -> str:
    """The picture, the groups and the stages' layers."""
    grid = Grid.of(answer)
    experts = int(answer["problem"]["architecture"]["num_experts"])
    parts = [paragraph(equation, "equation") for equation in answer["gpus"]["equations"]]
    parts.append(_picture(grid, answer, experts))
    parts += [_groups_table(grid), _stages_table(answer, grid)]
    return section("Which GPU holds what", "devices", *parts)


def _picture(grid: Grid, answer: Answer, experts: int) -> str:
    stages, shown = min(grid.pp, MOST_STAGES), min(grid.stage, MOST_GPUS)
    nodes = -(-shown // grid.node)
    cell = max(SMALLEST_CELL, min(LARGEST_CELL, (900 - nodes * GAP) // shown))
    shapes = [label(LEFT, 18, "GPUs of a stage, node by node; colour: expert-parallel group", class_="dim")]
    for stage in range(stages):
        y = TOP + stage * ROW
        shapes.append(label(0, y + 11, _stage_label(answer, stage)))
        for index in range(shown):
            x = LEFT + index * cell + index // grid.node * GAP
            shapes.append(_cell(grid, stage * grid.stage + index, x, y, cell, experts))
    width = LEFT + shown * cell + nodes * GAP + 10
    height = TOP + stages * ROW + 10
    picture = svg(width, height, "GPUs by pipeline stage and node, coloured by expert-parallel group", shapes)
    words = [
        "Letters mark where a tensor-parallel group starts; rest the pointer on a GPU for all it holds.",
        f"Each stage has {grid.stage:,} GPUs" + (f", of which {shown} are drawn" if shown < grid.stage else "") + ".",
    ]
    if stages < grid.pp:
        words.append(f"{stages} of {grid.pp} stages are drawn.")
    return picture + paragraph(" ".join(words), "dim")


def _cell(grid: Grid, rank: int, x: int, y: int, cell: int, experts: int) -> str:
    place = grid.place(rank)
    groups = grid.edp
    hint = f"rank {rank}: " + ", ".join(f"{name} {value}" for name, value in place.items())
    if experts:
        each = experts // grid.ep
        hint += f"; experts {place['ep'] * each} to {place['ep'] * each + each - 1} of every MoE layer"
    box = rectangle(x, y, cell - 1, LARGEST_CELL - 1, hue(place["edp"], groups), hint)
    start = place["tp"] == 0 and grid.tp > 1
    return box + (label(x + cell / 2 - 0.5, y + LARGEST_CELL - 4, "t", "middle", "mark") if start else "")


def _stage_label(answer: Answer, stage: int) -> str:
    words = _layers(answer, stage)
    return f"stage {stage}: {words if len(words) < 26 else words[:24] + '…'}"


def _layers(answer: Answer, stage: int) -> str:
    layout = answer["layout"]
    pipeline = PipelineLayout.parse(layout["pipeline_layout"], int(layout["pp"]))
    texts = []
    for chunk in pipeline.of_rank(stage):
        layers = (
            [] if not chunk.layers else [f"{chunk.first}-{chunk.last - 1}" if chunk.layers > 1 else f"{chunk.first}"]
        )
        special = ["E"] * chunk.embedding + layers + ["MTP"] * bool(chunk.mtp) + ["loss"] * chunk.loss
        texts.append("+".join(special) or "empty")
    return " | ".join(texts)


def _groups_table(grid: Grid) -> str:
    rows = []
    strides = {"tp": 1, "cp": grid.tp, "dp": grid.tp * grid.cp, "pp": grid.stage}
    strides.update({"etp": 1, "ep": grid.etp, "edp": grid.etp * grid.ep})
    for name, stride in strides.items():
        size = int(getattr(grid, name))
        ranks = [index * stride for index in range(size)]
        shown = ", ".join(map(str, ranks[:6])) + (", …" if size > 6 else "")
        nodes = len({rank // grid.node for rank in ranks})
        rows.append((name, size, grid.stage * grid.pp // size, stride, shown, nodes))
    header = ("group", "size", "groups", "stride", "ranks of the first", "nodes it touches")
    return table(header, rows, "Groups of ranks", (1, 2, 3, 5))


def _stages_table(answer: Answer, grid: Grid) -> str:
    held = answer["parameters"]["per_stage"]
    rows = []
    for stage in range(grid.pp):
        first = stage * grid.stage
        numbers = [f"{held[stage][name]:,}" for name in ("dense", "expert", "total")]
        rows.append((stage, f"{first} to {first + grid.stage - 1}", _layers(answer, stage), *numbers))
    header = ("stage", "ranks", "layers (chunks apart by |)", "dense parameters", "expert parameters", "in all")
    return table(header, rows, "Stages; parameters are those of one GPU", (3, 4, 5))
