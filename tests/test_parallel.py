"""Laws of working side by side: only the time differs."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moeopt import Problem, solve
from moeopt.parallel import side_by_side, using

linux_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on Linux only")


def process_of(_: int) -> int:
    """Where an item is worked on; slow enough that a second process gets one."""
    time.sleep(0.05)
    return os.getpid()


def children() -> set[str]:
    """Processes that this one started, running or not waited for; none where the system does not tell."""
    return {child for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()}


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1024, 3000])
def test_results_come_in_order(workers: int, count: int) -> None:
    """One result an item, in the order of the items, for any number of processes; each sees what the caller holds."""
    offset = count * 10
    with using(workers):
        assert side_by_side(lambda item: item + offset, range(count), lambda item: item % 3) == [
            item + offset for item in range(count)
        ]


@linux_only
def test_several_processes_work() -> None:
    """Inside `using(3)` items are worked on by at most three processes and more than one; outside of it by this one."""
    before = children()
    with using(3):
        assert 1 < len(set(side_by_side(process_of, range(9)))) <= 3
    assert set(side_by_side(process_of, range(3))) == {os.getpid()}
    assert children() == before


def test_inner_work_is_done_in_turn() -> None:
    """Within an item no further processes are started, in none of the processes."""

    def inner(_: int) -> bool:
        return set(side_by_side(process_of, range(3))) == {os.getpid()}

    with using(2):
        assert all(side_by_side(inner, range(4)))


def test_an_error_is_the_caller_s() -> None:
    """An item that fails raises here, wherever it was worked on, and no process is left."""

    def fail(item: int) -> int:
        time.sleep(0.01)
        raise ValueError(f"item {item}")

    before = children()
    with using(3), pytest.raises(ValueError, match="item"):
        side_by_side(fail, range(6))
    assert children() == before


def _die(_: int) -> None:
    os._exit(1)


def _unpicklable(parent: int) -> object:
    return lambda: parent


@pytest.mark.parametrize("spoil", [_die, _unpicklable])
def test_what_a_process_does_not_return_is_done_here(spoil: Callable[[int], object]) -> None:
    """A helping process that dies or cannot send its results costs time, not results."""
    parent, before = os.getpid(), children()

    def work(item: int) -> object:
        time.sleep(0.01)
        return item if os.getpid() == parent else spoil(parent)

    with using(3):
        assert side_by_side(work, range(12)) == list(range(12))
    assert children() == before


def test_an_interrupt_leaves_no_process() -> None:
    """Where the own part is interrupted the others are ended, and the interrupt is the caller's."""
    parent, before = os.getpid(), children()

    def work(item: int) -> int:
        if os.getpid() == parent:
            raise KeyboardInterrupt
        time.sleep(60)
        return item

    began = time.monotonic()
    with using(3), pytest.raises(KeyboardInterrupt):
        side_by_side(work, range(6))
    assert children() == before
    assert time.monotonic() - began < 30


def test_without_processes_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, all results are there still, and no pipe is left open."""

    def refused() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("moeopt.parallel._fork", refused)
    open_files = Path("/proc/self/fd")
    before = sum(1 for _ in open_files.iterdir()) if open_files.is_dir() else 0
    with using(3):
        assert side_by_side(lambda item: item + 1, range(9)) == list(range(1, 10))
    assert before == (sum(1 for _ in open_files.iterdir()) if open_files.is_dir() else 0)


def test_threads_do_not_fork() -> None:
    """Another thread works by itself, and while it does the main thread does so too: a fork would copy its locks."""
    begun, done, found = threading.Event(), threading.Event(), list[set[int]]()

    def elsewhere() -> None:
        with using(4):
            found.append(set(side_by_side(process_of, range(4))))
            begun.set()
            done.wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    begun.wait()
    with using(4):
        found.append(set(side_by_side(process_of, range(4))))
    done.set()
    thread.join()
    assert found == [{os.getpid()}] * 2


@pytest.mark.parametrize("fields", [{"gpus": 64}, {"gpus": 128, "free": ["cuda_graphs"]}, {"gpus": 8}])
def test_answers_do_not_depend_on_workers(fields: dict[str, object]) -> None:
    """The whole answer but its seconds is the same for one process and for three, feasible or not."""
    problem = Problem(architecture="qwen3-30b-a3b", cluster="h100-sxm", **fields)
    answers = [solve(problem, workers=workers, explained=False) for workers in (1, 3)]
    for answer in answers:
        del answer["search"]["seconds"], answer["search"]["workers"]
    assert answers[0] == answers[1]
