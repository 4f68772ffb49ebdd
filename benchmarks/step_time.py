"""Predicted against published step times: `python benchmarks/step_time.py [--json FILE] [--rows]`.

Rows: benchmarks/data/published_step_times.json (each with its source). No constant belongs to a row: all come from the
clusters and efficiency tables that ship. Error is predicted / published tokens per second - 1. Rows apart (dense
architectures, the MoE Parallel Folding table) never entered a fit: they test TP, CP, ETP and pipelines.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.layout import Degrees, Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem

ROWS = Path(__file__).parent / "data" / "published_step_times.json"


@dataclass(frozen=True)
class Prediction:
    """One row, predicted."""

    row: dict[str, Any]
    step_ns: int
    parts: dict[str, int]
    predicted: float
    published: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def degrees_of(problem: Problem, layout: Layout) -> Degrees:
    """Degrees with those that follow; pp*vpp groups of pp micro-batches."""
    gpus, workload = problem.gpu_range.max, problem.workload
    etp = layout.etp or layout.tp
    dp = gpus // (layout.tp * layout.cp * layout.pp)
    return Degrees(
        tp=layout.tp,
        pp=layout.pp,
        cp=layout.cp,
        dp=dp,
        ep=layout.ep,
        etp=etp,
        edp=gpus // (etp * layout.ep * layout.pp),
        vpp=layout.vpp,
        micro_batch_size=layout.micro_batch_size,
        num_microbatches=workload.global_batch_size // (dp * layout.micro_batch_size),
        interleave_group=layout.interleave_group or layout.pp,
    )


def pipeline_of(problem: Problem, layout: Layout) -> PipelineLayout:
    """The layout's string, or an even split."""
    if layout.pipeline_layout:
        return PipelineLayout.parse(layout.pipeline_layout, layout.pp)
    layers = problem.architecture.num_hidden_layers
    even = PipelineLayout.even(layers, layout.pp, layout.vpp, problem.mtp_layers)
    assert even is not None, f"{layers} layers do not split evenly over {layout.pp} x {layout.vpp}"
    return even


def predict(row: dict[str, Any]) -> Prediction:
    """Predict one row."""
    problem = load_problem({key: row[key] for key in ("architecture", "cluster", "gpus", "workload")})
    layout = Layout.model_validate(row["layout"])
    ledger = Ledger(problem, degrees_of(problem, layout), layout.choices)
    step = ledger.step_time(pipeline_of(problem, layout))
    tokens = problem.workload.global_batch_size * problem.workload.sequence_length
    rate = tokens * 1e9 / step.total_ns / problem.gpu_range.max
    return Prediction(row, step.total_ns, step.parts, rate, row["tokens_per_second_per_gpu"])


def architecture_name(row: dict[str, Any]) -> str:
    """Name for grouping."""
    given = row["architecture"]
    return str(given if isinstance(given, str) else given.get("name") or given["base"] + " (changed)")


def summary(predictions: Iterable[Prediction]) -> str:
    """Count, median, mean and 90th percentile of the absolute error, and the mean signed one."""
    errors = [prediction.error for prediction in predictions]
    sizes = sorted(abs(error) for error in errors)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return (
        f"{len(sizes):3d} rows  median {statistics.median(sizes):6.1%}  mean {statistics.mean(sizes):6.1%}  "
        f"p90 {ninth:6.1%}  bias {statistics.mean(errors):+6.1%}"
    )


def ranked_pairs(predictions: Sequence[Prediction]) -> tuple[int, int]:
    """Pairs of rows with the same architecture, GPUs, precision and sequence whose published rates differ by more than
    3 %: how many there are, and how many are predicted in the right order."""
    right = total = 0
    for first, second in combinations(predictions, 2):
        same = all(first.row[key] == second.row[key] for key in ("architecture", "cluster", "gpus"))
        workloads = (first.row["workload"], second.row["workload"])
        if not same or any(workloads[0][key] != workloads[1][key] for key in ("precision", "sequence_length")):
            continue
        if abs(first.published / second.published - 1) > 0.03:
            total += 1
            right += (first.published > second.published) == (first.predicted > second.predicted)
    return total, right


GROUPS: dict[str, Callable[[dict[str, Any]], str]] = {
    "source": lambda row: row["family"],
    "GPU": lambda row: row["cluster"],
    "precision": lambda row: row["workload"]["precision"],
    "architecture": architecture_name,
    "overlap": lambda row: (
        ("ep overlap, " if row["layout"]["overlap"]["ep_all_to_all"] else "no ep overlap, ")
        + row["layout"]["cuda_graphs"]
    ),
}


def report(predictions: list[Prediction], left_out: list[dict[str, str]]) -> None:
    """Print the tables."""
    training = [prediction for prediction in predictions if "apart" not in prediction.row]
    counted = [prediction for prediction in training if "outlier" not in prediction.row]
    print(f"all counted rows               {summary(counted)}")
    print(f"with software outliers         {summary(training)}")
    for name in sorted({str(p.row["apart"]) for p in predictions if "apart" in p.row}):
        print(f"apart, {name:23s} {summary(p for p in predictions if p.row.get('apart') == name)}")
    for title, rows in (("counted", counted), ("apart", [p for p in predictions if "apart" in p.row])):
        total, right = ranked_pairs(rows)
        print(f"rank order, {title:18s} {right} of {total} pairs that differ by more than 3 %")
    for name, key in GROUPS.items():
        print(f"\nby {name}")
        for value in sorted({key(prediction.row) for prediction in counted}):
            print(f"  {value:28s} {summary(p for p in counted if key(p.row) == value)}")
    print("\nworst ten")
    for prediction in sorted(counted, key=lambda p: -abs(p.error))[:10]:
        print(f"  {prediction.error:+6.1%}  {prediction.row['id']}")
    print("\nlisted, not counted")
    for prediction in predictions:
        if "outlier" in prediction.row:
            print(f"  {prediction.error:+6.1%}  {prediction.row['id']}: {prediction.row['outlier']}")
    print("\nleft out")
    reasons = [entry["reason"].partition(" as bridge")[0] for entry in left_out]
    for reason in sorted(set(reasons)):
        print(f"  {reasons.count(reason):3d} {reason}")


def main() -> int:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="write every row's prediction here")
    arguments.add_argument("--rows", action="store_true", help="print every row")
    given = arguments.parse_args()
    data = json.loads(ROWS.read_text(encoding="utf-8"))
    predictions = [predict(row) for row in data["rows"]]
    report(predictions, data["left_out"])
    if given.rows:
        print()
        for prediction in predictions:
            rates = f"{prediction.predicted:8.0f} {prediction.published:8.0f}"
            print(f"{prediction.error:+6.1%} {rates} {prediction.row['id']}")
    if given.json:
        fields = ("step_ns", "parts", "predicted", "published")
        rows = [{"id": p.row["id"], **{name: getattr(p, name) for name in fields}} for p in predictions]
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
