"""Chains of objectives, targets among the limits, and the cost of a trillion tokens."""

import random
from typing import Any

import pytest

from enumeration import random_problem
from moeopt.errors import InputError
from moeopt.frontier.goals import GOALS
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.search import solve
from test_frontier_brute_force import every_point

NAMES = ("step_time", "peak_memory", "gpus", "cost")
TINY: dict[str, Any] = {
    "architecture": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 1000,
        "intermediate_size": 512,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
    },
    "cluster": "h100-sxm",
    "gpus": {"min": 1, "max": 4},
    "workload": {"sequence_length": 1024, "global_batch_size": 8},
    "limits": {"micro_batch_size": {"max": 2}, "vpp": {"max": 2}, "cp": {"max": 1}},
    "fix": {"recompute": "none", "dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}},
}


def tiny(**changes: Any) -> Problem:
    return load_problem({**TINY, **changes})


@pytest.mark.parametrize("seed", range(40))
def test_a_chain_is_lexicographic(seed: int) -> None:
    """Each objective of a chain has its least value among the layouts that reach those before it, by enumeration."""
    names = random.Random(seed).sample(NAMES, 2 + seed % 3)
    problem = random_problem(seed).model_copy(update={"objective": names[0], "then": tuple(names[1:])})
    points = every_point(problem)
    answer = solve(problem, workers=1)
    if not points:
        assert answer["status"] == "infeasible"
        return
    expected = min(tuple(GOALS[name](*point) for name in names) for point in points)
    assert answer["status"] == "optimal"
    assert [item["name"] for item in answer["objectives"]] == names
    assert tuple(item["value"] for item in answer["objectives"]) == expected
    assert all(item["proven"] and item["bound"] == item["value"] for item in answer["objectives"])
    assert answer["objective"]["value"] == expected[0]


@pytest.mark.parametrize("share", [1.0, 1.5, 3.0])
def test_fewest_gpus_reach_a_step_time(share: float) -> None:
    """`gpus` under a step-time target: the smallest count of any layout that reaches it, and the fastest there."""
    points = every_point(tiny())
    target = int(share * min(time_ns for time_ns, _, _ in points))
    answer = solve(tiny(objective="gpus", limits={**TINY["limits"], "step_time": f"{target}ns"}), workers=1)
    gpus, time_ns = min((gpus, time_ns) for time_ns, _, gpus in points if time_ns <= target)
    assert answer["status"] == "optimal"
    assert [(item["name"], item["value"]) for item in answer["objectives"]] == [("gpus", gpus), ("step_time", time_ns)]
    assert all(item["proven"] for item in answer["objectives"])


def test_a_token_rate_is_a_step_time() -> None:
    """tokens_per_second asks for a step of at most tokens / rate, over all GPUs; an answer's problem reads back."""
    tokens = 1024 * 8
    problem = tiny(limits={**TINY["limits"], "tokens_per_second": "100K"})
    assert problem.constraints == (f"step_time <= {tokens * 10**9 // 100_000}ns",)
    assert load_problem(problem.model_dump(mode="json")) == problem
    answer = solve(problem, workers=1)
    assert tokens * 10**9 >= 100_000 * answer["step_time"]["total_ns"]
    assert solve(tiny(limits={**TINY["limits"], "tokens_per_second": "1T"}), workers=1)["status"] == "infeasible"


def test_a_chain_is_read_in_any_form() -> None:
    """`a,b`, a list, and objective with then are the same problem, and it reads back from its own fields."""
    chain = tiny(objective="cost, peak_memory")
    assert (chain.objective, chain.then) == ("cost", ("peak_memory",))
    assert tiny(objective=["cost", "peak_memory"]) == chain == tiny(objective="cost", then=["peak_memory"])
    assert load_problem(chain.model_dump(mode="json")) == chain
    assert "then" not in tiny().model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective": "cost,cost"}, "twice"),
        ({"objective": "cost,speed"}, "then"),
        ({"objective": ""}, "objective"),
        ({"limits": {"step_time": "soon"}}, "limits.step_time"),
        ({"limits": {"step_time": True}}, "limits.step_time"),
        ({"limits": {"step_time": 0}}, "limits.step_time"),
        ({"limits": {"tokens_per_second": 0}}, "limits.tokens_per_second"),
        ({"limits": {"tokens_per_second": "many"}}, "limits.tokens_per_second"),
    ],
)
def test_bad_chains_and_targets_name_their_field(changes: dict[str, Any], field: str) -> None:
    """Whatever cannot be read is one InputError that names the field."""
    with pytest.raises(InputError, match=field):
        tiny(**changes)


def test_cost_of_a_trillion_tokens() -> None:
    """GPU-hours are GPUs times step time over tokens, money is these at the cluster's price; none without a price."""
    answer = solve(tiny(gpus=4), workers=1)
    hours = 4 * answer["step_time"]["total_ns"] / 3.6e12 * 1e12 / (1024 * 8)
    cost = answer["cost"]
    assert cost["gpu_hours_per_trillion_tokens"] == pytest.approx(hours, rel=1e-3)
    assert cost["usd_per_trillion_tokens"] == pytest.approx(hours * cost["price_per_gpu_hour_usd"], rel=1e-3)
    free = solve(tiny(gpus=4, cluster={"base": "h100-sxm", "price_per_gpu_hour_usd": 0}), workers=1)["cost"]
    assert free["usd_per_trillion_tokens"] is None
    assert free["gpu_hours_per_trillion_tokens"] == cost["gpu_hours_per_trillion_tokens"]
