"""The recorded launches (tests/data/launch_validation.json) as jobs, and one small solution."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_architecture, load_problem
from moeopt.writers.job import Job, job_of
from moeopt.writers.smoke import smoke

RECORD = Path(__file__).parent / "data" / "launch_validation.json"
MEMORY = "4TB"
"""The record's GPUs: large enough for any shape."""


@cache
def record() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(RECORD.read_text())["cases"]
    return cases


def name(case: dict[str, Any]) -> str:
    given = case["problem"]["architecture"]
    return str(given if isinstance(given, str) else given["name"])


def full_job(case: dict[str, Any]) -> Job:
    """The job of a recorded layout, before any scaling."""
    fields = {**case["problem"], "cluster": {"base": case["problem"]["cluster"], "memory": MEMORY}}
    return job_of(load_problem(fields), read_fields(Layout, case["layout"], "layout"))


def expressible(case: dict[str, Any], framework: str) -> bool:
    """Whether a framework takes the recorded layout: Megatron-Bridge's provider of hybrids has no virtual stages."""
    given = case["problem"]["architecture"]
    hybrid = load_architecture(given).is_hybrid
    return framework != "megatron-bridge" or not hybrid or case["layout"].get("vpp", 1) == 1


def job(case: dict[str, Any]) -> Job:
    """What was put to Megatron-LM: the layout, or its one-node version."""
    found = full_job(case)
    return smoke(found).job if case["run"] == "smoke" else found


def solution(
    layout: dict[str, Any] | None = None,
    gpus: int = 64,
    architecture: Any = "qwen3-30b-a3b",
    cluster: Any = "h100-sxm",
    **workload: Any,
) -> dict[str, Any]:
    """An evaluated layout as `evaluate --format json` prints it."""
    fields = {
        "architecture": architecture,
        "cluster": cluster,
        "gpus": gpus,
        "workload": {"sequence_length": 4096, "global_batch_size": 512, **workload},
    }
    chosen = {"tp": 2, "pp": 4, "ep": 8, "etp": 1, "vpp": 2} if layout is None else layout
    answer = evaluate(load_problem(fields), read_fields(Layout, chosen, "layout"))
    read: dict[str, Any] = json.loads(json.dumps(answer))
    return read
