from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeopt.accounting.ledger import Ledger
from moeopt.accounting.pieces import contents
from moeopt.accounting.time.efficiency import load_efficiency
from moeopt.accounting.time.scene import COMPUTE
from moeopt.accounting.time.step_end import SCALE, step_end_ns
from moeopt.accounting.time.terms import TimeTerms, time_terms
from moeopt.layout import Choices, Degrees, Overlap, Recompute
from moeopt.pipeline import Chunk
from moeopt.problem.problem import Problem
from time_cases import columns, degrees, problem, some_choices, some_degrees, some_problems


def flat(terms: TimeTerms) -> dict[str, Any]:
    """Every number of the terms, by a readable name."""
    numbers: dict[str, Any] = {"hop": terms.hop_ns}
    for name in ("forward_ns", "backward_ns", "full_recompute_ns"):
        numbers.update({f"{name} {piece}": value for piece, value in getattr(terms, name).items()})
    for name in ("forward_parts", "backward_parts"):
        for part, prices in getattr(terms, name).items():
            numbers.update({f"{name} {part} {piece}": value for piece, value in prices.items()})
    for index, row in enumerate(terms.step_end.rows):
        numbers.update({f"row {index} dense": row.dense, f"row {index} expert": row.expert})
        numbers[f"row {index} fixed"] = row.fixed
    numbers.update({f"update {piece}": value for piece, value in terms.step_end.update_ns.items()})
    return numbers


@settings(max_examples=60, deadline=None)
@given(some_problems(), some_choices(), st.lists(some_degrees(), min_size=1, max_size=5))
def test_columns_equal_integers(asked: Problem, choices: Choices, rows: list[Degrees]) -> None:
    """A column of layouts gives exactly the integers that each layout gives alone, to the nanosecond."""
    together = flat(time_terms(asked, columns(rows), choices))
    for index, row in enumerate(rows):
        alone = flat(time_terms(asked, row, choices))
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert isinstance(value, int), name
            assert np.broadcast_to(together[name], len(rows))[index] == value, name


@settings(max_examples=60, deadline=None)
@given(some_problems(), some_choices(), some_degrees())
def test_parts_add_up_and_nothing_is_negative(asked: Problem, choices: Choices, row: Degrees) -> None:
    """Every piece's time is exactly the sum of its parts, and no part of the forward or backward pass is negative
    (hidden communication is taken off its own part)."""
    terms = time_terms(asked, row, choices)
    for total, parts in ((terms.forward_ns, terms.forward_parts), (terms.backward_ns, terms.backward_parts)):
        for piece, time in total.items():
            assert time == sum(prices[piece] for prices in parts.values())
            assert all(prices[piece] >= 0 for prices in parts.values())
            assert time > 0


