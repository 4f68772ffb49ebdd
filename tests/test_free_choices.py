"""Decisions that a problem frees: every value is tried, priced and launched, and without `free` nothing changes."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from free_cases import FEW, tiny
from moeopt.__main__ import run
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.time.terms import time_terms
from moeopt.cli.inputs import read_problem
from moeopt.configurations import every_mode, modes, recomputes
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.frameworks.megatron_core import choices_legal, legal
from moeopt.freedom import FREEABLE, freed, names, with_values
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, Layout, Recompute
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem
from moeopt.readers import read
from moeopt.readers.question import layout_fields, problem_fields
from moeopt.search import solve
from moeopt.space import enumerate_degrees, with_chunks
from moeopt.writers.write import launch

# What is tried ------------------------------------------------------------------------------------------------------


def test_without_free_nothing_is_new() -> None:
    """The modes, settings, groups and the answer's problem of a problem that frees nothing are what they were."""
    problem = tiny()
    plain = Choices()
    assert modes(problem) == every_mode(problem)
    assert modes(problem) == [
        plain.model_copy(
            update={"dispatcher": name, "overlap": plain.overlap.model_copy(update={"ep_all_to_all": hidden})}
        )
        for name in ("alltoall", "deepep")
        for hidden in (False, True)
    ]
    ladder = [setting.modules for setting in recomputes(problem)]
    assert ladder == [
        (),
        ("layernorm",),
        ("moe_act",),
        ("layernorm", "moe_act"),
        ("layernorm", "mlp", "moe_act"),
        ("layernorm", "mlp", "moe_act", "shared_experts"),
        ("layernorm", "moe"),
        ("layernorm", "mlp", "moe"),
        (),
    ]
    assert "free" not in problem.model_dump(mode="json")


def test_every_set_of_modules_is_tried_once() -> None:
    """Freed recompute is the power set of the modules that the architecture has, without parts of `moe` beside it; full
    by units of 1, 2, 4 or 8 layers, if there are so many; block_recompute adds full by block of 1, 2, ... layers, fewer
    than all unless there are MTP modules, which it leaves out. The usual settings are among it."""
    problem = tiny(free="recompute", workload={"attention_backend": "unfused"})
    there = set(RECOMPUTE_MODULES) - {"mla_up_proj"}
    sets = [
        set(chosen)
        for size in range(len(there) + 1)
        for chosen in combinations(sorted(there), size)
        if "moe" not in chosen or not {"moe_act", "shared_experts"} & set(chosen)
    ]
    tried, wider = recomputes(problem), recomputes(problem.model_copy(update={"free": ("block_recompute",)}))
    full = [Recompute(granularity="full", method="uniform", num_layers=layers) for layers in (1, 2, 4)]
    block = [Recompute(granularity="full", method="block", num_layers=layers) for layers in (1, 2, 3)]
    assert tried[-3:] == full
    assert [set(setting.modules) for setting in tried[:-3]] == sets
    assert wider == tried + block
    architecture = {**problem.architecture.model_dump(exclude_defaults=True), "num_nextn_predict_layers": 1}
    assert recomputes(tiny(free="block_recompute", architecture=architecture))[-1].block_layers == 4
    assert set(recomputes(tiny(workload={"attention_backend": "unfused"}))) < set(tried)


def test_modes_are_the_legal_ones() -> None:
    """Of all combinations of freed values exactly those are left that the framework allows for some recompute setting;
    what a value needs of decisions that nobody made follows it."""
    problem = tiny(free=["optimizer", "distributed_optimizer", "cuda_graphs", "dispatcher"])
    allowed = [
        mode
        for mode in every_mode(problem)
        if any(
            choices_legal(problem, mode.model_copy(update={"recompute": setting})) for setting in recomputes(problem)
        )
    ]
    assert modes(problem) == allowed
    off = [mode for mode in allowed if not mode.distributed_optimizer]
    assert off
    assert not any(mode.overlap.param_gather or mode.optimizer.precision_aware for mode in off)
    assert {mode.dispatcher for mode in allowed} == {"alltoall", "deepep", "hybridep", "allgather"}
    assert {mode.cuda_graphs for mode in allowed} == {"none", "router", "attention", "full_iteration"}
    (only,) = modes(tiny(free="distributed_optimizer", fix={"dispatcher": "alltoall", "overlap": {"param_gather": True,
                    "ep_all_to_all": False}}))  # fmt: skip
    assert only.distributed_optimizer


def test_a_decision_that_a_question_fixes_is_not_free() -> None:
    """`fix` wins where a question about one layout adds it to a problem that frees the same."""
    problem = tiny(free=["overlap", "recompute"])
    asked = problem.model_copy(update={"fix": {"recompute": "none", "overlap": {"tp_comm": False}}})
    assert freed(asked) == freed(problem) - {"recompute", "overlap.tp_comm"}
    assert recomputes(asked) == [Recompute()]
    assert {mode.overlap.tp_comm for mode in modes(asked)} == {False}


