"""Rows of an interleaved pipeline whose steady pairs are joint blocks (`ep_overlap`).

A rank's event k is its backward k, one block with its forward k + w_r where there is one. It waits for its event k - 1
and for both inputs, and gives both outputs at its end (`moeopt.schedule.graph`). Three kinds of edges follow:

- own order: event k of a rank, then k + 1;
- a backward goes down: event k of rank r + 1, then event k of rank r, one hop later: backward k is the same on both;
- a forward goes up: block k of rank r, then block k + 2 of rank r + 1, one hop later: w_r = w_{r+1} + 2, so both hold
  the same forward. Block k + 2 exists where block k does: rank r + 1 has two blocks more.

The first block of the last rank has the first backward of all; its warm-up ends with micro-batch 0's last forward. Its
last block has the last forward of all. So every row below is a path: a front as without overlap (`Path.front`, warm-up
forwards only), event 0 of the last rank, down over events 0 to rank r, then

- R2: all events of r, down to rank 0 by its last backward;
- R4: all blocks of r, up over the last blocks to the last rank, the rest of its backwards before the last
  micro-batch's first one, and the tail;
- Z: as R4, but from r to a neighbour and back for every two blocks of r, which is a hop a block where R4 has none: up
  to r + 1 and down, or from the last rank down to r - 1 and up. Where r's last block is odd, one step stays on r;
- S: as Z, but staying where a block holds a pass of the last chunk, where loss and MTP modules are.

R1 (fill, own work, drain) needs no joint block beside r's own.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moeopt.schedule.even import even_ends, last_group
from moeopt.schedule.order import backwards_by_chunk, forwards_by_chunk, schedule_table, warmup_forwards
from moeopt.schedule.path import Ends, Path, Row, ends_name, ends_through

Indices = NDArray[np.int64]
Shape = tuple[int, int, int, int]
"""pp, vpp, micro-batches, group."""


class JointPath(Path):
    """A path over joint blocks. `final`: the last block of each rank, -1 where it has none."""

    def __init__(self, shape: Shape) -> None:
        self.shape = pp, vpp, num_microbatches, _ = shape
        super().__init__(pp, vpp)
        self.total = num_microbatches * vpp
        self.chunks, self.warmup = _chunks(*shape[1:]), _warmup(shape)
        self.final = [self.total - warmup - 1 for warmup in self.warmup]

    def event(self, rank: int, index: int) -> None:
        """One event of a rank."""
        if index <= self.final[rank]:
            self.forward[int(self.chunks[index + self.warmup[rank]]) * self.pp + rank] += 1
        self.backward[(self.vpp - 1 - int(self.chunks[index])) * self.pp + rank] += 1

    def events(self, rank: int, first: int, end: int) -> None:
        """Events first to end - 1 of a rank."""
        order, warmup = self.shape[1:], self.warmup[rank]
        ends = [min(count + warmup, self.total) for count in (first, end)]
        forwards = zip(*(forwards_by_chunk(count, *order) for count in ends), strict=True)
        backwards = zip(*(backwards_by_chunk(count, *order) for count in (first, end)), strict=True)
        self.stay(rank, *([after - before for before, after in pairs] for pairs in (forwards, backwards)))

    def blocks(self, rank: int, which: Indices) -> None:
        """Some blocks of a rank."""
        held = self.chunks[which + self.warmup[rank]], self.vpp - 1 - self.chunks[which]
        self.stay(rank, *(np.bincount(chunks, minlength=self.vpp).tolist() for chunks in held))

    def holds(self, rank: int, chunk: int) -> NDArray[np.bool_]:
        """Whether each block of a rank holds a pass of a chunk."""
        first, count = self.warmup[rank], self.final[rank] + 1
        forward, backward = self.chunks[first : first + count], self.vpp - 1 - self.chunks[:count]
        return np.asarray((forward == chunk) | (backward == chunk))

    def descend(self, rank: int) -> None:
        """First events of the ranks after this one, from the last."""
        for above in range(rank + 1, self.pp):
            self.event(above, 0)
        self.hop(self.pp - 1 - rank)

    def climb(self, rank: int) -> None:
        """Last blocks of the ranks after this one."""
        for above in range(rank + 1, self.pp):
            self.event(above, self.final[above])
        self.hop(self.pp - 1 - rank)

    def zigzag(self, rank: int, stay: NDArray[np.bool_]) -> None:
        """From block 0 of this rank to its last, through all blocks where `stay`, and from each of these to the next by
        way of a neighbour's blocks: after one step on the rank itself where the way is odd."""
        blocks = np.arange(self.final[rank])
        own = stay.copy()
        own[[0, -1]] = True
        stops = np.flatnonzero(own)
        ahead = np.repeat(stops[1:], np.diff(stops))
        leaves = blocks[(ahead - blocks) % 2 == 0]
        own[leaves] = own[leaves + 2] = True
        self.blocks(rank, np.flatnonzero(own))
        if rank < self.pp - 1:
            self.blocks(rank + 1, leaves + 2)
        else:
            self.blocks(rank - 1, leaves)
        self.hop(2 * len(leaves))

    def end(self, q: int | None) -> None:
        """From the last block of the last rank to the end of the step."""
        last, size = self.pp - 1, last_group(self.shape[2], self.shape[3])
        self.events(last, self.final[last] + 1, self.total - (self.vpp - 1) * size - 1)
        self.tail(q, size)


