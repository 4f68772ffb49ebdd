"""Solve an encoding for one goal after another (lexicographically), within a time limit and through Ctrl-C."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from moeopt.cpsat.encode import Encoding
from moeopt.cpsat.expressions import Expression
from moeopt.solving.incumbent import Found
from moeopt.solving.settings import Progress, Settings


@dataclass(frozen=True)
class Outcome:
    """Result of one solve: `proven` tells optimal from feasible and infeasible from unknown."""

    found: Found | None
    proven: bool
    bound: int


def minimise(encoding: Encoding, goal: Expression, settings: Settings, label: str) -> Outcome:
    """Minimise one expression. The layout's integers come from the exact reader, which must agree with the model's."""
    encoding.cp.minimize(goal)
    solver = cp_model.CpSolver()
    configure(solver, settings)
    callback = _Report(settings.progress, label) if settings.progress else None
    status = run(solver, encoding.cp, callback, keep=True)
    if status == cp_model.MODEL_INVALID:
        raise AssertionError(f"the encoding is not a valid model: {encoding.cp.validate()}")
    if status == cp_model.INFEASIBLE:
        return Outcome(None, True, 0)
    bound = round(solver.best_objective_bound)
    if status == cp_model.UNKNOWN:
        return Outcome(None, False, bound)
    index, pipeline = encoding.read(solver)
    found = Found.judge(encoding.candidates[index], pipeline)
    if found.time_ns > solver.value(encoding.time) or found.peak_bytes > solver.value(encoding.peak):
        raise AssertionError(f"the model's {solver.value(encoding.time)} ns and the ledger's {found} disagree")
    return Outcome(found, status == cp_model.OPTIMAL, bound)


def rules_out(encoding: Encoding, solver: cp_model.CpSolver, settings: Settings, effort: float) -> bool:
    """Whether the model has no solution at all; False also where that was not settled within the effort (deterministic
    time: about so many seconds)."""
    configure(solver, settings)
    hurry(solver, effort)
    return bool(run(solver, encoding.cp) == cp_model.INFEASIBLE)


def configure(solver: cp_model.CpSolver, settings: Settings) -> None:
    """Workers, seed and time limit."""
    solver.parameters.num_workers = settings.workers
    solver.parameters.random_seed = settings.seed
    if settings.seconds_left is not None:
        solver.parameters.max_time_in_seconds = settings.seconds_left


def hurry(solver: cp_model.CpSolver, effort: float) -> None:
    """One worker, hardly any presolve (all of it takes longer than it saves), and so much deterministic time."""
    solver.parameters.num_workers = 1
    solver.parameters.max_presolve_iterations = 1
    solver.parameters.cp_model_probing_level = 0
    solver.parameters.symmetry_level = 0
    solver.parameters.max_deterministic_time = effort


def run(
    solver: cp_model.CpSolver,
    model: cp_model.CpModel,
    callback: cp_model.CpSolverSolutionCallback | None = None,
    keep: bool = False,
) -> Any:
    """Solve, and how that ended: a status of `cp_model`, whose type differs between releases.

    Ctrl-C stops the solver, and is passed on unless its best solution is to be kept (status FEASIBLE or UNKNOWN then).
    CP-SAT's own handler would leave the process without Python's, and the next Ctrl-C end it at once; so that one is
    off, and the solver runs beside the main thread, which is the one that Python interrupts."""
    solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(1) as pool:
        solving = pool.submit(solver.solve, model, callback)
        try:
            return solving.result()
        except KeyboardInterrupt:
            solver.stop_search()
            if not keep:
                raise
            return solving.result()


class _Report(cp_model.CpSolverSolutionCallback):
    """Says each better layout and the bound while the solve lasts."""

    def __init__(self, progress: Progress, label: str) -> None:
        super().__init__()
        self._progress, self._label = progress, label

    def on_solution_callback(self) -> None:
        """One line for each better solution."""
        self._progress(f"{self._label}: {self.objective_value:,.0f}, bound {self.best_objective_bound:,.0f}")
