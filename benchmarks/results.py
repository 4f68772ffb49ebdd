"""Solve every problem of problems/, record the answers: `make results`, or `python benchmarks/results.py [NAME ...]`.

Writes results/NAME.json, the solution without what changes from run to run (seconds, and how many candidates the solver
saw); results/runs.csv, when, how long and with what each was solved; results/README.md, the table of all results.
A name given solves that problem alone; the other rows of the table stay as they are. `--table` solves nothing.
"""

import argparse
import csv
import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import moeopt
from moeopt.cli.inputs import read_problem
from moeopt.problem.problem import Problem
from moeopt.search import solve
from moeopt.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS, RESULTS = ROOT / "problems", ROOT / "results"
VOLATILE = ("seconds", "candidates_given_to_solver")
"""Facts of a search that differ between two runs of the same problem."""
RUN_FIELDS = ("problem", "seconds", "time_limit", "workers", "date", "moeopt", "ortools", "python")
TIME_LIMIT = 300.0
WORKERS = 2
"""The same everywhere, so that two machines record the same answer."""
DEGREES = ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp", "micro_batch_size")


def stems() -> list[str]:
    """Names of the problems that ship."""
    return sorted(path.stem for path in PROBLEMS.glob("*.yaml"))


def problem_of(stem: str) -> Problem:
    """One shipped problem."""
    return read_problem({"problem": str(PROBLEMS / f"{stem}.yaml")})


