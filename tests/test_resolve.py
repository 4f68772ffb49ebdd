"""Completing a layout: what is filled in, what is refused, what stays open for the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeopt.errors import InputError
from moeopt.frameworks import megatron_core as mcore
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.resolve import complete, degrees_of, is_complete, own_gpus, pipeline_of
from rule_problems import layout, problem


def broken(asked, done):
    return {verdict.rule: verdict.equation for verdict in mcore.check(asked, done) if verdict.holds is False}


def test_all_that_follows_is_filled_in():
    """512 GPUs, tp 8, pp 4: dp 16; etp 1, ep 16: edp 8; 1920 sequences in micro-batches of 2: 60."""
    asked = problem(gpus=512, workload={"global_batch_size": 1920})
    done = complete(asked, layout(tp=8, pp=4, ep=16, micro_batch_size=2))
    assert (done.dp, done.edp, done.num_microbatches) == (16, 8, 60)
    assert (done.interleave_group, done.pipeline_layout) == (4, "Et*4|(t*4|)*2t*4L")
    assert is_complete(done)
    assert own_gpus(done) == 512 == done.etp * done.ep * done.edp * done.pp
    assert None not in vars(degrees_of(done)).values()


def test_completing_twice_changes_nothing():
    """A complete layout is its own completion."""
    asked = problem()
    done = complete(asked, layout(tp=2, pp=2, vpp=2, ep=4))
    assert complete(asked, done) == done


def test_absent_etp_is_tp():
    """Megatron's default for --expert-tensor-parallel-size is tp (arguments.py:587-588)."""
    assert complete(problem(), Layout(tp=4)).etp == 4
    assert complete(problem(), Layout(tp=4, etp=1)).etp == 1


@pytest.mark.parametrize(
    ("given", "equation"),
    [
        ({"tp": 8, "pp": 4, "dp": 4}, "dp: 4 given, but 512 / (tp 8 * cp 1 * pp 4) = 16"),
        ({"ep": 16, "edp": 4}, "edp: 4 given, but 512 / (etp 1 * ep 16 * pp 1) = 32"),
        ({"num_microbatches": 7}, "num_microbatches: 7 given, but 2048 / (micro_batch_size 1 * dp 512) = 4"),
    ],
)
def test_given_derived_degree_that_contradicts_is_bad_input(given, equation):
    """The sentence names the field and the equation with its numbers."""
    asked = problem(gpus=512, workload={"global_batch_size": 2048})
    with pytest.raises(InputError) as refusal:
        complete(asked, layout(**given))
    assert str(refusal.value) == equation


def test_given_derived_degrees_that_agree_are_accepted():
    """Given or derived, the layout is the same."""
    asked = problem(gpus=512)
    given = layout(tp=8, pp=4, ep=16, dp=16, edp=8, num_microbatches=120)
    assert complete(asked, given) == complete(asked, layout(tp=8, pp=4, ep=16))


def test_deployment_note_with_a_dp_of_its_own():
    """tp 8, pp 4, ep 16, dp 4 on 512 GPUs: four degrees multiplied give 2048, the dense grid says 128."""
    asked = problem(gpus=512)
    done = complete(asked, layout(tp=8, pp=4, ep=16, dp=4), strict=False)
    assert own_gpus(done) == 128
    assert (done.dp, done.edp) == (4, 2)
    assert broken(asked, done) == {"gpu_total_dense": "tp 8 * cp 1 * dp 4 * pp 4 = 128, the problem's gpus: 512"}


def test_deployment_note_with_etp_left_out():
    """The same with Megatron's default etp = tp 8: the expert grid needs 512 GPUs, so 128 cannot hold it."""
    asked = problem(gpus=512)
    done = complete(asked, Layout(tp=8, pp=4, ep=16, dp=4), strict=False)
    assert done.edp is None
    assert not is_complete(done)
    found = broken(asked, done)
    assert set(found) == {"gpu_total_dense", "gpu_total_expert"}
    assert found["gpu_total_expert"] == "(tp 8 * cp 1 * dp 4 = 32) % (etp 8 * ep 16 = 128) = 32, must be 0"


