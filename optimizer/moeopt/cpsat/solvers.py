"""Solvers that work side by side in threads, and are stopped together."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from ortools.sat.python import cp_model

Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL_SECONDS = 0.05


class Solvers:
    """The solvers of one search. Ctrl-C reaches the main thread alone, so that one waits here and stops the others."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._running: set[cp_model.CpSolver] = set()

    @property
    def stopped(self) -> bool:
        """Whether all solves are to end: those that would begin now need not."""
        return self._stop.is_set()

    def each(self, function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
        """The function of every item, in order. Ctrl-C stops all solves and is passed on."""
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                wait(futures)
            except KeyboardInterrupt:
                self._halt(futures)
                raise
            return [future.result() for future in futures]

    @contextmanager
    def one(self) -> Iterator[cp_model.CpSolver]:
        """A solver that is stopped with the others."""
        solver = cp_model.CpSolver()
        self._running.add(solver)
        try:
            yield solver
        finally:
            self._running.discard(solver)

    def _halt(self, futures: Sequence["Future[Any]"]) -> None:
        """Stop the solvers, those too that were about to start."""
        self._stop.set()
        while wait(futures, _POLL_SECONDS).not_done:
            for solver in tuple(self._running):
                solver.stop_search()
        self._stop.clear()
