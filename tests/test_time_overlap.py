"""The overlap of the expert all-to-all: what its exchanges leave exposed, and what a layer's parts say of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from moeopt.accounting.time.layer import exposed_exchanges_ns
from moeopt.accounting.time.scene import Pass, Timed
from moeopt.accounting.time.terms import time_terms
from moeopt.layout import Choices, Overlap
from time_cases import degrees, problem

NS = st.integers(0, 1000)
BLOCKS = st.tuples(NS, NS, NS)
"""Forward, input gradients and weight gradients of one block."""


def played_ns(layers: int, blocks: Sequence[tuple[int, ...]], forward: int, backward: int, delayed: bool) -> int:
    """End of so many joint layers on two streams, each operation after its input and after what its stream holds.

    The order is that of Megatron-LM d98e8a6, megatron/core/models/common/model_chunk_schedule_plan.py.
    """
    free = {"compute": 0, "communication": 0}

    def run(stream: str, after: int, ns: int) -> int:
        free[stream] = max(free[stream], after) + ns
        return free[stream]

    (a_forward, a_inputs, a_weights), (e_forward, e_inputs, e_weights) = blocks
    gradient = output = 0
    for layer in range(layers):
        combined = run("communication", gradient, backward)  # combine, backward
        if layer and delayed:
            run("compute", 0, a_weights)  # of the layer before
        started = run("compute", output, a_forward)
        through = run("compute", combined, e_inputs + (0 if delayed else e_weights))
        sent = run("communication", started, forward)  # dispatch, forward
        if delayed:
            run("compute", 0, e_weights)
        returned = run("communication", through, backward)  # dispatch, backward
        computed = run("compute", sent, e_forward)
        output = run("communication", computed, forward)  # combine, forward
        gradient = run("compute", returned, a_inputs + (0 if delayed else a_weights))
    return max(output, gradient)


def block(times: tuple[int, ...]) -> Timed:
    """A block whose backward products are all of its backward pass: half of them are weight gradients."""
    forward, inputs, weights = times
    return Timed(Pass({"gemm": forward}), Pass({"gemm": 2 * weights, "memory_bound": inputs - weights}))


@drawn(BLOCKS, BLOCKS, NS, NS, st.booleans())
def test_exposed_exchanges_are_those_of_two_streams(
    attention: tuple[int, ...], experts: tuple[int, ...], forward: int, backward: int, delayed: bool
) -> None:
    """Each further layer of Megatron's joint order takes the computation of both blocks and what they leave exposed,
    to the nanosecond, whether or not weight gradients wait."""
    parts = [(out, weights + inputs, weights) for out, inputs, weights in (attention, experts)]
    four, five = (played_ns(layers, parts, forward, backward, delayed) for layers in (4, 5))
    left = sum(sum(exposed_exchanges_ns(block(each), forward, backward, delayed)) for each in parts)
    assert five - four == sum(map(sum, parts)) + left


@drawn(BLOCKS, NS, NS)
def test_delayed_weight_gradients_hide_no_less(times: tuple[int, ...], forward: int, backward: int) -> None:
    """Delaying weight gradients never exposes more, nothing exposed is negative or longer than its exchange, and with
    exchanges that no computation stands beside all of them is exposed."""
    out, inputs, weights = times
    one = block((out, inputs + weights, weights))
    plain, delayed = (exposed_exchanges_ns(one, forward, backward, late) for late in (False, True))
    assert sum(delayed) <= sum(plain)
    for first, second in (plain, delayed):
        assert 0 <= first <= forward
        assert 0 <= second <= forward + backward
    assert exposed_exchanges_ns(Timed(), forward, backward, False) == (forward, backward)


@pytest.mark.parametrize("fields", [{}, {"cuda_graphs": "full_iteration"}], ids=str)
def test_more_is_hidden_with_delayed_weight_gradients(fields: dict[str, Any]) -> None:
    """Where an exchange is longer than what stands beside it (NCCL over two H100 nodes), a layer takes less time with
    weight gradients delayed; where it is shorter (HybridEP inside a domain), just as long."""
    for cluster, dispatcher, shorter in (("h100-sxm", "alltoall", True), ("gb200-nvl72", "hybridep", False)):
        asked, at = problem("qwen3-30b-a3b", cluster, gpus=16), degrees(gpus=16, ep=16)
        kind = asked.architecture.layers[0]
        plain, delayed = (
            time_terms(
                asked,
                at,
                Choices(
                    dispatcher=dispatcher,  # type: ignore[arg-type]
                    overlap=Overlap(ep_all_to_all=True, delay_wgrad=late),
                    **fields,
                ),
            )
            for late in (False, True)
        )
        times = [terms.forward_ns[kind] + terms.backward_ns[kind] for terms in (plain, delayed)]
        assert (times[1] < times[0]) == shorter
        assert times[1] <= times[0]
