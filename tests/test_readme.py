"""The documents say what is there: commands, options, files, fields, and the numbers of the transcript."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from moeopt.cli import COMMANDS, cli
from moeopt.problem.huggingface import FAMILIES
from moeopt.problem.loading import load_problem, presets
from moeopt.search import solve

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def transcript() -> str:
    """The console block that shows a solve."""
    found = re.search(r"```console\n\$ moeopt solve --gpus 512\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def command_lines(text: str) -> list[list[str]]:
    """Words of every `moeopt ...` call, in a code span or at the start of a line of a code block."""
    joined = text.replace("\\\n", " ").replace("\\|", ",")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", joined, re.DOTALL | re.MULTILINE))
    calls = re.findall(r"(?<!`)`moeopt ([^`\n]+)`", joined)
    calls += re.findall(r"^(?:\$ )?moeopt ([^#\n]+)", blocks, re.MULTILINE)
    return [call.split() for call in calls]


def options(name: str) -> set[str]:
    """Every spelling of a command's options."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return {spelling for parameter in command.params for spelling in parameter.opts} | {"--help", "-h"}


def file_names(text: str) -> set[str]:
    """Paths in code spans that look like files or folders of the repository."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return {
        span for span in spans if re.fullmatch(r"(?:docs|problems|tests|benchmarks|optimizer|results)/[\w./-]*", span)
    }


def links(page: Path) -> list[str]:
    """Relative link targets, fragments cut off."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.split("#")[0] for target in found if "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    """A call of `moeopt` on a page names a command that exists, and only options of that command."""
    calls = command_lines(page.read_text(encoding="utf-8"))
    assert len(calls) > 3 or page.name != "README.md"
    for words in calls:
        if words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, words
        used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert used <= options(words[0]), words


def test_every_command_is_in_the_table_with_options_that_exist() -> None:
    """The README's table has a row for each command; options in the row's text are that command's too."""
    rows = {words[0]: row for row in README.splitlines() if (words := re.findall(r"^\| `moeopt (\w+)", row))}
    assert rows.keys() == COMMANDS.keys()
    for name, row in rows.items():
        assert set(re.findall(r"`(--[a-z-]+)", row)) <= options(name), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_file_name_resolves(page: Path) -> None:
    """A relative link and a path in a code span lead to something in the repository."""
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    missing += [name for name in file_names(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing


def test_the_index_lists_every_page() -> None:
    """A page of docs/ that the index does not link is not found by anybody."""
    linked = set(links(ROOT / "docs" / "index.md"))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} <= linked


def test_the_layout_of_the_repository_is_as_described() -> None:
    """Folders and modules that "What is where" names exist."""
    section = README.partition("## What is where")[2]
    package = ROOT / "optimizer" / "moeopt"
    named = re.findall(r"[\w./]+/(?=[\s,])|\b\w+\.py\b", section)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists() or (package / name).exists(), name


def test_the_counts_of_files_are_right() -> None:
    """Numbers of presets, families and problems in the README are those that ship."""
    assert f"{len(FAMILIES)} Hugging Face families" in README
    architectures = len(presets("architectures"))
    assert f"{architectures} architectures" in README
    assert not re.findall(rf"(?<!{architectures}) architectures", README)
    assert f"`problems/` holds {len(list((ROOT / 'problems').glob('*.yaml')))} of them" in README


def test_the_problem_file_is_read() -> None:
    """The YAML that the README prints is a problem, field by field."""
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    fields: dict[str, Any] = yaml.safe_load(found[1])
    problem = load_problem(fields)
    assert problem.gpus == fields["gpus"]
    assert problem.fix == fields["fix"]
    assert problem.workload.routing.imbalance == fields["workload"]["routing"]["imbalance"]


def test_the_python_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its imports work and its calls fit the signatures (solving is left to the transcript's test)."""
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    imports = [line for line in found[1].splitlines() if line.startswith(("from ", "import "))]
    names: dict[str, Any] = {}
    exec("\n".join(imports), names)
    calls: list[str] = []

    def recorded(name: str) -> Any:
        from inspect import signature

        expected = signature(names[name])

        def call(*given: Any, **named: Any) -> Any:
            expected.bind(*given, **named)
            calls.append(name)
            return ANSWER

        return call

    functions = ("solve", "evaluate", "pareto", "launch")
    stand_ins = {**names, **{name: recorded(name) for name in functions}}
    monkeypatch.chdir(ROOT)
    body = "\n".join(line for line in found[1].splitlines() if not line.startswith(("from ", "import ")))
    exec(body, stand_ins)
    assert set(calls) == set(functions)


ANSWER: dict[str, Any] = {
    "status": "optimal",
    "layout": {"ep": 1},
    "step_time": {"total_ns": 1},
    "rules": [{"rule": "memory_fits", "holds": False, "equation": ""}],
}


def test_the_errors_are_those_of_the_benchmark() -> None:
    """Step-time errors in the README are the ones that the benchmark's page reports."""
    page = (ROOT / "benchmarks" / "step_time.md").read_text(encoding="utf-8")

    def figures(label: str) -> tuple[str, str, str]:
        found = re.search(rf"^{label} +(\d+) rows +median +([\d.]+)% .*p90 +([\d.]+)%", page, re.MULTILINE)
        assert found, label
        return found[1], found[2], found[3]

    rows, median, most = figures("all counted rows")
    assert f"{rows} published runs: {median} % median, {most} % for nine in ten" in README
    dense, folding = figures("apart, dense"), figures("apart, folding")
    assert f"{dense[0]} dense rows {dense[1]} %, {folding[0]} folding rows {folding[1]} % median" in README
    worst = re.search(r"^worst ten\n +[+-]([\d.]+)%", page, re.MULTILINE)
    assert worst
    assert f"{worst[1]} % worst" in README
    calibration = (ROOT / "docs" / "step-time.md").read_text(encoding="utf-8")
    left_out = re.search(r"\| one source left out \| ([\d.]+) % \|.*\| ([\d.]+) % \|", calibration)
    assert left_out
    assert f"{left_out[1]} % median, {left_out[2]} % for nine in ten" in README


def test_the_transcript_is_what_a_solve_says() -> None:
    """A fresh solve is optimal, and its GPU equations, degrees, pipeline, peak and step time are the printed ones."""
    text = transcript()
    answer = solve(load_problem({"architecture": "qwen3-30b-a3b", "cluster": "h100-sxm", "gpus": 512}), workers=2)
    layout, step_ns = answer["layout"], answer["step_time"]["total_ns"]
    assert answer["status"] == "optimal"
    for equation in answer["gpus"]["equations"]:
        assert equation in text
    for degree in ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp"):
        assert re.search(rf"\b{degree} {layout[degree]}\b", text), degree
    assert re.search(rf"pipeline +{re.escape(layout['pipeline_layout'])}\n", text)
    assert re.search(rf"dispatcher +{layout['dispatcher']}\n", text)
    assert f"peak {answer['memory']['peak_bytes'] / 2**30:.2f} GiB" in text
    assert f"Step time: {step_ns / 1e9:.3f} s" in text
    assert f"{step_ns / 1e6:,.2f}  100.0%" in text
    assert f"step_time = bound = {step_ns / 1e9:.3f} s; {answer['search']['legal_layouts']:,} legal layouts" in text
