"""moeopt's verdict on layouts that were put to Megatron-Core itself, and the rule that decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from moeopt.errors import InputError
from moeopt.frameworks import megatron_core as mcore
from moeopt.frameworks.rules import Verdict
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.resolve import complete, pipeline_of
from rule_problems import CLUSTER

DATA = json.loads((Path(__file__).parent / "data" / "megatron_legality.json").read_text(encoding="utf-8"))
CASES = {case["id"]: case for case in DATA["cases"]}
RULE_OF = {
    "world-ep-pp": "gpu_total_expert",
    "heads-tp3": "heads_by_tp",
    "heads-tp32": "heads_by_tp",
    "heads-tp64-mixtral": "heads_by_tp",
    "kv-groups": "kv_groups_by_tp",
    "experts-ep24": "experts_by_ep",
    "ep-dense": "ep_needs_experts",
    "moe-ffn-etp": "expert_ffn_by_etp",
    "moe-ffn-etp-odd": "expert_ffn_by_etp",
    "shared-ffn-tp": "shared_expert_ffn_by_tp",
    "dense-ffn-tp": "dense_ffn_by_tp",
    "kv-lora-sp": "heads_by_tp",
    "layers-pp32": "pipeline_even_split",
    "vpp-nodiv": "pipeline_even_split",
    "vpp-too-many": "pipeline_even_split",
    "vpp-no-pp": "vpp_needs_pp",
    "layout-layers": "pipeline_layers",
    "layout-mtp-missing": "pipeline_mtp_count",
    "cp3-seq": "sequence_by_cp",
    "sp-seq": "sequence_by_cp_tp",
    "moe-tp-no-sp": "moe_tp_needs_sequence_parallel",
    "vpp-microbatches": "interleave_group_rest",
    "distopt-instances": "instances_by_dp_cp",
}
"""The rule that each refused case is about."""
BAD_INPUT = {
    "heads-kv-model": "num_attention_heads 16 is not a multiple of num_key_value_heads 6",
    "router-groups": "num_experts 256 is not a multiple of n_group 7",
    "uneven-first-only": "13 layers % 3 ranks between = 1",
    "uneven-first-all": "16 layers - 16 = 0 for 3 ranks between",
    "uneven-first-over": "16 layers - 19 = -3 for 3 ranks between",
    "uneven-pp2-sum": "16 layers - 10 - 5 = 1 for 0 ranks between",
    "uneven-pp1": "16 layers - 8 = 8 for 0 ranks between",
    "uneven-vpp": "layers per rank 3 % vpp 2 = 1",
    "uneven-acc": "first and last exclude account_for_embedding",
    "acc-embed": "layers 17 % pp 4 = 1",
    "acc-embed-vpp": "layers per rank 6 % vpp 4 = 2",
    "layout-and-first": "a layout string excludes first, last",
}
"""Refused before any rule is asked: an architecture that cannot be built, options that describe no pipeline layout."""
STRICTER = {
    "sp-seq": "run: the first reduce-scatter over tokens asserts divisibility, the launcher does not",
    "moe-tp-no-sp": "run: the first forward pass of a MoE layer in training raises",
    "vpp-microbatches": "run: the interleaved schedule raises before its first micro-batch",
    "uneven-first-over": "never: the other ranks would get -1 layers each and the layers built still add up",
}
"""Cases that Megatron accepted when asked to launch and moeopt refuses, and who would notice."""
NOT_EXPRESSIBLE = {
    "bad-flag": "a flag that does not exist: moeopt writes flags, it does not read them",
    "vpp-both": "two flags that both say vpp: a layout has one field for it",
    "vocab-tp": "a vocabulary without padding: moeopt pads to make_vocab_size_divisible_by * tp, as the launcher does",
    "etp-ep-bias-ggemm": "bias_dropout_fusion with biased experts: a flag that no layout field sets",
}
"""Cases about something that no architecture, workload or layout of moeopt can say."""
OPTIONS = ("first", "last", "acc_embed", "acc_loss")


def to_problem(case: dict[str, Any], side: dict[str, Any]) -> Problem:
    architecture = {**DATA["architectures"][case["architecture_name"]], **side.get("architecture", {})}
    flags = side.get("flags", [])
    if architecture["num_experts"] == 0:
        architecture.update(num_experts_per_tok=0, moe_intermediate_size=0)
    if "--moe-router-num-groups" in flags:
        architecture.update(n_group=int(flags[1]), topk_group=int(flags[3]))
    workload = {
        "sequence_length": side.get("sequence_length", 4096),
        "global_batch_size": side["global_batch_size"],
    }
    fields = {"architecture": architecture, "cluster": CLUSTER, "gpus": side["gpus"], "workload": workload}
    return read_fields(Problem, fields, "problem")


def to_layout(problem: Problem, side: dict[str, Any]) -> Layout:
    given = side["layout"]
    fields = {name: given[name] for name in ("tp", "pp", "cp", "ep", "etp", "vpp") if name in given}
    fields["sequence_parallel"] = side.get("sequence_parallel", True)
    if "--num-distributed-optimizer-instances" in side.get("flags", []):
        fields["optimizer"] = {"instances": int(side["flags"][1])}
    if any(name in given for name in OPTIONS):
        fields["pipeline_layout"] = str(
            PipelineLayout.from_megatron_options(
                problem.architecture.num_hidden_layers,
                given.get("pp", 1),
                given.get("vpp", 1),
                mtp=problem.mtp_layers,
                first=given.get("first"),
                last=given.get("last"),
                account_for_embedding=given.get("acc_embed", False),
                account_for_loss=given.get("acc_loss", False),
                layout=given.get("pp_layout"),
            )
        )
    elif "pp_layout" in given:
        fields["pipeline_layout"] = given["pp_layout"]
    return read_fields(Layout, fields, "layout")


def judge(case: dict[str, Any], side: dict[str, Any]) -> list[Verdict]:
    problem = to_problem(case, side)
    return mcore.check(problem, complete(problem, to_layout(problem, side)))


def broken(case: dict[str, Any], side: dict[str, Any]) -> dict[str, Verdict]:
    return {verdict.rule: verdict for verdict in judge(case, side) if verdict.holds is False}


def test_every_case_has_its_answer_here():
    """Each recorded case is in exactly one table, or is one that Megatron accepts."""
    tables = [set(RULE_OF), set(BAD_INPUT), set(NOT_EXPRESSIBLE)]
    assert sum(map(len, tables)) == len(set.union(*tables))
    rest = set(CASES) - set.union(*tables)
    assert rest == {"kv-groups-tp-gt"}
    assert all(CASES[name]["case"]["verdict"] == "accepted" for name in rest)


def test_cases_where_moeopt_is_stricter_are_listed():
    """Megatron's recorded verdict is refused for every case that moeopt refuses, but for the listed ones."""
    refused_here = set(RULE_OF) | set(BAD_INPUT)
    accepted_there = {name for name, case in CASES.items() if case["case"]["verdict"] == "accepted"}
    assert refused_here & accepted_there == set(STRICTER)


