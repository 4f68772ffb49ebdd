"""What `launch` writes, `evaluate --from` reads back: the same layout and the same integers, for every framework."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch_cases import expressible, full_job, name, record, solution
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem, presets
from moeopt.readers import read
from moeopt.readers.question import layout_fields, problem_fields
from moeopt.writers.job import Job, read_solution
from moeopt.writers.write import launch_files

SAME = ("gpus", "parameters", "memory", "step_time", "schedule", "layout")


def returned(job: Job, framework: str, folder: Path) -> dict[str, Any]:
    """The evaluation of what a launch's files say; the cluster is not in them."""
    for file, text in launch_files(job, job.answer, framework, "torchrun").items():
        (folder / file).write_text(text)
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
    case = record()[index]
    if not expressible(case, framework):
        with pytest.raises(InputError, match="takes no virtual stages"):
            returned(full_job(case), framework, tmp_path)
        return
    assert_same(full_job(case), framework, tmp_path)


CONSTANTS = (
    "rope_theta",
    "partial_rotary_factor",
    "rope_scaling",
    "rms_norm_eps",
    "norm_topk_prob",
    "routed_scaling_factor",
)


def constants(job: Job, framework: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The constants of a launch's architecture, given and read back from its files."""
    for file, text in launch_files(job, job.answer, framework, "torchrun").items():
        (folder / file).write_text(text)
    read_back = load_problem({**problem_fields(read(folder)), "cluster": job.problem.cluster, "gpus": job.gpus})
    given, found = (each.architecture.model_dump(include=set(CONSTANTS)) for each in (job.problem, read_back))
    return given, found


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
@pytest.mark.parametrize("architecture", sorted({name(case) for case in record()} & set(presets("architectures"))))
def test_constants_that_cost_nothing_come_back(framework: str, architecture: str, tmp_path: Path) -> None:
    """Rotary base and scaling, norm epsilon and routing weights are in the files, or a README says they are not."""
    found_cases = (case for case in record() if name(case) == architecture and expressible(case, framework))
    case = next(found_cases, None)
    if case is None:
        pytest.skip(f"{framework} takes none of its recorded layouts")
    given, found = constants(full_job(case), framework, tmp_path)
    if framework == "megatron-lm" and architecture == "kimi-k2":
        assert "YaRN constants beta_fast 1:" in (tmp_path / "README.md").read_text()
        given["rope_scaling"]["beta_fast"] = 32.0
    assert found == given


def test_constants_of_torchtitan_and_deepspeed_come_back(tmp_path: Path) -> None:
    """Each of the two says the constants in its own names."""
    for framework, architecture in (("torchtitan", "moonlight-16b-a3b"), ("deepspeed", "mixtral-8x7b")):
        overlap = {"grad_reduce": True, "param_gather": framework == "torchtitan"}
        layout = {"tp": 1, "pp": 1, "ep": 8, "etp": 1, "recompute": "full", "overlap": overlap}
        answer = solution(layout, 64, architecture)
        answer["problem"]["cluster"]["memory"] = 4 * 10**12
        answer["status"] = "evaluated"
        (tmp_path / framework).mkdir()
        given, found = constants(read_solution(answer), framework, tmp_path / framework)
        assert found == given


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


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_what_the_all_to_all_overlaps_comes_back(framework: str, tmp_path: Path) -> None:
    """Delayed weight gradients and a dispatcher's SMs are written, and read as they were."""
    overlap = {"ep_all_to_all": True, "delay_wgrad": True}
    layout = {"tp": 1, "pp": 1, "ep": 8, "etp": 1, "dispatcher": "deepep", "dispatcher_sms": 24, "overlap": overlap}
    answer = solution(layout, 16, "olmoe-1b-7b")
    answer["problem"]["architecture"]["qk_norm"] = "head"
    answer["status"] = "evaluated"
    assert_same(read_solution(answer), framework, tmp_path)


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_muon_comes_back(framework: str, distributed: bool, tmp_path: Path) -> None:
    """Muon is written as each framework names it, shared out or not, and read as it was, without a warning."""
    layout = {"ep": 8, "etp": 1, "distributed_optimizer": distributed, "overlap": {"param_gather": distributed}}
    answer = solution(layout, 16, "olmoe-1b-7b", optimizer="muon", muon_tp_mode="blockwise")
    answer["problem"]["architecture"]["qk_norm"] = "head"
    answer["status"] = "evaluated"
    assert_same(read_solution(answer), framework, tmp_path)
    reading = read(tmp_path)
    assert reading.workload["muon_tp_mode"] == "blockwise"
    assert not [each for each in reading.warnings if "layer-wise" in each["name"]]


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "nvfp4"])
@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_quantized_precisions_come_back(framework: str, precision: str, tmp_path: Path) -> None:
    """The precision is read back from its format and recipe, with the layers that stay in bf16, without a word about
    parameters: they are gathered as the ledger prices them."""
    ends = {"num_layers_at_start_in_bf16": 1, "num_layers_at_end_in_bf16": 3}
    given = {"base": "qwen3-30b-a3b", **ends}
    answer = solution({"tp": 1, "pp": 2, "ep": 8, "etp": 1}, 16, given, "b200", precision=precision)
    answer["status"] = "evaluated"
    assert_same(read_solution(answer), framework, tmp_path)
    reading = read(tmp_path)
    assert reading.workload["precision"] == precision
    assert ends.items() <= reading.architecture.items()
    assert not [each for each in reading.warnings if "param-gather" in each["name"]]


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_8_bit_parameters_come_back(framework: str, gathers: bool, tmp_path: Path) -> None:
    """fp8 with 16-bit parameters or with 8-bit ones, as it was."""
    answer = solution({"ep": 8, "etp": 1}, 16, "olmoe-1b-7b", "h100-sxm", precision="fp8", fp8_param_gather=gathers)
    answer["problem"]["architecture"]["qk_norm"] = "head"
    answer["status"] = "evaluated"
    assert_same(read_solution(answer), framework, tmp_path)
    assert read(tmp_path).workload.get("fp8_param_gather", False) is gathers


@pytest.mark.parametrize("grads", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_gradient_types_come_back(framework: str, precision: str, grads: str, tmp_path: Path) -> None:
    """Gradients are as wide as they were, whatever a framework takes them to be where nothing is said."""
    answer = solution({"tp": 1, "pp": 2, "ep": 8, "etp": 1, "optimizer": {"main_grads": grads}}, 16, "olmoe-1b-7b")
    answer["problem"]["workload"]["precision"] = precision
    answer["problem"]["architecture"]["qk_norm"] = "head"
    answer["status"] = "evaluated"
    assert_same(read_solution(answer), framework, tmp_path)
