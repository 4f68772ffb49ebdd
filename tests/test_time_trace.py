"""`evaluate --trace FILE`: a timeline that adds up to the predicted step."""

import json
from pathlib import Path
from typing import Any

import pytest

from moeopt.__main__ import run
from moeopt.evaluation import evaluate
from moeopt.layout import Layout, Overlap
from moeopt.problem.base import read_fields
from moeopt.report.trace import trace
from time_cases import problem

ASKED = {"architecture": "qwen3-30b-a3b", "cluster": "h100-sxm", "gpus": 64, "global_batch_size": 256}


def traced(**given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = problem(**ASKED)
    answer = evaluate(asked, Layout(**given))
    return answer, trace(asked, read_fields(Layout, answer["layout"], "layout"))


def slices(found: dict[str, Any], rank: int, *categories: str) -> list[dict[str, Any]]:
    return [e for e in found["traceEvents"] if e["ph"] == "X" and e["tid"] == rank and e["cat"] in categories]


@pytest.mark.parametrize(
    "given",
    [
        {"pp": 1, "ep": 8},
        {"pp": 4, "ep": 8},
        {"pp": 4, "vpp": 3, "ep": 8},
        {"pp": 4, "vpp": 3, "ep": 8, "overlap": Overlap(ep_all_to_all=True)},
    ],
    ids=str,
)
def test_a_track_is_full(given: dict[str, Any]) -> None:
    """Passes and bubbles of every stage follow one another without a gap or an overlap from the step's start to the end
    of the replayed pipeline; every micro-batch passes every chunk forward and backward once; what is shown inside a
    pass stays inside it."""
    answer, found = traced(**given)
    layout = answer["layout"]
    assert found["otherData"]["micro-batches shown"] == layout["num_microbatches"]
    for rank in range(layout["pp"]):
        at = 0.0
        for event in slices(found, rank, "forward", "backward", "bubble"):
            assert event["ts"] == pytest.approx(at, abs=1e-3)
            assert event["dur"] > 0
            at = event["ts"] + event["dur"]
        assert at == pytest.approx(answer["schedule"]["pipeline_simulated_ns"] / 1000, abs=1e-3)
        passes = slices(found, rank, "forward", "backward")
        seen = [pair for e in passes for pair in zip(e["args"]["microbatch"], e["args"]["chunk"], strict=True)]
        assert len(seen) == len(set(seen)) == 2 * layout["vpp"] * layout["num_microbatches"]
        for inner in slices(found, rank, "exposed"):
            ends = inner["ts"] + inner["dur"]
            assert any(e["ts"] - 1e-3 <= inner["ts"] and ends <= e["ts"] + e["dur"] + 1e-3 for e in passes)


def test_the_end_of_the_step_is_there() -> None:
    """After the pipeline each stage shows its own step end; the longest makes the step the length that evaluate
    prints."""
    answer, found = traced(pp=4, ep=8)
    ends = [max(e["ts"] + e["dur"] for e in slices(found, rank, "step end")) for rank in range(4)]
    assert max(ends) == pytest.approx(answer["schedule"]["simulated_ns"] / 1000, abs=1e-3)
    names = {e["name"] for e in slices(found, 0, "step end")}
    assert names - {"param gather"} == {"gradient reduce", "gradient clear", "optimizer"}


def test_exposed_communication_is_that_of_the_ledger() -> None:
    """Exposed communication over a stage's passes is what the ledger counts for all its micro-batches."""
    answer, found = traced(pp=1, ep=16)
    shown = sum(e["dur"] for e in slices(found, 0, "exposed") if e["name"] == "exposed communication")
    counted = sum(answer["step_time"]["parts"].get(part, 0) for part in ("tp_comm", "cp_comm", "ep_comm"))
    assert counted > 0
    assert shown * 1000 == pytest.approx(counted, rel=1e-6)


def test_very_long_steps_show_their_first_groups() -> None:
    """Where a step has more passes than a viewer takes, the first twelve groups of micro-batches are shown, and the
    trace says so."""
    asked = problem(**{**ASKED, "global_batch_size": 131072})
    answer = evaluate(asked, Layout(pp=4, ep=8, dp=16))
    found = trace(asked, read_fields(Layout, answer["layout"], "layout"))
    assert answer["layout"]["num_microbatches"] == 8192
    assert found["otherData"] == {
        "layout": answer["layout"]["pipeline_layout"],
        "micro-batches shown": 48,
        "micro-batches of the step": 8192,
    }


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--trace writes valid JSON in the trace format beside the usual answer, keeps an existing file without --force
    (exit code 2), and writes nothing for a layout that cannot be timed."""
    target = tmp_path / "step.json"
    arguments = ["evaluate", "--gpus", "64", "--trace", str(target), "--layout"]
    assert run([*arguments, "tp=1,pp=4,ep=8"]) == 0
    written = json.loads(target.read_text(encoding="utf-8"))
    assert "Step time" in capsys.readouterr().out
    tracks = {e["args"]["name"] for e in written["traceEvents"] if e["name"] == "thread_name"}
    assert tracks == {f"stage {rank}" for rank in range(4)}
    for event in written["traceEvents"]:
        assert {"ph", "name", "pid", "tid", "args"} <= event.keys()
        assert event["ph"] == "M" or (event["ts"] >= 0 and event["dur"] > 0)
    assert run([*arguments, "tp=1,pp=4,ep=8"]) == 2
    assert "exists already" in capsys.readouterr().err
    other = tmp_path / "none.json"
    assert run(["evaluate", "--gpus", "64", "--trace", str(other), "--layout", "tp=1,pp=5,ep=8"]) != 0
    assert not other.exists()
