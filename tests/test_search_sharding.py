"""The search where a problem fixes Megatron-FSDP or offloading: still the optimum of enumeration, still proven."""

import pytest

from enumeration import exhaustive_best, random_problem
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.search import solve

FIXES = (
    {"fsdp": "no_shard"},
    {"fsdp": "optim"},
    {"fsdp": "optim_grads"},
    {"fsdp": "optim_grads_params"},
    {"fsdp": "optim_grads_params", "fsdp_double_buffer": True},
    {"offload": ["qkv_linear"]},
    {"offload": ["core_attn", "attn_proj"], "fsdp": "optim_grads_params"},
    {"optimizer": {"offload_fraction": 0.5, "precision_aware": True}},
)
SEEDS = range(0, 48, 3)


def fixed(seed: int) -> Problem:
    problem = random_problem(seed)
    return problem.model_copy(update={"fix": {**problem.fix, **FIXES[seed // 3 % len(FIXES)]}})


@pytest.mark.parametrize("seed", SEEDS)
def test_the_solver_equals_the_sweep(seed: int) -> None:
    """The optimum is that of enumeration, the answer says the choice that was fixed, and evaluate says the same."""
    problem = fixed(seed)
    answer, expected = solve(problem, workers=1, explained=False), exhaustive_best(problem)
    if expected is None:
        assert answer["status"] == "infeasible"
        return
    assert answer["status"] == "optimal"
    assert answer["objective"]["value"] == answer["objective"]["bound"] == expected[0]
    if "fsdp" in problem.fix:
        assert answer["layout"]["fsdp"] == problem.fix["fsdp"]
    again = evaluate(problem, Layout(**answer["layout"]))
    assert again["status"] == "evaluated"
    assert all(again[part] == answer[part] for part in ("memory", "step_time"))
