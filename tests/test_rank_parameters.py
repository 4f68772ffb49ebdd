"""Parameters on one GPU, against the modules that Megatron-Core built."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import megatron_truth as truth
from moeopt.accounting import sharding
from moeopt.accounting.parameters import Parameter, piece_parameters
from moeopt.accounting.pieces import contents, pieces
from moeopt.arithmetic import round_up
from moeopt.layout import Degrees
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem
from moeopt.problem.workload import Workload

ROWS = truth.read("megatron_rank_parameters")["layouts"]
IDS = [
    "-".join([row["architecture"], str(row["gpus"]), *(f"{k}{v}" for k, v in row["layout"].items()), row["vocabulary"]])
    for row in ROWS
]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_stage_holds_the_parameters_that_megatron_built(row):
    """Dense and routed-expert elements of one GPU of every stage are Megatron's, to the last element."""
    problem, degrees, pipeline = truth.problem(row), truth.degrees(row), truth.pipeline(row)
    for rank, (dense, expert, _) in enumerate(row["stages"]):
        held = sharding.Elements(0, 0)
        for chunk in pipeline.of_rank(rank):
            held += sharding.chunk_elements(problem, degrees, chunk)
        assert (held.dense, held.expert) == (dense, expert)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_sum_over_pieces_misplaces_only_the_final_norm(row):
    """A chunk is the sum of its pieces, except that with MTP modules the final norm may sit a stage earlier."""
    problem, degrees, pipeline = truth.problem(row), truth.degrees(row), truth.pipeline(row)
    difference = 0
    for chunk in pipeline.chunks:
        exact = sharding.chunk_elements(problem, degrees, chunk)
        summed = sharding.contents_elements(problem, contents(problem.architecture, chunk), degrees)
        assert abs(exact.dense - summed.dense) in (0, problem.architecture.hidden_size if problem.mtp_layers else 0)
        assert exact.expert == summed.expert
        difference += exact.dense - summed.dense
    assert difference == 0


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_padded_vocabulary_is_megatrons(row):
    """The vocabulary is padded to a multiple of make_vocab_size_divisible_by * tp."""
    assert sharding.padded_vocab_size(truth.problem(row), row["layout"].get("tp", 1)) == row["padded_vocab_size"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_correction_biases_are_buffers_and_not_parameters(row):
    """Router correction biases are on every rank of their layers, and no trainable element counts them."""
    arch = truth.architecture(row["architecture"])
    pipeline = truth.pipeline(row)
    for rank, (_, _, expected) in enumerate(row["stages"]):
        found = 0
        for chunk in pipeline.of_rank(rank):
            for piece, count in contents(arch, chunk).items():
                found += count * sum(p.total for p in piece_parameters(arch, piece) if not p.trainable)
        assert found == expected


def _columns(rows):
    names = [field.name for field in dataclasses.fields(Degrees)]
    each = [truth.degrees(row) for row in rows]
    return Degrees(**{name: np.array([getattr(d, name) for d in each], dtype=np.int64) for name in names}), each


@pytest.mark.parametrize("name", sorted({row["architecture"] for row in ROWS}))
@pytest.mark.parametrize("elements", [sharding.piece_elements, sharding.aligned_elements])
def test_columns_agree_with_integers(name, elements):
    """The formula over a column of layouts gives what it gives for each layout alone."""
    rows = [row for row in ROWS if row["architecture"] == name and row["vocabulary"] == "padded"]
    problem = truth.problem(rows[0])
    columns, each = _columns(rows)
    for piece in pieces(problem.architecture):
        column = elements(problem, piece, columns)
        single = [elements(problem, piece, degrees) for degrees in each]
        assert list(np.broadcast_to(column.dense, len(rows))) == [e.dense for e in single]
        assert list(np.broadcast_to(column.expert, len(rows))) == [e.expert for e in single]


@pytest.mark.parametrize("row", ROWS[::5], ids=IDS[::5])
def test_alignment_rounds_every_parameter_up_to_64(row):
    """Aligned elements are multiples of 64, at least the elements and less than 64 a tensor above them."""
    problem, degrees = truth.problem(row), truth.degrees(row)
    for piece in pieces(problem.architecture):
        plain = sharding.piece_elements(problem, piece, degrees)
        aligned = sharding.aligned_elements(problem, piece, degrees)
        tensors = sum(p.copies for p in piece_parameters(problem.architecture, piece))
        assert aligned.dense % 64 == 0
        assert aligned.expert % 64 == 0
        assert plain.total <= aligned.total < plain.total + 64 * tensors


ARCHITECTURES = st.builds(
    Architecture,
    hidden_size=st.sampled_from([512, 1536]),
    num_hidden_layers=st.just(4),
    num_attention_heads=st.just(16),
    num_key_value_heads=st.sampled_from([2, 8, 16]),
    head_dim=st.sampled_from([64, 128]),
    vocab_size=st.sampled_from([32000, 50304]),
    attention_bias=st.booleans(),
    attention_output_bias=st.booleans(),
    attention_sinks=st.booleans(),
    qk_norm=st.sampled_from(["none", "head"]),
    norm=st.sampled_from(["rmsnorm", "layernorm"]),
    intermediate_size=st.just(1024),
    gated=st.booleans(),
    mlp_bias=st.booleans(),
    num_experts=st.just(16),
    num_experts_per_tok=st.just(2),
    moe_intermediate_size=st.sampled_from([256, 768]),
    shared_expert_intermediate_size=st.sampled_from([0, 512]),
    shared_expert_gate=st.booleans(),
    router_bias=st.booleans(),
    first_k_dense_replace=st.just(1),
)


def _gathered(problem: Problem, parameter: Parameter, degrees: Degrees) -> int:
    """Elements of one whole parameter put together again from all the GPUs that hold a part of it."""
    local = sharding.local_numel(problem, parameter, degrees)
    if parameter.sharding == "tensor":
        return local * degrees.tp
    if parameter.sharding == "expert":
        return local * (degrees.etp if parameter.split else 1) * (parameter.copies // degrees.ep) * degrees.ep
    return local


@given(ARCHITECTURES, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8, 16]), st.sampled_from([1, 2, 4]))
def test_parts_put_together_are_the_whole(architecture, tp, ep, etp):
    """With the vocabulary unpadded, every tensor's parts over tp, or over ep and etp, sum to the whole tensor."""
    problem = Problem(
        architecture=architecture, cluster=truth.CLUSTER, gpus=1, workload=Workload(make_vocab_size_divisible_by=1)
    )
    degrees = Degrees(tp, 1, 1, 1, ep, etp, 1, 1, 1, 1, 1)
    for piece in pieces(architecture):
        for parameter in piece_parameters(architecture, piece):
            assert _gathered(problem, parameter, degrees) == parameter.total


