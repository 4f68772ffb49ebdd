"""Paths through the fixed graph of operations, counted: each is a row that no replay is below, for ANY stage times."""

from collections.abc import Sequence
from dataclasses import dataclass

Ends = tuple[int | None, int | None]
"""Where a path waits in the fill and in the drain of an interleaved pipeline: at a rank, or None for a micro-batch's
way through all chunks (see `Path.front`)."""


@dataclass(frozen=True)
class Row:
    """A lower bound: sum forward[s] * f[s] + sum backward[s] * b[s] + hops * l <= T."""

    name: str
    forward: tuple[int, ...]
    """Coefficient of every stage's forward time, by stage."""
    backward: tuple[int, ...]
    hops: int


def evaluate_row(row: Row, forward_ns: Sequence[int], backward_ns: Sequence[int], hop_ns: int) -> int:
    """The row's value for given stage times."""
    forward = sum(count * time for count, time in zip(row.forward, forward_ns, strict=True))
    backward = sum(count * time for count, time in zip(row.backward, backward_ns, strict=True))
    return forward + backward + row.hops * hop_ns


class Path:
    """Counts of operations along one path while it is being walked."""

    def __init__(self, pp: int, vpp: int) -> None:
        self.pp, self.vpp = pp, vpp
        self.forward = [0] * (pp * vpp)
        self.backward = [0] * (pp * vpp)
        self.hops = 0

    def up(self, chunk: int, first: int, last: int) -> "Path":
        """Forwards of one micro-batch on `chunk` through ranks first..last."""
        for rank in range(first, last + 1):
            self.forward[chunk * self.pp + rank] += 1
        return self

    def down(self, chunk: int, first: int, last: int) -> "Path":
        """Backwards of one micro-batch on `chunk` through ranks first..last, last one first."""
        for rank in range(first, last + 1):
            self.backward[chunk * self.pp + rank] += 1
        return self

    def stay(self, rank: int, forwards: Sequence[int], backwards: Sequence[int]) -> "Path":
        """Operations of one rank run one after the other, by chunk."""
        for chunk in range(self.vpp):
            self.forward[chunk * self.pp + rank] += forwards[chunk]
            self.backward[chunk * self.pp + rank] += backwards[chunk]
        return self

    def front(self, q: int | None, group: int) -> "Path":
        """Up to the end of micro-batch 0's last forward: up to rank q on chunk 0, all forwards of q's first group on
        chunks before the last, then on to the last rank; or, without q, through every chunk."""
        last, zeros = self.pp - 1, [0] * self.vpp
        if q is None:
            for chunk in range(self.vpp):
                self.up(chunk, 0, last)
            return self.hop(self.pp * self.vpp - 1 if last else 0)
        waiting = [group] * (self.vpp - 1) + [0]
        return self.up(0, 0, q - 1).stay(q, waiting, zeros).up(self.vpp - 1, q, last).hop(last)

    def tail(self, q: int | None, last_group: int) -> "Path":
        """From the last micro-batch's first backward to the end of the step: the front mirrored in time."""
        last, zeros = self.pp - 1, [0] * self.vpp
        if q is None:
            for chunk in range(self.vpp):
                self.down(chunk, 0, last)
            return self.hop(self.pp * self.vpp - 1 if last else 0)
        remaining = [last_group] * (self.vpp - 1) + [0]
        return self.down(self.vpp - 1, q, last).stay(q, zeros, remaining).down(0, 0, q - 1).hop(last)

    def hop(self, count: int) -> "Path":
        """So many hops."""
        self.hops += count
        return self

    def row(self, name: str) -> Row:
        """What was counted, as a row."""
        return Row(name, tuple(self.forward), tuple(self.backward), self.hops)


def ends_through(rank: int, pp: int, even: Ends) -> list[Ends]:
    """Fills and drains tried with a stay at `rank`: the last rank, the first, its own, every chunk, and what is the
    longest for equal chunks."""
    return list(dict.fromkeys([(pp - 1, pp - 1), (0, 0), (rank, rank), (None, None), even]))


def ends_name(*ends: int | None) -> str:
    """For a row's name."""
    return "/".join("zigzag" if q is None else str(q) for q in dict.fromkeys(ends))
