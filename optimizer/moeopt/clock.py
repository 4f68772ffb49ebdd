"""Until when the work of this context may take: for long steps that have an answer at any moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Work inside of the block may take until then (`time.monotonic()`); None: as long as it takes."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def is_over() -> bool:
    """Whether the time is over: what a step still could tell is then left open."""
    deadline = _deadline.get()
    return deadline is not None and time.monotonic() >= deadline
