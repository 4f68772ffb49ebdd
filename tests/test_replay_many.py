"""Replays of many placements at once: each what it is alone."""

import random

import numpy as np
import pytest

from moeopt.schedule import replay_many as module
from moeopt.schedule.replay import replay
from moeopt.schedule.replay_many import replay_many
from moeopt.schedule.shape import Schedule
from schedule_cases import random_shape, random_times


@pytest.mark.parametrize("cells", [1, 10**6], ids=["one by one", "together"])
@pytest.mark.parametrize("seed", range(6))
def test_many_replays_are_what_each_is_alone(seed: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any order of operations, hop and stage times: the totals of the exact replay, to the nanosecond, in whatever
    parts they are taken."""
    monkeypatch.setattr(module, "_CELLS", cells)
    rng = random.Random(seed)
    for _ in range(30):
        shape, overlap, hop_ns = random_shape(rng, 6), rng.random() < 0.5, rng.choice([0, 3, 40])
        schedule = Schedule(*shape, overlap)
        times = [random_times(rng, schedule.stages) for _ in range(rng.randint(1, 5))]
        forward, backward = (np.array([each[side] for each in times], dtype=float) for side in (0, 1))
        alone = [replay(*shape, *each, hop_ns, ep_overlap=overlap, exact=True).total_ns for each in times]
        assert replay_many(schedule, forward, backward, hop_ns).tolist() == alone
