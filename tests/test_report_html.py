"""The page about a solution: self-contained, safe against its own input, and readable without any script."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launch_cases import solution
from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.report.html import page

VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data") or name.startswith("on"):
                self.loads.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return solution()


def test_the_page_loads_and_runs_nothing(answer: dict[str, Any]) -> None:
    """No script, no handler, no address: only an empty icon; a policy in the page forbids the rest."""
    text = page(answer)
    reader = read(text)
    assert reader.loads == ["href=data:,"]
    assert "script" not in reader.counts
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"https?://(?!huggingface|[\w./-]*\S)", text.partition("Sources")[0])


def test_every_number_stands_in_a_table(answer: dict[str, Any]) -> None:
    """Memory, step time, groups, stages and rules are readable without the pictures."""
    cells = read(page(answer)).texts["td"]
    for stage in answer["memory"]["per_stage"]:
        assert f"{stage['total_bytes'] / 2**30:,.2f}" in cells
    for nanoseconds in answer["step_time"]["parts"].values():
        assert not nanoseconds or f"{nanoseconds / 1e6:,.3f}" in cells
    for rule in answer["rules"]:
        assert rule["rule"] in cells
    for stage in answer["parameters"]["per_stage"]:
        assert f"{stage['total']:,}" in cells


def test_every_gpu_of_the_picture_says_what_it_holds(answer: dict[str, Any]) -> None:
    """One box a GPU; every expert of every MoE layer lies on exactly edp * etp GPUs of each stage."""
    hints = [text for text in read(page(answer)).texts["title"] if text.startswith("rank ")]
    layout = answer["layout"]
    assert len(hints) == answer["gpus"]["total"] == 64
    held = [tuple(map(int, re.findall(r"experts (\d+) to (\d+)", hint)[0])) for hint in hints]
    experts = answer["problem"]["architecture"]["num_experts"]
    for expert in range(experts):
        assert sum(first <= expert <= last for first, last in held) == layout["edp"] * layout["etp"] * layout["pp"]


def test_the_timeline_shows_every_operation_of_a_short_step(answer: dict[str, Any]) -> None:
    """Forward and backward of every chunk and micro-batch on every rank."""
    hints = [text for text in read(page(answer)).texts["title"] if re.match(r"(for|back)ward of", text)]
    layout = answer["layout"]
    assert len(hints) == 2 * layout["pp"] * layout["vpp"] * layout["num_microbatches"]


def test_hostile_names_stay_text(answer: dict[str, Any]) -> None:
    """A name with markup in it is shown, not obeyed."""
    hostile = json.loads(json.dumps(answer))
    hostile["problem"]["architecture"]["name"] = "<script>alert(1)</script>\"'>"
    hostile["rules"][0]["equation"] = "</td><img src=x onerror=alert(1)>"
    reader = read(page(hostile))
    assert "script" not in reader.counts
    assert "img" not in reader.counts


def test_a_frontier_is_drawn(answer: dict[str, Any]) -> None:
    """Points of a frontier in a table and a picture, and the first of them in full."""
    other = solution({"tp": 4, "pp": 4, "ep": 8, "etp": 1})
    points = {
        "schema": "moeopt/1",
        "objectives": ["step_time", "peak_memory"],
        "complete": True,
        "points": [answer, other],
    }
    text = page(points)
    read(text)
    assert "The frontier is complete" in text
    assert 'aria-label="step_time against peak_memory"' in text


def test_infeasible_answers_have_a_page_too(answer: dict[str, Any]) -> None:
    """Why there is no layout, in words."""
    infeasible = {
        "schema": "moeopt/1",
        "status": "infeasible",
        "problem": answer["problem"],
        "explanation": {"conflict": ["memory_fits"], "relaxations": []},
    }
    assert "memory_fits" in page(infeasible)


@pytest.mark.parametrize("wrong", [[], {}, {"schema": "moeopt/1"}, {"schema": "moeopt/1", "points": []}, "x"])
def test_other_files_are_refused(wrong: Any) -> None:
    """What is no answer of moeopt is bad input, not a fault."""
    with pytest.raises(InputError):
        page(wrong)


def test_the_command_writes_the_page_once(
    answer: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-o` writes it, refuses to replace it, and replaces it with --force."""
    source, target = tmp_path / "s.json", tmp_path / "report.html"
    source.write_text(json.dumps(answer))
    assert run(["report", str(source), "-o", str(target)]) == 0
    assert target.read_text().startswith("<!doctype html>")
    assert run(["report", str(source), "-o", str(target)]) == 2
    assert run(["report", str(source), "-o", str(target), "--force", "-q"]) == 0
    capsys.readouterr()
    assert run(["report", str(source)]) == 0
    assert capsys.readouterr().out == target.read_text()


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_renders_it_without_a_console_message(answer: dict[str, Any], tmp_path: Path) -> None:
    """Headless Chromium draws the page, all of it there, under its own policy against scripts; nothing complains."""
    assert CHROMIUM is not None
    path, picture = tmp_path / "report.html", tmp_path / "report.png"
    path.write_text(page(answer))
    common = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    run_ = subprocess.run(
        [*common, f"--screenshot={picture}", "--window-size=1200,2400", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in run_.stderr
    assert picture.stat().st_size > 50_000
    dumped = subprocess.run(
        [*common, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert dumped.count("<table") == page(answer).count("<table")
    assert dumped.count("<rect") == page(answer).count("<rect")
