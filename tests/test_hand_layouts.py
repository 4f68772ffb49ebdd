"""Hand-written pipeline layouts of public recipes against ours, under the same evaluation."""

import pytest

from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.search import solve

STRINGS = {
    (8, 1): "Et*8|(t*8|)*6t*5mL",
    (16, 1): "Et*4|(t*4|)*14tmL",
    (8, 2): "Et*4|(t*4|)*14tmL",
}
"""Megatron-Bridge, recipes/deepseek/deepseek_v3.py: some of the pairs of its table, with one MTP module."""
DEGREES = {"tp": 2, "cp": 1, "ep": 64, "etp": 1, "micro_batch_size": 1, "dispatcher": "deepep", "recompute": "none"}


def problem_of(pp: int, vpp: int) -> Problem:
    workload = {"sequence_length": 4096, "global_batch_size": 4096, "precision": "bf16"}
    fix = {**DEGREES, "pp": pp, "vpp": vpp, "overlap": {"ep_all_to_all": False}}
    return Problem(architecture="deepseek-v3", cluster="h200", gpus=1024, workload=workload, fix=fix)


@pytest.mark.parametrize(("pp", "vpp"), STRINGS)
def test_ours_is_never_worse_by_the_ledger(pp: int, vpp: int) -> None:
    """With the recipe's degrees fixed, the optimum's step is at most that of the recipe's own layout, which is legal;
    and no bound on the replayed step is above the recipe's replay."""
    problem = problem_of(pp, vpp)
    theirs = evaluate(problem, Layout(pp=pp, vpp=vpp, pipeline_layout=STRINGS[pp, vpp]))
    assert theirs["status"] == "evaluated"
    ours = solve(problem, workers=2, time_limit=60)
    assert ours["step_time"]["total_ns"] <= theirs["step_time"]["total_ns"]
    assert ours["schedule"]["lower_bound_ns"] <= theirs["schedule"]["simulated_ns"]


@pytest.mark.parametrize(("pp", "vpp"), [(8, 1), (16, 1)])
def test_ours_is_never_worse_by_the_replay(pp: int, vpp: int) -> None:
    """With --certify, the replayed step is at most that of the recipe's layout, and proven the best of all."""
    problem = problem_of(pp, vpp)
    theirs = evaluate(problem, Layout(pp=pp, vpp=vpp, pipeline_layout=STRINGS[pp, vpp]))
    ours = solve(problem, workers=2, time_limit=60, certify=True)
    assert ours["schedule"]["certified"]
    assert ours["schedule"]["simulated_ns"] <= theirs["schedule"]["simulated_ns"]
