"""What would the experts have gained: `python benchmarks/experts.py [--time-limit SEC] [--only WORD] [--json FILE]`.

For every problem of the calibration rows: the fastest published layout and the one that `solve` finds, under the same
evaluator, with the parts of the step that differ. Held equal: GPUs, batch, sequence, precision, CUDA graphs, optimizer,
overlap of gradients. Free: all degrees, micro-batch, chunks, placement of layers, recompute, dispatcher, overlap of the
expert all-to-all. A gain inside the range of the prediction is no promise; a published layout that needs more memory
than predicted to fit is marked (activation offload and the like are no inputs).
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.search import solve
from step_time import ROWS, problem_name

HELD = ("cuda_graphs", "optimizer", "distributed_optimizer")
SHOWN = ("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size")
LARGE_SHARE = 0.005
"""Parts that differ by more than this share of the published step are printed."""


def asked(row: dict[str, Any]) -> Problem:
    """The row's problem with everything fixed that is held equal."""
    layout = Layout.model_validate(row["layout"])
    fix = {name: value for name, value in layout.model_dump(mode="json").items() if name in HELD}
    fix["overlap"] = {"grad_reduce": layout.overlap.grad_reduce, "param_gather": layout.overlap.param_gather}
    given = {key: row[key] for key in ("architecture", "cluster", "gpus", "workload")}
    return load_problem({**given, "fix": fix, "free": ["overlap.delay_wgrad"] if layout.ep > 1 else []})


def best_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest row of each problem: what differs is layouts and flags (and batch, where a source varies it)."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = f"{problem_name(row)}, batch {row['workload']['global_batch_size']}"
        if name not in best or row["tokens_per_second_per_gpu"] > best[name]["tokens_per_second_per_gpu"]:
            best[name] = row
    return [best[name] for name in sorted(best)]


@dataclass(frozen=True)
class Comparison:
    """Two answers of one problem."""

    row: dict[str, Any]
    theirs: dict[str, Any]
    ours: dict[str, Any]

    @property
    def gain(self) -> float:
        """By how much our tokens per second are higher."""
        return float(self.theirs["step_time"]["total_ns"] / self.ours["step_time"]["total_ns"] - 1)

    @property
    def fits(self) -> bool:
        return bool(self.theirs["memory"]["peak_bytes"] <= self.theirs["memory"]["limit_bytes"])

    def differences(self) -> list[tuple[str, int]]:
        """Parts by what ours saves (positive) or adds, largest first, in nanoseconds."""
        first, second = self.theirs["step_time"]["parts"], self.ours["step_time"]["parts"]
        saved = [(name, first.get(name, 0) - second.get(name, 0)) for name in {*first, *second}]
        least = LARGE_SHARE * self.theirs["step_time"]["total_ns"]
        return sorted((item for item in saved if abs(item[1]) > least), key=lambda item: -abs(item[1]))

    def __str__(self) -> str:
        time = self.theirs["step_time"]["total_ns"]
        parts = ", ".join(f"{name} {-saved / time:+.1%}" for name, saved in self.differences())
        percent = self.ours["step_time"]["range"]["percent"]
        note = "" if self.fits else "; published: predicted not to fit"
        return (
            f"{self.row['id']}\n"
            f"  published {shown(self.theirs['layout'])}\n"
            f"  ours      {shown(self.ours['layout'])}\n"
            f"  {self.gain:+.1%} tokens/s (range {percent} %, {self.ours['status']}{note}); of the step: {parts}"
        )


def shown(layout: dict[str, Any]) -> str:
    """Degrees, then the decisions."""
    degrees = " ".join(f"{'mbs' if name == 'micro_batch_size' else name} {layout[name]}" for name in SHOWN)
    recompute = layout["recompute"]
    modules = ", ".join(recompute["modules"]) or recompute["granularity"]
    overlap = ", overlap" if layout["overlap"]["ep_all_to_all"] else ""
    return f"{degrees}; {layout['pipeline_layout']}; {layout['dispatcher']}{overlap}; recompute {modules}"


def compare(row: dict[str, Any], time_limit: float) -> Comparison | None:
    """Both answers, or None where no layout was found or the published one cannot be read."""
    problem = asked(row)
    layout = Layout.model_validate(row["layout"])
    theirs = evaluate(load_problem({key: row[key] for key in ("architecture", "cluster", "gpus", "workload")}), layout)
    ours = solve(problem, time_limit=time_limit)
    if "step_time" not in theirs or "step_time" not in ours:
        return None
    return Comparison(row, theirs, ours)


def brief(answer: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of an answer."""
    return {key: answer[key] for key in ("status", "layout", "step_time", "memory")}


def main() -> int:
    """Compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--time-limit", type=float, default=60, help="seconds a problem")
    arguments.add_argument("--only", default="", help="rows whose id contains this")
    arguments.add_argument("--json", type=Path, help="write layouts, times and parts here")
    given = arguments.parse_args()
    rows = json.loads(ROWS.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if not {"apart", "outlier"} & set(row) and given.only in row["id"]]
    found = []
    for row in best_rows(rows):
        result = compare(row, given.time_limit)
        print(
            result or f"{row['id']}\n  no comparison: no layout found, or the published one cannot be timed", flush=True
        )
        found += [result] if result else []
    gains = sorted(result.gain for result in found)
    if gains:
        print(f"\n{len(gains)} problems; gain: median {gains[len(gains) // 2]:.1%}, {gains[0]:.1%} to {gains[-1]:.1%}")
    if given.json:
        content = [
            {"id": r.row["id"], "gain": round(r.gain, 4), "published": brief(r.theirs), "ours": brief(r.ours)}
            for r in found
        ]
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
