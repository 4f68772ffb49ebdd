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
from moeopt.accounting.time.uncertainty import REASONS, regimes
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
    reasons: list[str]

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
    found = regimes(problem, ledger.degrees, ledger.choices, step.parts)
    reasons = [REASONS[name] for name in found]
    return Prediction(row, step.total_ns, step.parts, rate, row["tokens_per_second_per_gpu"], reasons)


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


@dataclass(frozen=True)
class Order:
    """How pairs of rows are ranked: right, equal (the same prediction: what differs is not an input), or wrong."""

    right: int = 0
    equal: int = 0
    total: int = 0

    def __str__(self) -> str:
        same = f" and {self.equal} predicted equal" if self.equal else ""
        return f"{self.right} right{same} of {self.total}"


def problem_name(row: dict[str, Any]) -> str:
    """Rows of one problem: only layouts, flags, software and batch differ."""
    workload = row["workload"]
    given = row["architecture"]
    changed = "" if isinstance(given, str) else json.dumps({k: v for k, v in given.items() if k != "base"})
    name = f"{architecture_name(row)}{changed}, {row['gpus']} {row['cluster']}"
    return f"{name}, {workload['precision']}, {workload['sequence_length']} tokens"


def ranking_sets(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Rows by problem, where there are at least two."""
    sets: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        sets.setdefault(problem_name(prediction.row), []).append(prediction)
    return {name: rows for name, rows in sorted(sets.items()) if len(rows) > 1}


def ranked_pairs(predictions: Sequence[Prediction], apart: float = 0.0) -> Order:
    """Pairs of rows of one problem whose published rates differ by more than `apart`, and how they are ranked."""
    right = equal = total = 0
    for first, second in combinations(predictions, 2):
        if problem_name(first.row) != problem_name(second.row):
            continue
        if abs(first.published / second.published - 1) > apart:
            total += 1
            equal += first.predicted == second.predicted
            right += (first.published - second.published) * (first.predicted - second.predicted) > 0
    return Order(right, equal, total)


def rank_correlation(predictions: Sequence[Prediction]) -> float:
    """Spearman's, with mean ranks for equal values; 0 where all predictions are equal."""

    def ranks(values: list[float]) -> list[float]:
        return [statistics.mean((v < x) + 0.5 * (v == x) for v in values) for x in values]

    first, second = (ranks([getattr(p, name) for p in predictions]) for name in ("published", "predicted"))
    return statistics.correlation(first, second) if len(set(second)) > 1 and len(set(first)) > 1 else 0.0


def best_is_behind(predictions: Sequence[Prediction]) -> float:
    """By how much the published best is predicted slower than the best predicted: 0 when it is ranked first."""
    best = max(predictions, key=lambda p: p.published)
    return max(p.predicted for p in predictions) / best.predicted - 1


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


def explanation(prediction: Prediction) -> str:
    """What such a layout is doubted for, what its time consists of, and how the row says it differs in software."""
    largest = sorted(prediction.parts.items(), key=lambda part: -part[1])[:3]
    shares = ", ".join(f"{name} {time / prediction.step_ns:.0%}" for name, time in largest)
    release = prediction.row.get("release", "not stated")
    return f"{'; '.join(prediction.reasons) or 'no regime to doubt'}. Release {release}; mostly {shares}"


def report(predictions: list[Prediction], left_out: list[dict[str, str]]) -> None:
    """Print the tables."""
    training = [prediction for prediction in predictions if "apart" not in prediction.row]
    counted = [prediction for prediction in training if "outlier" not in prediction.row]
    print(f"all counted rows               {summary(counted)}")
    print(f"with software outliers         {summary(training)}")
    for name in sorted({str(p.row["apart"]) for p in predictions if "apart" in p.row}):
        print(f"apart, {name:23s} {summary(p for p in predictions if p.row.get('apart') == name)}")
    for title, rows in (("counted", counted), ("apart", [p for p in predictions if "apart" in p.row])):
        print(f"pairs of one problem, {title:8s} {ranked_pairs(rows)}; differing by more than 3 %: ", end="")
        print(ranked_pairs(rows, 0.03))
    print("\nlayouts of one problem: rows, Spearman, pairs, how far the published best is behind the predicted best")
    for name, rows in ranking_sets([p for p in predictions if "outlier" not in p.row]).items():
        figures = f"{len(rows):2d}  {rank_correlation(rows):+.2f}  {best_is_behind(rows):5.1%}"
        print(f"  {figures}  {name}: {ranked_pairs(rows)}")
    for name, key in GROUPS.items():
        print(f"\nby {name}")
        for value in sorted({key(prediction.row) for prediction in counted}):
            print(f"  {value:28s} {summary(p for p in counted if key(p.row) == value)}")
    print("\nworst ten")
    for prediction in sorted(counted, key=lambda p: -abs(p.error))[:10]:
        print(f"  {prediction.error:+6.1%}  {prediction.row['id']}")
        print(f"          {explanation(prediction)}")
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
