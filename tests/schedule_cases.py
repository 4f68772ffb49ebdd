"""Random schedules and an independent, slow replay for the schedule tests."""

import random

Shape = tuple[int, int, int, int]
Operation = tuple[str, int, int]
"""F or B, chunk, micro-batch."""


def random_shape(rng: random.Random, most_ranks: int = 8) -> Shape:
    """(pp, vpp, micro-batches, group), any group size that Megatron accepts."""
    pp, vpp = rng.randint(1, most_ranks), rng.randint(1, 4)
    if vpp == 1:
        return pp, 1, rng.randint(1, 5 * pp), pp
    group = rng.choice([pp, rng.randint(pp, 2 * pp + 3)])
    microbatches = rng.randint(group, 5 * group)
    if 0 < microbatches % group < pp:
        microbatches -= microbatches % group
    return pp, vpp, microbatches, group


def random_times(rng: random.Random, stages: int) -> tuple[list[int], list[int]]:
    """Forward and backward times: near even, with empty stages, or wild."""
    low, high = rng.choice([(90, 110), (50, 150), (0, 200)])
    forward = [rng.randint(low, high) for _ in range(stages)]
    if rng.random() < 0.5:
        return forward, [2 * time for time in forward]
    return forward, [rng.randint(2 * low, 2 * high) for _ in range(stages)]


def megatron_blocks(shape: Shape, rank: int, ep_overlap: bool = False) -> list[list[Operation]]:
    """What one rank runs, written from the three loops of schedules.py (d98e8a64); a joint pair is one block."""
    pp, vpp, microbatches, group = shape
    group = group if vpp > 1 else microbatches
    # get_schedule_table: by group, then chunk, then micro-batch.
    ids = [(m, c) for m in range(microbatches) for c in range(vpp)]
    table = sorted(ids, key=lambda item: (item[0] // group, item[1], item[0]))
    # get_pp_rank_microbatches
    warmup = pp - rank - 1
    if vpp > 1:
        warmup = (pp - rank - 1) * 2 + (vpp - 1) * group
    warmup = min(warmup + (1 if ep_overlap else 0), len(table))
    blocks = [[("F", table[k][1], table[k][0])] for k in range(warmup)]
    for k in range(len(table) - warmup):
        forward = ("F", table[k + warmup][1], table[k + warmup][0])
        backward = ("B", vpp - 1 - table[k][1], table[k][0])
        blocks += [[forward, backward]] if ep_overlap else [[forward], [backward]]
    for k in range(len(table) - warmup, len(table)):
        blocks.append([("B", vpp - 1 - table[k][1], table[k][0])])
    return blocks


def slow_replay(shape: Shape, forward: list[int], backward: list[int], hop: int, ep_overlap: bool = False) -> int:
    """End of the step by running each rank's list until nothing waits: no graph, no numbering, no cache."""
    pp, vpp = shape[:2]
    last = pp * vpp - 1
    blocks = [megatron_blocks(shape, rank, ep_overlap)[::-1] for rank in range(pp)]
    done: dict[Operation, int] = {}
    free = [0] * pp
    while any(blocks):
        moved = False
        for rank in range(pp):
            while blocks[rank]:
                sources = [_source(kind, chunk * pp + rank, last, m) for kind, chunk, m in blocks[rank][-1]]
                if not all(source is None or source in done for source in sources):
                    break
                arrivals = [done[s] + (hop if s[1] % pp != rank else 0) for s in sources if s is not None]
                end = max([free[rank], *arrivals])
                block = [(kind, chunk * pp + rank, m) for kind, chunk, m in blocks[rank].pop()]
                end += sum((forward if kind == "F" else backward)[stage] for kind, stage, _ in block)
                done.update(dict.fromkeys(block, end))
                free[rank], moved = end, True
        assert moved, f"{shape} waits for itself"
    return max(free)


def _source(kind: str, stage: int, last: int, microbatch: int) -> Operation | None:
    """(kind, stage, micro-batch) whose output this operation reads."""
    if kind == "F":
        return ("F", stage - 1, microbatch) if stage else None
    return ("B", stage + 1, microbatch) if stage < last else ("F", last, microbatch)
