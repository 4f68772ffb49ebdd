"""In-flight vectors of long schedules are read off short ones."""

import random

from moeopt.schedule import in_flight
from moeopt.schedule.in_flight import in_flight_vectors


def test_groups_beyond_the_first_few_give_no_new_vector() -> None:
    """The vectors of a schedule equal those of one with fewer whole groups, for random shapes, ranks and overlap."""
    generator = random.Random(7)
    compared = 0
    kept = in_flight._GROUPS
    for _ in range(400):
        pp, vpp = generator.randint(2, 10), generator.randint(1, 6)
        group, whole = generator.randint(pp, 3 * pp), generator.randint(6, 20)
        rest = generator.choice([0, generator.randint(pp, group)])
        rank, overlap = generator.randrange(pp), bool(vpp > 1 and generator.random() < 0.5)
        shape = pp, vpp, whole * group + rest, group, rank, overlap
        short = in_flight_vectors(*shape)
        in_flight._GROUPS = 10**6
        in_flight_vectors.cache_clear()
        try:
            assert in_flight_vectors(*shape) == short, shape
        finally:
            in_flight._GROUPS = kept
            in_flight_vectors.cache_clear()
        compared += 1
    assert compared == 400
