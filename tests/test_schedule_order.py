"""The order of operations and the activations in flight."""

import random
from collections import Counter

import pytest

from moeopt.errors import InputError
from moeopt.schedule.in_flight import in_flight_vectors, pareto_maximal
from moeopt.schedule.order import (
    backwards_by_chunk,
    check_schedule,
    forwards_by_chunk,
    rank_order,
    schedule_table,
    warmup_forwards,
)
from schedule_cases import megatron_blocks, random_shape


def test_orders_follow_megatron_loops() -> None:
    """Every rank runs exactly the list that Megatron's warm-up, steady and cool-down loops give."""
    rng = random.Random(1)
    for _ in range(3000):
        shape, ep_overlap = random_shape(rng), rng.random() < 0.3
        rank = rng.randrange(shape[0])
        expected = [op for block in megatron_blocks(shape, rank, ep_overlap) for op in block]
        order = [("FB"[op.backward], op.chunk, op.microbatch) for op in rank_order(*shape, rank, ep_overlap)]
        assert order == expected, (shape, rank, ep_overlap)


def test_table_of_megatrons_own_comment() -> None:
    """The table that the source spells out for PP2 N3 M5 VP2."""
    table = schedule_table(2, 5, 3)
    assert [microbatch for microbatch, _ in table] == [0, 1, 2, 0, 1, 2, 3, 4, 3, 4]
    assert [chunk for _, chunk in table] == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]


def test_closed_form_counts_are_counts() -> None:
    """The closed forms equal counting the table's entries, at every length."""
    rng = random.Random(2)
    for _ in range(300):
        _, vpp, microbatches, group = random_shape(rng)
        table = schedule_table(vpp, microbatches, group)
        count = rng.randint(0, len(table))
        seen = Counter(chunk for _, chunk in table[:count])
        expected = tuple(seen[chunk] for chunk in range(vpp))
        assert forwards_by_chunk(count, vpp, microbatches, group) == expected
        assert backwards_by_chunk(count, vpp, microbatches, group) == expected[::-1]


@pytest.mark.parametrize(
    ("shape", "field"), [((4, 2, 8, 3), "group"), ((4, 2, 8, 9), "group"), ((4, 2, 9, 8), "% group")]
)
def test_schedules_that_megatron_refuses(shape: tuple[int, int, int, int], field: str) -> None:
    """A group below pp, above the micro-batches, or with a short last group is an InputError that shows the numbers."""
    with pytest.raises(InputError, match=field):
        check_schedule(*shape)


def test_peak_activations_equal_walking_the_order() -> None:
    """For any bytes a chunk, the vectors give the peak of the order: +a at a forward, -a after a backward.

    The two halves of a joint block take effect together: its layers are stored and freed one against the other.
    """
    rng = random.Random(3)
    for _ in range(1500):
        shape, ep_overlap = random_shape(rng), rng.random() < 0.3
        rank = rng.randrange(shape[0])
        kept = [rng.choice([0, 1, rng.randint(0, 1000)]) for _ in range(shape[1])]
        live = peak = 0
        for block in megatron_blocks(shape, rank, ep_overlap):
            live += sum(kept[chunk] if kind == "F" else -kept[chunk] for kind, chunk, _ in block)
            peak = max(peak, live)
        assert live == 0
        vectors = in_flight_vectors(*shape, rank, ep_overlap)
        assert max(sum(n * a for n, a in zip(v, kept, strict=True)) for v in vectors) == peak, (shape, rank)


def test_vectors_are_few_reached_and_not_dominated() -> None:
    """Each vector is a state of the rank, none lies under another, and together they hold w + 1 chunks."""
    rng = random.Random(4)
    for _ in range(200):
        shape = random_shape(rng)
        rank = rng.randrange(shape[0])
        counts, states = [0] * shape[1], set()
        for operation in rank_order(*shape, rank):
            counts[operation.chunk] += -1 if operation.backward else 1
            states.add(tuple(counts))
        vectors = in_flight_vectors(*shape, rank)
        assert set(vectors) <= states
        assert pareto_maximal(set(vectors)) == vectors
        total = min(shape[1] * shape[2], warmup_forwards(*shape, rank) + 1)
        assert max(map(sum, vectors)) == total


def test_one_chunk_keeps_what_1f1b_is_known_for() -> None:
    """1F1B keeps min(M, pp - rank) micro-batches."""
    for microbatches in (1, 3, 16):
        for rank in range(4):
            assert in_flight_vectors(4, 1, microbatches, 4, rank) == ((min(microbatches, 4 - rank),),)


def test_last_chunk_of_last_rank_keeps_one_set_of_logits() -> None:
    """On the last rank the last chunk holds one micro-batch, also under overlap of the expert all-to-all: there the
    second one's layers are stored as the first one's are freed."""
    for ep_overlap in (False, True):
        assert max(vector[-1] for vector in in_flight_vectors(8, 4, 64, 8, 7, ep_overlap)) == 1
