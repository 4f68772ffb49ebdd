"""What hop latency costs an interleaved pipeline of equal chunks.

Without hops it takes (M v + p - 1)(f + b). Every path of that length waits for hops too, and the one with the most of
them is the longest while a hop is short beside a chunk (symbols as in `moeopt.schedule.bounds`):

- fill: groups of p micro-batches leave a rank no spare time, so micro-batch 0 is waited for on all its p v - 1 hops to
  the last stage; in larger groups the next micro-batches fill the time, and only the first p - 1 hops are seen. Drain:
  the same, by the size of the last group.
- steady state: an input arrives while the rank works for another micro-batch, so no hop is seen. Under `ep_overlap`
  block k of a rank waits for a forward that its predecessor sent at the end of its block k - 2 and for a backward that
  its successor sent at the end of its block k: of the blocks 0..n of the last rank each costs a hop, as a path goes to
  a neighbour and back in two (the last one none where n is odd).
"""

from moeopt.arithmetic import Number, where
from moeopt.schedule.path import Ends


def even_hops(pp: Number, vpp: Number, num_microbatches: Number, group: Number, ep_overlap: bool) -> Number:
    """Hops that an interleaved pipeline of equal chunks waits for; at most one fewer than the replay has. Integers or
    columns."""
    fill = where(group == pp, pp * vpp - 1, pp - 1)
    drain = where(last_group(num_microbatches, group) == pp, pp * vpp - 1, pp - 1)
    blocks = num_microbatches * vpp - (vpp - 1) * group - 2 if ep_overlap else 0
    return where(pp > 1, fill + drain + blocks - blocks % 2, 0)


def even_ends(pp: int, num_microbatches: int, group: int) -> Ends:
    """Fill and drain of the path that waits for most hops when all chunks are equal."""
    last = last_group(num_microbatches, group)
    return None if group == pp else pp - 1, None if last == pp else pp - 1


def last_group(num_microbatches: Number, group: Number) -> Number:
    """Micro-batches of the last group."""
    rest = num_microbatches % group
    return where(rest > 0, rest, group)
