"""The boxes of a frontier: what is open, closed and proven, against plain counting on small grids."""

import random
from fractions import Fraction
from itertools import product
from typing import Any

import pytest

from moeopt.errors import InputError
from moeopt.frontier.boxes import Boxes, Resolution, inside
from moeopt.frontier.resolution import automatic, read_resolution
from moeopt.problem.loading import load_problem

SIDE = 6


def grid(objectives: int) -> list[tuple[int, ...]]:
    return list(product(range(1, SIDE + 1), repeat=objectives))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_open_boxes_are_what_no_point_covers(objectives: int) -> None:
    """After any points, a vector is in an open box exactly if no point is at least as good everywhere; no box holds
    another."""
    rng = random.Random(objectives)
    for _ in range(30):
        boxes = Boxes((SIDE,) * objectives, Resolution.exact(objectives))
        points: list[tuple[int, ...]] = []
        for point in rng.sample(grid(objectives), rng.randint(1, min(6, SIDE**objectives))):
            before = list(boxes.open)
            boxes.cover(point)
            assert (boxes.open != before) == (not any(inside(known, point) for known in points))
            points.append(point)
        for vector in grid(objectives):
            covered = any(inside(point, vector) for point in points)
            assert any(inside(vector, corner) for corner in boxes.open) != covered
        assert not any(a != b and inside(a, b) for a in boxes.open for b in boxes.open)


@pytest.mark.parametrize("seed", range(20))
def test_closing_every_box_proves_every_point(seed: int) -> None:
    """Visiting boxes against a hidden set of layouts ends with exactly its non-dominated points, all proven; before
    that no point is called proven that a layout dominates."""
    rng = random.Random(seed)
    objectives = rng.choice([2, 3])
    layouts = rng.sample(grid(objectives), rng.randint(1, 25))
    best = {v for v in layouts if not any(other != v and inside(other, v) for other in layouts)}
    boxes, points = Boxes((SIDE,) * objectives, Resolution.exact(objectives)), set[tuple[int, ...]]()
    while boxes.open:
        corner = rng.choice(boxes.open)
        within = [vector for vector in layouts if inside(vector, corner)]
        if not within:
            boxes.close(corner)
            continue
        found = rng.choice(within)
        points = {point for point in points if not inside(found, point)} | {found}
        boxes.cover(found)
        assert all(not boxes.proven(point) or point in best for point in points)
    assert points == best
    assert all(boxes.proven(point) for point in points)


@pytest.mark.parametrize("seed", range(20))
def test_a_resolution_covers_every_layout(seed: int) -> None:
    """With shares and units, visits end with points that are within them of every layout."""
    rng = random.Random(seed)
    shares, units = (Fraction(rng.randint(0, 30), 100), Fraction(0)), (0, rng.randint(0, 2))
    layouts = [(rng.randint(1, 60), rng.randint(1, 60)) for _ in range(40)]
    boxes, points = Boxes((60, 60), Resolution(shares, units)), []
    while boxes.open:
        corner = boxes.open[0]
        within = [vector for vector in layouts if inside(vector, corner)]
        if within:
            points.append(min(within))
            boxes.cover(points[-1])
            assert corner not in boxes.open
        else:
            boxes.close(corner)
    for vector in layouts:
        most = [value * (1 + share) + unit for value, share, unit in zip(vector, shares, units, strict=True)]
        assert any(inside(point, most) for point in points)


def test_below_is_the_largest_better_value() -> None:
    """`below` is the largest integer that is better than a value by more than the resolution."""
    for share, units in product((Fraction(0), Fraction(1, 100), Fraction(1, 3)), (0, 1, 7)):
        resolution = Resolution((share,), (units,))
        for value in range(-3, 300):
            edge = resolution.below(value, 0)
            assert edge * (1 + share) + units < value <= (edge + 1) * (1 + share) + units


def test_resolutions_are_read_as_people_write_them() -> None:
    """Percentages, units of the objective, `exact`; `auto` is exact for small problems and coarse above."""
    names = ("step_time", "peak_memory", "gpus")
    resolution, stated = read_resolution("step_time=0.5%, peak_memory=64MiB", names)
    assert resolution == Resolution((Fraction(1, 200), Fraction(0), Fraction(0)), (0, 64 * 2**20, 0))
    assert stated == {"step_time": "0.5%", "peak_memory": 64 * 2**20, "gpus": "exact"}
    assert read_resolution({"step_time": "3ms", "gpus": 8}, names)[0].units == (3_000_000, 0, 8)
    assert read_resolution("exact", names)[0].is_exact
    problem = load_problem({"architecture": "qwen3-30b-a3b", "cluster": "h100-sxm", "gpus": 512})
    assert automatic(problem, 10, names) == automatic(problem, 10**6, ("step_time", "gpus", "cost")) == {}
    assert set(automatic(problem, 10**6, names)) == {"step_time", "peak_memory"}


@pytest.mark.parametrize(
    "given", ["step_time", "step_time=", "speed=1%", "step_time=x%", "step_time=-1%", "step_time=200%", "cost=1%", "1%"]
)
def test_bad_resolutions_name_the_option(given: Any) -> None:
    """What cannot be read, and what is not among the objectives, is one InputError that starts with `resolution`."""
    with pytest.raises(InputError, match=r"^resolution"):
        read_resolution(given, ("step_time", "peak_memory"))
