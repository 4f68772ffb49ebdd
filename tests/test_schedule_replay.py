"""The replay: exact times, valid cuts, joint blocks, timelines, extrapolation."""

import random

import pytest

from moeopt.schedule.replay import replay
from schedule_cases import megatron_blocks, random_shape, random_times, slow_replay


def test_replay_equals_an_independent_one() -> None:
    """One pass over the graph ends as running every rank's list step by step does; nothing ever waits forever."""
    rng = random.Random(11)
    for _ in range(400):
        shape, ep_overlap, hop = random_shape(rng, 6), rng.random() < 0.3, rng.choice([0, 3, 25])
        forward, backward = random_times(rng, shape[0] * shape[1])
        result = replay(*shape, forward, backward, hop, ep_overlap=ep_overlap)
        assert result.total_ns == slow_replay(shape, forward, backward, hop, ep_overlap), (shape, ep_overlap)


def test_even_stages_have_the_closed_form() -> None:
    """Equal chunks and no hops: (M v + p - 1)(f + b), for every accepted group."""
    rng = random.Random(12)
    for _ in range(400):
        shape = random_shape(rng)
        pp, vpp, microbatches, _ = shape
        total = replay(*shape, [7] * (pp * vpp), [15] * (pp * vpp), 0).total_ns
        assert total == (microbatches * vpp + pp - 1) * 22


def test_cuts_are_tight_here_and_valid_elsewhere() -> None:
    """The critical path's row equals the replay at its own times and never exceeds it at other times."""
    rng = random.Random(13)
    for _ in range(500):
        shape, ep_overlap, hop = random_shape(rng), rng.random() < 0.3, rng.choice([0, 9])
        stages = shape[0] * shape[1]
        times = random_times(rng, stages)
        saved = [[rng.randint(0, 20) for _ in range(stages)] for _ in range(stages)] if ep_overlap else None
        here = replay(*shape, *times, hop, ep_overlap=ep_overlap, saved_ns=saved)
        assert here.cut is not None
        assert here.cut.value_ns(*times, hop, saved) == here.total_ns
        others, other_hop = random_times(rng, stages), rng.choice([0, 4, 30])
        there = replay(*shape, *others, other_hop, ep_overlap=ep_overlap, saved_ns=saved)
        assert here.cut.value_ns(*others, other_hop, saved) <= there.total_ns


def test_joint_blocks_gain_what_they_hide() -> None:
    """Even stages under overlap: at most one more step of warm-up, and each joint block shorter by what it hides."""
    pp, vpp, microbatches = 4, 2, 32
    f, b, saved = 10, 20, 6
    table = [[saved] * 8] * 8
    plain = replay(pp, vpp, microbatches, pp, [f] * 8, [b] * 8, 0, ep_overlap=True).total_ns
    hidden = replay(pp, vpp, microbatches, pp, [f] * 8, [b] * 8, 0, ep_overlap=True, saved_ns=table).total_ns
    even = (microbatches * vpp + pp - 1) * (f + b)
    assert even <= plain <= even * 1.06
    joint = sum(len(block) == 2 for block in megatron_blocks((pp, vpp, microbatches, pp), 0, True))
    assert plain - hidden >= joint * saved


def test_timeline_is_the_order_without_overlaps() -> None:
    """A rank's timed operations follow its order, do not overlap, last as long as given; the last ends the step."""
    rng = random.Random(14)
    for _ in range(40):
        shape = random_shape(rng)
        pp, vpp = shape[:2]
        forward, backward = random_times(rng, pp * vpp)
        result = replay(*shape, forward, backward, 5)
        ends = []
        for rank in range(pp):
            timed = result.operations(rank)
            listed = [("FB"[op.backward], op.chunk, op.microbatch) for _, _, op in timed]
            assert [[item] for item in listed] == megatron_blocks(shape, rank)
            free = 0
            for start, end, op in timed:
                assert start >= free
                assert end - start == (backward if op.backward else forward)[op.chunk * pp + rank]
                free = end
            ends.append(free)
        assert max(ends) == result.total_ns


@pytest.mark.parametrize(("pp", "vpp"), [(4, 1), (4, 2), (8, 4)])
def test_extrapolation_says_so_and_is_close(pp: int, vpp: int) -> None:
    """From 12 groups to 40: within 0.5 % of the exact replay for uneven stages, flagged, and without a cut."""
    rng = random.Random(15)
    for remainder in (0, pp + 1):
        group = 2 * pp
        forward = [rng.randint(60, 140) for _ in range(pp * vpp)]
        backward = [2 * time for time in forward]
        shape = (pp, vpp, 40 * group + remainder, group)
        exact = replay(*shape, forward, backward, 2, exact=True)
        quick = replay(*shape, forward, backward, 2, exact=False)
        assert (exact.extrapolated, quick.extrapolated) == (False, True)
        assert quick.cut is None
        assert quick.total_ns == pytest.approx(exact.total_ns, rel=5e-3)


def test_few_micro_batches_are_never_extrapolated() -> None:
    """Where the step is shorter than what an extrapolation would replay, the answer is exact all the same."""
    shape = (4, 2, 16, 4)
    assert not replay(*shape, [3] * 8, [5] * 8, 1, exact=False).extrapolated


def test_wrong_number_of_stages_is_refused() -> None:
    """Stage times must be pp * vpp."""
    with pytest.raises(ValueError, match="8 stage times"):
        replay(4, 2, 8, 4, [1] * 7, [1] * 8, 0)
