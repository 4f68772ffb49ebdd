"""The documents run: tutorial, how-to pages, the commands' page, the site's navigation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import tutorial
from launch_cases import solution
from moeopt.__main__ import run
from moeopt.cli import COMMANDS
from moeopt.cli.help_pages import commands_page
from moeopt.errors import InputError
from moeopt.layout import Choices, Degrees
from moeopt.problem.huggingface import FAMILIES
from moeopt.problem.loading import load_architecture
from moeopt.writers import write
from rule_problems import problem

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
HOW_TO = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "howto").glob("*.md")}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a how-to page."""
    return re.findall(rf"^```{language}\n(.*?)^```", HOW_TO[page], re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial_shows_what_happens() -> None:
    """Every block of the tutorial runs, in order, and shows what it shows on the page (`make docs` writes it anew)."""
    text = tutorial.PAGE.read_text(encoding="utf-8")
    assert text.count("```python") >= 10
    assert tutorial.executed(text) == text


def test_the_tutorials_cells_are_a_notebooks() -> None:
    """A cell shows what it prints and its last value; names live on; a stale output is replaced."""
    names: dict[str, Any] = {}
    assert tutorial.run("a = 1\nprint('x')\na + 1\n", names) == "x\n2\n"
    assert tutorial.run("a\n", names) == "1\n"
    assert tutorial.run("b = a\n", names) == ""
    page = "```python\n2 + 2\n```\n\n```text\n5\n```\n\ntext\n"
    assert tutorial.executed(page) == page.replace("5", "4")


def test_the_commands_page_is_current() -> None:
    """docs/commands.md is what `make docs` would write: each command, each option, as they are."""
    page = commands_page()
    assert page == (DOCS / "commands.md").read_text(encoding="utf-8")
    assert all(f"\n## moeopt {name}\n" in page for name in COMMANDS)
    assert "`--architecture A`" in page


def navigation(entries: list[Any]) -> list[str]:
    """Files that a navigation names."""
    values = [next(iter(entry.values())) if isinstance(entry, dict) else entry for entry in entries]
    return [name for value in values for name in (navigation(value) if isinstance(value, list) else [value])]


def test_the_navigation_covers_every_page() -> None:
    """A page that the site's navigation leaves out is not found by anybody."""
    given = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(given) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """mkdocs, where it is installed (extra `docs`), builds every page and finds no broken link."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "site").rglob("index.html"))) >= len(PAGES)


def test_links_that_leave_the_site_become_paths() -> None:
    """Files outside docs/ are named, links between pages stay links, whatever folder the page is in."""
    names: dict[str, Any] = {}
    exec((DOCS / "site_links.py").read_text(encoding="utf-8"), names)

    def page(uri: str) -> Any:
        return SimpleNamespace(file=SimpleNamespace(src_uri=uri))

    rewritten = names["on_page_markdown"]
    assert rewritten("[R](../README.md) [S](search.md#x)", page("index.md")) == (
        "R (`README.md` in the repository) [S](search.md#x)"
    )
    assert rewritten("[S](../search.md) [R](../../README.md)", page("howto/a.md")) == (
        "[S](../search.md) R (`README.md` in the repository)"
    )


@pytest.mark.parametrize("page", sorted(HOW_TO))
def test_how_to_pages_run_as_written(page: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Files that a page shows are written as it says, and its commands answer what it shows."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"Save this as `([\w.-]+)`:\n\n```yaml\n(.*?)^```", HOW_TO[page], re.DOTALL | re.M):
        Path(name).write_text(text, encoding="utf-8")
    for block in blocks(page, "console"):
        lines = block.splitlines()
        assert run(lines[0].removeprefix("$ moeopt ").split()) == 0
        out = capsys.readouterr().out.splitlines()
        shown = lines[1:-1] if lines[-1] == "..." else lines[1:]
        assert out[: len(shown)] == shown


def test_every_how_to_page_has_something_to_run() -> None:
    """Four pages, each with a command or code that a test runs."""
    assert sorted(HOW_TO) == ["add-a-cluster", "add-a-framework", "add-a-rule", "add-an-architecture"]
    assert all(blocks(page, "console") or blocks(page, "python") for page in HOW_TO)


def test_add_an_architecture_shows_a_family_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader on the page turns a config.json into an architecture; the variant on the page starts from its base."""
    names: dict[str, Any] = {}
    exec(blocks("add-an-architecture", "python")[0], names)
    monkeypatch.setitem(FAMILIES, "my_family", names["my_family"])
    config = {
        "model_type": "my_family",
        "hidden_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 512,
        "rope_theta": 5e5,
    }
    read = load_architecture(config)
    assert (read.qk_norm, read.num_experts, read.rope_theta) == ("head", 4, 5e5)
    variant = load_architecture(yaml.safe_load(blocks("add-an-architecture", "yaml")[1]))
    assert (variant.num_hidden_layers, variant.num_experts) == (4, 256)


def test_add_a_rule_shows_a_rule_for_integers_and_columns() -> None:
    """The rule on the page judges integers and columns alike, and stays out of short sequences."""
    names: dict[str, Any] = {}
    exec(blocks("add-a-rule", "python")[0], names)
    rule = names["RING_IN_DOMAIN"]
    asked, choices = problem(workload={"sequence_length": 32768}), Choices()
    pairs = [(1, 1), (2, 4), (2, 8), (8, 2)]
    integers = [rule.holds(asked, degrees(tp, cp), choices) for tp, cp in pairs]
    column = rule.holds(asked, degrees(np.array([tp for tp, _ in pairs]), np.array([cp for _, cp in pairs])), choices)
    assert integers == list(column) == [True, True, False, False]
    assert rule.equation(asked, degrees(2, 8), choices) == "tp 2 * cp 8 = 16 <= 8"
    assert rule.holds(problem(workload={"sequence_length": 4096}), degrees(2, 8), choices)


def degrees(tp: Any, cp: Any) -> Degrees:
    """Degrees of which a rule over tp and cp may read the first two."""
    return Degrees(**{**dict.fromkeys(Degrees.__dataclass_fields__), "tp": tp, "cp": cp})


def test_add_a_framework_shows_one_that_launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The writer on the page gives a script, a smoke run and a README, and refuses by name what it cannot say."""
    module = ModuleType("moeopt.writers.our_trainer")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(blocks("add-a-framework", "python")[0], module.__dict__)
    monkeypatch.setattr(write, "FRAMEWORKS", (*write.FRAMEWORKS, "our-trainer"))
    given = solution({"tp": 2, "pp": 2, "ep": 8, "etp": 1})
    names = {path.name for path in write.launch(given, tmp_path / "run", "our-trainer")}
    assert names >= {"train.sh", "smoke.sh", "README.md", "train_layers.txt", "solution.json"}
    script = (tmp_path / "run" / "train.sh").read_text()
    assert "our_trainer.train" in script
    assert "--tp 2" in " ".join(script.split())
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(tmp_path / "run" / "train.sh")], check=True)
    with pytest.raises(InputError, match="vpp: our-trainer cannot express it"):
        write.launch(solution({"tp": 2, "pp": 2, "ep": 8, "etp": 1, "vpp": 2}), tmp_path / "other", "our-trainer")
