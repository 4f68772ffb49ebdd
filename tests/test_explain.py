"""Explanations of infeasible problems: every relaxation is a layout of the changed problem, judged by evaluate."""

from functools import cache
from typing import Any

import pytest

from moeopt.evaluation import evaluate
from moeopt.explain import explain
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.search import solve
from test_why_not import FIELDS

GIB = 2**30


def small(**changes: Any) -> dict[str, Any]:
    """Fields of a small problem; limits and fix are added to its own."""
    fields = {**FIELDS, **{name: value for name, value in changes.items() if name not in ("limits", "fix")}}
    for name in ("limits", "fix"):
        fields[name] = {**FIELDS[name], **changes.get(name, {})}
    return fields


def changed(fields: dict[str, Any], change: dict[str, Any]) -> Problem:
    """The problem after one of the changes that an explanation names."""
    what, to = change["change"], change["to"]
    fields = {**fields, "limits": dict(fields["limits"]), "fix": dict(fields["fix"])}
    workload = dict(fields["workload"])
    if what.startswith("drop fix_"):
        del fields["fix"][what.removeprefix("drop fix_")]
    elif what.startswith("drop limit_"):
        del fields["limits"][what.removeprefix("drop limit_")]
    elif what.startswith("drop constraint_"):
        number = int(what.removeprefix("drop constraint_")) - 1
        fields["constraints"] = [text for place, text in enumerate(fields["constraints"]) if place != number]
    elif what.startswith("drop"):
        fields |= {"fix": {}, "limits": {}, "constraints": []}
    elif what == "gpus":
        fields["gpus"] = to
    elif what in ("sequence_length", "global_batch_size"):
        fields["workload"] = {**workload, what: to}
    elif what == "limits.peak_memory":
        fields["limits"]["peak_memory"] = to
    elif what == "cluster.memory":
        fields["cluster"] = {"base": fields["cluster"], "memory": to}
    elif what == "cluster":
        fields["cluster"] = to
    elif what == "optimizer.offload_fraction":
        fields["fix"]["optimizer"] = {"precision_aware": True, "offload_fraction": to}
    else:
        raise AssertionError(what)
    return load_problem(fields)


@cache
def too_little() -> int:
    """A MiB less than the lightest layout of the small problem needs."""
    lightest = solve(load_problem(small(objective="peak_memory")), workers=1)
    return int(lightest["memory"]["peak_bytes"]) - 2**20


@cache
def case(name: str) -> dict[str, Any]:
    """Fields of an infeasible problem."""
    one = {"max": 1}
    return {
        "memory": lambda: small(limits={"peak_memory": too_little()}),
        "a small gpu": lambda: small(cluster={"base": "h100-sxm", "memory": GIB}),
        "hopeless": lambda: small(limits={"peak_memory": GIB}),
        "fix": lambda: small(fix={"tp": 4, "pp": 2}),
        "limits": lambda: small(limits={"ep": {"min": 4}, "etp": {"min": 2}}),
        "constraints": lambda: small(constraints=["tp * cp >= 4", "pp >= 2"]),
        "rules": lambda: small(fix={"overlap": {"ep_all_to_all": True}, "pp": 2}, limits={"vpp": one}),
        "layers": lambda: small(constraints=["layers[1] >= 4 and layers[0] >= 1"], fix={"pp": 2}),
        "batch": lambda: small(gpus=8, limits={"cp": one, "tp": one, "pp": one, "num_microbatches": {"min": 2}}),
    }[name]()


CASES = ["memory", "a small gpu", "hopeless", "fix", "limits", "constraints", "rules", "layers", "batch"]


@pytest.mark.parametrize("name", CASES)
def test_every_relaxation_is_a_layout_of_the_changed_problem(name):
    """Legal, within memory and constraints, with the figures that the explanation gives."""
    fields = case(name)
    answer = solve(load_problem(fields), workers=1)
    assert answer["status"] == "infeasible"
    explanation = answer["explanation"]
    assert explanation["conflict"]
    assert explanation["minimal"]
    assert [member["rule"] for member in explanation["members"]] == explanation["conflict"]
    assert all(member["text"] for member in explanation["members"])
    assert explanation["relaxations"], "nothing helps"
    for change in explanation["relaxations"]:
        judged = evaluate(changed(fields, change), change["layout"])
        broken = [rule for rule in judged["rules"] if rule["holds"] is False]
        assert judged["status"] == "evaluated", (change["change"], broken)
        assert judged["step_time"]["total_ns"] == change["step_time_ns"]
        assert judged["memory"]["peak_bytes"] == change["peak_bytes"], change["change"]
        assert judged["gpus"]["total"] == change["gpus"]
        assert change["text"] in explanation["text"]
    costs = [
        change["gpus"] * change["step_time_ns"] / _tokens(changed(fields, change))
        for change in explanation["relaxations"]
    ]
    assert costs == sorted(costs)


def _tokens(problem: Problem) -> int:
    return problem.workload.global_batch_size * problem.workload.sequence_length


@pytest.mark.parametrize(
    ("name", "conflict"),
    [
        ("hopeless", {"memory_fits", "limit_peak_memory"}),
        ("a small gpu", {"memory_fits"}),
        ("fix", {"fix_tp", "fix_pp", "gpu_total_dense"}),
        ("limits", {"limit_ep", "limit_etp", "gpu_total_dense", "gpu_total_expert"}),
        ("constraints", {"constraint_1", "constraint_2", "gpu_total_dense"}),
        ("rules", {"fix_overlap", "fix_pp", "limit_vpp", "ep_overlap_needs_vpp"}),
    ],
)
def test_the_conflict_is_what_was_put_there(name, conflict):
    """Problems that are infeasible for one reason only: exactly this reason is named."""
    found = explain(load_problem(case(name)), workers=1, with_relaxations=False)
    assert set(found["conflict"]) == conflict


def test_a_memory_conflict_says_how_many_bytes_where_and_under_which_layout():
    """The bytes of the lightest layout found, the excess over the limit, and a bound that holds for all."""
    problem = load_problem(case("memory"))
    text = explain(problem, workers=1, with_relaxations=False)["text"]
    assert f"more than the {too_little()}" in text
    assert "on stage" in text
    assert "tp " in text


def test_without_explanation_only_the_status_is_told():
    """For programs that solve thousands of problems."""
    answer = solve(load_problem(case("fix")), workers=1, explained=False)
    assert (answer["status"], answer["explanation"]) == ("infeasible", {})
