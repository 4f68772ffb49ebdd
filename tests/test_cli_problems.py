"""The problem files that ship: readable, sourced, and saying what their comments say."""

from pathlib import Path

import pytest

from moeopt.accounting.parameters import count
from moeopt.problem.checks import check
from moeopt.problem.loading import load_problem_file

FOLDER = Path(__file__).parent.parent / "problems"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_problem_file_loads_passes_its_checks_and_names_its_source(path):
    """No file that ships is bad input, and each says where its numbers come from or that they are chosen."""
    problem = load_problem_file(path)
    check(problem)
    comment = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert any(word in comment for word in ("arXiv", "https://", "Source:", "deployment note"))


def test_enough_of_them_and_of_every_kind():
    """Dense and MoE, one GPU count free, tens of thousands of GPUs, long sequences, several clusters."""
    problems = [load_problem_file(path) for path in FILES]
    assert len(problems) >= 14
    assert any(not problem.architecture.is_moe for problem in problems)
    assert any(problem.architecture.is_mla for problem in problems)
    assert any(problem.gpu_range.max > 100_000 for problem in problems)
    assert any(problem.gpu_range.min < problem.gpu_range.max for problem in problems)
    assert any(problem.workload.sequence_length >= 131_072 for problem in problems)
    assert len({problem.cluster.name for problem in problems}) >= 3


def test_the_seed_has_the_parameters_of_its_own_script():
    """4,428,694,528 and not 30B: embedding and head 2 * 32,000 * 1,024; 16 layers of attention 4 * 1,024**2, experts
    64 * 2 * 1,024 * 2,048, router 64 * 1,024 and norms 2 * 1,024; one last norm of 1,024."""
    layer = 4 * 1024**2 + 64 * 2 * 1024 * 2048 + 64 * 1024 + 2 * 1024
    by_hand = 2 * 32_000 * 1024 + 16 * layer + 1024
    architecture = load_problem_file(FOLDER / "seed-deployment.yaml").architecture
    assert count(architecture).total == by_hand == 4_428_694_528
