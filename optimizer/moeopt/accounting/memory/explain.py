"""Every line behind the memory of one stage, with the sums that lead from them to the stage's six numbers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from moeopt.accounting.buffers import chunk_buffers
from moeopt.accounting.memory.activations import all_tensors, without_recompute
from moeopt.accounting.memory.gathered import Gathered, double_buffer_bytes, gathered
from moeopt.accounting.memory.overhead import default_overheads, overhead_parts
from moeopt.accounting.memory.persistent import present_parts
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE
from moeopt.accounting.memory.stage import buffer_elements, chunk_kept_bytes, features
from moeopt.accounting.memory.states import host_bytes_per_shard_element
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.memory.tensors import with_numbers
from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.memory.transients import moments
from moeopt.accounting.pieces import Piece, contents, is_recomputed, plain
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import Chunk, PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.in_flight import in_flight_vectors


def explain_stage(
    problem: Problem, degrees: Degrees, choices: Choices, pipeline: PipelineLayout, stage: int
) -> dict[str, Any]:
    """The lines of one pipeline rank: tensors of each kind of piece, chunks in flight, buffers, states, overheads."""
    terms = memory_terms(problem, degrees, choices)
    chunks = pipeline.of_rank(stage)
    counts = [contents(problem.architecture, chunk, choices.recompute.block_layers) for chunk in chunks]
    held = list(dict.fromkeys(piece for chunk in counts for piece in chunk))
    total = _total(contents(problem.architecture, chunk) for chunk in chunks)
    kept = [chunk_kept_bytes(terms, chunk) for chunk in counts]
    recomputed = [
        {piece: number for piece, number in chunk.items() if is_recomputed(piece, choices.recompute)}
        for chunk in counts
    ]
    schedule = (degrees.pp, degrees.vpp, degrees.num_microbatches, degrees.interleave_group)
    vectors = in_flight_vectors(*schedule, stage, choices.overlap.ep_all_to_all)
    return {
        "stage": stage,
        "pieces": [_piece(problem, degrees, choices, piece, number) for piece, number in total.items()],
        "recomputed_layer_bytes": {
            str(plain(piece)): int(terms.kept_bytes[piece]) for covered in recomputed for piece in covered
        },
        "chunks": [
            {
                "pieces": {str(piece): number for piece, number in _plainly(chunk).items()},
                "recomputed": {str(piece): number for piece, number in _plainly(covered).items()},
                "kept_bytes": size,
            }
            for chunk, covered, size in zip(counts, recomputed, kept, strict=True)
        ],
        "activations": {
            **_activations(terms, counts, kept, vectors),
            "moments": _moments(problem, degrees, choices, terms, held),
        },
        "states": list(_states(problem, degrees, choices, terms, chunks, counts, stage)),
        "buffers": list(_buffers(problem, degrees, choices, terms, counts)),
        "overhead": [
            {"name": name, "bytes": int(size)}
            for name, size in overhead_parts(problem, degrees, choices, default_overheads()).items()
            if size
        ],
    }


def _total(chunks: Iterable[Mapping[Piece, int]]) -> dict[Piece, int]:
    counts: Counter[Piece] = Counter()
    for chunk in chunks:
        counts.update(chunk)
    return dict(counts)


def _plainly(chunk: Mapping[Piece, int]) -> dict[Piece, int]:
    """Layers by kind, recomputed or not."""
    return _total({plain(piece): number} for piece, number in chunk.items())


def _piece(problem: Problem, degrees: Degrees, choices: Choices, piece: Piece, number: int) -> dict[str, Any]:
    """Tensors of a piece that is not recomputed whole; those that selective recomputation drops are marked."""
    sizes = symbols(problem, degrees, choices)
    plain = without_recompute(choices) if choices.recompute.granularity == "full" else choices
    found = [with_numbers(sizes, item) for item in all_tensors(problem, sizes, piece, plain, DEFAULT_RECIPE)]

    def line(item: Any) -> dict[str, Any]:
        return {
            "name": item.name,
            "bytes": int(item.bytes),
            "arithmetic": item.arithmetic,
            "dropped_by": list(item.dropped_by),
            "source": item.source,
        }

    kept = [item for item in found if item.bytes and item.kept_under(plain)]
    away = [item for item in kept if item.host_bytes(plain)]

    return {
        "piece": str(piece),
        "count": number,
        "tensors": [line(item) for item in kept if item not in away],
        "offloaded": [{**line(item), "offloaded_by": item.offloaded_by} for item in away],
        "dropped": [line(item) for item in found if item.bytes and not item.kept_under(plain)],
    }


def _moments(
    problem: Problem, degrees: Degrees, choices: Choices, terms: MemoryTerms, held: Sequence[Piece]
) -> dict[str, Any]:
    """What passes at each moment of each piece, the largest first."""
    sizes = symbols(problem, degrees, choices)
    waiting = _gathered(problem, degrees, choices, terms)
    found = {piece: moments(problem, sizes, piece, choices, DEFAULT_RECIPE) for piece in held}
    for piece in held:
        extra = waiting[piece].transient
        if extra:
            text = f"{{name}}, with {int(extra)} bytes of gathered parameters and waiting gradients"
            found[piece] = {text.format(name=name): size + extra for name, size in found[piece].items()}
    return {
        str(piece): [{"name": name, "bytes": int(size)} for name, size in sorted(of.items(), key=lambda item: -item[1])]
        for piece, of in found.items()
    }


def _gathered(problem: Problem, degrees: Degrees, choices: Choices, terms: MemoryTerms) -> dict[Piece, Gathered]:
    """Megatron-FSDP's part of the passing and the present bytes, as the terms count it."""
    gradient = terms.gradient_bytes_per_element + terms.sharded_gradient_bytes_per_element
    return gathered(problem, degrees, choices, gradient, terms.kept_bytes)


