"""A frontier as one page: a plot whose points show their layout under the pointer or the keyboard, and the table.

Self-contained: inline SVG, inline style and one inline script; a policy in the page forbids it to load anything.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moeopt import __version__
from moeopt.report.frontier import completeness
from moeopt.report.frontier_plot import SCALES, scaled, title
from moeopt.report.html.markup import element, label, line, paragraph, section, svg, table, text
from moeopt.report.html.page import STYLE
from moeopt.report.layouts import DEGREES, decisions, value_text

Answer = Mapping[str, Any]
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 900, 440, 80, 50
_TICKS = 6
_OWN_STYLE = """
circle{cursor:pointer;stroke:#fff8;stroke-width:1}circle.open{stroke-dasharray:2 2;stroke:#c33;stroke-width:2}
circle:focus,circle.on{stroke:#000;stroke-width:2;outline:none}
#detail{border:1px solid var(--line);border-radius:6px;padding:.5rem .9rem;min-height:9rem}
#detail dt{float:left;clear:left;width:11rem;color:var(--dim)}#detail dd{margin:0 0 0 11.5rem;overflow-wrap:anywhere}
polyline{fill:none;stroke:var(--line);stroke-width:1.5}
"""
_SCRIPT = """
const points=JSON.parse(document.getElementById('points').textContent),box=document.getElementById('detail');
const show=i=>{const list=document.createElement('dl');
for(const [name,value] of points[i]){const a=document.createElement('dt'),b=document.createElement('dd');
a.textContent=name;b.textContent=value;list.append(a,b)}box.replaceChildren(list);
document.querySelectorAll('circle').forEach(c=>c.classList.toggle('on',c.dataset.i==i))};
document.querySelectorAll('circle').forEach(c=>['pointerenter','focus','click'].forEach(e=>c.addEventListener(e,()=>show(c.dataset.i))));
if(points.length)show(0);
"""


def frontier_page(answer: Answer) -> str:
    """The page's text."""
    points, names = answer["points"], list(answer["objectives"])
    details = [_detail(point) for point in points]
    data = json.dumps(details, ensure_ascii=True).replace("<", "\\u003c")
    body = [
        element("h1", text(title(answer))),
        paragraph(completeness(answer)),
        section("Points", "plot", _plot(points, names), element("div", "", id="detail", aria_live="polite")),
        section("Table", "table", _table(points, names)),
        paragraph(f"moeopt {__version__}; step times are the ledger's, memory is that of the fullest GPU.", "dim"),
        f'<script id="points" type="application/json">{data}</script>',
        f"<script>{_SCRIPT}</script>",
    ]
    head = (
        '<meta charset="utf-8">'
        + f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        + '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + element("title", text(title(answer)))
        + f"<style>{STYLE}{_OWN_STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def _detail(point: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is shown about one point: names and texts."""
    layout = point["layout"]
    own = [(item["name"], value_text(item["value"], item["unit"])) for item in point["objectives"]]
    degrees = ", ".join(f"{name} {layout[name]}" for name in DEGREES)
    proof = "proven" if point["proven"] else "not proven: the search was stopped"
    return [
        *own,
        ("degrees", degrees),
        *decisions(layout).items(),
        ("GPUs", "; ".join(point["gpus"]["equations"])),
        ("tokens/s a GPU", f"{point['step_time']['tokens_per_second_per_gpu']:,.1f}"),
        ("TFLOP/s a GPU", f"{point['step_time']['model_tflops_per_gpu']:,.1f}"),
        ("proof", proof),
    ]


def _table(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    header = [*names, *DEGREES, "micro-batch", "pipeline", "recompute", "proof"]
    rows = [
        [
            *(value_text(item["value"], item["unit"]) for item in point["objectives"]),
            *(point["layout"][name] for name in DEGREES),
            point["layout"]["micro_batch_size"],
            point["layout"]["pipeline_layout"],
            decisions(point["layout"])["recompute"],
            "proven" if point["proven"] else "not proven",
        ]
        for point in points
    ]
    caption = f"{len(points)} points, best {names[0]} first" if names else ""
    return table(header, rows, caption, range(len(names) + len(DEGREES) + 1))


def _plot(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Circles over two axes; a third objective is the colour, a fourth the size."""
    if not points:
        return paragraph("No point was found.")
    columns = [[scaled(point, position) for point in points] for position in range(len(names))]
    across, up = _Axis(columns[0], _LEFT, _WIDTH - 20), _Axis(columns[1], _HEIGHT - _BOTTOM, 20)
    shapes = [*_frame(across, up, names)]
    if len(names) == 2:
        shapes.append(
            element("polyline", points=_steps([across.at(x) for x in columns[0]], [up.at(y) for y in columns[1]]))
        )
    for i, point in enumerate(points):
        hint = ", ".join(f"{name} {value}" for name, value in _detail(point)[: len(names) + 1])
        shapes.append(
            element(
                "circle",
                element("title", text(hint)),
                cx=f"{across.at(columns[0][i]):.1f}",
                cy=f"{up.at(columns[1][i]):.1f}",
                r=f"{_radius(columns, i):.1f}",
                fill=_colour(columns, i),
                tabindex=0,
                data_i=i,
                class_=None if point["proven"] else "open",
            )
        )
    notes = [f"colour: {SCALES[name][1]} (blue least, red most)" for name in names[2:3]]
    notes += [f"size: {SCALES[name][1]}" for name in names[3:]]
    picture = svg(_WIDTH, _HEIGHT, f"{names[1]} over {names[0]}", shapes)
    return picture + "".join(paragraph(note, "dim") for note in notes)


class _Axis:
    """From values to places; a single value lies in the middle."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        margin = 0.04 * (max(values) - min(values)) or abs(max(values)) * 0.1 or 1.0
        self.low, self.high = min(values) - margin, max(values) + margin
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Evenly spread values."""
        return [self.low + i * (self.high - self.low) / (_TICKS - 1) for i in range(_TICKS)]


def _frame(across: _Axis, up: _Axis, names: Sequence[str]) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    shapes = [line(_LEFT, floor, _WIDTH - 20, floor), line(_LEFT, 20, _LEFT, floor)]
    for value in across.ticks():
        shapes.append(label(across.at(value), floor + 18, f"{value:.4g}", "middle", "dim"))
    for value in up.ticks():
        shapes.append(label(_LEFT - 8, up.at(value) + 4, f"{value:.4g}", "end", "dim"))
    shapes.append(label((_LEFT + _WIDTH) / 2, _HEIGHT - 8, SCALES[names[0]][1], "middle"))
    shapes.append(label(_LEFT, 12, SCALES[names[1]][1]))
    return shapes


def _steps(xs: Sequence[float], ys: Sequence[float]) -> str:
    """The edge of what is reachable: to the right, then down."""
    places = [(xs[0], ys[0])]
    for x, y in zip(xs[1:], ys[1:], strict=True):
        places += [(x, places[-1][1]), (x, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _share(column: Sequence[float], i: int) -> float:
    low, high = min(column), max(column)
    return (column[i] - low) / (high - low) if high > low else 0.0


def _colour(columns: Sequence[Sequence[float]], i: int) -> str:
    return f"hsl({220 - 220 * _share(columns[2], i):.0f},65%,50%)" if len(columns) > 2 else "hsl(215,65%,50%)"


def _radius(columns: Sequence[Sequence[float]], i: int) -> float:
    return 4 + 5 * _share(columns[3], i) if len(columns) > 3 else 5.0