def lasting(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A solution without what changes from run to run."""
    search = {name: value for name, value in answer["search"].items() if name not in VOLATILE}
    return {**answer, "search": search}


def record(stem: str, time_limit: float) -> dict[str, Any]:
    """Solve one problem, write its answer; return what is to be said of the run."""
    started = time.monotonic()
    answer = solve(problem_of(stem), time_limit=time_limit, workers=WORKERS)
    seconds = time.monotonic() - started
    (RESULTS / f"{stem}.json").write_text(json.dumps(lasting(answer), indent=1) + "\n", encoding="utf-8")
    print(f"{stem}: {answer['status']} in {seconds:.1f} s", flush=True)
    return {
        "problem": stem,
        "seconds": f"{seconds:.1f}",
        "time_limit": f"{time_limit:g}",
        "workers": str(WORKERS),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "moeopt": moeopt.__version__,
        "ortools": answer["search"]["engine"].removeprefix("ortools "),
        "python": platform.python_version(),
    }


def read_runs() -> dict[str, dict[str, str]]:
    """The runs on record, by problem."""
    path = RESULTS / "runs.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["problem"]: row for row in csv.DictReader(file)}


def write_runs(runs: Mapping[str, Mapping[str, str]]) -> None:
    """Record the runs of the problems that ship."""
    with (RESULTS / "runs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, RUN_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(runs[stem] for stem in stems() if stem in runs)


# The table ------------------------------------------------------------------------------------------------------------


def table() -> str:
    """The text of results/README.md, from the recorded answers and runs."""
    runs = read_runs()
    recorded = [stem for stem in stems() if (RESULTS / f"{stem}.json").exists()]
    rows = [_row(stem, read_answer(stem), runs.get(stem, {})) for stem in recorded]
    header = f"| {' | '.join(COLUMNS)} |\n{ALIGNMENT}"
    return HEAD + header + "".join(f"| {' | '.join(row)} |\n" for row in rows) + NOTES


def read_answer(stem: str) -> dict[str, Any]:
    """One recorded answer."""
    answer: dict[str, Any] = json.loads((RESULTS / f"{stem}.json").read_text(encoding="utf-8"))
    return answer


def _row(stem: str, answer: Mapping[str, Any], run: Mapping[str, str]) -> list[str]:
    search = answer["search"]
    versions = [run.get("date"), f"moeopt {run.get('moeopt')}", search["engine"], f"Python {run.get('python')}"]
    return [
        f"[{stem}]({stem}.json)",
        *(_solved(answer) if "layout" in answer else _unsolved(answer)),
        f"{search['legal_layouts']:,}",
        f"{run.get('seconds', '')} of {run.get('time_limit', '')}",
        ", ".join(map(str, versions)),
    ]


def _solved(answer: Mapping[str, Any]) -> list[str]:
    step, objective = answer["step_time"], answer["objective"]
    gap = 1 - objective["bound"] / objective["value"]
    status = answer["status"] if answer["status"] == "optimal" else f"feasible, at most {gap:.1%} from the optimum"
    return [
        f"{answer['gpus']['total']:,}",
        status,
        layout_text(answer["layout"]),
        f"{_seconds(step['total_ns'])} ({_seconds(step['range']['low_ns'])} to {_seconds(step['range']['high_ns'])})",
        f"{step['tokens_per_second_per_gpu']:,.0f}",
        f"{step['mfu']:.1%}",
        format_bytes(answer["memory"]["peak_bytes"]),
    ]


def _unsolved(answer: Mapping[str, Any]) -> list[str]:
    gpus = answer["problem"]["gpus"]
    total = f"{gpus:,}" if isinstance(gpus, int) else f"{gpus['min']:,} to {gpus['max']:,}"
    reason = "no layout found within the time"
    if answer["status"] == "infeasible":
        changes = [relaxation["text"] for relaxation in answer["explanation"]["relaxations"]]
        reason = "; ".join([f"conflict: {', '.join(answer['explanation']['conflict'])}", *changes])
    return [total, answer["status"], reason, "", "", "", ""]


def layout_text(layout: Mapping[str, Any]) -> str:
    """A layout in one line: degrees above one, then what is not the default."""
    words = [f"{name} {layout[name]}" for name in DEGREES if layout[name] > 1 or name == "micro_batch_size"]
    recompute = layout["recompute"]
    if recompute["granularity"] != "none":
        words.append(f"recompute {'+'.join(recompute['modules']) or recompute['granularity']}")
    words.append(layout["dispatcher"])
    if layout["overlap"]["ep_all_to_all"]:
        words.append("ep_all_to_all overlapped")
    return ", ".join(words)


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 10**9:.3f} s"


HEAD = """# Results

Every problem of [problems/](../problems), solved by `make results` (one: `python benchmarks/results.py NAME`). One JSON
file a problem holds the whole answer: layout, GPU equations, memory of every stage, step time, rules, bound. `optimal`
is proven over every layout of the search space under moeopt's cost formulas, which are predictions: the range says how
far they may be off. `feasible` is the best layout found when the time was over, with how far at most it is from the
optimum.

"""
COLUMNS = (
    "problem", "GPUs", "status", "layout", "step time (range)", "tokens/s/GPU", "MFU", "peak memory", "legal layouts",
    "seconds of limit", "run",
)  # fmt: skip
ALIGNMENT = "|---|---:|---|---|---|---:|---:|---:|---:|---|---|\n"
NOTES = """
Step time is one optimizer step of the problem's global batch. MFU is of the GPU's dense BF16 peak whatever the
precision, as Megatron reports it. Legal layouts count combinations of degrees, dispatcher and overlap that break no
rule, chunks, recompute and placement of the layers still open. Seconds are wall clock on two cores shared with other
work, after the imports; [runs.csv](runs.csv) has them with the versions. A JSON file holds nothing that changes from
run to run, so solving an `optimal` one again gives the same objective; the changes that would make an `infeasible` one
work are those found within 3 s each. Where the objective is the fewest GPUs, their count is what is proven; the step
time on them is the best found in the time.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Solve what is asked for, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="problems by name (default: all)")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="SEC", help="for each problem")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    asked = parser.parse_args(arguments)
    names = [Path(name).stem if name.endswith((".yaml", ".json")) else name for name in asked.names]
    unknown = sorted(set(names) - set(stems()))
    if unknown:
        parser.error(f"no problem is called {', '.join(unknown)}; there are {', '.join(stems())}")
    RESULTS.mkdir(exist_ok=True)
    if not asked.table:
        chosen = names or sorted(stems(), key=lambda stem: problem_of(stem).gpu_range.max)
        for number, stem in enumerate(chosen, 1):
            print(f"{number} of {len(chosen)}: {stem}", flush=True)
            run = record(stem, asked.time_limit)
            write_runs({**read_runs(), stem: run})
    (RESULTS / "README.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