def test_grid_that_does_not_divide_is_illegal_not_bad_input():
    """512 GPUs do not hold etp 1 * ep 48 * pp 4; dp is known, edp is not, and the rules say which equation fails."""
    asked = problem(gpus=512)
    done = complete(asked, layout(pp=4, ep=48))
    assert (done.dp, done.edp) == (128, None)
    assert broken(asked, done)["gpu_total_expert"] == "512 % (etp 1 * ep 48 * pp 4) = 128, must be 0"


def test_no_degree_is_judged_on_a_number_that_does_not_exist():
    """With an indivisible dense grid, what needs dp is left open, with the reason, and nothing crashes."""
    asked = problem(gpus=10)
    done = complete(asked, layout(tp=4))
    verdicts = {verdict.rule: verdict for verdict in mcore.check(asked, done)}
    assert verdicts["gpu_total_dense"].equation == "10 % (tp 4 * cp 1 * pp 1) = 2, must be 0"
    assert verdicts["batch_by_dp"].holds is None
    assert verdicts["batch_by_dp"].equation.startswith("not judged: dp")


def test_range_of_gpus_takes_the_layouts_own_total():
    """A given dp settles the total; outside the range the layout is illegal."""
    asked = problem(gpus={"min": 64, "max": 128})
    assert broken(asked, complete(asked, layout(tp=2, dp=32))) == {}
    outside = complete(asked, layout(tp=2, dp=16))
    assert broken(asked, outside) == {
        "gpu_total_dense": "tp 2 * cp 1 * dp 16 * pp 1 = 32, the problem's gpus: 64 to 128"
    }


def test_range_of_gpus_without_dp():
    """num_microbatches settles dp too; with neither, the question is open and the field is named."""
    asked = problem(gpus={"min": 64, "max": 128}, workload={"global_batch_size": 512})
    assert complete(asked, layout(num_microbatches=8)).dp == 64
    with pytest.raises(InputError, match=r"^dp: not given, and the problem's gpus are 64 to 128"):
        complete(asked, layout())
    with pytest.raises(InputError, match=r"^num_microbatches: 7 given, .* = 1$"):
        complete(asked, layout(num_microbatches=7))


def test_range_of_one_count_is_that_count():
    """{min: 64, max: 64} is 64."""
    asked = problem(gpus={"min": 64, "max": 64})
    assert complete(asked, layout(tp=2)) == complete(problem(gpus=64), layout(tp=2))


def test_layout_string_gives_vpp():
    """Eight stages on four ranks are two chunks each, unless vpp is given: then the rule compares."""
    asked = problem()
    text = "Et*2|(t*2|)*6t*2L"
    assert complete(asked, layout(pp=4, pipeline_layout=text)).vpp == 2
    wrong = complete(asked, layout(pp=4, vpp=1, pipeline_layout=text))
    assert broken(asked, wrong) == {"pipeline_stages": "8 stages, pp 4 * vpp 1 = 4: must be the same"}
    assert pipeline_of(wrong) is None
    assert pipeline_of(complete(asked, layout(pp=4, pipeline_layout=text))).vpp == 2


def test_uneven_split_is_left_open():
    """16 layers on 3 ranks: no even layout exists, so none is invented; the equation says what one could be, and that
    one is legal. With more stages than layers it says nothing."""
    asked = problem(gpus=48)
    done = complete(asked, layout(pp=3))
    assert done.pipeline_layout is None
    assert pipeline_of(done) is None
    equation = "num_hidden_layers 16 % (pp 3 * vpp 1) = 1, must be 0 without a pipeline_layout, like Et*5|t*6|t*5L"
    assert broken(asked, done) == {"pipeline_even_split": equation}
    assert broken(asked, complete(asked, layout(pp=3, pipeline_layout="Et*5|t*6|t*5L"))) == {}
    crowded = broken(asked, complete(asked, layout(pp=3, vpp=6)))
    assert crowded["pipeline_even_split"] == "num_hidden_layers 16 % (pp 3 * vpp 6) = 16, must be 0"


