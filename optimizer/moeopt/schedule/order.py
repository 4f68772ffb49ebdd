"""The order of operations of every pipeline rank, as Megatron-Core runs it.

Source: megatron/core/pipeline_parallel/schedules.py at d98e8a64: `get_pp_rank_microbatches` (warm-up counts),
`get_schedule_table` (interleaved table), `forward_backward_pipelining_without_interleaving` and `..._with_interleaving`
(warm-up forwards, then pairs forward-backward, then the remaining backwards).

Symbols: p ranks, v chunks a rank, M micro-batches, G micro-batches a group (`group`). Stages are numbered in model
order: stage = chunk * pp + rank. The order depends on (p, v, M, G) only, never on times: that is why the step time is
a maximum of finitely many linear functions of the stage times, and why peak activations do not depend on times at
all.

With overlap of the expert all-to-all (`ep_overlap`) one more forward is warmed up, and every later pair runs as one
block.
"""

from functools import lru_cache
from typing import NamedTuple

from moeopt.errors import InputError


class Operation(NamedTuple):
    """One forward or backward pass of one micro-batch through one chunk."""

    backward: bool
    chunk: int
    microbatch: int


def check_schedule(pp: int, vpp: int, num_microbatches: int, group: int) -> None:
    """Raise InputError where Megatron refuses the schedule. Without interleaving (vpp 1) the group is not used."""
    if min(pp, vpp, num_microbatches) < 1:
        raise InputError(f"schedule: pp {pp}, vpp {vpp} and num_microbatches {num_microbatches} must be at least 1")
    if vpp == 1:
        return
    if not pp <= group <= num_microbatches:
        raise InputError(
            f"interleave_group: needs pp <= group <= num_microbatches, got {pp} <= {group} <= {num_microbatches}"
        )
    if 0 < num_microbatches % group < pp:
        raise InputError(
            f"interleave_group: num_microbatches {num_microbatches} % group {group} = {num_microbatches % group}"
            f" must be 0 or at least pp {pp}"
        )


def warmup_forwards(pp: int, vpp: int, num_microbatches: int, group: int, rank: int, ep_overlap: bool = False) -> int:
    """Forwards that a rank runs before its first forward-backward pair (never more than all of them)."""
    ahead = pp - 1 - rank
    count = ahead if vpp == 1 else 2 * ahead + (vpp - 1) * group
    return min(num_microbatches * vpp, count + ep_overlap)


@lru_cache(maxsize=64)
def schedule_table(vpp: int, num_microbatches: int, group: int) -> tuple[tuple[int, int], ...]:
    """(micro-batch, chunk) of every forward in order: group by group, inside a group chunk by chunk.

    The backward list is the same with chunk c replaced by vpp - 1 - c. The last group holds M mod G if that is not
    zero.
    """
    size = num_microbatches if vpp == 1 else group
    return tuple(
        (microbatch, chunk)
        for start in range(0, num_microbatches, size)
        for chunk in range(vpp)
        for microbatch in range(start, min(start + size, num_microbatches))
    )


def rank_order(
    pp: int, vpp: int, num_microbatches: int, group: int, rank: int, ep_overlap: bool = False
) -> list[Operation]:
    """All operations of one rank in the order it runs them (under `ep_overlap` the steady pairs one by one)."""
    check_schedule(pp, vpp, num_microbatches, group)
    table = schedule_table(vpp, num_microbatches, group)
    forwards = [Operation(False, chunk, microbatch) for microbatch, chunk in table]
    backwards = [Operation(True, vpp - 1 - chunk, microbatch) for microbatch, chunk in table]
    warmup = warmup_forwards(pp, vpp, num_microbatches, group, rank, ep_overlap)
    order = forwards[:warmup]
    for forward, backward in zip(forwards[warmup:], backwards, strict=False):
        order += (forward, backward)
    return order + backwards[len(forwards) - warmup :]


def forwards_by_chunk(count: int, vpp: int, num_microbatches: int, group: int) -> tuple[int, ...]:
    """How many of the first `count` forwards of the table belong to each chunk (closed form).

    A full group holds `group` micro-batches of every chunk; the last may be smaller. In the group that is not done,
    some chunks are, one is in part, and the others have not begun.
    """
    size = num_microbatches if vpp == 1 else group
    groups, inside = divmod(count, vpp * size)
    before = groups * size
    width = min(size, num_microbatches - before)
    chunks, part = divmod(inside, max(width, 1))
    return ((before + width,) * chunks + (before + part,) + (before,) * (vpp - 1 - chunks))[:vpp]


def backwards_by_chunk(count: int, vpp: int, num_microbatches: int, group: int) -> tuple[int, ...]:
    """How many of the first `count` backwards of the table belong to each chunk."""
    return forwards_by_chunk(count, vpp, num_microbatches, group)[::-1]
