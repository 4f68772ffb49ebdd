"""Legal input that asks for something odd: no schedule, options without the one they complete, two files in one."""

import json
from pathlib import Path

import pytest
import yaml

from example_answer import ARCHITECTURE
from moeopt import evaluate as judge
from moeopt import solve
from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.problem.loading import load_problem


@pytest.fixture
def problem(tmp_path, monkeypatch):
    """A small problem file in an empty folder: 16 GPUs, 24 sequences a step."""
    monkeypatch.chdir(tmp_path)
    fields = {"architecture": ARCHITECTURE, "cluster": "h100-sxm", "gpus": 16, "workload": {"global_batch_size": 24}}
    Path("problem.yaml").write_text(yaml.safe_dump(fields))
    return fields


@pytest.mark.parametrize(
    ("layout", "rule"),
    [
        ({"pp": 4, "vpp": 2, "ep": 4}, "interleave_group_rest"),
        ({"pp": 4, "vpp": 2, "ep": 4, "interleave_group": 5}, "interleave_group_rest"),
        ({"pp": 4, "vpp": 2, "ep": 4, "interleave_group": 1}, "interleave_group_size"),
        ({"pp": 4, "vpp": 2, "ep": 4, "interleave_group": 0}, "interleave_group_size"),
        ({"pp": 4, "vpp": 2, "ep": 4, "interleave_group": 7}, "interleave_group_size"),
        ({"pp": 4, "vpp": 2, "ep": 4, "micro_batch_size": 6}, "interleave_group_size"),
        ({"pp": 1, "vpp": 2, "ep": 4}, "vpp_needs_pp"),
    ],
)
def test_a_schedule_that_does_not_exist_is_a_broken_rule(problem, layout, rule):
    """A layout without an order of operations is illegal like any other: its rule is named, nothing is raised."""
    answer = judge(load_problem(problem), layout)
    assert answer["status"] == "illegal"
    assert rule in {verdict["rule"] for verdict in answer["rules"] if not verdict["holds"]}


@pytest.mark.usefixtures("problem")
def test_such_a_layout_can_be_asked_about_everything(capsys):
    """Claims, suggestion and why-not of a layout that cannot be priced: exit 1 or 0, never bad input."""
    layout = "pp=4,vpp=2,ep=4"
    command = ["evaluate", "problem.yaml", "--layout", layout, "--format", "json", "-q"]
    assert run([*command, "--claim", "gpus=16", "--claim", "memory=80GB", "--suggest", "--explain-memory", "0"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [claim["holds"] for claim in answer["claims"]] == [True, False]
    assert run(["solve", "problem.yaml", "--why-not", layout, "--format", "json", "-q"]) == 0
    assert "interleave_group_rest" in capsys.readouterr().out


def test_where_nothing_fits_the_suggestion_is_what_would(capsys):
    """--suggest of a layout whose problem has none says the bytes that every layout needs and the changes that help, as
    `solve` does: layouts are legal there, memory is what they lack."""
    command = ["evaluate", "--architecture", "llama-3-8b", "--gpus", "1", "--global-batch-size", "64", "-q"]
    assert run([*command, "--layout", "tp=1", "--suggest"]) == 1
    told = " ".join(capsys.readouterr().out.partition("The optimum, and what it changes")[2].split())
    assert told.startswith("Legal layouts exist on 1 GPUs, but every layout needs at least ")
    assert "What would change it: cluster" in told


@pytest.mark.parametrize("option", [("--arguments", "1 2"), ("--set", "A=1"), ("--vocab-size", "5")])
@pytest.mark.usefixtures("problem")
def test_options_of_a_file_need_the_file(capsys, option):
    """What would be passed over in silence is refused."""
    assert run(["evaluate", "problem.yaml", "--layout", "tp=1", *option]) == 2
    assert capsys.readouterr().err == f"error: {option[0][2:]}: needs --from, the file that it completes\n"


@pytest.mark.usefixtures("problem")
def test_a_trace_is_not_the_answer_s_file(capsys):
    """Two answers in one file would lose one of them; a trace that cannot be written is named as that."""
    command = ["evaluate", "problem.yaml", "--layout", "tp=1,ep=4"]
    assert run([*command, "-o", "x.json", "--trace", "./x.json"]) == 2
    assert run([*command, "--trace", "."]) == 2
    assert not Path("x.json").exists()
    assert capsys.readouterr().err == "error: trace, output: both are x.json\nerror: trace: . is a directory\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--top", "1e9"), "top: '1e9' is above 1000"),
        (("--workers", "1M"), "workers: '1M' is above 1024"),
        (("--limit", ""), "limit: one is empty"),
    ],
)
@pytest.mark.usefixtures("problem")
def test_what_no_machine_could_do_is_refused(capsys, arguments, sentence):
    """Counts without end are refused before they are tried."""
    assert run(["solve", "problem.yaml", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("num_nextn_predict_layers", 10**6), ("name", "a" * 10_000)],
)
def test_dimensions_and_names_beyond_any(problem, field, value):
    """A billion layers would unfold into a list of them; a name of pages would be every report's first page."""
    with pytest.raises(InputError, match=rf"^architecture\.{field}: "):
        load_problem({**problem, "architecture": {**ARCHITECTURE, field: value}})


def test_control_characters_of_a_name_reach_no_terminal(problem):
    """Escapes and line ends in an architecture's name become spaces."""
    architecture = load_problem({**problem, "architecture": {**ARCHITECTURE, "name": "\x1b[31mred\nline\u202e"}})
    assert architecture.architecture.name == " [31mred line "


@pytest.mark.parametrize("routing", [{"imbalance": 1e9}, {"capacity_factor": 1e9}])
def test_routing_beyond_any_number_of_experts(problem, routing):
    """The busiest rank receives at most everything: factors above that overflow and say nothing."""
    with pytest.raises(InputError, match="input should be less than or equal to 10000"):
        load_problem({**problem, "workload": {"routing": routing}})


def test_half_a_surrogate_pair_is_refused(problem, capsys):
    """An escape that is no character would break whatever repeats it: files, JSON, terminals."""
    Path("half.json").write_text(json.dumps({**problem, "architecture": {**ARCHITECTURE, "source": "\ud800"}}))
    assert run(["solve", "half.json", "-o", "answer.json"]) == 2
    assert capsys.readouterr().err == "error: problem: half.json: a text holds half of a surrogate pair\n"


def test_a_search_does_not_guess_what_is_in_mtp_modules(problem):
    """Behind a dense last layer of an architecture with experts the modules' kind depends on their stage, so a search
    names the field; with one stage, or without the modules, it answers."""
    layers = ARCHITECTURE["num_hidden_layers"]
    kinds = {"moe_layer_freq": [1] * (layers - 1) + [0], "intermediate_size": 1024, "num_nextn_predict_layers": 1}
    odd = {**problem, "architecture": {**ARCHITECTURE, **kinds}}
    with pytest.raises(InputError, match=r"^num_nextn_predict_layers: .* fix pp 1$"):
        solve(load_problem(odd))
    assert solve(load_problem({**odd, "fix": {"pp": 1}}), explained=False)["status"] == "optimal"
    workload = {**problem["workload"], "mtp": False}
    assert solve(load_problem({**odd, "workload": workload}), explained=False)["status"] == "optimal"
