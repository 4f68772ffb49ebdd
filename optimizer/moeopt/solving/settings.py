"""How to run a search, without importing the solver (half a second, which most solves do not need)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from moeopt.errors import InputError
from moeopt.parallel import default_workers
from moeopt.problem.base import shown

ENGINE = f"ortools {version('ortools')}"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to run the solver. `deadline` is a `time.monotonic()` value; None means no limit."""

    workers: int = 2
    seed: int = 0
    deadline: float | None = None
    progress: Progress | None = None

    @classmethod
    def starting(
        cls, now: float, time_limit: float | None, workers: int | None, seed: int, progress: Progress | None
    ) -> "Settings":
        """For a search that starts now (`time.monotonic()`) and may take `time_limit` seconds; `workers` None: one a
        core, at most eight. Raises InputError for a limit that is no number."""
        if time_limit is not None and (isinstance(time_limit, bool) or not isinstance(time_limit, (int, float))):
            raise InputError(f"time_limit: {shown(time_limit)} is not a number of seconds")
        return cls(workers or default_workers(), seed, None if time_limit is None else now + time_limit, progress)

    def facts(self, legal_layouts: int, asked: int, seconds: float) -> dict[str, Any]:
        """What the contract's `search` object holds of any search."""
        return {
            "legal_layouts": legal_layouts,
            "candidates_given_to_solver": asked,
            "seconds": round(seconds, 3),
            "engine": ENGINE,
            "seed": self.seed,
            "workers": self.workers,
        }

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, not below zero; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.seconds_left == 0.0


class Stopped(Exception):  # noqa: N818 - not an error: a way out of the loops
    """The deadline has passed, or the user interrupted a solve."""