@pytest.mark.parametrize(("layers", "pp", "vpp", "mtp"), [(94, 8, 1, 0), (61, 8, 2, 1), (16, 3, 5, 0), (7, 7, 1, 1)])
def test_a_nearly_even_split_holds_every_layer_once(layers, pp, vpp, mtp):
    """Stages differ by at most one layer and add up; what is printed reads back as the same split."""
    found = PipelineLayout.nearly_even(layers, pp, vpp, mtp)
    counts = [chunk.layers for chunk in found.chunks]
    assert (len(counts), sum(counts), found.mtp) == (pp * vpp, layers, mtp)
    assert max(counts) - min(counts) <= 1
    assert counts[-1] == min(counts)
    assert PipelineLayout.parse(str(found), pp) == found


def test_what_the_problem_fixes_fills_what_the_layout_leaves_open():
    """A fixed decision is the layout's where it says nothing, and a broken rule where it says something else."""
    asked = problem(fix={"tp": 4, "etp": 2, "dispatcher": "deepep"})
    done = complete(asked, Layout(ep=2))
    assert (done.tp, done.etp, done.dispatcher, done.dp) == (4, 2, "deepep", 16)
    assert broken(asked, done) == {}
    assert set(broken(asked, complete(asked, Layout(tp=2, ep=2)))) == {"fix_tp"}
    with pytest.raises(InputError, match=r"^fix\.tp"):
        complete(problem(fix={"tp": -1}), Layout())


def test_text_outside_the_grammar_is_bad_input():
    """A letter that Megatron does not know is an error of input, with the letter."""
    with pytest.raises(InputError, match="'x' is outside the grammar"):
        complete(problem(), layout(pp=2, pipeline_layout="Et*8|x*8L"))


SMALL = st.sampled_from([1, 1, 2, 3, 4, 8, 16])
LAYOUTS = st.fixed_dictionaries(
    dict.fromkeys(("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size"), SMALL),
    optional={
        "dp": SMALL,
        "interleave_group": st.integers(0, 9),
        "pipeline_layout": st.text("EtmL|*234()", max_size=12),
        "recompute": st.sampled_from(["none", "full"]),
        "sequence_parallel": st.booleans(),
        "dispatcher": st.sampled_from(["alltoall", "deepep", "hybridep", "allgather"]),
    },
)


@given(fields=LAYOUTS, gpus=st.sampled_from([1, 8, 24, 64, 512, {"min": 8, "max": 512}]))
def test_any_layout_is_judged_and_a_legal_one_is_complete(fields, gpus):
    """Whatever is asked, the answer is InputError or a verdict a rule; a layout that breaks none adds up."""
    asked = problem(gpus=gpus)
    try:
        done = complete(asked, layout(**fields), strict=False)
        verdicts = mcore.check(asked, done)
    except InputError:
        return
    assert all(verdict.equation for verdict in verdicts)
    if any(verdict.holds is False for verdict in verdicts):
        return
    assert all(verdict.holds is True for verdict in verdicts)
    assert is_complete(done)
    assert done.tp * done.cp * done.dp * done.pp == done.etp * done.ep * done.edp * done.pp
    assert asked.gpu_range.min <= own_gpus(done) <= asked.gpu_range.max
    assert done.dp * done.micro_batch_size * done.num_microbatches == asked.workload.global_batch_size
    pipeline = pipeline_of(done)
    assert (pipeline.pp, pipeline.vpp) == (done.pp, done.vpp)
    assert sum(chunk.layers for chunk in pipeline.chunks) == asked.architecture.num_hidden_layers


@given(fields=LAYOUTS)
def test_an_unjudged_rule_has_a_broken_cause(fields):
    """A rule is left open only where a grid, the batch or a string is broken."""
    asked = problem(gpus=24)
    try:
        verdicts = mcore.check(asked, complete(asked, layout(**fields), strict=False))
    except InputError:
        return
    broken_ones = {verdict.rule for verdict in verdicts if verdict.holds is False}
    if any(verdict.holds is None for verdict in verdicts):
        assert broken_ones & {"gpu_total_dense", "gpu_total_expert", "batch_by_dp"}
