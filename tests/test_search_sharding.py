"""The search where a problem fixes Megatron-FSDP or offloading: still the optimum of enumeration, still proven."""

from collections.abc import Callable

import pytest

from enumeration import exhaustive_best, random_problem
from moeopt.accounting.time.terms import time_terms
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of
from moeopt.search import solve
from test_block_recompute import block_problem

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


@pytest.mark.parametrize("make", [random_problem, block_problem])
def test_recomputation_hides_the_communication_of_fsdp(make: Callable[[int], Problem]) -> None:
    """Where links are so slow that backward passes wait for gathers and reductions, recomputing takes no time up to
    there: the optimum is that of enumeration, and of some problems it recomputes layers whose passes wait."""
    waiting = 0
    for seed in range(12):
        problem = make(seed)
        links = ("nvlink_bandwidth_bytes_per_s", "network_bandwidth_bytes_per_s")
        slow = problem.cluster.model_copy(update={name: getattr(problem.cluster, name) / 40 for name in links})
        fix = {**problem.fix, "fsdp": "optim_grads_params"}
        problem = problem.model_copy(update={"cluster": slow, "fix": fix})
        answer, expected = solve(problem, workers=1, explained=False), exhaustive_best(problem)
        assert (answer["status"] == "infeasible") == (expected is None)
        if expected is None:
            continue
        assert answer["objective"]["value"] == answer["objective"]["bound"] == expected[0]
        layout = Layout(**answer["layout"])
        terms = time_terms(problem, degrees_of(layout), layout.choices)
        waiting += layout.recompute.granularity != "none" and max(terms.idle_ns.values()) > 0
    assert waiting
