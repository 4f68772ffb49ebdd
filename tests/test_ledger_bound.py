"""The linear program's bound on the ledger's step, against every placement."""

import numpy as np
import pytest

from enumeration import random_problem
from moeopt.cpsat.ledger_bound import Program, Weights, least_step_ns
from test_scaled_model import by_ledger, candidates_of


def test_no_placement_within_memory_is_below_the_bound() -> None:
    """The bound is at most the ledger's step of every placement whose bytes are within the limit, for a limit that all
    meet, one that few do and one that none does; it is near the best one where memory is plenty, and rises where
    nothing fits."""
    looked = near = higher = 0
    for seed in range(40):
        for candidate in candidates_of(random_problem(seed), seed, 5):
            judged = by_ledger(candidate)
            if not judged:
                continue
            peaks = sorted(each.peak_bytes for each in judged)
            bounds = []
            for limit_bytes in (2 * peaks[-1], peaks[len(peaks) // 8], peaks[0] * 3 // 4):
                least = min((e.time_ns for e in judged if e.peak_bytes <= limit_bytes), default=None)
                bounds.append(least_step_ns(candidate, limit_bytes))
                assert least is None or bounds[-1] <= least, (seed, limit_bytes)
            looked += 1
            near += bounds[0] > 0.8 * min(each.time_ns for each in judged)
            higher += bounds[2] > 1.01 * bounds[0]
    assert looked > 60
    assert near > 0.8 * looked
    assert higher > 0.5 * looked


@pytest.mark.parametrize("seed", range(12))
def test_any_weights_give_a_bound(seed: int) -> None:
    """Whatever the weights, those that no program gives among them (negative, too large, not one in sum): no
    placement within memory is below what they give."""
    rng = np.random.default_rng(seed)
    for candidate in candidates_of(random_problem(seed), seed, 5):
        judged = by_ledger(candidate)
        if not judged:
            continue
        limit_bytes = sorted(each.peak_bytes for each in judged)[len(judged) // 2]
        least = min(each.time_ns for each in judged if each.peak_bytes <= limit_bytes)
        program = Program(candidate, limit_bytes)
        found = program.weights()
        assert found is not None
        for _ in range(20):
            time, excess, memory = (
                each * rng.lognormal(0, 2, len(each)) + rng.normal(0, 1, len(each)) * rng.integers(0, 2)
                for each in (found.time, found.excess, found.memory)
            )
            assert program.bound_ns(Weights(time, excess, memory)) <= least
