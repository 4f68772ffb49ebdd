"""How long a proof takes, and how long trying everything would: `python benchmarks/solve.py [--gpus 64 512 ...]`.

Each problem is solved by `python -m moeopt solve` in a process of its own: wall clock and CPU seconds of the whole
process from start to exit (bytecode cached, as after the first run), and its largest resident memory. Beside it stands
the exhaustive sweep: a random sample of all legal layouts with evenly split layers is judged one by one by the same
ledger (memory of every stage, step time) on one core, and the time for all of them follows from the rate. Only that one
placement a row is in the sweep; the proof covers every placement. Written to benchmarks/solve.md.
"""

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moeopt.accounting.ledger import Ledger
from moeopt.configurations import modes, recomputes
from moeopt.errors import InputError
from moeopt.layout import Choices, Degrees, Layout
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.resolve import complete, degrees_of, pipeline_of
from moeopt.screening import legal_rows
from moeopt.search import PROVEN
from moeopt.solving.settings import ENGINE
from moeopt.space import enumerate_degrees, row, with_chunks

ARCHITECTURES = ("deepseek-v3", "qwen3-235b-a22b")
GPUS = (64, 512, 2048)
SMALLEST_BATCH = 2048
"""Sequences of 4,096 tokens a step; more than 4,096 GPUs get half a sequence each."""
AIM_SECONDS = 2.0
KIB = 1024


@dataclass(frozen=True)
class Proof:
    """One solve in a process of its own; `proven` seconds until it says that the optimum is."""

    status: str
    gap: float
    legal: int
    asked: int
    proven: float
    wall: float
    cpu: float
    rss_bytes: int


@dataclass(frozen=True)
class Sweep:
    """Trying everything: how many layouts, and how many a second on one core."""

    layouts: int
    sampled: int
    per_second: float

    @property
    def seconds(self) -> float:
        """Extrapolated time for all layouts."""
        return self.layouts / self.per_second if self.layouts else 0.0


def batch(gpus: int) -> int:
    """Sequences a step."""
    return max(SMALLEST_BATCH, gpus // 2)


# The proof ------------------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """This one's, where Python keeps the bytecode that it compiles."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def prove(architecture: str, gpus: int, time_limit: float, workers: int) -> Proof:
    """Solve one problem and measure the process (the child's own resource usage, not a sum over all children)."""
    command = [sys.executable, "-m", "moeopt", "solve", "--architecture", architecture, "--cluster", "h100-sxm"]
    command += ["--gpus", str(gpus), "--sequence-length", "4096", "--global-batch-size", str(batch(gpus))]
    command += ["--time-limit", str(time_limit), "--workers", str(workers), "--format", "json"]
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=_environment())
        said = [(line, time.monotonic() - started) for line in child.stderr or ()]
        _, code, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(code)
        output.seek(0)
        answer = json.loads(output.read())
    search = answer["search"]
    rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else KIB)
    return Proof(
        answer["status"],
        _gap(answer),
        search["legal_layouts"],
        search["candidates_given_to_solver"],
        next((seconds for line, seconds in said if line.startswith(PROVEN)), wall),
        wall,
        usage.ru_utime + usage.ru_stime,
        rss,
    )


def _gap(answer: dict[str, Any]) -> float:
    objective = answer.get("objective") or {}
    return 1 - objective["bound"] / objective["value"] if objective.get("value") else 0.0


# The sweep ------------------------------------------------------------------------------------------------------------


def sweep(problem: Problem, seconds: float, seed: int) -> Sweep:
    """Count all even-split layouts, and judge random ones for so many seconds."""
    degrees, _ = with_chunks(problem, enumerate_degrees(problem))
    blocks: list[tuple[Choices, np.ndarray[Any, np.dtype[np.intp]]]] = []
    for mode in modes(problem):
        for recompute in recomputes(problem):
            choices = mode.model_copy(update={"recompute": recompute})
            blocks.append((choices, np.flatnonzero(legal_rows(problem, degrees, choices))))
    sizes = [len(rows) for _, rows in blocks]
    generator = random.Random(seed)
    tried, judged, started = 0, 0, time.perf_counter()
    while sum(sizes) and time.perf_counter() - started < seconds:
        choices, rows = generator.choices(blocks, sizes)[0]
        judged += judge_even(problem, row(degrees, int(generator.choice(rows))), choices)
        tried += 1
    share = judged / tried if tried else 0.0
    return Sweep(round(sum(sizes) * share), judged, judged / (time.perf_counter() - started))


