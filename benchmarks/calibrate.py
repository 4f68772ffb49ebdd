"""Fit the efficiencies that ship: `python benchmarks/calibrate.py [--write] [--until RELEASE]`.

At most six numbers for each GPU generation and precision (matrix products, attention, memory, NVLink, network, host)
and four that all share. Each starts from a measured prior and moves only as far as the published runs pull it: a
least-squares fit of log(predicted / published) with robust weights and a penalty for leaving the prior. Rows that share
a layout and differ in batch count together as one. Outliers and rows apart (see benchmarks/data) never enter. Then each
source, architecture, GPU and architecture x GPU is left out in turn and predicted by the rest.

`--write` puts the numbers with their provenance into the shipped efficiency tables, and the errors of rows left out
into presets/step_time_errors.yaml, from which every predicted step time takes its range. `--until 26.04` fits only on
software up to that release: tables for older software.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_tables import TABLES, Constants, changed, write_errors, write_tables
from moeopt.accounting.ledger import Ledger
from moeopt.accounting.time.efficiency import using
from moeopt.accounting.time.uncertainty import regimes
from moeopt.layout import Degrees, Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from step_time import ROWS, architecture_name, degrees_of, pipeline_of

Vector = NDArray[np.float64]
ROW_SIGMA = 0.06
"""Scatter of one row: what the best constants leave (noise of one configuration over releases is 1 to 4 %)."""
HUBER = 1.5
"""Residuals beyond this many sigmas pull no harder."""
STEP, RESLOPE, ITERATIONS = 0.02, 0.1, 20
"""Step of the differences, movement of a logarithm above which slopes are taken anew, most iterations."""


@dataclass(frozen=True)
class Prior:
    """One constant: where it stands in the tables, its measured start and how far it may move (one sigma of its
    logarithm)."""

    name: str
    tables: tuple[str, ...]
    field: tuple[str, ...]
    value: float
    sigma: float
    source: str


HOPPER, BLACKWELL, ULTRA = TABLES
PRIORS = (
    Prior("gemm bf16, Hopper", (HOPPER,), ("gemm", "bf16"), 0.72, 0.15, "aiconfigurator h100_sxm GEMM tables"),
    Prior("gemm fp8, Hopper", (HOPPER,), ("gemm", "fp8"), 0.67, 0.15, "aiconfigurator h100_sxm, net of quantising"),
    Prior("gemm bf16, Blackwell", (BLACKWELL,), ("gemm", "bf16"), 0.62, 0.15, "aiconfigurator .65, SimuMax .49"),
    Prior("gemm mxfp8, Blackwell", (BLACKWELL,), ("gemm", "mxfp8"), 0.62, 0.15, "aiconfigurator, cuBLAS grouped .65"),
    Prior("gemm bf16, Ultra", (ULTRA,), ("gemm", "bf16"), 0.65, 0.15, "as Blackwell's inference tables"),
    Prior("gemm mxfp8, Ultra", (ULTRA,), ("gemm", "mxfp8"), 0.65, 0.15, "aiconfigurator b300_sxm .68"),
    Prior("attention, Hopper", (HOPPER,), ("attention",), 0.57, 0.12, "aiconfigurator 8K-16K over s/(s+1250)"),
    Prior("attention, Blackwell", (BLACKWELL,), ("attention",), 0.52, 0.12, "aiconfigurator 8K-16K over s/(s+1250)"),
    Prior("attention, Ultra", (ULTRA,), ("attention",), 0.59, 0.12, "aiconfigurator 8K-16K over s/(s+1250)"),
    Prior("memory, Hopper", (HOPPER,), ("memory",), 0.65, 0.08, "elementwise kernels reach 0.6-0.8 of HBM"),
    Prior("memory, Blackwell", (BLACKWELL,), ("memory",), 0.60, 0.08, "elementwise kernels reach 0.6-0.8 of HBM"),
    Prior("memory, Ultra", (ULTRA,), ("memory",), 0.60, 0.08, "elementwise kernels reach 0.6-0.8 of HBM"),
    Prior("nvlink", TABLES, ("nvlink",), 0.70, 0.10, "NCCL 2.29 in a node, dispatch table of arXiv 2603.07685"),
    Prior("network", TABLES, ("network",), 0.80, 0.10, "dispatch table across H100 nodes, 40-45 of 50 GB/s"),
    Prior("launch, x86 (ns)", TABLES, ("launch_ns", "x86"), 15_000, 0.70, "no table: a guess of one launch"),
    Prior("launch, Grace (ns)", TABLES, ("launch_ns", "grace"), 18_000, 0.70, "no table: a guess of one launch"),
    Prior("hidden, graphs", TABLES, ("overlap_hidden", "graphs"), 0.80, 0.12, "published pairs: 0.64-0.80"),
    Prior("hidden, eager", TABLES, ("overlap_hidden", "eager"), 0.55, 0.25, "published pairs: 0.29 to a half"),
    Prior("overlap slowdown - 1", TABLES, ("overlap_slowdown",), 0.05, 0.70, "SMs that communication takes"),
    Prior("biased experts - 1", TABLES, ("biased_expert_slowdown",), 0.48, 0.50, "gpt-oss: unfused biases, a guess"),
)


@dataclass(frozen=True)
class Case:
    """One row made ready to be predicted."""

    row: dict[str, Any]
    problem: Problem
    degrees: Degrees
    layout: Layout
    pipeline: PipelineLayout
    weight: float

    def residual(self) -> float:
        """Logarithm of predicted over published tokens per second, under the tables in force."""
        step = Ledger(self.problem, self.degrees, self.layout.choices).step_time(self.pipeline)
        tokens = self.problem.workload.global_batch_size * self.problem.workload.sequence_length
        rate = tokens * 1e9 / step.total_ns / self.problem.gpu_range.max
        return float(np.log(rate / self.row["tokens_per_second_per_gpu"]))


APART = ("fsdp",)
"""Rows apart that are all there is to tell the error of the regime of this name: none of them entered a fit."""


def cases(until: str, apart: str | None = None) -> list[Case]:
    """The calibration rows, or those of one kind apart; a row's weight is one over the rows of the same architecture,
    GPUs, precision, layout."""
    rows = json.loads(ROWS.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row.get("apart") == apart and "outlier" not in row]
    rows = [row for row in rows if row.get("release", "") <= until]
    same = [json.dumps([row[k] for k in ("architecture", "cluster", "layout")], sort_keys=True) for row in rows]
    ready = []
    for row, key in zip(rows, same, strict=True):
        problem = load_problem({k: row[k] for k in ("architecture", "cluster", "gpus", "workload")})
        layout = Layout.model_validate(row["layout"])
        place = (problem, degrees_of(problem, layout), layout, pipeline_of(problem, layout))
        ready.append(Case(row, *place, 1 / same.count(key)))
    return ready


def start() -> Vector:
    """Logarithms of the priors."""
    return np.log([prior.value for prior in PRIORS])


def constants(theta: Vector) -> Constants:
    """Values by table and field; shares stay below one and slowdowns above it."""
    values: Constants = {}
    for prior, logarithm in zip(PRIORS, theta, strict=True):
        value = float(np.exp(logarithm))
        if prior.name.endswith("- 1"):
            value += 1
        elif prior.field[0] != "launch_ns":
            value = min(value, 0.99)
        for table in prior.tables:
            values[table, prior.field] = value
    return values


def residuals(rows: Sequence[Case], theta: Vector) -> Vector:
    """Residuals of some rows under some constants."""
    with using(changed(constants(theta))):
        return np.array([case.residual() for case in rows])


def jacobian(rows: Sequence[Case], theta: Vector, at: Vector) -> Vector:
    """Slopes of the residuals; a constant is moved only for rows whose table holds it."""
    slopes = np.zeros((len(rows), len(theta)))
    for column, prior in enumerate(PRIORS):
        touched = [i for i, case in enumerate(rows) if case.problem.cluster.efficiency in prior.tables]
        moved = theta.copy()
        moved[column] += STEP
        slopes[touched, column] = (residuals([rows[i] for i in touched], moved) - at[touched]) / STEP
    return slopes


def solve(slopes: Vector, values: Vector, weights: Vector, centre: Vector) -> Vector:
    """The robust optimum, linearised around `centre` (where values and slopes were taken)."""
    theta = centre
    sigmas = np.array([prior.sigma for prior in PRIORS])
    for _ in range(10):
        now = values + slopes @ (theta - centre)
        robust = np.minimum(1.0, HUBER * ROW_SIGMA / np.maximum(np.abs(now), 1e-9))
        scale = weights * robust / ROW_SIGMA**2
        normal = slopes.T @ (scale[:, None] * slopes) + np.diag(sigmas**-2)
        right = slopes.T @ (scale * (slopes @ centre - values)) + start() / sigmas**2
        theta = np.linalg.solve(normal, right)
    return theta


@dataclass(frozen=True)
class Fit:
    """Constants, and the linearisation around them that folds reuse."""

    theta: Vector
    values: Vector
    slopes: Vector
    decided: Vector
    """Share of each constant that the rows decide (the rest is the prior's)."""


def fit(rows: Sequence[Case]) -> Fit:
    """Gauss-Newton from the priors."""
    theta = start()
    weights = np.array([case.weight for case in rows])
    moved = np.inf
    for _ in range(ITERATIONS):
        values = residuals(rows, theta)
        if moved > RESLOPE:
            slopes = jacobian(rows, theta, values)
        following = solve(slopes, values, weights, theta)
        moved, theta = float(np.max(np.abs(following - theta))), following
        if moved < 0.001:
            break
    values = residuals(rows, theta)
    precision = np.array([prior.sigma for prior in PRIORS]) ** -2.0
    inverse = np.linalg.inv(slopes.T @ (weights[:, None] * slopes) / ROW_SIGMA**2 + np.diag(precision))
    return Fit(theta, values, slopes, 1 - np.diag(inverse) * precision)


def left_out(rows: Sequence[Case], full: Fit, key: Callable[[dict[str, Any]], str]) -> Vector:
    """Residuals of every row under constants that its own group did not enter. The fit without a group uses the slopes
    at the full fit; the group itself is predicted anew."""
    groups = [key(case.row) for case in rows]
    weights = np.array([case.weight for case in rows])
    result = np.zeros(len(rows))
    for group in sorted(set(groups)):
        out = np.array([name == group for name in groups])
        theta = solve(full.slopes[~out], full.values[~out], weights[~out], full.theta)
        result[out] = residuals([case for case, gone in zip(rows, out, strict=True) if gone], theta)
    return result


def errors(values: Iterable[float]) -> str:
    """Median, mean and 90th percentile of |predicted / published - 1|."""
    sizes = sorted(abs(float(np.expm1(value))) for value in values)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return f"median {statistics.median(sizes):6.1%}  mean {statistics.mean(sizes):6.1%}  p90 {ninth:6.1%}"


FOLDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "source": lambda row: str(row["family"]),
    "architecture": architecture_name,
    "architecture x GPU": lambda row: f"{architecture_name(row)} on {row['cluster']}",
    "GPU": lambda row: str(row["cluster"]),
}


