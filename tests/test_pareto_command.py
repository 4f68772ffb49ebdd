"""`moeopt pareto`: table, JSON, CSV, pictures, the page, interruption, bad input."""

import csv
import json
from html.parser import HTMLParser
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from moeopt import pareto
from moeopt.__main__ import run as command
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.loading import load_problem
from moeopt.report.html.frontier import frontier_page

PROBLEM = """
architecture: {hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64,
  vocab_size: 1000, intermediate_size: 512, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 256}
cluster: h100-sxm
gpus: {min: 2, max: 4}
workload: {sequence_length: 1024, global_batch_size: 8}
fix: {dispatcher: alltoall, overlap: {ep_all_to_all: false}, tp: 1, micro_batch_size: 1}
limits: {vpp: {max: 1}, cp: {max: 1}}
"""


@pytest.fixture(scope="module")
def problem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pareto") / "problem.yaml"
    path.write_text(PROBLEM)
    return path


@pytest.fixture(scope="module")
def answer(problem_file: Path) -> dict[str, Any]:
    from moeopt.problem.loading import load_problem_file

    return pareto(load_problem_file(problem_file), ("step_time", "peak_memory", "gpus"), workers=1)


def test_points_are_solutions(answer: dict[str, Any]) -> None:
    """Every point is a whole solution: evaluating its layout gives the same numbers, and its objectives are these."""
    assert answer["complete"]
    assert answer["objectives"] == ["step_time", "peak_memory", "gpus"]
    assert len(answer["points"]) > 2
    problem = load_problem(answer["problem"])
    for point in answer["points"]:
        again = evaluate(problem, Layout(**point["layout"]))
        assert again["status"] == "evaluated"
        for part in ("memory", "step_time", "gpus", "parameters"):
            assert again[part] == point[part]
        values = [item["value"] for item in point["objectives"]]
        assert values == [point["step_time"]["total_ns"], point["memory"]["peak_bytes"], point["gpus"]["total"]]
        assert point["objective"] == {"name": "step_time", "value": values[0], "bound": values[0], "unit": "ns"}
    assert answer["points"] == sorted(answer["points"], key=lambda point: point["step_time"]["total_ns"])


def test_the_command_writes_everything(problem_file: Path, tmp_path: Path, answer: dict[str, Any]) -> None:
    """JSON as from Python; a CSV line and a circle on the page for every point."""
    files = {kind: tmp_path / f"frontier.{kind}" for kind in ("json", "csv", "html")}
    arguments = ["pareto", str(problem_file), "--objectives", "step_time,peak_memory,gpus", "--workers", "1", "-q"]
    given = ["-o", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["html"])]
    assert command([*arguments, *given]) == 0
    written = json.loads(files["json"].read_text())
    assert [point["objectives"] for point in written["points"]] == [p["objectives"] for p in answer["points"]]
    rows = list(csv.DictReader(StringIO(files["csv"].read_text())))
    assert [int(row["step_time_ns"]) for row in rows] == [p["step_time"]["total_ns"] for p in answer["points"]]
    assert {row["proven"] for row in rows} == {"true"}
    assert files["html"].read_text().count("<circle") == len(rows)
    assert command([*arguments, *given]) == 2


def test_text_says_what_is_proven(problem_file: Path, capsys: Any) -> None:
    """One line a point, and a sentence about completeness; a coarse frontier states its resolution."""
    arguments = ["pareto", str(problem_file), "--workers", "1", "-q", "--gpus", "4"]
    assert command(arguments) == 0
    text = capsys.readouterr().out
    assert "Complete: every layout that no other beats is a point" in text
    assert command([*arguments, "--resolution", "step_time=50%,peak_memory=50%"]) == 0
    coarse = " ".join(capsys.readouterr().out.split())
    assert "Complete within the resolution" in coarse
    assert "step_time 50%, peak_memory 50%" in coarse


class _Page(HTMLParser):
    """Collects everything that a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, value in attrs if name in ("src", "href", "onclick", "onload")]


def test_the_page_loads_nothing_and_escapes_everything(answer: dict[str, Any]) -> None:
    """No address, no handler; a hostile architecture name appears as text only, in markup and in the script's data."""
    name = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    hostile = json.loads(json.dumps(answer).replace('"custom"', json.dumps(name)))
    hostile["points"][0]["layout"]["dispatcher"] = name
    assert hostile["problem"]["architecture"]["name"] == name
    text = frontier_page(hostile)
    page = _Page()
    page.feed(text)
    assert page.loads == []
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert "default-src 'none'" in text
    data = text.split('type="application/json">', 1)[1].split("</script>", 1)[0]
    assert len(json.loads(data)) == len(answer["points"])


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_are_reproducible(problem_file: Path, tmp_path: Path, kind: str) -> None:
    """PNG and SVG are written, and twice the same bytes."""
    pytest.importorskip("matplotlib")
    arguments = ["pareto", str(problem_file), "--workers", "1", "-q", "-o", str(tmp_path / "out.txt"), "--force"]
    contents = []
    for number in (1, 2):
        path = tmp_path / f"{number}.{kind}"
        assert command([*arguments, "--plot", str(path)]) == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith({"png": b"\x89PNG", "svg": b"<?xml"}[kind])


def test_an_interrupted_frontier_keeps_its_points(problem_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after some rounds: not complete, the points so far, and none proven that the whole frontier lacks."""
    from moeopt.frontier.explore import Exploration
    from moeopt.problem.loading import load_problem_file

    problem = load_problem_file(problem_file)
    whole = pareto(problem, workers=1)
    best = [point["objectives"] for point in whole["points"]]
    whole_round = Exploration._round
    for stop in count(1):
        rounds = iter(range(stop))

        def limited(self: Exploration, rounds: Any = rounds) -> None:
            if next(rounds, None) is None:
                raise KeyboardInterrupt
            whole_round(self)

        monkeypatch.setattr(Exploration, "_round", limited)
        part = pareto(problem, workers=1)
        if part["complete"]:
            break
        assert part["points"]
        for point in part["points"]:
            assert point["status"] == ("optimal" if point["proven"] else "feasible")
            assert not point["proven"] or point["objectives"] in best
    assert stop > 3


def test_no_layout_is_a_complete_empty_frontier(problem_file: Path, tmp_path: Path) -> None:
    """Proven infeasible: no points, complete, exit code 3, and every file is still written."""
    files = ["-o", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.html")]
    assert command(["pareto", str(problem_file), "--limit", "peak_memory<=1MiB", "-q", *files]) == 3
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["complete"], written["points"]) == (True, [])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["--objectives", "step_time"], "objectives"),
        (["--objectives", "step_time,speed"], "objectives"),
        (["--objectives", "cost,cost"], "objectives"),
        (["--objectives", ""], "objectives"),
        (["--plot", "frontier.gif"], "plot"),
        (["--plot", ""], "plot"),
        (["--csv", "no/such/folder/a.csv"], "csv"),
        (["--csv", "a.csv", "-o", "a.csv"], "plot, csv, output"),
        (["--resolution", "fine"], "resolution"),
        (["--time-limit", "0"], "time-limit"),
    ],
)
def test_bad_input(
    problem_file: Path, given: list[str], field: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one sentence that starts with the option."""
    monkeypatch.chdir(tmp_path)
    assert command(["pareto", str(problem_file), "-q", *given]) == 2
    assert capsys.readouterr().err.startswith(f"error: {field}")
    assert list(tmp_path.iterdir()) == []