@pytest.mark.parametrize("name", sorted(RULE_OF))
def test_refused_case_breaks_the_rule_it_is_about(name):
    """The layout is illegal, the rule that the case is about is broken, and its equation is an equation."""
    case = CASES[name]
    found = broken(case, case["case"])
    assert RULE_OF[name] in found, list(found)
    assert any(digit in found[RULE_OF[name]].equation for digit in "0123456789")


@pytest.mark.parametrize("name", sorted(RULE_OF))
def test_who_notices_is_what_was_recorded(name):
    """A rule said to be checked at launch was refused at launch; one of the first steps was not."""
    case = CASES[name]
    verdict = broken(case, case["case"])[RULE_OF[name]]
    assert verdict.checked == ("run" if name in STRICTER else "launch")


@pytest.mark.parametrize("name", sorted(BAD_INPUT))
def test_refused_input_says_why(name):
    """What describes no architecture or no pipeline layout is refused with its equation."""
    case = CASES[name]
    with pytest.raises(InputError) as refusal:
        judge(case, case["case"])
    assert BAD_INPUT[name] in str(refusal.value)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(NOT_EXPRESSIBLE)))
def test_neighbour_that_megatron_accepts_is_legal(name):
    """The recorded neighbour, which Megatron builds, breaks no rule."""
    case = CASES[name]
    assert case["sibling"]["verdict"] == "accepted"
    assert [verdict.rule for verdict in judge(case, case["sibling"]) if verdict.holds is not True] == []


def test_accepted_case_is_legal():
    """tp above the key-value heads is legal where the heads divide tp, as Megatron says."""
    case = CASES["kv-groups-tp-gt"]
    assert broken(case, case["case"]) == {}


@pytest.mark.parametrize("name", sorted(NOT_EXPRESSIBLE))
def test_skipped_cases_differ_only_in_what_moeopt_cannot_say(name):
    """Without the part that moeopt has no word for, such a case is the same question as its legal neighbour."""
    case, sibling = dict(CASES[name]["case"]), CASES[name]["sibling"]
    assert case["verdict"] == "refused"
    unsaid = {"flags", "vocab_size", "verdict", "answers", "layers_of_rank"}
    assert {k: v for k, v in case.items() if k not in unsaid} == {k: v for k, v in sibling.items() if k not in unsaid}


def built_by_megatron() -> list[Any]:
    found = []
    for name, case in CASES.items():
        for side in ("case", "sibling"):
            layers = case[side].get("layers_of_rank")
            if layers is not None and name not in STRICTER:
                found.append(pytest.param(case, case[side], layers, id=f"{name}-{side}"))
    return found


@pytest.mark.parametrize(("case", "side", "layers"), built_by_megatron())
def test_each_rank_holds_the_layers_that_megatron_built(case, side, layers):
    """Layer by layer, every pipeline rank's chunks are those that Megatron-Core built."""
    problem = to_problem(case, side)
    pipeline = pipeline_of(complete(problem, to_layout(problem, side)))
    ours = [
        [layer + 1 for chunk in pipeline.of_rank(rank) for layer in range(chunk.first, chunk.last)]
        for rank in range(pipeline.pp)
    ]
    assert ours == layers


PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_layouts.json").read_text(encoding="utf-8"))["rows"]
NOT_ITS_OWN_GPUS = {"bridge-25.09-pretrain-DeepSeekV3-GB200-FP8-MX-g256-gbs2048-tokendrop"}
"""Published with pp 8 and ep 64 on 256 GPUs: parallel_state.py:880-884 refuses that, so the row misquotes its run."""


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["id"])
def test_layouts_that_ran_are_legal(row):
    """No rule refuses a layout that was run and measured (how it split its layers is often not published)."""
    problem = load_problem(
        {
            **{name: row[name] for name in ("architecture", "cluster", "gpus")},
            "workload": {
                **{name: row[name] for name in ("sequence_length", "global_batch_size", "precision")},
                "mtp": "m" in row["layout"].get("pipeline_layout", ""),
            },
        }
    )
    done = complete(problem, read_fields(Layout, row["layout"], "layout"))
    found = {verdict.rule for verdict in mcore.check(problem, done) if verdict.holds is False}
    if "pipeline_layout" not in row["layout"]:
        found.discard("pipeline_even_split")
    assert found == ({"gpu_total_expert"} if row["id"] in NOT_ITS_OWN_GPUS else set())