def test_groups_are_the_default_and_its_multiples() -> None:
    """Freed groups: the default, 2 pp, 4 pp and all micro-batches where legal, each once; every row obeys the rules."""
    fields: dict[str, Any] = {"fix": {"pp": 2, "micro_batch_size": 1, "tp": 1}, "workload": {"global_batch_size": 24}}
    problem = tiny(gpus=2, free="interleave_group", **fields)
    degrees, _ = with_chunks(problem, enumerate_degrees(problem))
    found = {
        vpp: sorted(degrees.interleave_group[degrees.vpp == vpp].tolist()) for vpp in sorted({*degrees.vpp.tolist()})
    }
    assert found == {1: [2], 2: [2, 4, 8, 24], 3: [2, 4, 8, 24]}
    assert legal(problem, degrees, modes(problem)[0]).all()
    plain, _ = with_chunks(tiny(gpus=2, **fields), enumerate_degrees(problem))
    assert plain.interleave_group.tolist() == [2, 2, 2]


def _values() -> Iterator[tuple[str, Any]]:
    for decision in FREEABLE:
        if not decision.degree:
            shown = (value for value in decision.domain[1:] if getattr(value, "block_layers", 0) <= 1)
            yield from ((decision.name, value) for value in shown)


def _prices(problem: Problem, degrees: Degrees, choices: Choices) -> str:
    return repr((time_terms(problem, degrees, choices), memory_terms(problem, degrees, choices)))


