"""What `launch` writes, `evaluate --from` reads back: the same layout and the same integers, for every framework."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch_cases import full_job, record, solution
from moeopt.errors import InputError
from moeopt.evaluate import evaluate
from moeopt.launch.job import Job, read_solution
from moeopt.launch.write import launch_files
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.readers import read
from moeopt.readers.question import layout_fields, problem_fields

SAME = ("gpus", "parameters", "memory", "step_time", "schedule", "layout")


def returned(job: Job, framework: str, folder: Path) -> dict[str, Any]:
    """The evaluation of what a launch's files say; the cluster is not in them."""
    for name, text in launch_files(job, job.answer, framework, "torchrun").items():
        (folder / name).write_text(text)
    reading = read(folder)
    problem = load_problem({**problem_fields(reading), "cluster": job.problem.cluster})
    layout = read_fields(Layout, layout_fields(reading, {}), "layout")
    answer: dict[str, Any] = json.loads(json.dumps(evaluate(problem, layout)))
    return answer


def assert_same(job: Job, framework: str, folder: Path) -> None:
    given, found = json.loads(json.dumps(job.answer)), returned(job, framework, folder)
    for field in SAME:
        assert found[field] == given[field], field


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
@pytest.mark.parametrize("index", range(0, len(record()), 4))
def test_recorded_launches_come_back(framework: str, index: int, tmp_path: Path) -> None:
    """Every kind of architecture and layout in the record keeps its layout, GPUs, bytes and nanoseconds."""
    assert_same(full_job(record()[index]), framework, tmp_path)


LAYOUTS = [
    {"tp": 2, "pp": 4, "ep": 8, "etp": 1, "vpp": 2},
    {"tp": 1, "pp": 4, "ep": 8, "etp": 1, "recompute": "full"},
    {"tp": 4, "pp": 1, "ep": 16, "etp": 1, "dispatcher": "deepep"},
    {"tp": 1, "pp": 1, "ep": 8, "etp": 1, "recompute": "full", "overlap": {"grad_reduce": True, "param_gather": False}},
    {
        "tp": 1,
        "pp": 1,
        "ep": 8,
        "overlap": {"grad_reduce": False, "param_gather": False},
        "distributed_optimizer": False,
    },
]
ARCHITECTURES = ["qwen3-30b-a3b", "moonlight-16b-a3b", "mixtral-8x7b"]


@pytest.mark.parametrize("framework", ["torchtitan", "deepspeed"])
def test_smaller_frameworks_come_back_too(framework: str, tmp_path: Path) -> None:
    """What torchtitan and DeepSpeed can express comes back; what they refuse was never written."""
    came = 0
    for architecture in ARCHITECTURES:
        for number, layout in enumerate(LAYOUTS):
            answer = solution(layout, 64, architecture)
            answer["problem"]["cluster"]["memory"] = 4 * 10**12
            answer["status"] = "evaluated"
            folder = tmp_path / f"{architecture}-{number}"
            folder.mkdir()
            try:
                job = read_solution(answer)
                launch_files(job, job.answer, framework, "torchrun")
            except InputError:
                continue
            assert_same(job, framework, folder)
            came += 1
    assert came >= 2