def _activations(
    terms: MemoryTerms, counts: list[dict[Piece, int]], kept: list[int], vectors: tuple[tuple[int, ...], ...]
) -> dict[str, Any]:
    """The vector of micro-batches in flight, and the piece whose passing bytes, that make the peak."""

    def passing(vector: tuple[int, ...]) -> tuple[int, str]:
        running = [piece for chunk, number in zip(counts, vector, strict=True) if number for piece in chunk]
        return max(((int(terms.transient_bytes[piece]), str(piece)) for piece in running), default=(0, ""))

    def size(vector: tuple[int, ...]) -> int:
        return sum(number * each for number, each in zip(vector, kept, strict=True)) + passing(vector)[0]

    peak = max(vectors, key=size)
    passes, piece = passing(peak)
    return {
        "vectors": [list(vector) for vector in vectors],
        "in_flight": list(peak),
        "passing_piece": piece,
        "passing_bytes": passes,
        "total_bytes": size(peak),
    }


def _states(
    problem: Problem,
    degrees: Degrees,
    choices: Choices,
    terms: MemoryTerms,
    chunks: Sequence[Chunk],
    counts: list[dict[Piece, int]],
    stage: int,
) -> Iterator[dict[str, Any]]:
    """One line a buffer: elements, padded elements, shards; the exact walk over parameters and buckets beside it.

    Experts that lie in the dense buffer (ep 1 and etp = tp) keep their line; what the joint padding changes is then
    told with the dense one.
    """
    for index, (placed, chunk) in enumerate(zip(chunks, counts, strict=True)):
        walked = chunk_buffers(problem, degrees, choices, placed, stage == 0 and index == 0)
        sharded = choices.fsdp != "none"
        kinds: tuple[tuple[str, Mapping[Piece, Any], Any], ...] = (
            ("dense", terms.dense_elements, terms.dense_shards),
            ("experts", terms.expert_elements, terms.expert_shards),
        )
        for kind, elements, shards in kinds:
            held = sum(number * int(elements[piece]) for piece, number in chunk.items())
            if held:
                apart = 0 if walked.expert.numel else int(sum(n * terms.expert_elements[p] for p, n in chunk.items()))
                exact = walked.dense.numel - apart if kind == "dense" else walked.expert.numel or held
                yield _state(choices, terms, f"chunk {index}, {kind}", held, int(shards), None if sharded else exact)
        unshared = sum(number * int(terms.unshared_state_bytes[piece]) for piece, number in chunk.items())
        if unshared:
            yield {"name": f"chunk {index}, what Adam needs beyond Muon", "optimizer_bytes": unshared}
        quantized = sum(number * int(terms.quantized_bytes[piece]) for piece, number in chunk.items())
        if quantized:
            kept = problem.workload.keeps_parameters
            name = "quantised weights over 16-bit ones" if kept else "8-bit copies of weights"
            yield {"name": f"chunk {index}, {name}", "weights_bytes": quantized}
    whole = sum(int(terms.present_state_bytes[feature]) for feature in features(problem, counts))
    if whole:
        yield {"name": "the largest tensor, on the busiest rank", "optimizer_bytes": whole}


def _state(
    choices: Choices, terms: MemoryTerms, name: str, held: int, shards: int, walked: int | None
) -> dict[str, Any]:
    """One buffer. `walked` None: Megatron-FSDP, whose buckets the elements count already."""
    padded = buffer_elements(held, shards, terms)
    shard = padded // shards
    state = terms.state_bytes_per_shard_element
    weight, gradient = terms.weight_bytes_per_element, terms.gradient_bytes_per_element
    shares = terms.sharded_weight_bytes_per_element, terms.sharded_gradient_bytes_per_element
    parts = [
        f"{shard}*{share}" if share else f"{padded}*{price}"
        for price, share in zip((weight, gradient), shares, strict=True)
    ]
    return {
        "name": name,
        "elements": held,
        "padded": padded,
        "shards": shards,
        "bucket_walk": padded if walked is None else walked,
        "weights_bytes": padded * weight + shard * shares[0],
        "gradients_bytes": padded * gradient + shard * shares[1],
        "optimizer_bytes": -(-padded * state.numerator // (shards * state.denominator)),
        "host_bytes": -(-shard * host_bytes_per_shard_element(choices) // 1),
        "arithmetic": f"{', '.join(parts)}, {padded}/{shards}*{state}",
    }


def _buffers(
    problem: Problem, degrees: Degrees, choices: Choices, terms: MemoryTerms, counts: list[dict[Piece, int]]
) -> Iterator[dict[str, Any]]:
    parts = present_parts(problem, symbols(problem, degrees, choices), choices, default_overheads(), DEFAULT_RECIPE)
    for feature in features(problem, counts):
        for name, size in parts[feature].items():
            if size:
                yield {"name": name, "bytes": int(size)}
    price = terms.gradient_bytes_per_element + terms.sharded_gradient_bytes_per_element
    doubled = int(double_buffer_bytes(problem, degrees, choices, price))
    if doubled and "layer" in features(problem, counts):
        yield {"name": "double buffers of two layers, parameters and gradients", "bytes": doubled}
    waiting = _gathered(problem, degrees, choices, terms)
    for piece in dict.fromkeys(piece for chunk in counts for piece, number in chunk.items() if number):
        if waiting[piece].present:
            name = f"parameters outside layers, gathered for good, with gradients that wait ({piece})"
            yield {"name": name, "bytes": int(waiting[piece].present)}
    if terms.chunk_fixed_bytes:
        size = len(counts) * int(terms.chunk_fixed_bytes)
        yield {"name": f"input gradients that the schedule holds, {len(counts)} chunks", "bytes": size}
