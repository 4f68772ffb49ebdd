"""The text report: complete, within its width, and without colour where nobody could see it."""

import re
from html import unescape
from io import StringIO

import pytest
from rich.console import Console

from example_answer import GIB, answer, stage
from moeopt import evaluate
from moeopt.report.html import page
from moeopt.report.memory import BAR, KINDS, MOST_ROWS, bar, rows
from moeopt.report.text import render
from rule_problems import layout, problem
from rule_witnesses import WITNESSES


def text(given, width=100):
    """What the report prints into a file."""
    stream = StringIO()
    render(given, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def words(given):
    """The report with every run of white space as one space."""
    return " ".join(text(given).split())


@pytest.mark.parametrize("status", ["optimal", "feasible", "infeasible", "unknown", "evaluated", "illegal"])
@pytest.mark.parametrize("stages", [1, 4, 16, 64])
def test_nothing_is_wider_than_a_hundred_columns_or_coloured(status, stages):
    """Every status, from one stage to 64: at most 100 columns and no escape codes in a file."""
    report = text(answer(status, stages))
    assert max(map(len, report.splitlines())) <= 100
    assert "\x1b" not in report
    assert "…" not in report, "a column was cut"


def test_the_optimizer_and_the_parameters_are_named_where_they_are_a_choice():
    """Muon, and 8-bit parameters under fp8; Adam and what a precision implies go without saying."""
    given = answer()
    plain = words(given)
    given["problem"]["workload"] |= {"precision": "fp8", "fp8_param_gather": True, "optimizer": "muon"}
    assert "fp8 with 8-bit parameters, megatron-core with Muon" in words(given)
    assert "8-bit" not in plain
    assert "with Muon" not in plain


def test_the_report_shows_every_number_that_is_asked_for():
    """GPU equations, degrees, batch, memory, step time, rates, proof."""
    report = words(answer())
    for part in (
        "512 = tp 8 * cp 1 * dp 16 * pp 4",
        "512 = etp 1 * ep 16 * edp 8 * pp 4",
        "Et*4|(t*4|)*2t*4L",
        "4,428,694,528",
        "peak 28.00 GiB of 80.00 GiB",
        "Step time: 2.000 s",
        "1,200.00 60.0%",
        "total 2,000.00 100.0%",
        "8,192 tokens/s/GPU",
        "MFU 40.0%",
        "Optimal: no legal layout is faster; step_time = bound = 2.000 s; 12,345 legal layouts in 1.50 s",
        "ortools 9.15.6755, seed 0, workers 2",
        "balanced: every expert receives the same number of tokens",
    ):
        assert part in report


@pytest.mark.parametrize(
    ("objective", "words_of_proof"),
    [
        (
            {"name": "step_time", "value": 2_000_000_000, "bound": 1_500_000_000, "unit": "ns"},
            "none can be below 1.500 s",
        ),
        ({"name": "peak_memory", "value": 40 * GIB, "bound": 30 * GIB, "unit": "bytes"}, "none can be below 30.00 GiB"),
        ({"name": "gpus", "value": 64, "bound": 48, "unit": "GPUs"}, "gpus 64 GPUs; none can be below 48 GPUs"),
    ],
)
def test_an_unproven_answer_says_so(objective, words_of_proof):
    """Status feasible: never the word optimal, and the gap to the bound."""
    report = words({**answer("feasible"), "objective": objective})
    assert "not proven" in report
    assert "Optimal" not in report
    assert words_of_proof in report
    assert "at most 25.00% better" in report


def test_an_infeasible_problem_is_explained():
    """Conflict and relaxations, in words; no layout is shown."""
    explanation = {
        "text": "The state needs 9 TB.",
        "conflict": ["memory_fits"],
        "relaxations": [{"change": "gpus", "to": 256, "step_time": "3 s"}],
    }
    report = words({**answer("infeasible"), "explanation": explanation, "layout": None})
    for part in ("Infeasible: proven", "The state needs 9 TB.", "- memory_fits", "- gpus to 256 (step_time 3 s)"):
        assert part in report


def test_broken_rules_and_claims_are_shown_with_their_reasons():
    """Illegal layouts list each broken rule; claims come with the explanation."""
    rules = [
        {
            "rule": "heads_by_tp",
            "holds": False,
            "equation": "16 % tp 3 = 1, must be 0",
            "source": "x",
            "checked": "launch",
        },
        {"rule": "other", "holds": None, "equation": "not judged"},
        {"rule": "fine", "holds": True, "equation": "1 = 1"},
    ]
    claims = [
        {"name": "gpus", "claimed": "512", "computed": 128, "holds": False, "explanation": "ep folds."},
        {"name": "params", "claimed": "4.4B", "computed": 4_428_694_528, "holds": True, "explanation": "so it is."},
    ]
    report = words({**answer("illegal"), "rules": rules, "claims": claims})
    assert "ILLEGAL: 1 of 3 rules are broken, 1 could not be judged" in report
    assert "heads_by_tp: 16 % tp 3 = 1, must be 0" in report
    assert "Claims: 1 of 2 do not hold" in report
    assert "WRONG gpus: claimed 512, computed 128 ep folds." in report
    assert "holds params: claimed 4.4B, computed 4,428,694,528 so it is." in report


def test_verbose_lists_the_rules_that_hold():
    """With -v every rule is shown with its equation."""
    stream = StringIO()
    render(answer("evaluated"), Console(file=stream, width=100), verbose=True)
    assert "ok heads_by_tp: 16 % tp 8 = 0" in stream.getvalue()
    assert "heads_by_tp" not in text(answer("evaluated"))


def test_text_from_files_is_never_read_as_markup():
    """A name with brackets is printed as it is."""
    given = answer()
    given["problem"]["architecture"]["name"] = "[red]x[/red] [/]"
    assert "[red]x[/red] [/]" in text(given)


def test_runners_up_are_listed_behind_the_winner_and_compared_with_it():
    """The table begins with the answer's own layout; a runner-up has its time in seconds and what it loses to that."""
    best = answer()
    others = [
        {"layout": best["layout"], "objective": {"name": "step_time", "value": ns}} for ns in (2_100_000_000, 3 * 10**9)
    ]
    rows = text({**best, "alternatives": others}).partition("Best layouts")[2].splitlines()
    winner, second, third = (" ".join(row.split()) for row in rows[2:5])
    assert (winner[:2], winner[-7:]) == ("1 ", "2.000 s")
    assert (second[:2], second[-14:]) == ("2 ", "2.100 s +5.00%")
    assert third.endswith("3.000 s +50.00%")
    assert "Best layouts" not in text({**best, "alternatives": []})


@pytest.mark.parametrize("certified", [True, False])
def test_a_layout_chosen_by_its_replay_is_not_called_the_ledgers_optimum(certified):
    """The layout takes 2.000 s by the ledger, whose optimum of 1.900 s is another layout: the proof names both, and the
    table has each layout's own time, compared with the optimum."""
    given = answer()
    given["objective"] = {**given["objective"], "value": 1_900_000_000, "bound": 1_900_000_000}
    given["schedule"] = {**given["schedule"], "certified": certified}
    other = {"layout": given["layout"], "objective": {"name": "step_time", "value": 1_900_000_000}}
    given |= {
        "alternatives": [other],
        "ledger_optimum": {**other, "step_time_ns": 1_900_000_000, "simulated_ns": 2 * 10**9},
    }
    report = words(given)
    assert ("no legal layout has one below 1.990 s" in report) == certified
    assert "by the ledger another layout is, step_time = bound = 1.900 s" in report
    rows = text(given).partition("Best layouts")[2].splitlines()
    assert " ".join(rows[2].split()).endswith("2.000 s +5.26%")
    assert " ".join(rows[3].split()).endswith("1.900 s +0.00%")


def test_the_table_of_costs_cuts_no_column():
    """The widest table there is: costs, and recompute modules that take three lines."""
    given = answer()
    given["layout"] = {
        **given["layout"],
        "recompute": {"granularity": "selective", "modules": ["layernorm", "moe_act"]},
    }
    given["objective"] = {"name": "cost", "value": 36 * 10**14, "bound": 36 * 10**14, "unit": "GPU*ns per step"}
    other = {"layout": given["layout"], "objective": {"name": "cost", "value": 37 * 10**14}}
    table = text({**given, "alternatives": [other]}).partition("Best layouts")[2]
    assert "…" not in table
    assert "1,027.7778 GPU-hours +2.78%" in " ".join(table.split())


def test_a_cost_is_told_in_gpu_hours():
    """The integer of a cost is GPU * ns; people read GPU-hours: 36 * 10**14 of them are 1,000."""
    objective = {"name": "cost", "value": 36 * 10**14, "bound": 36 * 10**14, "unit": "GPU*ns per step"}
    assert "cost = bound = 1,000.0000 GPU-hours;" in words({**answer(), "objective": objective})


@pytest.mark.parametrize("activations", [0, GIB, 20 * GIB, 64 * GIB, 200 * GIB])
def test_a_bar_is_as_long_as_the_stage_is_full(activations):
    """Marks in proportion to bytes; beyond the capacity the bar is cut and says so."""
    given, capacity = stage(0, activations), 80 * GIB
    drawn = bar(given, capacity)
    assert len(drawn) == BAR + 1
    filled = len(drawn[:-1].rstrip())
    if given["total_bytes"] > capacity:
        assert drawn.endswith(">")
        assert filled == BAR
    else:
        assert drawn.endswith("|")
        assert filled == round(BAR * given["total_bytes"] / capacity)


def test_many_stages_become_few_rows_that_still_hold_the_peak():
    """Equal neighbours are joined; what is left out is stood for by its largest."""
    per_stage = [stage(number, (100 + (number == 30)) * GIB // 10) for number in range(64)]
    peak = max(per_stage, key=lambda each: each["total_bytes"])
    shown = rows({"per_stage": per_stage, "peak_stage": 30})
    assert [label for label, _ in shown] == ["0-29", "*30", "31-63"]
    ramp = [stage(number, number * GIB // 10) for number in range(64)]
    shown = rows({"per_stage": ramp, "peak_stage": 63})
    assert len(shown) == MOST_ROWS
    assert max(each["total_bytes"] for _, each in shown) == ramp[-1]["total_bytes"]
    assert peak["total_bytes"] > per_stage[0]["total_bytes"]


def test_the_marks_of_a_bar_are_distinct():
    """Without colour, only the marks tell the parts apart."""
    marks = [mark for _, _, mark in KINDS.values()]
    assert len(set(marks)) == len(marks)
    assert re.sub(r"[|> ]", "", "".join(marks)) == "".join(marks)


TIMED = [each for each in WITNESSES if each.problem.get("workload", {}).get("precision", "bf16") == "bf16"]


@pytest.mark.parametrize("witness", TIMED, ids=lambda witness: witness.rule)
def test_every_illegal_layout_can_be_shown(witness):
    """Whatever rule a layout breaks, priced or not, its evaluation has a text and a page that give the equation."""
    judged = evaluate(problem(**witness.problem), layout(**witness.broken), strict=False)
    broken = [" ".join(rule["equation"].split()) for rule in judged["rules"] if rule["holds"] is False]
    assert broken
    for shown in (words(judged), unescape(" ".join(page(judged).split()))):
        assert all(equation in shown for equation in broken)
