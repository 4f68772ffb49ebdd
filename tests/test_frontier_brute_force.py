"""Frontiers against enumeration on small random problems, for pairs and for more objectives.

The enumeration shares the exact reader, the legality rules and the space of choices with the search, and nothing of
its bounds, heuristics, encoding, solver or boxes.
"""

import random
from fractions import Fraction

import pytest

from campaign import blocks
from enumeration import legal_candidates, peak_bytes, placed, placements, random_problem, random_seeds
from moeopt.candidate import Candidate
from moeopt.configurations import modes
from moeopt.frontier import pareto
from moeopt.frontier.goals import GOALS
from moeopt.frontier.placements import FEW, are_few, every_placement
from moeopt.problem.problem import Bound, Problem
from moeopt.space import enumerate_degrees, row, with_chunks

SEEDS = random_seeds(60)
BATCH = 20
OBJECTIVES = [
    ("step_time", "peak_memory"),
    ("peak_memory", "step_time"),
    ("step_time", "gpus"),
    ("cost", "peak_memory"),
    ("step_time", "cost"),
    ("step_time", "peak_memory", "gpus"),
    ("cost", "gpus", "peak_memory"),
    ("step_time", "peak_memory", "gpus", "cost"),
]


def every_point(problem: Problem) -> set[tuple[int, int, int]]:
    """(step time, peak bytes, GPUs) of every legal layout that fits, without those that another beats in all three."""
    found: set[tuple[int, int, int]] = set()
    for ledger in legal_candidates(problem):
        for pipeline in placed(ledger):
            peak = peak_bytes(ledger, pipeline)
            if peak <= problem.memory_limit:
                found.add((ledger.step_time(pipeline).total_ns, peak, ledger.degrees.gpus))
    return found


def frontier(points: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
    def beaten(point: tuple[int, ...]) -> bool:
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)

    return sorted(point for point in points if not beaten(point))


def values(answer: dict, objectives: tuple[str, ...]) -> list[tuple[int, ...]]:
    triples = [
        (point["step_time"]["total_ns"], point["memory"]["peak_bytes"], point["gpus"]["total"])
        for point in answer["points"]
    ]
    assert [tuple(item["value"] for item in point["objectives"]) for point in answer["points"]] == [
        tuple(GOALS[name](*triple) for name in objectives) for triple in triples
    ]
    return [tuple(GOALS[name](*triple) for name in objectives) for triple in triples]


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 1))
def test_the_frontier_equals_enumeration(first: int) -> None:
    """Complete frontiers hold exactly the points of enumeration that no other beats, each marked as proven; an empty
    frontier is an empty enumeration. Two objective lists a problem."""
    for seed in SEEDS[first : first + BATCH]:
        problem = random_problem(seed)
        everything = every_point(problem)
        for objectives in random.Random(seed).sample(OBJECTIVES, 2):
            answer = pareto(problem, objectives, workers=1)
            expected = frontier({tuple(GOALS[name](*point) for name in objectives) for point in everything})
            assert answer["complete"], (seed, objectives)
            assert values(answer, objectives) == expected, (seed, objectives)
            assert all(point["proven"] and point["status"] == "optimal" for point in answer["points"]), seed


@pytest.mark.parametrize("seed", range(0, 48, 4))
def test_listing_and_solving_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontier is the same whether candidates with few placements are listed or given to CP-SAT."""
    problem, objectives = random_problem(seed), ("step_time", "peak_memory")
    problem = problem.model_copy(update={"limits": problem.limits.model_copy(update={"vpp": Bound(max=1)})})
    listed = values(pareto(problem, objectives, workers=1), objectives)
    monkeypatch.setattr("moeopt.frontier.placements.FEW", 0)
    answer = pareto(problem, objectives, workers=1)
    assert answer["complete"]
    assert values(answer, objectives) == listed


@pytest.mark.parametrize("seed", range(20))
def test_every_placement_is_listed(seed: int) -> None:
    """The list is that of the enumeration, each placement once; what counts as few is few."""
    problem = random_problem(seed)
    degrees, _ = with_chunks(problem, enumerate_degrees(problem))
    for index in range(0, len(degrees.tp), 7):
        candidate = Candidate(problem, row(degrees, index), modes(problem)[0], 0)
        listed = [str(pipeline) for pipeline in every_placement(candidate)]
        assert sorted(listed) == sorted(map(str, placements(problem, *candidate.grid)))
        assert len(set(listed)) == len(listed)
        assert not are_few(candidate) or len(listed) <= FEW


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_a_frontier_obeys_constraints(seed: int) -> None:
    """A ceiling on the step time or on memory, written as a constraint, cuts the frontier where it says."""
    problem, objectives = random_problem(seed), ("step_time", "peak_memory")
    everything = every_point(problem)
    if not everything:
        pytest.skip("no layout")
    middle = sorted(time_ns for time_ns, _, _ in everything)[len(everything) // 2]
    held = problem.model_copy(update={"constraints": (f"step_time <= {middle}ns", "layers[0] >= 1")})
    answer = pareto(held, objectives, workers=1)
    assert answer["complete"]
    within = set(values(answer, objectives))
    assert all(time_ns <= middle for time_ns, _ in within)
    left = frontier({(time_ns, peak) for time_ns, peak, _ in everything if time_ns <= middle})
    assert within <= {(time_ns, peak) for time_ns, peak, _ in everything}
    for point in left:
        assert any(found == point for found in within) or not _first_stage_holds_a_layer(problem, point)


def _first_stage_holds_a_layer(problem: Problem, point: tuple[int, ...]) -> bool:
    """Whether some layout of these values has a decoder layer beside the embedding."""
    for ledger in legal_candidates(problem):
        for pipeline in placed(ledger):
            held = sum(chunk.layers for chunk in pipeline.of_rank(0))
            if held and (ledger.step_time(pipeline).total_ns, peak_bytes(ledger, pipeline)) == point:
                return True
    return False


@pytest.mark.parametrize("seed", range(12))
def test_a_coarse_frontier_covers_every_layout(seed: int) -> None:
    """With a resolution, for every layout some point is within it in each objective, and points never beat each
    other."""
    problem, objectives = random_problem(seed), ("step_time", "peak_memory")
    answer = pareto(problem, objectives, workers=1, resolution={"step_time": "5%", "peak_memory": "16MiB"})
    points = values(answer, objectives)
    assert answer["complete"]
    assert frontier(set(points)) == points
    for time_ns, peak, _ in every_point(problem):
        assert any(
            point[0] <= time_ns * (1 + Fraction(5, 100)) and point[1] <= peak + 16 * 2**20 for point in points
        ), (seed, time_ns, peak)