def joint_rows(pp: int, vpp: int, num_microbatches: int, group: int) -> list[Row]:
    """Paths of the interleaved schedule under `ep_overlap`: nine a rank, ten where fill and drain differ."""
    shape = pp, vpp, num_microbatches, group
    every, rows = [num_microbatches] * vpp, []
    evenly = even_ends(pp, num_microbatches, group)
    for r in range(pp):
        alone = Path(pp, vpp).up(0, 0, r - 1).stay(r, every, every).down(0, 0, r - 1).hop(2 * r)
        rows.append(alone.row(f"R1({r})"))
        rows += [_first_backward(shape, q, r) for q in dict.fromkeys((r, None))]
        path = JointPath(shape)
        if path.final[r] < 0:
            continue
        rows += [_through(shape, ends, r, None, f"R4({ends_name(*ends)},{r})") for ends in ends_through(r, pp, evenly)]
        if pp > 1:
            nowhere = np.zeros(path.final[r] + 1, dtype=bool)
            rows.append(_through(shape, evenly, r, nowhere, f"Z({r})"))
            rows.append(_through(shape, evenly, r, path.holds(r, vpp - 1), f"S({r})"))
    return rows


def _first_backward(shape: Shape, q: int | None, rank: int) -> Row:
    path = JointPath(shape)
    path.front(q, shape[3])
    path.descend(rank)
    path.events(rank, 0, path.total)
    path.down(0, 0, rank - 1).hop(rank)
    return path.row(f"R2({ends_name(q)},{rank})")


def _through(shape: Shape, ends: Ends, rank: int, stay: NDArray[np.bool_] | None, name: str) -> Row:
    """`stay`: the blocks where a path that zigzags stays; None for one that stays at all."""
    path = JointPath(shape)
    path.front(ends[0], shape[3])
    path.descend(rank)
    if stay is None:
        path.events(rank, 0, path.final[rank] + 1)
    else:
        path.zigzag(rank, stay)
    path.climb(rank)
    path.end(ends[1])
    return path.row(name)


@lru_cache(maxsize=64)
def _chunks(vpp: int, num_microbatches: int, group: int) -> Indices:
    """Chunk of every forward in order; of backward k it is vpp - 1 less that."""
    return np.array([chunk for _, chunk in schedule_table(vpp, num_microbatches, group)], dtype=np.int64)


@lru_cache(maxsize=64)
def _warmup(shape: Shape) -> tuple[int, ...]:
    """Warm-up forwards of every rank."""
    return tuple(warmup_forwards(*shape, rank, ep_overlap=True) for rank in range(shape[0]))
