"""`moeopt sweep`: the grid, the journal, parallel processes, interruptions, tables, Ray."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from moeopt.__main__ import run as command
from moeopt.errors import InputError
from moeopt.problem.loading import load_problem
from moeopt.search import solve
from moeopt.sweeping import Journal, Record, Task, grid, processes, ray_cluster, run, solve_point
from moeopt.sweeping.table import COLUMNS, table_bytes

TINY = """
architecture: {hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64,
  vocab_size: 1000, intermediate_size: 512, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 256}
cluster: h100-sxm
gpus: 2
workload: {sequence_length: 1024, global_batch_size: 8}
fix: {recompute: none, dispatcher: alltoall, overlap: {ep_all_to_all: false}}
limits: {micro_batch_size: {max: 2}, vpp: {max: 2}}
"""


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(path.read_text())))


def task(problem_file: Path, gpus: int, **changes: Any) -> Task:
    from moeopt.problem.reading import read_file

    problem = load_problem({**read_file(problem_file, "problem"), "gpus": gpus})
    return Task(f"gpus-{gpus}", {"gpus": gpus}, problem.model_dump(mode="json"), **changes)


def one_by_one(tasks: Sequence[Task]) -> Iterator[Record]:
    yield from map(solve_point, tasks)


def test_the_grid_is_the_cross_product(problem_file: Path, tmp_path: Path) -> None:
    """One row for each combination, in order; each row's numbers are those of `solve` on that problem."""
    table = tmp_path / "out.csv"
    arguments = ["sweep", str(problem_file), "--gpus", "1,2", "--sequence-length", "512,1000", "-o", str(table), "-q"]
    assert command([*arguments, "--jobs", "2"]) == 0
    rows = rows_of(table)
    assert [(row["gpus"], row["sequence_length"]) for row in rows] == [
        (gpus, length) for gpus in ("1", "2") for length in ("512", "1000")
    ]
    for row in rows:
        from moeopt.problem.reading import read_file

        fields = read_file(problem_file, "problem")
        fields["gpus"] = int(row["gpus"])
        fields["workload"]["sequence_length"] = int(row["sequence_length"])
        answer = solve(load_problem(fields), workers=1)
        assert row["status"] == answer["status"] == "optimal"
        assert int(row["step_time_ns"]) == answer["step_time"]["total_ns"]
        assert int(row["peak_memory_bytes"]) == answer["memory"]["peak_bytes"]
        assert json.loads(row["layout"]) == answer["layout"]


def test_points_without_an_answer_are_rows(problem_file: Path, tmp_path: Path) -> None:
    """Infeasible and contradictory points have their status and reason, and the sweep's exit code stays 0."""
    table = tmp_path / "out.csv"
    arguments = ["sweep", str(problem_file), "--global-batch-size", "8,7", "--fix", "dp=2", "-o", str(table), "-q"]
    assert command(arguments) == 0
    whole, odd = rows_of(table)
    assert whole["status"] == "optimal"
    assert odd["status"] in ("invalid", "infeasible")
    assert odd["error"]
    assert command([*arguments[:2], "--limit", "peak_memory<=1MiB", "-o", str(tmp_path / "none.csv"), "-q"]) == 0
    assert rows_of(tmp_path / "none.csv")[0]["status"] == "infeasible"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["--architecture", "qwen3-30b-a3b,no-such-thing"], "architecture"),
        (["--gpus", "2,,4"], "gpus"),
        (["--gpus", "2,2"], "gpus"),
        (["--gpus", "two"], "gpus"),
        (["--cluster", "h100-sxm,no-such-thing"], "cluster"),
        (["--precision", "bf16,bf17"], "workload.precision"),
        (["--sequence-length", "4096,0"], "sequence_length"),
        (["--fix", "tpp=2", "--gpus", "2,4"], "fix"),
        (["--jobs", "0"], "jobs"),
        (["-o", "table.txt"], "output"),
    ],
)
def test_bad_lists_are_bad_input(problem_file: Path, given: list[str], field: str, capsys: Any) -> None:
    """A value that no point can use is exit code 2 and a sentence that names the option."""
    assert command(["sweep", str(problem_file), *given]) == 2
    assert capsys.readouterr().err.startswith(f"error: {field}")


def test_a_second_run_solves_only_what_is_missing(problem_file: Path, tmp_path: Path) -> None:
    """Rows done are read from the journal; a new value adds its points; an earlier grid's rows stay in the table."""
    table = tmp_path / "out.csv"
    arguments = ["sweep", str(problem_file), "-o", str(table), "-q", "--jobs", "1"]
    assert command([*arguments, "--gpus", "1,2"]) == 0
    journal = tmp_path / "out.csv.journal.jsonl"
    first = journal.read_bytes()
    assert command([*arguments, "--gpus", "2,1"]) == 0
    assert journal.read_bytes() == first
    assert command([*arguments, "--gpus", "4"]) == 0
    assert journal.read_bytes().startswith(first)
    assert [row["gpus"] for row in rows_of(table)] == ["4", "1", "2"]


def test_a_torn_line_costs_one_row(problem_file: Path, tmp_path: Path) -> None:
    """A line cut off anywhere in its record is skipped, solved again, and takes no other row with it."""
    path = tmp_path / "rows.jsonl"
    tasks = [task(problem_file, gpus) for gpus in (1, 2)]
    assert run(tasks, Journal(path), one_by_one, lambda _: None)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (*range(0, len(lines[1]) - 1, 97), len(lines[1]) - 2):
        path.write_bytes(lines[0] + lines[1][:cut])
        journal = Journal(path)
        assert list(journal.records) == ["gpus-1"]
        solved: list[Record] = []
        assert run(tasks, journal, one_by_one, solved.append)
        assert [record["key"] for record in solved] == ["gpus-2"]
        assert list(Journal(path).records) == ["gpus-1", "gpus-2"]


