"""Claims about a layout: what holds, what does not, and that the explanation's arithmetic is right."""

import json
from math import lcm
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from example_answer import GIB, answer, problem
from moeopt.__main__ import run
from moeopt.claims import check_claims, nearest_reading
from moeopt.claims.quantities import (
    bytes_quantity,
    count_quantity,
    duration_quantity,
    fraction_quantity,
    holds,
)
from moeopt.claims.reading import Grids
from moeopt.layout import Layout

SEED = Path(__file__).parent.parent / "problems" / "seed-deployment.yaml"
POWERS = st.sampled_from([1, 2, 3, 4, 6, 8, 16])


def claim(layout, name, text, **changes):
    """The answer to one claim about a layout, against the example's numbers."""
    return check_claims(problem(), layout, {**answer("evaluated"), **changes}, [(name, text)])[0]


@pytest.mark.parametrize(
    ("read", "text", "computed", "expected"),
    [
        (count_quantity, "4.4B", 4_428_694_528, True),
        (count_quantity, "4.43B", 4_428_694_528, True),
        (count_quantity, "4.42B", 4_428_694_528, False),
        (count_quantity, "4B", 4_428_694_528, True),
        (count_quantity, "30B", 30_499_999_999, True),
        (count_quantity, "30B", 30_500_000_001, False),
        (count_quantity, "512", 512, True),
        (count_quantity, "512", 511, False),
        (count_quantity, "8192.5", 8192.54, True),
        (bytes_quantity, "149.2GB", 149_249_999_999, True),
        (bytes_quantity, "149.2GB", 149_260_000_000, False),
        (bytes_quantity, "76GiB", 76 * GIB + GIB // 2 - 1, True),
        (duration_quantity, "3.2s", 3_240_000_000, True),
        (duration_quantity, "3.20s", 3_240_000_000, False),
        (duration_quantity, "450ms", 450_400_000, True),
        (fraction_quantity, "40%", 0.404, True),
        (fraction_quantity, "40.0%", 0.404, False),
        (fraction_quantity, "0.40", 0.404, True),
    ],
)
def test_a_claim_holds_when_the_computed_value_rounds_to_it(read, text, computed, expected):
    """The digits that are written decide how exact the claim is."""
    assert holds(read("x", text), computed) is expected


@given(st.integers(1, 10**15), st.integers(0, 6))
def test_a_value_written_with_any_number_of_digits_holds(value, places):
    """Whatever is printed by rounding is a claim that holds; a whole unit off is one that does not."""
    text = f"{value / 10**9:.{places}f}"
    written = round(float(text) * 10**9)
    assert abs(written - value) <= 10**9 // 10**places
    assert holds(count_quantity("x", f"{text}B"), value) or abs(abs(written - value) * 2 - 10**9 / 10**places) < 2
    assert not holds(count_quantity("x", f"{text}B"), value + 2 * 10**9)


@given(POWERS, POWERS, POWERS, POWERS, st.none() | POWERS)
def test_the_smallest_legal_total_is_the_smallest_that_both_grids_divide(tp, cp, pp, ep, etp):
    """Against a count upwards from 1; etp is tp where it is not given (Megatron-LM, parallel_state.py)."""
    grids = Grids(Layout(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp))
    dense, expert = tp * cp * pp, (etp or tp) * ep * pp
    total = dense
    while total % expert:
        total += dense
    assert grids.smallest == total == lcm(tp * cp, (etp or tp) * ep) * pp


@given(POWERS, POWERS, POWERS, POWERS, st.none() | POWERS, st.none() | st.integers(1, 64), st.integers(1, 2048))
def test_the_nearest_reading_is_legal_and_keeps_the_degrees(tp, cp, pp, ep, etp, dp, gpus):
    """Whatever was given: both grids divide the GPUs of the reading, and only derived degrees were dropped."""
    layout = Layout(tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, dp=dp)
    asked = problem().model_copy(update={"gpus": gpus})
    reading = nearest_reading(asked, layout)
    total = reading.problem.gpu_range.max
    assert total % Grids(layout).smallest == 0
    assert total == gpus or gpus % Grids(layout).smallest
    kept = {name: getattr(reading.layout, name) for name in ("tp", "cp", "pp", "ep", "etp")}
    assert kept == {"tp": tp, "cp": cp, "pp": pp, "ep": ep, "etp": etp}
    legal = dp in (None, gpus // Grids(layout).dense) and gpus % Grids(layout).smallest == 0
    assert bool(reading.contradictions) is not legal
    if legal:
        assert reading.layout is layout


def test_the_product_of_the_degrees_is_not_the_gpu_total():
    """The seed's layout: every number of the explanation is named, and none is left to be believed."""
    checked = claim(Layout(tp=8, pp=4, ep=16, dp=4), "gpus", "512")
    assert (checked["computed"], checked["holds"]) == (128, False)
    for part in (
        "tp 8 * pp 4 * ep 16 * dp 4 = 2048, neither the claimed 512 nor the GPU total",
        "tp 8 * cp 1 * dp 4 * pp 4 = 128",
        "ep 16 does not fold into these 128 GPUs",
        "etp 8 * ep 16 * pp 4 = 512 (Megatron's default: etp = tp 8)",
        "lcm(tp 8 * cp 1, etp 8 * ep 16) * pp 4 = 512, with dp 16",
        "With etp 1, ep 16 folds into them: etp 1 * ep 16 * edp 2 * pp 4 = 128 GPUs are legal",
        "dp 16 makes 512: 512 / (tp 8 * cp 1 * pp 4) = 16",
    ):
        assert part in checked["explanation"]


def test_the_same_degrees_with_etp_1_fold():
    """With etp given as 1 the total is legal, ep folds, and only the claimed number is wrong."""
    checked = claim(Layout(tp=8, pp=4, ep=16, dp=4, etp=1), "gpus", "128")
    assert (checked["computed"], checked["holds"]) == (128, True)
    assert (
        "ep 16 folds into it: the routed experts use the same GPUs as etp 1 * ep 16 * edp 2 * pp 4 = 128"
        in (checked["explanation"])
    )


def test_a_total_that_the_expert_grid_does_not_divide_does_not_hold():
    """128 = tp * cp * dp * pp is what Megatron computes, but with etp 8 it refuses to start on 128 GPUs."""
    assert not claim(Layout(tp=8, pp=4, ep=16, dp=4), "gpus", "128")["holds"]


def test_a_claimed_total_that_no_dp_makes():
    """The remainder is named."""
    checked = claim(Layout(tp=8, pp=4, ep=16, dp=4), "gpus", "500")
    assert "No dp makes 500: 500 % (tp 8 * cp 1 * pp 4) = 20." in checked["explanation"]


def test_a_layout_without_dp_is_as_large_as_the_problem():
    """dp follows from the GPUs of the problem."""
    checked = claim(Layout(tp=8, pp=4, ep=16), "gpus", "512")
    assert checked["holds"]
    assert "dp is not given: tp 8 * cp 1 * dp 16 * pp 4 = 512." in checked["explanation"]


def test_parameters_are_counted_component_by_component():
    """4.43B is not 30B; the products behind the number are there."""
    layout = Layout(tp=8, pp=4, ep=16)
    wrong = claim(layout, "params", "30B")
    assert (wrong["computed"], wrong["holds"]) == (4_428_694_528, False)
    assert (
        "16 layers * 64 experts * 2 matrices * hidden_size 1024 * moe_intermediate_size 2048 = 4,294,967,296"
        in (wrong["explanation"])
    )
    assert "6.77 times" in wrong["explanation"]
    assert claim(layout, "params", "4.4B")["holds"]
    assert claim(layout, "total_params", "4.43B")["holds"]
    assert claim(layout, "active_params", "268M")["holds"]


def test_memory_is_answered_in_every_sense_that_the_word_has():
    """18 bytes a parameter once; the peak of one GPU; the sum over all GPUs. A claim may mean any of them."""
    layout = Layout(tp=8, pp=4, ep=16)
    state, peak = 18 * 4_428_694_528, 28 * GIB
    everywhere = 128 * (28 + 27 + 26 + 25) * GIB
    wrong = claim(layout, "memory", "149.2GB")
    assert (wrong["computed"], wrong["holds"]) == (state, False)
    for count in (state, peak, everywhere):
        assert f"{count / 1e9:,.1f} GB" in wrong["explanation"]
        right = claim(layout, "memory", f"{count / 1e9:.1f}GB")
        assert (right["computed"], right["holds"]) == (count, True)
    assert claim(layout, "memory_per_gpu", "28GiB")["holds"]
    assert not claim(layout, "memory_per_gpu", f"{state}")["holds"]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("tp", "8", "4"),
        ("dp", "16", "4"),
        ("edp", "8", "16"),
        ("num_microbatches", "32", "31"),
        ("step_time", "2.0s", "2.1s"),
        ("step_time", "2000ms", "1999ms"),
        ("tokens_per_second_per_gpu", "8192", "8191"),
        ("tokens_per_second_per_gpu", "8.2K", "8.1K"),
        ("model_tflops_per_gpu", "396", "400"),
        ("mfu", "40%", "41%"),
    ],
)
def test_every_other_number_of_the_evaluation_can_be_claimed(name, right, wrong):
    """Degrees and rates."""
    layout = Layout(tp=8, pp=4, ep=16, dp=16, etp=1)
    assert claim(layout, name, right)["holds"]
    assert not claim(layout, name, wrong)["holds"]


