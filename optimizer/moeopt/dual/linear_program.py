"""Dual values of a linear program, by Glop, which is loaded where it is asked."""

from typing import Any

import numpy as np

from moeopt.dual.grid import Array

_PARAMETERS = "use_preprocessing: false use_dual_simplex: true"
"""A third faster on small programs; what they cost is mostly being written down."""


def load() -> None:
    """Load the solver, which takes 60 ms: before processes are forked that would all do that."""
    from ortools.linear_solver import linear_solver_pb2, pywraplp  # noqa: F401


def dual_values(prices: Array, rows: Array, least: Array, most: Array) -> Array | None:
    """Of every row, at a minimum of the prices over variables >= 0 with `least` <= rows @ variables <= `most`; None
    where that has none."""
    from ortools.linear_solver import linear_solver_pb2, pywraplp

    request = linear_solver_pb2.MPModelRequest()
    request.solver_type = linear_solver_pb2.MPModelRequest.GLOP_LINEAR_PROGRAMMING
    request.solver_specific_parameters = _PARAMETERS
    model: Any = request.model
    for price in prices.tolist():
        model.variable.add(lower_bound=0.0, upper_bound=float("inf"), objective_coefficient=price)
    for row, low, high in zip(rows, least.tolist(), most.tolist(), strict=True):
        at = np.flatnonzero(row)
        model.constraint.add(var_index=at.tolist(), coefficient=row[at].tolist(), lower_bound=low, upper_bound=high)
    response = linear_solver_pb2.MPSolutionResponse()
    pywraplp.Solver.SolveWithProto(request, response)
    if response.status != linear_solver_pb2.MPSOLVER_OPTIMAL:
        return None
    return np.array(response.dual_value)
