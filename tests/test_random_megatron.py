"""Random architectures and layouts, against what Megatron-LM said of them (tests/data/megatron_random.json)."""

import json
from typing import Any

import pytest

import megatron_truth as truth
from moeopt.evaluation import evaluate
from moeopt.frameworks import megatron_core as mcore
from moeopt.frameworks.rules import Verdict
from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.resolve import complete
from moeopt.writers import megatron_lm
from moeopt.writers.job import job_of
from moeopt.writers.shell import words

DATA = truth.read("megatron_random")
ACCEPTED = [pytest.param(case, id=str(index)) for index, case in enumerate(DATA["accepted"])]
REFUSED = [pytest.param(case, id=f"{index}-{case['rule']}") for index, case in enumerate(DATA["refused"])]
NEVER = {"pipeline_mtp_first_rank", "pipeline_mtp_kind"}
"""Rules about layouts that Megatron accepts and trains otherwise than meant."""


def layout_of(case: dict[str, Any]) -> Layout:
    return read_fields(Layout, case["layout"], "layout")


def verdicts(case: dict[str, Any]) -> dict[str, Verdict]:
    problem = load_problem(case["problem"])
    return {verdict.rule: verdict for verdict in mcore.check(problem, complete(problem, layout_of(case)))}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_megatron_built_is_legal_and_counted(case: dict[str, Any]) -> None:
    """A layout that Megatron accepted breaks no rule, has its number of micro-batches, and every stage holds the
    parameters that it built, dense and expert apart."""
    answer = evaluate(load_problem(case["problem"]), layout_of(case))
    assert [rule["rule"] for rule in answer["rules"] if not rule["holds"]] == []
    assert answer["layout"]["num_microbatches"] == case["num_microbatches"]
    assert [[stage["dense"], stage["expert"]] for stage in answer["parameters"]["per_stage"]] == case["stages"]


@pytest.mark.parametrize("case", [case for case in ACCEPTED if "buffers" in case.values[0]])
def test_buffers_are_those_of_its_distributed_data_parallel(case: dict[str, Any]) -> None:
    """Elements with and without bucket padding, buckets and shards of every buffer of every chunk, to the last one."""
    answer = evaluate(load_problem(case["problem"]), layout_of(case))
    keys = ("numel", "numel_unpadded", "buckets", "shards")
    asked = keys if case["layout"]["distributed_optimizer"] else keys[:2]
    for stage, built in zip(answer["ddp_buffers"], case["buffers"], strict=True):
        found = [
            [number, kind, *(chunk[kind][key] for key in asked)]
            for number, chunk in enumerate(stage["chunks"])
            for kind in ("dense", "expert")
            if chunk[kind]["numel"]
        ]
        assert found == [row[: 2 + len(asked)] for row in built]


@pytest.mark.parametrize("case", REFUSED)
def test_what_megatron_refused_breaks_the_rule(case: dict[str, Any]) -> None:
    """The rule is broken with an equation, and said to be checked at launch exactly where Megatron stopped there."""
    verdict = verdicts(case)[case["rule"]]
    assert verdict.holds is False
    assert any(digit in verdict.equation for digit in "0123456789")
    assert verdict.checked == ("launch" if "reason" in case else "never")


def test_what_was_built_otherwise_is_another_count() -> None:
    """Where Megatron accepts what these rules refuse, its stages hold something else than the layout says."""
    built = [case for case in DATA["refused"] if "built" in case]
    assert {case["rule"] for case in built} == NEVER
    for case in built:
        answer = evaluate(load_problem(case["problem"]), layout_of(case))
        assert [[stage["dense"], stage["expert"]] for stage in answer["parameters"]["per_stage"]] != case["built"]


def test_the_record_is_about_what_it_says() -> None:
    """It holds MLA whose heads do not divide the hidden size (the arguments then give --kv-channels, which Megatron
    asks for) and a single expert under graphs of attention (no router is captured then)."""
    found = {json.dumps(case["problem"]["architecture"]): case for case in DATA["accepted"]}
    odd = [
        case
        for case in found.values()
        if "kv_lora_rank" in (a := case["problem"]["architecture"]) and a["hidden_size"] % a["num_attention_heads"]
    ]
    single = [
        case
        for case in found.values()
        if case["problem"]["architecture"].get("num_experts") == 1 and case["layout"]["cuda_graphs"] == "attention"
    ]
    assert odd
    assert single
    for case in odd:
        assert "--kv-channels" in arguments(case)
    for case in single:
        assert "moe_router" not in arguments(case)


def arguments(case: dict[str, Any]) -> list[str]:
    return words(megatron_lm.payload(job_of(load_problem(case["problem"]), layout_of(case))).groups)
