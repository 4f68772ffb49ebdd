"""Types of gradient buffers: what a launch asks for is what is priced, and what is read back."""

from pathlib import Path

import pytest

from launch_cases import solution
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.readers import read
from moeopt.writers.job import job_of
from moeopt.writers.megatron_lm import payload
from moeopt.writers.shell import words


@pytest.mark.parametrize(
    ("precision", "gradients", "flag"),
    [
        ("bf16", "fp32", None),
        ("bf16", "bf16", "--grad-reduce-in-bf16"),
        ("fp16", "fp32", "--accumulate-allreduce-grads-in-fp32"),
        ("fp16", "bf16", None),
    ],
)
def test_gradients_have_the_type_that_is_priced(
    precision: str, gradients: str, flag: str | None, tmp_path: Path
) -> None:
    """Megatron accumulates in fp32 by default with bf16 parameters and in 16 bits with fp16: the launch says whatever
    differs, the bytes are 4 or 2 an element, and the script read back gives the same type."""
    fields = {"ep": 8, "etp": 1, "optimizer": {"main_grads": gradients}}
    answer = solution(fields, precision=precision)
    stage = answer["memory"]["per_stage"][0]
    assert stage["gradients_bytes"] == (2 if gradients == "fp32" else 1) * stage["weights_bytes"]
    asked = load_problem(
        {
            "architecture": "qwen3-30b-a3b",
            "cluster": "h100-sxm",
            "gpus": 64,
            "workload": {"sequence_length": 4096, "global_batch_size": 512, "precision": precision},
        }
    )
    line = words(payload(job_of(asked, read_fields(Layout, answer["layout"], "layout"))).groups)
    both = {"--grad-reduce-in-bf16", "--accumulate-allreduce-grads-in-fp32"}
    assert both & set(line) == ({flag} if flag else set())
    script = tmp_path / "run.sh"
    script.write_text(f"torchrun --nproc-per-node 8 --nnodes 8 pretrain_gpt.py {' '.join(line)}\n")
    assert read(script).layout["optimizer"]["main_grads"] == gradients
