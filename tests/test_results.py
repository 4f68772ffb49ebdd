"""The recorded answers in results/ are what moeopt says today: nothing is solved here, everything is judged again."""

import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.problem.base import read_fields

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
STEMS = sorted(path.stem for path in RESULTS.glob("*.json"))
SHARED = ("layout", "gpus", "parameters", "memory", "step_time", "routing", "problem")
REPLAY = ("simulated_ns", "pipeline_ledger_ns", "pipeline_simulated_ns", "extrapolated")
"""The bound differs: over the whole problem in a solution, over the placements of its degrees in an evaluation."""
"""What solve and evaluate say alike."""
FACTOR = re.compile(r"[a-z]+ (\d+)")


@cache
def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_benchmark", ROOT / "benchmarks" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _answer(stem: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{stem}.json").read_text(encoding="utf-8"))
    return content


SOLVED = [stem for stem in STEMS if "layout" in _answer(stem)]


@cache
def _evaluated(stem: str) -> dict[str, Any]:
    return evaluate(_benchmark().problem_of(stem), read_fields(Layout, _answer(stem)["layout"], "layout"))


def test_every_problem_has_a_result_and_every_result_a_problem() -> None:
    """results/ and problems/ name the same problems."""
    assert sorted(path.stem for path in (ROOT / "problems").glob("*.yaml")) == STEMS


def test_one_problem_has_no_layout_and_the_others_do() -> None:
    """The node that is too small is proven so; no other problem is without a layout."""
    assert {stem: _answer(stem)["status"] for stem in STEMS if stem not in SOLVED} == {
        "deepseek-v3-8-h100": "infeasible"
    }


def test_infeasible_is_explained_and_relaxed() -> None:
    """The conflict is memory, and the change that is said to help asks for more GPUs than there are."""
    answer = _answer("deepseek-v3-8-h100")
    assert answer["explanation"]["conflict"] == ["memory_fits"]
    more = [change["gpus"] for change in answer["explanation"]["relaxations"] if change["change"] == "gpus"]
    assert len(more) == 1
    assert more[0] > answer["problem"]["gpus"]


@pytest.mark.parametrize("stem", STEMS)
def test_result_is_of_the_problem_that_ships(stem: str) -> None:
    """The recorded problem, defaults filled in, is what its file says now."""
    assert _answer(stem)["problem"] == json.loads(json.dumps(_benchmark().problem_of(stem).model_dump(mode="json")))


@pytest.mark.parametrize("stem", SOLVED)
def test_evaluation_says_the_same_integers(stem: str) -> None:
    """Evaluating the recorded layout gives every figure of the solution, and breaks no rule."""
    answer, again = _answer(stem), json.loads(json.dumps(_evaluated(stem)))
    assert again["status"] == "evaluated"
    assert {name: again[name] for name in SHARED} == {name: answer[name] for name in SHARED}
    for name in REPLAY:
        assert again["schedule"][name] == answer["schedule"][name]
    assert answer["schedule"]["lower_bound_ns"] <= answer["schedule"]["simulated_ns"]
    assert again["objective"]["value"] == answer["objective"]["value"]
    assert all(rule["holds"] for rule in [*answer["rules"], *again["rules"]])


@pytest.mark.parametrize("stem", SOLVED)
def test_gpu_equations_are_true_products(stem: str) -> None:
    """Both equations multiply out to the GPU total, with the layout's own degrees; the total is one that was asked."""
    answer = _answer(stem)
    layout, total, asked = answer["layout"], answer["gpus"]["total"], answer["problem"]["gpus"]
    grids = (("tp", "cp", "dp", "pp"), ("etp", "ep", "edp", "pp"))
    assert len(answer["gpus"]["equations"]) == len(grids)
    for equation, names in zip(answer["gpus"]["equations"], grids, strict=True):
        left, right = equation.split(" = ")
        factors = [int(factor) for factor in FACTOR.findall(right)]
        assert int(left) == total == math.prod(factors)
        assert factors == [layout[name] for name in names]
    assert total == asked if isinstance(asked, int) else asked["min"] <= total <= asked["max"]


@pytest.mark.parametrize("stem", SOLVED)
def test_batch_is_divided_exactly(stem: str) -> None:
    """micro_batch_size * dp * num_microbatches is the global batch."""
    answer = _answer(stem)
    layout = answer["layout"]
    sequences = layout["micro_batch_size"] * layout["dp"] * layout["num_microbatches"]
    assert sequences == answer["problem"]["workload"]["global_batch_size"]


@pytest.mark.parametrize("stem", SOLVED)
def test_every_stage_fits_and_adds_up(stem: str) -> None:
    """Parts of each stage's memory add up to its total, none is above the limit, and the fullest is the peak."""
    memory = _answer(stem)["memory"]
    totals = []
    for stage in memory["per_stage"]:
        parts = [value for name, value in stage.items() if name not in ("stage", "total_bytes")]
        assert sum(parts) == stage["total_bytes"]
        totals.append(stage["total_bytes"])
    assert len(totals) == _answer(stem)["layout"]["pp"]
    assert max(totals) == memory["peak_bytes"] == totals[memory["peak_stage"]]
    assert memory["peak_bytes"] <= memory["limit_bytes"] <= memory["capacity_bytes"]


@pytest.mark.parametrize("stem", SOLVED)
def test_step_time_parts_add_up(stem: str) -> None:
    """The parts are the step, and the range holds it."""
    step = _answer(stem)["step_time"]
    assert sum(step["parts"].values()) == step["total_ns"]
    assert step["range"]["low_ns"] < step["total_ns"] < step["range"]["high_ns"]


@pytest.mark.parametrize("stem", SOLVED)
def test_status_is_what_value_and_bound_say(stem: str) -> None:
    """Optimal means that the bound is the value; a feasible one has a bound above zero and below its value."""
    answer = _answer(stem)
    value, bound = answer["objective"]["value"], answer["objective"]["bound"]
    assert answer["status"] in ("optimal", "feasible")
    assert (bound == value) == (answer["status"] == "optimal")
    assert 0 < bound <= value


def test_table_is_of_these_results() -> None:
    """results/README.md is what the recorded answers and runs give, and names each once."""
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert text == _benchmark().table()
    for stem in STEMS:
        assert text.count(f"| [{stem}]({stem}.json) |") == 1


def test_nothing_recorded_changes_from_run_to_run() -> None:
    """No answer holds the seconds of its run; the record of runs has them for every problem."""
    for stem in STEMS:
        assert not set(_benchmark().VOLATILE) & set(_answer(stem)["search"])
    runs = _benchmark().read_runs()
    assert sorted(runs) == STEMS
    assert all(float(run["seconds"]) > 0 and run["date"] and run["ortools"] for run in runs.values())
