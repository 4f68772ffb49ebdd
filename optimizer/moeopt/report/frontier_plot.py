"""A frontier as a picture (PNG or SVG), drawn with matplotlib (extra `plot`)."""

from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from moeopt.errors import InputError
from moeopt.units import GPU_HOUR_NS

Answer = Mapping[str, Any]
SCALES = {"step_time": (10**9, "step time, s"), "peak_memory": (2**30, "peak memory of a GPU, GiB")}
SCALES |= {"gpus": (1, "GPUs"), "cost": (GPU_HOUR_NS, "GPU-hours a step")}
"""Objective -> divisor and axis title."""


def require_matplotlib() -> None:
    """Raises InputError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise InputError("plot: PNG and SVG need matplotlib: pip install 'moeopt[plot]'; .html needs nothing")


def frontier_plot(answer: Answer, kind: str) -> bytes:
    """The file's bytes. Two objectives are the axes, a third is the colour, a fourth the size of the mark.

    The same answer gives the same bytes: no date and no random identifier is written.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    names, points = list(answer["objectives"]), answer["points"]
    with matplotlib.rc_context({"svg.hashsalt": "moeopt"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        columns = [[scaled(point, position) for point in points] for position in range(len(names))]
        if len(names) == 2 and points:
            axes.step(columns[0], columns[1], where="post", color="0.75", linewidth=1, zorder=1)
        for proven in (True, False):
            chosen = [i for i, point in enumerate(points) if bool(point["proven"]) is proven]
            if chosen:
                _scatter(figure, axes, [[column[i] for i in chosen] for column in columns], names, proven)
        axes.set_xlabel(SCALES[names[0]][1])
        axes.set_ylabel(SCALES[names[1]][1])
        axes.set_title(title(answer), fontsize=10)
        axes.grid(alpha=0.3)
        stream = BytesIO()
        figure.savefig(stream, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return stream.getvalue()


def _scatter(figure: Any, axes: Any, columns: list[list[float]], names: list[str], proven: bool) -> None:
    sizes = 26.0 if len(columns) < 4 else [20 + 80 * value / max(columns[3]) for value in columns[3]]
    style: dict[str, Any] = {"color": "tab:blue"} if len(columns) < 3 else {"c": columns[2], "cmap": "viridis"}
    marks = axes.scatter(columns[0], columns[1], s=sizes, marker="o" if proven else "x", zorder=2, **style)
    if len(columns) > 2 and proven:
        figure.colorbar(marks, ax=axes, label=SCALES[names[2]][1])


def scaled(point: Mapping[str, Any], position: int) -> float:
    """An objective's value of a point in the unit of its axis."""
    item = point["objectives"][position]
    return float(item["value"]) / SCALES[item["name"]][0]


def title(answer: Answer) -> str:
    """Architecture, cluster and GPUs, and whether the frontier is complete."""
    problem = answer["problem"]
    gpus = problem["gpus"]
    count = f"{gpus['min']} to {gpus['max']}" if isinstance(gpus, Mapping) else f"{gpus:,}"
    state = "complete" if answer["complete"] else "INCOMPLETE"
    where = f"{count} x {problem['cluster']['gpu']}"
    return f"{problem['architecture']['name']} on {where}: {len(answer['points'])} points, {state}"
