"""The predicted step as a timeline in Chrome's trace format, which Perfetto and chrome://tracing open.

One track a pipeline stage: every forward and backward pass where the replay puts it, the gaps between them, and what
the stage pays at the end of the step. Communication and host time that computation does not hide are shown as slices
at the end of their pass: how much is predicted, when inside the pass is not. Format: "Trace Event Format", complete
events ("ph": "X") in microseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from moeopt.accounting.ledger import Contents, Ledger
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.resolve import degrees_of, pipeline_of
from moeopt.schedule.replay import Replay, TimedOperation, replay

COLOURS = {"forward": "thread_state_running", "backward": "thread_state_runnable", "bubble": "grey"}
EXPOSED = {"exposed communication": ("tp_comm", "cp_comm", "ep_comm"), "host": ("host",), "recompute": ("recompute",)}
MOST_OPERATIONS, MOST_GROUPS = 20_000, 12
"""Passes up to which the whole step is shown (a file of about 10 MB), and groups of micro-batches shown otherwise."""


@dataclass(frozen=True)
class Timeline:
    """One step replayed operation by operation, for its trace or its picture."""

    ledger: Ledger
    stages: list[Contents]
    replay: Replay
    microbatches: int
    """Micro-batches shown: all, or the first groups of a very long step."""

    @classmethod
    def of(cls, problem: Problem, layout: Layout, pipeline: PipelineLayout) -> "Timeline":
        """Replay a complete layout."""
        ledger = Ledger(problem, degrees_of(layout), layout.choices)
        stages = ledger.contents(pipeline)
        pp, vpp, microbatches, group = ledger.schedule
        if 2 * pp * vpp * microbatches > MOST_OPERATIONS:
            size = pp if vpp == 1 else group
            microbatches = min(microbatches, microbatches % size + MOST_GROUPS * size)
        forward, backward = ledger.stage_times(stages)
        hop, overlap = ledger.time_terms.hop_ns, layout.overlap.ep_all_to_all
        found = replay(pp, vpp, microbatches, group, forward, backward, hop, ep_overlap=overlap, exact=True)
        return cls(ledger, stages, found, microbatches)

    def passes(self, rank: int) -> Iterator[tuple[int, int, list[TimedOperation]]]:
        """(start, end, operations) in order; a joint forward-backward block is one."""
        for times, timed in groupby(self.replay.operations(rank), key=lambda item: (item.start_ns, item.end_ns)):
            yield *times, list(timed)

    def exposed(self, rank: int, backward: bool, chunk: int) -> dict[str, int]:
        """What one pass contains beside computation, by name."""
        terms = self.ledger.time_terms
        prices = terms.backward_parts if backward else terms.forward_parts
        pieces = self.stages[chunk * self.ledger.schedule[0] + rank]
        return {
            name: sum(count * prices[part][piece] for part in parts for piece, count in pieces.items())
            for name, parts in EXPOSED.items()
        }

    def end(self, rank: int) -> dict[str, int]:
        """Parts of a rank's step end."""
        own = self.stages[rank :: self.ledger.schedule[0]]
        forward, backward = self.ledger.stage_times(own)
        return self.ledger.step_end(own, sum(forward) + sum(backward))


def trace(problem: Problem, layout: Layout) -> dict[str, Any]:
    """The trace of a complete layout, ready for JSON."""
    pipeline = pipeline_of(layout)
    assert pipeline is not None, "a trace needs a layout that evaluate has completed"
    timeline = Timeline.of(problem, layout, pipeline)
    events = [_metadata("process_name", 0, name=f"predicted step, {problem.architecture.name}")]
    for rank in range(layout.pp):
        events.append(_metadata("thread_name", rank, name=f"stage {rank}"))
        events.append(_metadata("thread_sort_index", rank, sort_index=rank))
        events += _track(timeline, rank)
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "layout": layout.pipeline_layout,
            "micro-batches shown": timeline.microbatches,
            "micro-batches of the step": timeline.ledger.schedule[2],
        },
        "traceEvents": events,
    }


def _metadata(kind: str, rank: int, **arguments: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": 0, "tid": rank, "args": arguments}


def _slice(rank: int, name: str, category: str, start_ns: int, duration_ns: int, **arguments: Any) -> dict[str, Any]:
    event = {"ph": "X", "name": name, "cat": category, "pid": 0, "tid": rank, "args": arguments}
    event |= {"ts": start_ns / 1000, "dur": duration_ns / 1000}
    return event | ({"cname": COLOURS[category]} if category in COLOURS else {})


def _track(timeline: Timeline, rank: int) -> Iterator[dict[str, Any]]:
    free = 0
    for start, end, operations in timeline.passes(rank):
        if start > free:
            yield _slice(rank, "bubble", "bubble", free, start - free)
        yield from _pass(timeline, rank, start, end, operations)
        free = end
    last = timeline.replay.total_ns
    if last > free:
        yield _slice(rank, "bubble", "bubble", free, last - free)
    for name, duration in timeline.end(rank).items():
        if duration:
            yield _slice(rank, name.replace("_", " "), "step end", last, int(duration))
            last += int(duration)


def _pass(
    timeline: Timeline, rank: int, start: int, end: int, operations: list[TimedOperation]
) -> Iterator[dict[str, Any]]:
    """One slice for a pass or a joint block, and inside it, from its end backwards, what computation does not hide."""
    named = [("B" if op.backward else "F") + str(op.microbatch) for _, _, op in operations]
    category = "backward" if operations[-1].operation.backward else "forward"
    chunks = [op.chunk for _, _, op in operations]
    yield _slice(rank, " + ".join(named), category, start, end - start, chunk=chunks, microbatch=named)
    inside = end
    for name in EXPOSED:
        duration = sum(timeline.exposed(rank, op.backward, op.chunk)[name] for _, _, op in operations)
        duration = min(int(duration), inside - start)
        if duration > 0:
            inside -= duration
            yield _slice(rank, name, "exposed", inside, duration)
