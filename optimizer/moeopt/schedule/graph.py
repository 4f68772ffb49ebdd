"""The fixed graph of one schedule's operations, and its evaluation for given stage times.

Events are numbered so that each follows what it needs: one pass over flat lists evaluates the whole step. Event 0 is
the start of the step. An event's kind is the stage for a forward and stages + stage for a backward. Under
`ep_overlap` a steady forward-backward pair is one event with a second kind: it waits for both inputs and gives both
outputs at its end (megatron/core/pipeline_parallel/combined_1f1b.py).
"""

from collections.abc import Sequence
from functools import lru_cache

from moeopt.schedule.order import check_schedule, schedule_table, warmup_forwards

Block = tuple[tuple[int, int], ...]
"""(kind, micro-batch) of an operation, or of the forward and the backward of a joint block."""


class Graph:
    """Events of one schedule: predecessor on the rank, producer of the input, whether the input crosses ranks, kind."""

    def __init__(self, pp: int, vpp: int, num_microbatches: int, group: int, ep_overlap: bool) -> None:
        check_schedule(pp, vpp, num_microbatches, group)
        self.pp, self.stages, self.joint = pp, pp * vpp, ep_overlap
        self.shape = (pp, vpp, num_microbatches, group)
        self.previous = [0]
        self.kinds = [-1]
        self.inputs = [0]
        self.hops = [0]
        self.second_kinds = [-1]
        self.second_inputs = [0]
        self.second_hops = [0]
        self.blocks = [self._rank_blocks(rank) for rank in range(pp)]
        self.events: list[list[int]] = [[] for _ in range(pp)]
        needs = [self._needs(kind) for kind in range(2 * self.stages)]
        self._needed = needs
        self._crosses = [int(need >= 0 and need % pp != kind % pp) for kind, need in enumerate(needs)]
        self._number_events(num_microbatches)

    def _rank_blocks(self, rank: int) -> list[Block]:
        pp, vpp, num_microbatches, group = self.shape
        table = schedule_table(vpp, num_microbatches, group)
        forwards = [(chunk * pp + rank, microbatch) for microbatch, chunk in table]
        backwards = [(self.stages + (vpp - 1 - chunk) * pp + rank, microbatch) for microbatch, chunk in table]
        warmup = warmup_forwards(pp, vpp, num_microbatches, group, rank, self.joint)
        blocks: list[Block] = [(forward,) for forward in forwards[:warmup]]
        for forward, backward in zip(forwards[warmup:], backwards, strict=False):
            blocks += ((forward, backward),) if self.joint else ((forward,), (backward,))
        return blocks + [(backward,) for backward in backwards[len(forwards) - warmup :]]

    def _needs(self, kind: int) -> int:
        """The kind that produces this kind's input; -1 for the first stage's forward."""
        if kind < self.stages:
            return kind - 1
        return kind + 1 if kind < 2 * self.stages - 1 else self.stages - 1

    def _number_events(self, num_microbatches: int) -> None:
        """Number the events by running every rank as far as its inputs allow, in turns."""
        position, newest = [0] * self.pp, [0] * self.pp
        done = [[0] * num_microbatches for _ in range(2 * self.stages)]
        left = sum(map(len, self.blocks))
        while left:
            before = left
            for rank, blocks in enumerate(self.blocks):
                for block in blocks[position[rank] : position[rank] + 2 * self.stages]:
                    if not all(self._needed[kind] < 0 or done[self._needed[kind]][micro] for kind, micro in block):
                        break
                    newest[rank] = self._append(rank, newest[rank], block, done)
                    position[rank] += 1
                    left -= 1
            if left == before:
                raise RuntimeError(f"the schedule {self.shape} waits for itself")

    def _append(self, rank: int, previous: int, block: Block, done: list[list[int]]) -> int:
        event = len(self.kinds)
        (kind, micro), *second = block
        self.previous.append(previous)
        self.kinds.append(kind)
        self.inputs.append(done[self._needed[kind]][micro] if self._needed[kind] >= 0 else 0)
        self.hops.append(self._crosses[kind])
        if self.joint:
            second_kind, second_micro = second[0] if second else (-1, 0)
            self.second_kinds.append(second_kind)
            self.second_inputs.append(done[self._needed[second_kind]][second_micro] if second else 0)
            self.second_hops.append(self._crosses[second_kind] if second else 0)
        for kind, micro in block:
            done[kind][micro] = event
        self.events[rank].append(event)
        return event

    def end_times(self, kind_ns: Sequence[int], hop_ns: int, saved_ns: Sequence[Sequence[int]] | None) -> list[int]:
        """End of every event. `saved_ns[f][b]`: what a joint block of these stages' forward and backward hides."""
        if self.joint:
            return self._joint_end_times(kind_ns, hop_ns, saved_ns)
        ends = [0]
        latency = (0, hop_ns)
        walk = zip(self.previous, self.inputs, self.hops, self.kinds, strict=True)
        next(walk)
        for previous, source, hop, kind in walk:
            free, ready = ends[previous], ends[source] + latency[hop]
            ends.append((free if free >= ready else ready) + kind_ns[kind])
        return ends

    def _joint_end_times(
        self, kind_ns: Sequence[int], hop_ns: int, saved_ns: Sequence[Sequence[int]] | None
    ) -> list[int]:
        ends = [0]
        latency = (0, hop_ns)
        second_ns = [*kind_ns, 0]  # kind -1, no second half, is the last entry
        walk = zip(
            self.previous,
            self.inputs,
            self.hops,
            self.kinds,
            self.second_inputs,
            self.second_hops,
            self.second_kinds,
            strict=True,
        )
        next(walk)
        for previous, source, hop, kind, other, other_hop, second in walk:
            start, ready, late = ends[previous], ends[source] + latency[hop], ends[other] + latency[other_hop]
            if ready > start:
                start = ready
            if late > start:
                start = late
            end = start + kind_ns[kind] + second_ns[second]
            if saved_ns and second >= 0:
                end -= saved_ns[kind][second - self.stages]
            ends.append(end)
        return ends

    def duration(self, event: int, kind_ns: Sequence[int], saved_ns: Sequence[Sequence[int]] | None) -> int:
        """How long an event runs."""
        kind, second = self.kinds[event], self.second_kinds[event] if self.joint else -1
        if second < 0:
            return kind_ns[kind]
        return kind_ns[kind] + kind_ns[second] - (saved_ns[kind][second - self.stages] if saved_ns else 0)

    def critical_path(self, ends: Sequence[int], hop_ns: int) -> tuple[list[int], list[tuple[int, int]], int]:
        """(kinds, joint pairs, hops) met walking back from the last event along what each one waited for."""
        counts = [0] * (2 * self.stages)
        pairs: list[tuple[int, int]] = []
        hops = 0
        event = max((events[-1] for events in self.events), key=ends.__getitem__)
        while event:
            counts[self.kinds[event]] += 1
            source, crossed = self.inputs[event], self.hops[event]
            if self.joint and self.second_kinds[event] >= 0:
                counts[self.second_kinds[event]] += 1
                pairs.append((self.kinds[event], self.second_kinds[event] - self.stages))
                other, other_crossed = self.second_inputs[event], self.second_hops[event]
                if ends[other] + other_crossed * hop_ns > ends[source] + crossed * hop_ns:
                    source, crossed = other, other_crossed
            if ends[self.previous[event]] >= ends[source] + crossed * hop_ns:
                event = self.previous[event]
            else:
                hops += crossed
                event = source
        return counts, pairs, hops


@lru_cache(maxsize=32)
def schedule_graph(pp: int, vpp: int, num_microbatches: int, group: int, ep_overlap: bool) -> Graph:
    """The graph of a schedule, kept for the next replay of it."""
    return Graph(pp, vpp, num_microbatches, group if vpp > 1 else num_microbatches, ep_overlap)
