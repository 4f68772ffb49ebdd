"""Draw the pictures of docs/step-time.md: `python benchmarks/pictures.py`, with the extra `plot` (matplotlib).

docs/pictures/step-time-published.svg   predicted against published tokens per second, every row
docs/pictures/step-time-timeline.svg    one predicted pipeline step, stages by time
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.report.trace import trace
from step_time import ROWS, Prediction, predict

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moeopt", "font.size": 9, "path.simplify": True})

from matplotlib import pyplot as plt  # noqa: E402 - after the choice of what draws
from matplotlib.patches import Rectangle  # noqa: E402

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
GPUS = {"h100-sxm": "H100", "b200": "B200", "gb200-nvl72": "GB200", "b300": "B300", "gb300-nvl72": "GB300"}
COLOURS = {"forward": "#4477aa", "backward": "#66aa88", "exposed": "#cc6677", "step end": "#999933"}
TIMELINE_PROBLEM = {
    "architecture": "qwen3-235b-a22b",
    "cluster": "h100-sxm",
    "gpus": 256,
    "workload": {"sequence_length": 4096, "global_batch_size": 256},
}
TIMELINE_LAYOUT = {"tp": 2, "pp": 4, "ep": 8, "vpp": 2, "etp": 1, "pipeline_layout": "Et*11|(t*12|)*6t*11L"}


def save(figure: Any, name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def published(predictions: list[Prediction]) -> None:
    """Logarithmic scatter with a band of 10 %."""
    figure, axes = plt.subplots(figsize=(5.2, 4.8))
    ends = [800, 60_000]
    axes.fill_between(ends, [end / 1.1 for end in ends], [end * 1.1 for end in ends], color="#dddddd", lw=0)
    axes.plot(ends, ends, color="#888888", lw=0.8)
    for index, (cluster, label) in enumerate(GPUS.items()):
        rows = [p for p in predictions if p.row["cluster"] == cluster and not {"apart", "outlier"} & set(p.row)]
        spots = ([p.published for p in rows], [p.predicted for p in rows])
        axes.scatter(*spots, s=18, marker="osD^v"[index], label=label, alpha=0.8)
    for title, key, marker in (("never fitted", "apart", "x"), ("software outliers", "outlier", "*")):
        rows = [p for p in predictions if key in p.row]
        spots = ([p.published for p in rows], [p.predicted for p in rows])
        axes.scatter(*spots, s=18, marker=marker, label=title, color="#555555", linewidths=0.8)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel="published tokens per second and GPU", ylabel="predicted tokens per second and GPU")
    axes.legend(frameon=False, loc="upper left")
    save(figure, "step-time-published.svg")


def timeline() -> None:
    """Stages by time: passes, what is exposed inside them, gaps, the step's end."""
    problem = load_problem(TIMELINE_PROBLEM)
    answer = evaluate(problem, Layout.model_validate(TIMELINE_LAYOUT))
    found = trace(problem, read_fields(Layout, answer["layout"], "layout"))
    figure, axes = plt.subplots(figsize=(9, 2.6))
    for category, colour in COLOURS.items():
        for rank in range(answer["layout"]["pp"]):
            spans = [
                (event["ts"] / 1e6, event["dur"] / 1e6)
                for event in found["traceEvents"]
                if event["ph"] == "X" and event["cat"] == category and event["tid"] == rank
                if category != "exposed" or event["name"] == "exposed communication"
            ]
            height = 0.8 if category != "exposed" else 0.3
            width = 0.2 if category in ("forward", "backward") else 0
            axes.broken_barh(spans, (rank - 0.4, height), facecolors=colour, edgecolors="white", linewidth=width)
    names = ["forward", "backward", "exposed communication in a pass", "step end"]
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, names, ncols=4, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.set(xlabel="seconds (white: bubble)", yticks=range(answer["layout"]["pp"]), ylabel="stage")
    axes.set_xlim(0, answer["schedule"]["simulated_ns"] / 1e9)
    axes.invert_yaxis()
    save(figure, "step-time-timeline.svg")


def main() -> None:
    published([predict(row) for row in json.loads(ROWS.read_text(encoding="utf-8"))["rows"]])
    timeline()


if __name__ == "__main__":
    main()