@settings(max_examples=60, deadline=None)
@given(
    some_problems(),
    some_choices(),
    some_degrees(),
    st.integers(0, 10**11),
    st.integers(0, 10**11),
    st.integers(0, 10**9),
)
def test_step_end_is_the_maximum_of_its_rows(
    asked: Problem, choices: Choices, row: Degrees, dense: int, expert: int, update_ns: int
) -> None:
    """The parts of a step's end add up exactly to the rounded-up maximum of the linear rows that CP-SAT is given, and
    more time to hide under never makes it longer."""
    terms = time_terms(asked, row, choices)
    spent = {}
    for stage_ns in (0, 10**7, 10**9):
        spent[stage_ns] = sum(step_end_ns(terms, dense, expert, stage_ns, update_ns).values())
        highest = max(row.scaled_ns(dense, expert, stage_ns, update_ns) + row.fixed for row in terms.step_end.rows)
        assert spent[stage_ns] == -(-highest // SCALE)
    assert spent[0] >= spent[10**7] >= spent[10**9] >= 0


@settings(max_examples=40, deadline=None)
@given(some_problems(), some_choices(), some_degrees())
def test_recompute_is_never_faster(asked: Problem, choices: Choices, row: Degrees) -> None:
    """Dropping activations costs time or nothing, in the backward pass only; full recompute costs more than any
    selection of modules."""
    overlap = choices.overlap.model_copy(update={"ep_all_to_all": False})
    given_choices = choices.model_copy(update={"overlap": overlap})

    def terms(recompute: Recompute) -> TimeTerms:
        return time_terms(asked, row, given_choices.model_copy(update={"recompute": recompute}))

    none, full = terms(Recompute()), terms(Recompute(granularity="full"))
    some = terms(Recompute(modules=("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "shared_experts")))
    for kind in asked.architecture.kinds:
        times = [t.forward_ns[kind] + t.backward_ns[kind] for t in (none, some, full)]
        assert times[0] <= times[1] <= times[2]


@settings(max_examples=40, deadline=None)
@given(some_choices(), some_degrees(), st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_more_imbalance_is_never_faster(choices: Choices, row: Degrees, first: float, second: float) -> None:
    """The busiest rank sets the pace: a larger imbalance never shortens a MoE layer, and leaves dense layers alone."""
    low, high = sorted((round(first, 2), round(second, 2)))
    terms = [time_terms(problem(routing={"imbalance": value}), row, choices) for value in (low, high)]
    for piece in terms[0].forward_ns:
        times = [t.forward_ns[piece] + t.backward_ns[piece] for t in terms]
        assert times[0] <= times[1]
        if getattr(piece, "ffn", "") == "dense" or piece in ("embedding", "loss"):
            assert times[0] == times[1]


@settings(max_examples=40, deadline=None)
@given(some_degrees(), st.sampled_from(["none", "attention"]), st.sampled_from(["alltoall", "hybridep"]))
def test_expert_overlap_hides_no_more_than_it_may(row: Degrees, graphs: Any, dispatcher: Any) -> None:
    """With overlap of the expert all-to-all, what stays exposed is at least the share that the efficiency table leaves
    and at most all of it plus what computation slows by; dense layers do not change."""
    asked = problem()
    off, on = (
        time_terms(asked, row, Choices(dispatcher=dispatcher, cuda_graphs=graphs, overlap=Overlap(ep_all_to_all=hide)))
        for hide in (False, True)
    )
    dense, moe = asked.architecture.kinds
    table = load_efficiency(asked.cluster.efficiency)
    left = 1 - (table.overlap_hidden.eager if graphs == "none" else table.overlap_hidden.graphs)
    for before, after in ((off.forward_parts, on.forward_parts), (off.backward_parts, on.backward_parts)):
        sent, exposed = before["ep_comm"][moe], after["ep_comm"][moe]
        compute = sum(before[part][moe] for part in COMPUTE)
        assert exposed >= sent * left - 1
        assert exposed <= sent + compute * (table.overlap_slowdown - 1) + 1
        assert all(before[part][dense] == after[part][dense] for part in before)


@pytest.mark.parametrize("architecture", ["qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3"])
def test_block_recompute_covers_the_first_layers_of_a_chunk(architecture: str) -> None:
    """Full recompute of n layers a chunk costs, layer by layer in their order, what uniform full recompute adds to each
    of the first n; a chunk with fewer layers pays for those it has, and an MTP module for none."""
    asked, row = problem(architecture), degrees(ep=8)
    layers, mtp = asked.architecture.layers, asked.mtp_layers
    plain, uniform = (
        time_terms(asked, row, Choices(recompute=recompute)).backward_ns for recompute in ("none", "full")
    )
    ledger = Ledger(asked, row, Choices(recompute=Recompute(granularity="full", method="block", num_layers=2)))
    for first, count in ((0, 1), (1, 2), (0, 5), (2, 5), (3, 4)):
        held = layers[first : first + count]
        forward, backward = ledger.stage_times([contents(asked.architecture, Chunk(first, count, mtp=mtp), 2)])
        assert forward == [sum(ledger.time_terms.forward_ns[kind] for kind in held) + mtp_ns(ledger, mtp)]
        again = sum(uniform[kind] for kind in held[:2]) + sum(plain[kind] for kind in held[2:])
        assert backward == [again + (mtp * plain["mtp"] if mtp else 0)]


def mtp_ns(ledger: Ledger, modules: int) -> int:
    """Forward time of MTP modules."""
    return modules * ledger.time_terms.forward_ns["mtp"] if modules else 0
