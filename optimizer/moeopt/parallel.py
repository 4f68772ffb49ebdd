"""Work side by side, in processes forked for it: they know all that this one knows, and only results are sent.

Nothing here changes an answer: results come in the order of the items, and what no process returned is done here.
Forking is left to where it is safe: Linux, the main thread, no other thread in a solve; elsewhere work is done in turn.
"""

import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 8
_TICKET = 4
"""Bytes of a ticket: a pipe hands them over whole."""
_MOST_TICKETS = 1024
"""As many as any pipe holds: the smallest is a page."""
_PATIENCE_SECONDS, _PATIENCE_FACTOR = 60, 10
"""A process that takes this and so many times as long as the own part took is given up."""
_workers: ContextVar[int] = ContextVar("workers", default=1)
_elsewhere: set[int] = set()
"""Threads other than the main one that work right now."""


def default_workers() -> int:
    """One a core that this process may use, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


@contextmanager
def using(workers: int) -> Iterator[None]:
    """Work inside of the block is spread over so many processes, this one included."""
    token, thread = _workers.set(workers), threading.get_ident()
    first = thread != threading.main_thread().ident and thread not in _elsewhere
    if first:
        _elsewhere.add(thread)
    try:
        yield
    finally:
        _workers.reset(token)
        if first:
            _elsewhere.discard(thread)


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], size: Callable[[Item], int] = lambda _: 0
) -> list[Result]:
    """The function of every item, in order; the largest items are begun first. Results must be picklable, and what the
    function changes elsewhere is lost."""
    helpers = min(_workers.get(), len(items)) - 1
    if helpers < 1 or not _can_fork():
        return [function(item) for item in items]
    order = sorted(range(len(items)), key=lambda number: -size(items[number]))
    done = _Shift(function, items, order).run(helpers)
    return [done[number] if number in done else function(item) for number, item in enumerate(items)]


def bundles(items: Iterable[Item], size: Callable[[Item], int], least: int) -> Iterator[list[Item]]:
    """The items in order, in lists that each have at least this size together; the last one what is left."""
    bundle: list[Item] = []
    total = 0
    for item in items:
        bundle.append(item)
        total += size(item)
        if total >= least:
            yield bundle
            bundle, total = [], 0
    if bundle:
        yield bundle


def _can_fork() -> bool:
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread() and not _elsewhere


class _Shift:
    """Processes that draw tickets from one pipe until it is empty. A ticket is for one item; for some where there are
    many."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], order: Sequence[int]) -> None:
        self.function, self.items = function, items
        size = -(-len(order) // _MOST_TICKETS)
        self._parts = [order[first : first + size] for first in range(0, len(order), size)]
        self._tickets, desk = os.pipe()
        os.write(desk, b"".join(number.to_bytes(_TICKET, "little") for number in range(len(self._parts))))
        os.close(desk)

    def run(self, helpers: int) -> dict[int, Any]:
        """Results by number of the item, as far as no process failed."""
        started, began = list[tuple[int, int]](), time.monotonic()
        try:
            for _ in range(helpers):
                self._start(started)
            with using(1):
                done = self._work()
            patience = time.monotonic() + _PATIENCE_SECONDS + _PATIENCE_FACTOR * (time.monotonic() - began)
            for _, answers in started:
                done |= _read(answers, patience)
            return done
        finally:
            os.close(self._tickets)
            for process, answers in started:
                os.close(answers)
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)

    def _work(self) -> dict[int, Any]:
        """What one process does: one ticket after the other, until all are drawn."""
        done: dict[int, Any] = {}
        while ticket := os.read(self._tickets, _TICKET):
            for number in self._parts[int.from_bytes(ticket, "little")]:
                done[number] = self.function(self.items[number])
        return done

    def _start(self, started: list[tuple[int, int]]) -> None:
        """One more process that works, and the pipe that it answers on. An interrupt waits until it is noted."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            answers, reply = os.pipe()
            try:
                process = _fork()
            except OSError:  # there are too many processes: those that work do it all
                os.close(answers)
            else:
                if not process:
                    self._help(reply)
                started.append((process, answers))
            os.close(reply)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _help(self, reply: int) -> None:
        """The life of a helping process. It leaves interrupts to its parent, collects no garbage (that would copy every
        page), and says nothing about an error: its parent will meet it again."""
        with suppress(BaseException):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            gc.disable()
            _workers.set(1)
            answer = pickle.dumps(self._work(), pickle.HIGHEST_PROTOCOL)
            with os.fdopen(reply, "wb") as stream:
                stream.write(answer)
        os._exit(0)


def _fork() -> int:
    """As `os.fork`, which would warn of threads: those of linear algebra, which stop themselves for a fork."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _read(answers: int, patience: float) -> dict[int, Any]:
    """What a process did, if it answers until then (`time.monotonic()`); nothing where it failed."""
    parts: list[bytes] = []
    while select.select([answers], [], [], max(0.0, patience - time.monotonic()))[0]:
        part = os.read(answers, 2**20)
        if not part:
            data = b"".join(parts)
            return dict(pickle.loads(data)) if data else {}
        parts.append(part)
    return {}