@pytest.mark.parametrize(("name", "value"), [each for each in _values() if each[0] != "offload"], ids=str)
def test_every_value_has_its_price(name: str, value: Any) -> None:
    """No freed value is a word without consequence: some legal layout's time or memory terms differ from the default's
    (what the value needs of other decisions apart)."""
    base = tiny().architecture.model_dump(exclude_defaults=True)
    wide = {"kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64}
    backend = "fused" if name == "overlap.delay_wgrad" else "unfused"  # scores would be larger than what waits
    problem = tiny(architecture={**base, **wide}, workload={"attention_backend": backend}, free=[name])
    row = Degrees(2, 1, 1, 2, 2, 1, 2, 1, 1, 4, 1)
    settled: dict[str, Any] = {}
    if name.startswith("optimizer.") and name != "optimizer.precision_aware":
        settled = {"optimizer.precision_aware": True}
    elif name in ("distributed_optimizer", "overlap.grad_reduce"):
        settled = {"overlap.param_gather": False}
    elif name == "overlap.delay_wgrad":
        settled = {"overlap.ep_all_to_all": True}
    elif name == "fsdp_double_buffer":
        settled = {"fsdp": "optim_grads_params"}
    before = with_values(problem, Choices(), settled)
    after = with_values(problem, before, {name: value})
    assert _prices(problem, row, before) != _prices(problem, row, after)


# In and out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"free": ["optimzer"]}, "free.optimzer: no such decision can be freed; did you mean 'optimizer'?"),
        ({"free": "fdsp, offload"}, "free.fdsp: no such decision can be freed; did you mean 'fsdp'?"),
        ({"free": ["tp"]}, "free.tp: the search decides it already; leave it out here, or limit it"),
        (
            {"free": ["recompute"], "fix": {"recompute": "full"}},
            "free.recompute: fix decides recompute (as 'full'); a decision is fixed or free",
        ),
        (
            {"free": ["optimizer"], "fix": {"optimizer": {"main_grads": "bf16"}}},
            "free.optimizer: fix decides optimizer.main_grads (as {'main_grads': 'bf16'}); a decision is fixed or free",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_freed_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    """An unknown name, a decision that is always searched, and one that is fixed: the field, and why."""
    with pytest.raises(InputError) as error:
        tiny(**fields)
    assert str(error.value) == sentence


def test_the_command_line_frees(capsys: pytest.CaptureFixture[str]) -> None:
    """`--free` adds to what the file frees, repeated or with commas; a wrong name is one sentence and exit code 2; the
    help names every decision."""
    problem = read_problem({"gpus": "8", "free": ("recompute, cuda_graphs", "overlap.tp_comm")})
    assert problem.free == ("recompute", "cuda_graphs", "overlap.tp_comm")
    assert run(["solve", "--gpus", "8", "--free", "cuda_graph"]) == 2
    assert capsys.readouterr().err == (
        "error: free.cuda_graph: no such decision can be freed; did you mean 'cuda_graphs'?\n"
    )
    assert run(["solve", "--gpus", "8", "--free", "dispatcher", "--fix", "dispatcher=deepep"]) == 2
    assert capsys.readouterr().err.startswith("error: free.dispatcher: fix decides dispatcher (as 'deepep')")
    assert run(["solve", "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all(name in shown for name in names())


def test_the_documents_list_every_decision() -> None:
    """docs/search.md has every name that can be freed in its table, with as many values as are tried."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "search.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    values = {name: cell for left, cell in rows for name in re.findall(r"`([\w.]+)`", left)}
    assert all(decision.name in values for decision in FREEABLE)
    for decision in FREEABLE:
        if decision.values is None and not decision.degree:
            shown = re.sub(r"\(.*\)", "", values[decision.name]).split(",")
            words = {True: "on", False: "off"}
            assert [word.strip() for word in shown] == [words.get(value, value) for value in decision.domain]


def test_an_odd_name_lists_what_there_is() -> None:
    """Where nothing is near, every name is listed."""
    with pytest.raises(InputError) as error:
        tiny(free=["zzz"])
    assert all(name in str(error.value) for name in names())


def test_too_many_combinations_are_counted() -> None:
    """What would take days is refused with its size, before anything is listed."""
    everything = [name for name in names() if "." not in name]
    with pytest.raises(InputError, match=r"^free: .* make [\d,]+ combinations of choices, and at most 100,000 are"):
        solve(tiny(free=everything))
    with pytest.raises(InputError, match=r"^free: offload, optimizer make [\d,]+ legal combinations of choices"):
        solve(tiny(free=["offload", "optimizer"]))


def test_the_time_limit_ends_the_listing_too() -> None:
    """Where freed decisions make many modes, a time limit that is over before they are listed gives no bound."""
    answer = solve(tiny(free=["offload"]), workers=1, time_limit=0.001)
    assert answer["status"] == "unknown"


def test_fixed_degrees_may_need_what_is_free() -> None:
    """A fixed degree that only a freed value makes legal is not refused: 2048 tokens do not split over tp 4 and cp 512
    by sequence, and need not."""
    dense = {**tiny().architecture.model_dump(exclude_defaults=True), "num_experts": 0}
    for name in ("num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace"):
        dense.pop(name, None)
    dense["shared_expert_intermediate_size"] = 0
    fields = {
        "architecture": dense,
        "gpus": 4,
        "workload": {"sequence_length": 2050, "global_batch_size": 8},
        "fix": {"tp": 4, "cp": 1},
    }
    given = dict(tiny(**fields))
    with pytest.raises(InputError, match="sequence_by_cp_tp"):
        Problem.load(given)
    freely = Problem.load(given, free=["sequence_parallel"])
    answer = solve(freely, workers=1, explained=False)
    assert answer["status"] == "optimal"
    assert answer["layout"]["sequence_parallel"] is False


def test_an_infeasible_problem_names_its_constraint() -> None:
    """With groups freed a constraint on them is not blamed where some group satisfies it, and is where none does."""
    fix = {"pp": 2, "vpp": 2, "micro_batch_size": 1, "dispatcher": "alltoall"}
    fields: dict[str, Any] = {"fix": fix, "workload": {"global_batch_size": 24}, "free": "interleave_group"}
    within = tiny(constraints="interleave_group >= 8", **fields)
    answer = solve(within, workers=1, explained=False)
    assert answer["status"] == "optimal"
    assert answer["layout"]["interleave_group"] >= 8
    beyond = solve(tiny(constraints="interleave_group >= 25", **fields), workers=1)
    assert beyond["status"] == "infeasible"
    assert "constraint_1" in beyond["explanation"]["conflict"]


@pytest.mark.parametrize(
    "free",
    [
        ["recompute", "cuda_graphs"],
        ["optimizer"],
        ["distributed_optimizer", "overlap.grad_reduce"],
        ["interleave_group", "dispatcher"],
        ["offload"],
    ],
    ids=str,
)
def test_what_is_found_launches(free: list[str], tmp_path: Path) -> None:
    """A freed layout's script says every choice: read back, it is the same layout."""
    fix = {name: value for name, value in FEW.items() if name not in free and f"{name}.grad_reduce" not in free}
    if "interleave_group" in free:
        fix |= {"pp": 2, "vpp": 2}
    objective = "peak_memory" if {"optimizer", "offload"} & set(free) else "step_time"
    problem = tiny(free=free, fix=fix, objective=objective)
    answer = solve(problem, workers=1, explained=False)
    launch(answer, tmp_path, framework="megatron-lm", launcher="torchrun")
    reading = read(tmp_path)
    again = load_problem({**problem_fields(reading), "cluster": problem.cluster})
    found = evaluate(again, read_fields(Layout, layout_fields(reading, {}), "layout"))
    assert all(found[part] == answer[part] for part in ("layout", "gpus", "memory", "step_time"))
