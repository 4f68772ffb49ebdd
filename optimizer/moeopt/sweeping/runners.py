"""Run the tasks of a sweep and hand over each row as it comes: processes of this machine, or a Ray cluster."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from moeopt.sweeping.journal import Journal
from moeopt.sweeping.point import Record, Task, identity, ignore_interrupts, solve_point

Runner = Callable[[Sequence[Task]], Iterator[Record]]
"""Tasks in, rows out, in any order."""


def run(tasks: Sequence[Task], journal: Journal, runner: Runner, done: Callable[[Record], None]) -> bool:
    """Solve every task that the journal lacks; `done` is told each row. False where the user interrupted."""
    rest = [task for task in tasks if not journal.done(task.key, task.time_limit)]
    rows = runner(list({task.key: task for task in rest}.values()))
    try:
        for record in rows:
            journal.add(record)
            done(record)
    except KeyboardInterrupt:
        return False
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()
    return True


def processes(jobs: int) -> Runner:
    """A runner on so many processes of this machine, started afresh (`spawn`), each solving one task at a time."""

    def rows(tasks: Sequence[Task]) -> Iterator[Record]:
        waiting = list(reversed(tasks))
        suspects: list[Task] = []
        while waiting:
            suspects += yield from _until_broken(waiting, min(jobs, len(waiting)))
        for task in suspects:  # each was running when a process died: alone, the guilty one shows
            alone = [task]
            if (yield from _until_broken(alone, 1)):
                text = "the process that solved it died (out of memory?)"
                yield {**identity(task), "status": "error", "error": text}

    return rows


def _until_broken(waiting: list[Task], jobs: int) -> Generator[Record, None, list[Task]]:
    """Rows of tasks taken off the end of a list; returns those that were running when a process died."""
    running: dict[Future[Record], Task] = {}
    with _pool(jobs) as pool:
        while waiting or running:
            try:
                while waiting and len(running) < jobs:
                    running[pool.submit(solve_point, waiting[-1])] = waiting[-1]
                    waiting.pop()
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    record = future.result()
                    del running[future]
                    yield record
            except BrokenProcessPool:
                return [*running.values()]
    return []


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """An executor whose processes end with the block, however it ends."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=ignore_interrupts)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    else:
        pool.shutdown()


def ray_cluster(address: str, jobs: int) -> Runner:
    """A runner on a Ray cluster (extra `ray`): `local` starts one on this machine, anything else is its address.

    Every node needs moeopt installed. At most `jobs` tasks are under way (0: as many as there are).
    """

    def rows(tasks: Sequence[Task]) -> Iterator[Record]:
        import ray

        own: dict[str, Any] = {"address": address}
        if address == "local":
            paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
            own = {"num_cpus": jobs or None, "include_dashboard": False, "runtime_env": paths}
        ray.init(**own, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
        try:
            yield from _ray_rows(ray, list(reversed(tasks)), jobs or len(tasks))
        finally:
            ray.shutdown()

    return rows


def _ray_rows(ray: Any, waiting: list[Task], most: int) -> Iterator[Record]:
    running: dict[Any, Task] = {}
    while waiting or running:
        while waiting and len(running) < most:
            task = waiting.pop()
            remote = ray.remote(solve_point).options(num_cpus=task.workers, max_retries=1)
            running[remote.remote(task)] = task
        finished, _ = ray.wait(list(running), num_returns=1)
        for reference in finished:
            task = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                yield {**identity(task), "status": "error", "error": text}
