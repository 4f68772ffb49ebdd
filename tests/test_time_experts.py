"""The comparison with published layouts holds equal what it says, and leaves the rest open."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moeopt.configurations import modes
from moeopt.evaluation import evaluate
from moeopt.layout import Layout

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def experts() -> Any:
    """The script, with a search that is never called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        search = ModuleType("moeopt.search")
        search.solve = None  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "moeopt.search", search)
        yield importlib.import_module("experts")


def test_published_layouts_are_open_to_the_search(experts: ModuleType) -> None:
    """In the problem that the search is given, the published layout breaks no rule of the problem's own (so ours can
    only be better unless the time limit ends the search), and both values of the expert overlap are open."""
    rows = json.loads(experts.ROWS.read_text(encoding="utf-8"))["rows"]
    rows = experts.best_rows(row for row in rows if not {"apart", "outlier"} & set(row))
    assert len(rows) == 40
    for row in rows[::4]:
        problem, layout = experts.asked(row), Layout.model_validate(row["layout"])
        broken = [rule["rule"] for rule in evaluate(problem, layout)["rules"] if not rule["holds"]]
        assert not [name for name in broken if name != "memory_fits"], row["id"]
        assert {mode.overlap.ep_all_to_all for mode in modes(problem)} == {False, True}
        assert {mode.cuda_graphs for mode in modes(problem)} == {layout.cuda_graphs}


def test_best_of_each_problem(experts: ModuleType) -> None:
    """Of the rows of one problem and batch the fastest stands for the experts."""
    rows = json.loads(experts.ROWS.read_text(encoding="utf-8"))["rows"]
    qwen = [row for row in rows if row["id"].startswith("modelzoo-qwen3-h100") and "apart" not in row]
    assert len(qwen) == 4
    (best,) = experts.best_rows(qwen)
    assert best["tokens_per_second_per_gpu"] == max(row["tokens_per_second_per_gpu"] for row in qwen)


def test_differences_add_up(experts: ModuleType) -> None:
    """The parts that differ explain the difference of the two steps: all parts above half a per cent are listed."""
    rows = json.loads(experts.ROWS.read_text(encoding="utf-8"))["rows"]
    first, second = [row for row in rows if row["id"].startswith("modelzoo-qwen3-h100")][:2]
    answers = [evaluate(experts.asked(first), Layout.model_validate(row["layout"])) for row in (first, second)]
    found = experts.Comparison(first, *answers)
    difference = answers[0]["step_time"]["total_ns"] - answers[1]["step_time"]["total_ns"]
    listed = sum(saved for _, saved in found.differences())
    assert listed == pytest.approx(difference, abs=0.005 * 12 * answers[0]["step_time"]["total_ns"])
    assert found.gain == pytest.approx(difference / answers[1]["step_time"]["total_ns"])
