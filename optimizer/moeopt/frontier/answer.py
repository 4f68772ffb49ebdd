"""The frontier as the contract's JSON object."""

from collections.abc import Mapping
from typing import Any

from moeopt.frontier.boxes import Boxes, Point
from moeopt.frontier.explore import Exploration
from moeopt.frontier.goals import Goals
from moeopt.solution import SCHEMA, solved_answer
from moeopt.solving.branch import Result
from moeopt.solving.incumbent import Found
from moeopt.units import OBJECTIVE_UNITS


def answer(
    goals: Goals, exploration: Exploration, complete: bool, resolution: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All points, best first objective first, each as a solution."""
    points = sorted(exploration.points.items(), key=lambda item: goals.point(item[1]))
    return {
        "schema": SCHEMA,
        "objectives": list(goals.names),
        "complete": complete,
        "resolution": dict(resolution),
        "problem": goals.problem.model_dump(mode="json"),
        "points": [_point(goals, exploration.boxes, point, found, facts) for point, found in points],
        "search": dict(facts),
    }


def _point(goals: Goals, boxes: Boxes, point: Point, found: Found, facts: Mapping[str, Any]) -> dict[str, Any]:
    """One solution. Status `optimal`: no layout is as good in every objective and better in one."""
    values = goals.point(found)
    proven = boxes.proven(point)
    exact = proven and boxes.resolution.is_exact
    problem = goals.problem.model_copy(update={"objective": goals.names[0], "then": ()})
    solution = solved_answer(problem, Result(found, exact, values[0]), facts)
    if not exact:
        solution["objective"]["bound"] = None
    return {
        **solution,
        "objectives": [
            {"name": name, "value": value, "unit": OBJECTIVE_UNITS[name]}
            for name, value in zip(goals.names, values, strict=True)
        ],
        "proven": proven,
    }
