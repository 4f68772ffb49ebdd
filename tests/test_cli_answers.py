"""Where answers go, which exit code they get, and what reaches the search."""

import json
import os
import stat
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from example_answer import ARCHITECTURE, answer
from moeopt.__main__ import run


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A search that records what it was asked and gives a ready answer; the folder is empty."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(ARCHITECTURE))
    calls = []

    def solve(problem, **options):
        calls.append((problem, options))
        if options["progress"] is not None:
            options["progress"]("screening")
        return answers.pop()

    answers = [answer()]
    calls_and_answers = ModuleType("moeopt.search")
    calls_and_answers.solve = solve
    monkeypatch.setitem(sys.modules, "moeopt.search", calls_and_answers)
    calls_and_answers.calls, calls_and_answers.answers = calls, answers
    return calls_and_answers


SOLVE = ["solve", "--architecture", "tiny.yaml", "--gpus", "512"]


@pytest.mark.parametrize(("status", "code"), [("optimal", 0), ("feasible", 0), ("infeasible", 3), ("unknown", 4)])
def test_exit_codes_follow_the_status(asked, capsys, status, code):
    """0 answered, 3 proven infeasible, 4 no answer in time; the text never fails on any of them."""
    asked.answers[:] = [answer(status)]
    assert run(SOLVE) == code
    assert capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_json_stands_alone_on_stdout(capsys):
    """Progress goes to stderr, and the JSON is the answer itself."""
    assert run([*SOLVE, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == answer()
    assert err == "screening\n"


def test_quiet_means_a_silent_stderr(asked, capsys):
    """-q gives the search no one to report to."""
    assert run([*SOLVE, "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert asked.calls[0][1]["progress"] is None


def test_options_reach_the_search(asked):
    """Each option of a search arrives in the unit that the search takes."""
    options = [
        "--top",
        "3",
        "--time-limit",
        "2min",
        "--workers",
        "4",
        "--seed",
        "7",
        "--no-screening",
        "-q",
        "--certify",
        "--gap",
        "1%",
    ]
    assert run([*SOLVE, *options]) == 0
    given = {name: value for name, value in asked.calls[0][1].items() if name != "proven"}
    assert given == {
        "top": 3, "time_limit": 120.0, "workers": 4, "seed": 7, "screening": False, "progress": None,
        "certify": True, "gap": "1%", "replay_bound": True,
    }  # fmt: skip


@pytest.fixture
def proven_early(asked, monkeypatch, capsys):
    """A search that says what is proven before it knows the bound on replays; what had been printed by then."""
    shown = []

    def solve(_problem, **options):
        early = answer()
        early["schedule"] = {**early["schedule"], "lower_bound_ns": 1, "bound_over": "placements"}
        options["progress"]("optimum proven")
        options["proven"](early)
        shown.append(capsys.readouterr().out)
        options["progress"]("bound on replays")
        return answer()

    monkeypatch.setattr(asked, "solve", solve)
    return shown


def test_the_layout_is_printed_as_soon_as_it_is_proven(asked, proven_early, capsys):
    """The text's first part, with the proof, comes before the bound on replays is known; the rest follows, and both
    together are the text that is printed otherwise."""
    assert run(SOLVE) == 0
    rest = capsys.readouterr().out
    assert "Optimal: no legal layout is faster" in proven_early[0]
    assert "replayed" in rest
    assert "replayed" not in proven_early[0]
    asked.solve = lambda *_, **__: answer()
    assert run(SOLVE) == 0
    assert capsys.readouterr().out == proven_early[0] + rest


def test_files_and_json_are_written_whole(proven_early, capsys):
    """What is proven early goes to a person's eyes alone: a file and JSON have the last answer, once."""
    assert run([*SOLVE, "--format", "json"]) == 0
    assert (json.loads(capsys.readouterr().out), proven_early[0]) == (answer(), "")
    assert run([*SOLVE, "-o", "x.txt"]) == 0
    assert Path("x.txt").read_text().count("Optimal: no legal layout is faster") == 1


class Terminal(StringIO):
    """A stream that says it is one."""

    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_line_that_is_gone_in_the_end(asked, monkeypatch):
    """Each text takes the place of the last one, and the line is erased before the answer; nothing ends a line."""
    asked.answers[:] = [answer(), answer()]
    erased = "\r\x1b[2K"
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run(SOLVE) == 0
    written = sys.stderr.getvalue()
    assert "screening" in written
    assert "\n" not in written
    assert written.endswith(erased)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run([*SOLVE, "-q"]) == 0
    assert sys.stderr.getvalue() == ""


def test_the_bound_on_replays_can_be_left_out(asked):
    """--no-replay-bound reaches the search."""
    assert run([*SOLVE, "--no-replay-bound"]) == 0
    assert asked.calls[0][1]["replay_bound"] is False


def test_options_override_the_fields_of_a_problem_file(asked):
    """A file's fields stand unless an option says otherwise; decisions and limits are merged name by name."""
    fields = {
        "architecture": "tiny.yaml",
        "cluster": "h100-sxm",
        "gpus": 512,
        "workload": {"sequence_length": 8192, "global_batch_size": 256},
        "fix": {"tp": 2, "pp": 4},
        "limits": {"ep": {"max": 64}, "peak_memory": "70GiB"},
    }
    Path("problems").mkdir()
    Path("problems/tiny.yaml").write_text(Path("tiny.yaml").read_text())
    Path("problems/p.yaml").write_text(yaml.safe_dump(fields))
    options = ["--gpus", "256", "--global-batch-size", "1024", "--fix", "tp=4", "--fix", "cp=1,dispatcher=deepep"]
    options += ["--limit", "ep>=2", "--limit", "peak_memory<=60GiB", "--objective", "peak_memory", "--cluster", "h800"]
    assert run(["solve", "problems/p.yaml", *options]) == 0
    problem = asked.calls[0][0]
    assert (problem.gpus, problem.objective, problem.cluster.name) == (256, "peak_memory", "h800")
    assert (problem.workload.sequence_length, problem.workload.global_batch_size) == (8192, 1024)
    assert problem.fix == {"tp": 4, "pp": 4, "cp": 1, "dispatcher": "deepep"}
    assert (problem.limits.ep.min, problem.limits.ep.max) == (2, 64)
    assert problem.limits.peak_memory == 60 * 2**30


def test_a_range_of_gpus(asked):
    """`64..1024` is the range of a problem file."""
    assert run(["solve", "--architecture", "tiny.yaml", "--gpus", "64..1024"]) == 0
    assert (asked.calls[0][0].gpus.min, asked.calls[0][0].gpus.max) == (64, 1024)


def test_the_default_problem_is_the_one_of_the_contract(asked):
    """Without PROBLEM: qwen3-30b-a3b on h100-sxm."""
    assert run(["solve", "--gpus", "512"]) == 0
    problem = asked.calls[0][0]
    assert (problem.architecture.name, problem.cluster.name) == ("qwen3-30b-a3b", "h100-sxm")


def test_a_solution_file_is_a_problem_file_too(asked):
    """The problem of an answer, defaults filled in, can be asked again and is the same problem."""
    Path("answer.json").write_text(json.dumps(answer()))
    assert run(["solve", "answer.json"]) == 0
    assert asked.calls[0][0].model_dump(mode="json") == answer()["problem"]


@pytest.mark.usefixtures("asked")
def test_an_output_file_is_written_whole_and_named_for_json(capsys):
    """-o x.json means JSON; stdout stays empty, nothing is left beside the file, and others may read it."""
    before = os.umask(0o022)
    try:
        assert run([*SOLVE, "-o", "answer.json"]) == 0
    finally:
        os.umask(before)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "screening\nwrote answer.json\n"
    assert json.loads(Path("answer.json").read_text()) == answer()
    assert sorted(path.name for path in Path().iterdir()) == ["answer.json", "tiny.yaml"]
    assert stat.S_IMODE(Path("answer.json").stat().st_mode) == 0o644


def test_force_replaces_a_file(asked):
    """What exists is replaced only when told to."""
    Path("answer.txt").write_text("old")
    assert run([*SOLVE, "-o", "answer.txt"]) == 2
    assert Path("answer.txt").read_text() == "old"
    assert not asked.calls
    assert run([*SOLVE, "-o", "answer.txt", "--force"]) == 0
    assert "Optimal" in Path("answer.txt").read_text()


@pytest.mark.usefixtures("asked")
def test_devices_are_written_to():
    """`-o /dev/null` must never replace the device."""
    assert run([*SOLVE, "-o", os.devnull]) == 0
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.usefixtures("asked")
def test_a_forced_link_is_followed():
    """The file behind the link is replaced, the link stays."""
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    assert run([*SOLVE, "-o", "link.json", "--force"]) == 0
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text()) == answer()


def test_json_answers_are_the_same_for_params_and_presets(capsys):
    """The other commands obey --format as well."""
    assert run(["params", "qwen3-30b-a3b", "--format", "json"]) == 0
    params = json.loads(capsys.readouterr().out)
    assert params["total"] == sum(size for name, size in params["components"].items() if name != "mtp")
    assert run(["presets", "--format", "json"]) == 0
    presets = json.loads(capsys.readouterr().out)
    assert "deepseek-v3" in [row["name"] for row in presets["architectures"]]
    assert run(["presets", "clusters", "h100-sxm", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["gpus_per_node"] == 8


def test_text_of_params_and_presets(capsys):
    """Totals are printed in full."""
    assert run(["params", "mixtral-8x7b"]) == 0
    assert "46,702,792,704" in capsys.readouterr().out
    assert run(["presets", "clusters"]) == 0
    out = capsys.readouterr().out
    assert "h100-sxm" in out
    assert "deepseek" not in out


def test_an_evaluation_can_be_evaluated_again(tmp_path, monkeypatch):
    """Its problem and its layout, written in full, give the same answer: nothing is lost in JSON."""
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate", "--gpus", "64", "--layout", "tp=2,pp=4,ep=8,recompute=moe_act", "-o", "a.json"]) in (0, 1)
    assert run(["evaluate", "a.json", "--layout", "a.json", "-o", "b.json"]) in (0, 1)
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())


def test_explain_memory_lists_tensors_that_add_up(capsys):
    """Bytes of every kept tensor of a stage, for a dense and an MoE stage; the text names each."""
    arguments = ["evaluate", "--gpus", "64", "--layout", "tp=2,pp=4,ep=8", "--explain-memory", "3"]
    assert run([*arguments, "--format", "json"]) in (0, 1)
    given = json.loads(capsys.readouterr().out)["kept_tensors"]
    assert given["stage"] == 3
    assert {piece["piece"]: piece["count"] for piece in given["pieces"]} == {"moe": 12, "loss": 1}
    layers = next(piece for piece in given["pieces"] if piece["piece"] == "moe")
    assert all(tensor["bytes"] > 0 and tensor["arithmetic"] for tensor in layers["tensors"])
    run(arguments)
    out = capsys.readouterr().out
    assert all(tensor["name"] in out for tensor in layers["tensors"])