@pytest.mark.parametrize("name", ["memory", "memory_per_gpu", "step_time", "mfu"])
def test_what_cannot_be_priced_does_not_hold_and_says_why(name):
    """An illegal layout whose stages cannot be added up: the broken rule is the explanation."""
    given = {key: value for key, value in answer("illegal").items() if key not in ("memory", "step_time")}
    given["rules"] = [{"rule": "heads_by_tp", "holds": False, "equation": "16 % tp 3 = 1, must be 0"}]
    text = {"step_time": "1s", "mfu": "40%"}.get(name, "80GB")
    checked = check_claims(problem(), Layout(tp=3), given, [(name, text)])[0]
    assert (checked["computed"], checked["holds"]) == (None, False)
    assert "heads_by_tp: 16 % tp 3 = 1" in checked["explanation"]


def test_the_seed_is_answered_with_numbers(capsys):
    """The whole command on the seed's deployment: three wrong claims, exit code 1, and the numbers in JSON."""
    claims = ["--claim", "gpus=512", "--claim", "params=30B", "--claim", "memory=149.2GB"]
    arguments = ["evaluate", str(SEED), "--layout", "tp=8,pp=4,ep=16,dp=4", *claims]
    assert run([*arguments, "--format", "json"]) == 1
    given = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["holds"]) for each in given["claims"]] == [
        ("gpus", False),
        ("params", False),
        ("memory", False),
    ]
    assert [each["computed"] for each in given["claims"]] == [128, 4_428_694_528, 18 * 4_428_694_528]
    assert given["status"] == "illegal"
    assert given["gpus"]["total"] == 512
    assert given["layout"]["dp"] == 16
    assert not {rule["rule"] for rule in given["rules"] if rule["holds"] is False} - {
        "gpu_total_dense",
        "gpu_total_expert",
    }
    assert run(arguments) == 1
    assert "WRONG gpus: claimed 512, computed 128" in " ".join(capsys.readouterr().out.split())


def test_claims_that_hold_about_a_legal_layout_exit_with_0(capsys):
    """The corrected deployment."""
    claims = ["--claim", "gpus=512", "--claim", "params=4.43B", "--claim", "dp=16"]
    assert run(["evaluate", str(SEED), "--layout", "tp=8,pp=4,ep=16,dp=16", *claims, "--format", "json"]) == 0
    assert all(each["holds"] for each in json.loads(capsys.readouterr().out)["claims"])