def report_folds(rows: Sequence[Case], full: Fit) -> dict[str, Vector]:
    """Print the errors of rows left out, as a whole and by group."""
    found = {}
    for name, key in FOLDS.items():
        found[name] = values = left_out(rows, full, key)
        print(f"\nleave one {name} out: {errors(values)}")
        groups = [key(case.row) for case in rows]
        for group in sorted(set(groups)):
            chosen = [value for value, its in zip(values, groups, strict=True) if its == group]
            print(f"  {group:42s} {len(chosen):3d} rows  {errors(chosen)}")
    return found


def main() -> int:
    """Fit, report, and write if asked."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="write the shipped tables")
    arguments.add_argument("--until", default="99", metavar="RELEASE", help="newest software release to fit on")
    given = arguments.parse_args()
    rows = cases(given.until)
    print(f"{len(rows)} rows; nothing fitted: {errors(residuals(rows, start()))}")
    full = fit(rows)
    print(f"{len(rows)} rows; fitted:         {errors(full.values)}\n")
    print("constant                      prior     fit   decided by data   prior's source")
    for prior, logarithm, decided in zip(PRIORS, full.theta, full.decided, strict=True):
        value = float(np.exp(logarithm))
        print(f"{prior.name:26s} {prior.value:8.6g} {value:7.4g}   {decided:4.2f}              {prior.source}")
    found = report_folds(rows, full)
    if given.write:
        worst = np.maximum(np.abs(found["source"]), np.abs(found["architecture x GPU"]))
        kinds = [(case.problem, regimes(case.problem, case.degrees, case.layout.choices)) for case in rows]
        tables = {case.row["cluster"]: case.problem.cluster.efficiency for case in rows}
        write_tables(constants(full.theta), [case.row for case in rows], full.values, found, tables)
        apart = {name: np.expm1(residuals(cases(given.until, name), full.theta)) for name in APART}
        write_errors(kinds, np.expm1(worst), apart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