def judge_even(problem: Problem, degrees: Degrees, choices: Choices) -> bool:
    """Compute memory of every stage and step time of the even split; False where the layers have none."""
    try:
        layout = complete(problem, Layout(**dict(choices), **vars(degrees)))
    except InputError:
        return False
    pipeline = pipeline_of(layout)
    if pipeline is None:
        return False
    ledger = Ledger(problem, degrees_of(layout), layout.choices)
    ledger.memory(pipeline)
    ledger.step_time(pipeline)
    return True


@dataclass(frozen=True)
class Row:
    """A line of the table, and whether and when it was proven."""

    text: str
    seconds: float
    proven: bool


# The table ------------------------------------------------------------------------------------------------------------


def measure(architecture: str, gpus: int, options: argparse.Namespace) -> Row:
    """One row: the median run of the proofs, and the sweep."""
    problem = load_problem(
        {
            "architecture": architecture,
            "cluster": "h100-sxm",
            "gpus": gpus,
            "workload": {"sequence_length": 4096, "global_batch_size": batch(gpus)},
        }
    )
    proofs = [prove(architecture, gpus, options.time_limit, options.workers) for _ in range(options.repeat)]
    wall = statistics.median_low([proof.wall for proof in proofs])
    median = next(proof for proof in proofs if proof.wall == wall)
    swept = sweep(problem, options.sample, options.seed)
    status = median.status if median.status != "feasible" else f"feasible within {median.gap:.1%}"
    cells = [
        architecture,
        f"{gpus:,}",
        f"{batch(gpus):,}",
        status,
        f"{median.legal:,}",
        f"{median.asked:,}",
        f"{median.proven:.1f}",
        f"{median.wall:.1f}",
        f"{median.cpu:.1f}",
        f"{median.rss_bytes / 2**20:.0f}",
        f"{swept.layouts:,}",
        f"{swept.per_second:.0f} ({swept.sampled:,} sampled)",
        _duration(swept.seconds),
    ]
    return Row(f"| {' | '.join(cells)} |", median.proven, median.status in ("optimal", "infeasible"))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


HEADER = (
    "architecture", "GPUs", "batch", "status", "legal layouts", "given to CP-SAT", "proven after s", "whole process s",
    "CPU s", "peak MiB", "even-split layouts", "judged a second", "all of them, extrapolated",
)  # fmt: skip


def table_head() -> list[str]:
    """Two lines above the rows."""
    return [f"| {' | '.join(HEADER)} |", "|---|---:|---:|---|" + "---:|" * (len(HEADER) - 4)]


def page(rows: Sequence[Row], options: argparse.Namespace, load: float) -> str:
    """The text of benchmarks/solve.md."""
    missed = sum(not row.proven or row.seconds > AIM_SECONDS for row in rows)
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    asked = f"--gpus {' '.join(map(str, options.gpus))} --architectures {' '.join(options.architectures)}"
    asked += f" --repeat {options.repeat} --time-limit {options.time_limit:g}"
    return "\n".join(
        [
            "# Seconds to the proof, and what trying everything would take",
            "",
            f"{day}, {ENGINE}, Python {platform.python_version()}, {os.cpu_count()} cores shared with other work (load "
            f"average {load:.1f} at the start), {options.workers} solver threads, median of {options.repeat}, time "
            f"limit {options.time_limit:g} s. Again: `python benchmarks/solve.py {asked}`.",
            "",
            *table_head(),
            *(row.text for row in rows),
            "",
            "H100 SXM, bf16, 4,096 tokens. Seconds are of the process `moeopt solve` from its start, imports included:",
            "until it says that the optimum is proven, and to its end, after the bound on replayed steps, or after the",
            "explanation of an infeasible problem (where both are one).",
            f"The aim is {AIM_SECONDS:g} s to the proof: {missed} of {len(rows)} rows miss it.",
            "A row that is neither `optimal` nor `infeasible` ran into the time limit: its proof takes longer.",
            "",
            "Legal layouts: combinations of degrees, dispatcher and overlap; chunks, recompute and placement open.",
            "Even-split layouts: the same with chunks and recompute decided and one placement each, the even split",
            "(the number of all rows times the share of the sample that has one). The ledger judges a random sample",
            f"on one core for {options.sample:g} s; the last column is the number over the rate, an extrapolation.",
            "The proof covers all placements, not one each.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, row by row, and write the page after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--repeat", type=int, default=1, help="runs of each proof; the median counts")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds for each proof")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sample", type=float, default=3.0, help="seconds of sweep for each rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for gpus in options.gpus:
        for architecture in options.architectures:
            rows.append(measure(architecture, gpus, options))
            print(rows[-1].text, flush=True)
            options.output.write_text(page(rows, options, load), encoding="utf-8")


if __name__ == "__main__":
    main()
