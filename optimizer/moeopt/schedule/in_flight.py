"""Micro-batches in flight per chunk when activations peak: exact, independent of times.

Right after its t-th forward (t > w, the warm-up count) a rank has finished u = t - w - 1 backwards, so chunk c holds
n_c(t) = F_c(t) - B_c(u), with F_c and B_c the entries of chunk c among the first t forwards and first u backwards.
Activation memory rises with a forward and falls with a backward, so for any bytes a[c] >= 0 the peak is the maximum
over t in w+1..Mv of sum_c n_c(t) a[c]. n(t) is linear in t between the places where the forward or the backward list
changes its chunk, so the maximum is at one of those places or at an end. Of these vectors only the Pareto-maximal
ones matter. Source of the order: see `moeopt.schedule.order`.
"""

from functools import lru_cache

from moeopt.schedule.order import backwards_by_chunk, check_schedule, forwards_by_chunk, warmup_forwards


def _chunk_ends(vpp: int, num_microbatches: int, group: int) -> list[int]:
    """Positions in the schedule table after which the chunk changes."""
    size = num_microbatches if vpp == 1 else group
    ends = []
    for start in range(0, num_microbatches, size):
        width = min(size, num_microbatches - start)
        ends += [vpp * start + width * (chunk + 1) for chunk in range(vpp)]
    return ends


def pareto_maximal(vectors: set[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The vectors that no other one reaches or exceeds in every entry, in lexicographic order."""
    kept: list[tuple[int, ...]] = []
    for vector in sorted(vectors, reverse=True):
        # A vector that dominates this one is lexicographically larger, hence already met (itself or one above it).
        if not any(all(a >= b for a, b in zip(other, vector, strict=True)) for other in kept):
            kept.append(vector)
    return tuple(reversed(kept))


_GROUPS = 5
"""Groups repeat: further ones give no new vector (6,000 random schedules compared with all their groups)."""


def _as_few_microbatches(pp: int, vpp: int, num_microbatches: int, group: int) -> int:
    """The fewest micro-batches with the same vectors: whole groups beyond the first few do not matter."""
    if vpp == 1:
        return min(num_microbatches, _GROUPS * pp)
    return min(num_microbatches, _GROUPS * group + num_microbatches % group)


@lru_cache(maxsize=8192)
def in_flight_vectors(
    pp: int, vpp: int, num_microbatches: int, group: int, rank: int, ep_overlap: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Pareto-maximal micro-batches in flight per chunk of one rank over the whole step.

    The rank's activation peak is the maximum over these vectors of sum_c vector[c] * kept_bytes[c], for any kept bytes.
    Under `ep_overlap` a pair runs as one block that frees a layer of the backward as it stores one of the forward, so
    what it holds lies between the states before and after it, and one layer above (which belongs to the layer's
    transient bytes). One more forward is warmed up, one fewer is whole beside it: the vectors are the same either way.
    """
    check_schedule(pp, vpp, num_microbatches, group)
    shorter = _as_few_microbatches(pp, vpp, num_microbatches, group)
    if shorter < num_microbatches:
        return in_flight_vectors(pp, vpp, shorter, min(group, shorter) if vpp == 1 else group, rank, ep_overlap)
    warmup = warmup_forwards(pp, vpp, num_microbatches, group, rank, ep_overlap)
    lag = warmup if ep_overlap else warmup + 1
    total = num_microbatches * vpp
    first = min(total, max(1, lag))
    times = {first, total}
    for end in _chunk_ends(vpp, num_microbatches, group):
        times.add(max(first, end))
        times.add(min(total, end + lag))
    vectors = set()
    for t in times:
        forwards = forwards_by_chunk(t, vpp, num_microbatches, group)
        backwards = backwards_by_chunk(max(0, t - lag), vpp, num_microbatches, group)
        vectors.add(tuple(f - b for f, b in zip(forwards, backwards, strict=True)))
    return pareto_maximal(vectors)