def test_a_row_without_its_end_of_line_is_whole(problem_file: Path, tmp_path: Path) -> None:
    """A line that lost its end of line alone counts as done, and the next row begins a line of its own."""
    path = tmp_path / "rows.jsonl"
    tasks = [task(problem_file, gpus) for gpus in (1, 2)]
    assert run(tasks[:1], Journal(path), one_by_one, lambda _: None)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    journal, solved = Journal(path), list[Record]()
    assert list(journal.records) == ["gpus-1"]
    assert run(tasks, journal, one_by_one, solved.append)
    assert [record["key"] for record in solved] == ["gpus-2"]
    assert (list(Journal(path).records), Journal(path).torn) == (["gpus-1", "gpus-2"], 0)


def test_an_unsettled_row_is_tried_again_with_more_time(tmp_path: Path) -> None:
    """feasible and unknown rows count as done for at most the time that they had; errors never do."""
    journal = Journal(tmp_path / "rows.jsonl")
    for status in ("optimal", "infeasible", "invalid", "feasible", "unknown", "error"):
        journal.add({"key": status, "status": status, "time_limit_seconds": 10.0})
    assert all(journal.done(key, None) for key in ("optimal", "infeasible", "invalid"))
    for key in ("feasible", "unknown"):
        assert journal.done(key, 10.0)
        assert journal.done(key, 5.0)
        assert not journal.done(key, 20.0)
        assert not journal.done(key, None)
    assert not journal.done("error", 1.0)
    assert not journal.done("new", 1.0)


def test_the_users_own_file_is_kept(problem_file: Path, tmp_path: Path) -> None:
    """A table that no journal stands behind is not replaced without --force."""
    table = tmp_path / "out.csv"
    table.write_text("mine")
    arguments = ["sweep", str(problem_file), "-o", str(table), "-q"]
    assert command(arguments) == 2
    assert table.read_text() == "mine"
    assert command([*arguments, "--force"]) == 0
    assert rows_of(table)[0]["status"] == "optimal"


def die(_task: Task) -> Record:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_process_that_dies_is_a_row(problem_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point whose process is killed becomes a row with status error, and the others are solved."""
    monkeypatch.setattr("moeopt.sweeping.runners.solve_point", die_on_two)
    rows = {row["key"]: row["status"] for row in processes(2)([task(problem_file, gpus) for gpus in (1, 2, 4)])}
    assert rows == {"gpus-1": "optimal", "gpus-2": "error", "gpus-4": "optimal"}


def die_on_two(given: Task) -> Record:
    return die(given) if given.coordinates["gpus"] == 2 else solve_point(given)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process group")
def test_ctrl_c_keeps_what_is_done(problem_file: Path, tmp_path: Path) -> None:
    """Interrupted after the first row: exit code 4, the rows so far in table and journal, and no process is left."""
    table = tmp_path / "out.csv"
    lengths = ",".join(str(256 * n) for n in range(1, 40))
    arguments = ["sweep", str(problem_file), "--sequence-length", lengths, "-o", str(table), "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "moeopt", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1/39")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 4
    process.stderr.close()
    rows = rows_of(table)
    assert 1 <= len(rows) < 39
    assert len(Journal(tmp_path / "out.csv.journal.jsonl").records) == len(rows)
    deadline = time.monotonic() + 20
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group_lives(process.pid)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_tables_hold_every_column(problem_file: Path) -> None:
    """CSV and Parquet have the same columns and values, whatever a row lacks."""
    rows = [solve_point(task(problem_file, 2)), {"key": "x", "gpus": 3, "status": "invalid", "error": "why"}]
    text = list(csv.DictReader(StringIO(table_bytes(rows, ".csv").decode())))
    assert [list(row) for row in text] == [list(COLUMNS)] * 2
    assert text[1]["status"], text[1]["error"] == ("invalid", "why")
    assert text[1]["step_time_ns"] == ""
    parquet = pytest.importorskip("pyarrow.parquet")
    import io

    table = parquet.read_table(io.BytesIO(table_bytes(rows, ".parquet"))).to_pylist()
    assert [list(row) for row in table] == [list(COLUMNS)] * 2
    assert table[0]["step_time_ns"] == rows[0]["step_time_ns"] == int(text[0]["step_time_ns"])
    assert json.loads(table[0]["layout"]) == rows[0]["layout"]
    assert table[1]["step_time_ns"] is None


def test_one_unusable_combination_does_not_stop_the_others() -> None:
    """A combination that contradicts itself is a point with its error; an error that all share is raised."""

    def build(coordinates: Any) -> Any:
        if coordinates["gpus"] == "3":
            raise InputError("gpus: 3 is odd")
        return load_problem({"architecture": "qwen3-30b-a3b", "cluster": "h100-sxm", "gpus": 8})

    points = grid({"cluster": ["a", "b"], "gpus": ["2", "3"]}, build)
    assert [point.error for point in points] == [None, "gpus: 3 is odd"] * 2
    with pytest.raises(InputError, match="odd"):
        grid({"cluster": ["a", "b"], "gpus": ["3"]}, build)


def test_ray_gives_the_same_rows(problem_file: Path) -> None:
    """The same points on a local Ray cluster have the same rows (but for the seconds)."""
    pytest.importorskip("ray")
    tasks = [task(problem_file, gpus) for gpus in (1, 2)]
    there = {row["key"]: row for row in ray_cluster("local", 2)(tasks)}
    for here in one_by_one(tasks):
        assert {**there[here["key"]], "seconds": 0} == {**here, "seconds": 0}
