"""`--why-not`: the rule that a layout breaks, the bytes it lacks, or what it loses; against evaluate and solve."""

import json
from typing import Any

import pytest
import yaml

from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.explain.why_not import why_not
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.search import solve

GIB = 2**30
ARCHITECTURE = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8000,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
}
FIELDS: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "cluster": "h100-sxm",
    "gpus": 4,
    "workload": {"sequence_length": 2048, "global_batch_size": 8},
    "fix": {"recompute": "none", "dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}},
    "limits": {"vpp": {"max": 2}, "micro_batch_size": {"max": 2}},
}


def small(**changes: Any) -> Problem:
    """A problem that is solved in a moment."""
    return load_problem({**FIELDS, **changes})


@pytest.fixture(scope="module")
def best() -> dict[str, Any]:
    return solve(small(), workers=1)


def test_the_best_layout_is_told_so(best):
    """Asked about the optimum itself, in full or by its degrees, nothing stands against it."""
    whole = why_not(small(), best["layout"], best, workers=1)
    assert whole["verdict"] == "best"
    degrees = {name: best["layout"][name] for name in ("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size")}
    assert why_not(small(), degrees, best, workers=1)["verdict"] == "best"


@pytest.mark.parametrize("given", [{"tp": 4}, {"tp": 2, "pp": 2}, {"pp": 4, "ep": 1}, {"cp": 4, "micro_batch_size": 2}])
def test_a_worse_layout_loses_what_the_parts_say(best, given):
    """The open decisions are the best for those made, and parts add up to the difference of the totals."""
    found = why_not(small(), given, best, workers=1)
    fixed = solve(small(fix={**FIELDS["fix"], **given}), workers=1)
    assert found["completed"] == fixed["layout"]
    assert found["verdict"] == "worse"
    assert found["proven"]
    assert found["objective"]["given"] == fixed["objective"]["value"] > found["objective"]["best"]
    totals = found["step_time"]
    assert sum(part["given_ns"] for part in found["parts"]) == totals["given_ns"]
    assert sum(part["best_ns"] for part in found["parts"]) == totals["best_ns"]
    assert sum(part["difference_ns"] for part in found["parts"]) == found["objective"]["difference"]


def test_a_layout_of_another_placement_is_held_to_it(best):
    """A given pipeline layout stays as it is while the rest is decided."""
    text = "Ettt|tL"
    found = why_not(small(), {"pp": 2, "pipeline_layout": text}, best, workers=1)
    assert found["verdict"] == "worse"
    assert found["completed"]["pipeline_layout"] == "Et*3|tL"
    assert evaluate(small(), found["completed"])["objective"]["value"] == found["objective"]["given"]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"tp": 3}, "gpu_total_dense"),
        ({"tp": 4, "pp": 2}, "gpu_total_dense"),
        ({"ep": 8}, "gpu_total_expert"),
        ({"recompute": "full"}, "fix_recompute"),
        ({"vpp": 3, "pp": 2}, "limit_vpp"),
        ({"pp": 2, "pipeline_layout": "Ett|tL"}, "pipeline_layers"),
        ({"pp": 2, "vpp": 2, "pipeline_layout": "Ett|ttL"}, "pipeline_stages"),
    ],
)
def test_a_broken_rule_is_named_with_its_equation(best, given, rule):
    """Degrees that no layout has, and decisions that the problem has made otherwise."""
    found = why_not(small(), given, best, workers=1)
    assert found["verdict"] == "illegal"
    broken = {each["rule"]: each["equation"] for each in found["rules"]}
    assert rule in broken
    assert broken[rule] in found["text"]


def test_a_rule_that_needs_open_decisions_is_a_conflict(best):
    """No decision is wrong alone, together with the problem's limit they leave nothing: the conflict says what."""
    given = {"pp": 2, "overlap": {"ep_all_to_all": True}}
    found = why_not(small(fix={}, limits={"vpp": {"max": 1}}), given, best, workers=1)
    assert found["verdict"] == "illegal"
    assert set(found["conflict"]) == {"fix_pp", "fix_overlap", "limit_vpp", "ep_overlap_needs_vpp"}
    assert found["minimal"]
    found = why_not(small(fix={}), {**given, "vpp": 1}, best, workers=1)
    assert [rule["rule"] for rule in found["rules"]] == ["ep_overlap_needs_vpp"]


def test_a_layout_that_does_not_fit_says_by_how_much():
    """A complete layout over the limit: stage and bytes are those of evaluate."""
    free = solve(small(), workers=1)
    tight = small(limits={**FIELDS["limits"], "peak_memory": free["memory"]["peak_bytes"] - 1})
    found = why_not(tight, free["layout"], solve(tight, workers=1), workers=1)
    assert found["verdict"] == "memory"
    assert found["memory"]["over_bytes"] == 1
    assert found["memory"]["stage"] == free["memory"]["peak_stage"]


def test_unknown_decisions_are_refused(best):
    """As a layout file's are."""
    with pytest.raises(InputError, match="did you mean 'tp'"):
        why_not(small(), {"tpp": 1}, best)


def test_the_command_line_asks_and_prints(tmp_path, monkeypatch, capsys):
    """JSON holds `why_not`, text the table of parts; the exit code is the solve's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(FIELDS))
    assert run(["solve", "p.yaml", "--why-not", "tp=4", "-q", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "optimal"
    assert answer["why_not"]["verdict"] == "worse"
    assert run(["solve", "p.yaml", "--why-not", "tp=4", "-q"]) == 0
    out = capsys.readouterr().out
    assert "Why not tp 4" in out
    assert "difference" in out
    assert run(["solve", "p.yaml", "--why-not", "tpp=4", "-q"]) == 2
    assert capsys.readouterr().err.startswith("error: why-not")


def test_a_recompute_by_block_is_completed():
    """A layout with full recompute by block that leaves degrees open is completed to the best one that has it."""
    free = small(fix={})
    best = solve(free, workers=1)
    block = {"granularity": "full", "method": "block", "num_layers": 2}
    answer = why_not(free, {"recompute": block}, best, workers=1)
    completed = solve(small(fix={"recompute": block}), workers=1)
    assert answer["verdict"] == "worse"
    assert answer["completed"]["recompute"] == completed["layout"]["recompute"]
    assert answer["objective"]["given"] == completed["objective"]["value"] > best["objective"]["value"]