@given(ARCHITECTURES, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 4, 16]))
def test_replicated_parameters_do_not_shrink(architecture, tp, ep):
    """Norms and router are whole on every GPU, whatever the degrees; routed experts never depend on tp."""
    problem = Problem(architecture=architecture, cluster=truth.CLUSTER, gpus=1)
    kind = LayerKind("moe")
    here = sharding.piece_elements(problem, kind, Degrees(tp, 1, 1, 1, ep, 1, 1, 1, 1, 1, 1))
    one = sharding.piece_elements(problem, kind, Degrees(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1))
    whole = sum(p.total for p in piece_parameters(architecture, kind) if p.sharding == "replicated")
    assert (here.dense - whole) * tp == one.dense - whole
    assert here.expert * ep == one.expert


def test_tied_head_is_a_copy_only_where_the_pipeline_separates_it():
    """A tied head costs nothing with one stage and a whole copy of the padded embedding with more."""
    row = next(row for row in ROWS if row["architecture"] == "synthetic-16l-tied")
    problem = truth.problem(row)
    one = sharding.piece_elements(problem, "loss", Degrees(2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1))
    two = sharding.piece_elements(problem, "loss", Degrees(2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1))
    hidden = problem.architecture.hidden_size
    assert one.dense == hidden
    assert two.dense - one.dense == round_up(32000, 256) // 2 * hidden


def test_mtp_modules_share_one_embedding():
    """However many MTP modules there are, their stage holds one embedding beside them."""
    row = next(row for row in ROWS if row["architecture"] == "deepseek-v3-mtp1")
    base = truth.problem(row)
    degrees = [Degrees(1, pp, 1, 1, 1, 1, 1, 1, 1, 1, 1) for pp in (1, 2)]
    table = base.architecture.vocab_size * base.architecture.hidden_size
    for modules in (1, 2, 4):
        architecture = base.architecture.model_copy(update={"num_nextn_predict_layers": modules})
        problem = base.model_copy(update={"architecture": architecture})
        flat, piped = (sharding.piece_elements(problem, "mtp", each).times(modules).dense for each in degrees)
        assert piped - flat == table


def test_experts_share_the_dense_buffer_only_without_any_expert_parallelism():
    """Megatron keeps experts in the dense buffer with ep 1 and etp = tp, and in their own otherwise."""
    cases = {(2, 1, 2): True, (2, 1, 1): False, (1, 1, 1): True, (1, 2, 1): False, (2, 4, 2): False}
    for (tp, ep, etp), expected in cases.items():
        assert sharding.experts_share_dense_buffer(Degrees(tp, 1, 1, 1, ep, etp, 1, 1, 1, 1, 1)) is expected
