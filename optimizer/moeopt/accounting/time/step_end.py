"""What a rank pays once a step: gradient reduction, parameter gather, gradient clearing and the optimizer.

Prices are nanoseconds for 2^20 buffer elements on the GPU, so that a stage's cost is linear in its elements; what
overlap leaves exposed is a maximum of linear rows. What Muon's products take is a price a piece beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from moeopt.accounting.buffers import bucket_elements
from moeopt.accounting.fsdp import shards_gradients, shards_parameters, shards_state
from moeopt.accounting.muon.state import is_layer_wise
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time import muon
from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.gemm import gradient_bytes
from moeopt.accounting.time.topology import ring_bytes_per_us, ring_latency_ns
from moeopt.arithmetic import Number, ceil_div, maximum, times, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

UNIT = 2**20
"""Elements that a price is for."""
STAGE_PARTS = 20
"""The windows below are in twentieths."""
REDUCE_WINDOW, GATHER_WINDOW = 12, 6
"""Twentieths of one micro-batch's stage time under which the reduction (0.6) and the gather (0.3) hide: only the last
backward and the first forward overlap them (assumed: nothing published isolates it for MoE)."""
EXPOSED_FLOOR = 3
"""Twentieths of that communication which overlap never hides (0.15, assumed)."""
SCALE = STAGE_PARTS * UNIT
HOST_UPDATE_BYTES_PER_US = {"grace": 100_000, "x86": 25_000}
"""Optimizer state updated in host memory. Grace: 15-20 GB cost 0.1-0.2 s a step (Megatron-Core report,
arXiv 2603.07685); x86 assumed from PCIe 5 x16, both ways."""
MOMENT_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class Row:
    """One linear piece of a rank's step end:

        SCALE * ns = dense * D + expert * X + stage * stage_ns + update * update_ns + fixed

    with D and X the rank's buffer elements, stage_ns its forward + backward of one micro-batch, and update_ns what
    Muon's products take on its pieces."""

    dense: Number
    expert: Number
    stage: int = 0
    update: int = 0
    fixed: Number = 0

    def __add__(self, other: "Row") -> "Row":
        return Row(
            self.dense + other.dense,
            self.expert + other.expert,
            self.stage + other.stage,
            self.update + other.update,
            self.fixed + other.fixed,
        )

    def scaled_ns(
        self, dense_elements: Number, expert_elements: Number, stage_ns: Number, update_ns: Number = 0
    ) -> Number:
        """SCALE times the row's nanoseconds, without what is fixed."""
        priced = self.dense * dense_elements + self.expert * expert_elements + self.stage * stage_ns
        return priced + self.update * update_ns


@dataclass(frozen=True)
class StepEnd:
    """Linear pieces of each part of a step's end on one rank; a part is the maximum of its rows."""

    reduce: tuple[Row, ...]
    gather: tuple[Row, ...]
    clear: Row
    optimizer: Row
    update_ns: Mapping[Piece, Number] = field(default_factory=dict)
    """What Muon's products over one piece take on the mean rank (empty without it)."""

    def updates_ns(self, counts: Mapping[Piece, Number]) -> Number:
        """The same of several pieces."""
        return sum(count * self.update_ns[piece] for piece, count in counts.items()) if self.update_ns else 0

    @property
    def rows(self) -> tuple[Row, ...]:
        """The whole tail: ns = ceil(max over these rows / SCALE), for CP-SAT as SCALE * tail >= row."""
        fixed = self.clear + self.optimizer
        return tuple(reduce + gather + fixed for reduce in self.reduce for gather in self.gather)


class HasStepEnd(Protocol):
    """Time terms, as far as a step's end needs them."""

    @property
    def step_end(self) -> StepEnd:
        """The linear pieces."""


def optimizer_state_bytes(choices: Choices) -> int:
    """Bytes of state an element that an update reads: main parameter and two moments (of Muon's matrices too, which
    have one momentum; their further passes are in `time.muon`)."""
    main = 4 if choices.optimizer.main_params == "fp32" else 2
    return main + 2 * MOMENT_BYTES[choices.optimizer.moments]


def optimizer_bytes(choices: Choices) -> int:
    """Bytes an update moves an element: gradient read, state read and written, bf16 parameter written (30 with all
    state in fp32)."""
    return gradient_bytes(choices) + 2 * optimizer_state_bytes(choices) + 2


def _ring_price(bytes_each: int | Fraction, size: Number, rate: Number, fill: Number) -> Number:
    """ns for UNIT elements of a ring reduce-scatter or all-gather: (n-1)/n of the bytes, and their share `fill` of what
    filling the ring costs a bucket."""
    moved = times(UNIT * 1000, Fraction(bytes_each))
    return ceil_div(moved * (size - 1), size * rate) + (fill if bytes_each else 0)


def _update_price(problem: Problem, choices: Choices, rates: Rates, shards: Number) -> Number:
    """ns of the optimizer for UNIT buffer elements: on the GPU, and for the offloaded part in host memory."""
    away = round(choices.optimizer.offload_fraction * 1000)
    on_gpu = ceil_div(UNIT * optimizer_bytes(choices) * (1000 - away), shards * rates.memory_bytes_per_us)
    moved = UNIT * 2 * optimizer_state_bytes(choices) * away
    return on_gpu + ceil_div(moved, shards * (2 * HOST_UPDATE_BYTES_PER_US[problem.cluster.host]))


def _price(pair: Sequence[Number], stage: int = 0) -> Row:
    """A row from two prices for UNIT elements."""
    return Row(pair[0] * STAGE_PARTS, pair[1] * STAGE_PARTS, stage * UNIT)


def _reduce_rows(choices: Choices, reduce: Sequence[Number], gather: Sequence[Number]) -> tuple[Row, ...]:
    if not choices.overlap.grad_reduce:
        return (_price(reduce),)
    hideable = [r + g for r, g in zip(reduce, gather, strict=True)] if choices.overlap.param_gather else reduce
    floor = Row(hideable[0] * EXPOSED_FLOOR, hideable[1] * EXPOSED_FLOOR)
    return _price(reduce, -REDUCE_WINDOW), floor


def _gather_rows(choices: Choices, gather: Sequence[Number]) -> tuple[Row, ...]:
    if not choices.overlap.param_gather:
        return (_price(gather),)
    return _price(gather, -GATHER_WINDOW), Row(0, 0)


def step_end(problem: Problem, degrees: Degrees, choices: Choices, rates: Rates) -> StepEnd:
    """Linear pieces of one problem and layout. Reduction over dp*cp ranks (dense) and edp ranks (experts); without the
    distributed optimizer an all-reduce, every rank updating everything. Of quantised parameters the experts' are
    gathered as such, dense ones are taken as 16 bits (embeddings are). Ignored: the norm's all-reduce, tied embeddings,
    the small tensor-parallel gradients, quantising what was gathered. Muon's layer-wise optimizer all-reduces gradients
    and gathers 16 bits."""
    grads = gradient_bytes(choices)
    instances = choices.optimizer.instances
    sizes, rings = _rings(problem, degrees, rates)
    sharded, whole = shards_state(choices), is_layer_wise(problem, choices)
    fill = _fill_prices(problem, degrees, choices)
    reduced = grads if sharded and not whole else 2 * grads
    reduce = [_ring_price(reduced, sizes[i], rings[i], fill[i]) for i in range(2)]
    gathered = (2, 2 if whole else problem.workload.gather_bytes) if sharded else (0, 0)
    gather = [_ring_price(gathered[i], sizes[i], rings[i], fill[i]) for i in range(2)]
    if shards_gradients(choices):
        # Every micro-batch has reduced already: what is left is the all-reduce of shards between instances.
        shard = [_ring_price(2 * grads, instances, rings[i], 0) for i in range(2)]
        reduce = [ceil_div(shard[i], maximum(1, sizes[i] // instances)) for i in range(2)]
    if shards_parameters(choices):
        gather = [0, 0]
    shards = [maximum(1, size // instances) if sharded else 1 for size in sizes]
    updates = muon.updates(problem, degrees, rates, shards)
    clear = ceil_div(UNIT * 1000 * grads, rates.memory_bytes_per_us)
    cleared = [ceil_div(clear, count) if shards_gradients(choices) else clear for count in shards]
    return StepEnd(
        reduce=_reduce_rows(choices, reduce, gather),
        gather=_gather_rows(choices, gather),
        clear=_price(cleared),
        optimizer=_price([_update_price(problem, choices, rates, count) for count in shards])
        + Row(0, 0, update=SCALE, fixed=SCALE * updates.largest_ns),
        update_ns=updates.mean_ns,
    )


def _fill_prices(problem: Problem, degrees: Degrees, choices: Choices) -> list[Number]:
    """ns for UNIT elements of filling the rings, once a bucket; one bucket of everything, without overlap, pays so
    little that it is left out."""
    if not choices.overlap.grad_reduce:
        return [0, 0]
    return [
        ceil_div(UNIT * ring_latency_ns(problem, degrees, size, stride), bucket_elements(degrees))
        for size, stride in zip(_sizes(degrees), _strides(degrees), strict=True)
    ]


def _sizes(degrees: Degrees) -> list[Number]:
    """Ranks that share gradients, dense and expert."""
    return [degrees.dp * degrees.cp, degrees.edp]


def _strides(degrees: Degrees) -> list[Number]:
    return [degrees.tp, degrees.etp * degrees.ep]


def _rings(problem: Problem, degrees: Degrees, rates: Rates) -> tuple[list[Number], list[Number]]:
    """Ranks that share gradients, dense and expert, and the bandwidth of their rings."""
    sizes, strides = _sizes(degrees), _strides(degrees)
    return sizes, [ring_bytes_per_us(problem, degrees, rates, sizes[i], strides[i]) for i in range(2)]


def ring_ns(
    problem: Problem, degrees: Degrees, choices: Choices, rates: Rates, dense_bytes: Number, expert_bytes: Number
) -> Number:
    """One reduce-scatter or all-gather of so many unsharded bytes over each piece's ranks (within an instance)."""
    sizes, rings = _rings(problem, degrees, rates)
    strides = _strides(degrees)
    time: Number = 0
    for i, sent in enumerate((dense_bytes, expert_bytes)):
        ranks = ceil_div(sizes[i], choices.optimizer.instances)
        moving = ceil_div(sent * 1000 // ranks * (ranks - 1), rings[i])
        time = time + where(sent > 0, moving + ring_latency_ns(problem, degrees, ranks, strides[i]), 0)
    return time


def step_end_ns(
    terms: HasStepEnd, dense_elements: Number, expert_elements: Number, stage_ns: Number, update_ns: Number
) -> dict[str, Number]:
    """Parts of a rank's step end; their sum is ceil(max over `StepEnd.rows` / SCALE) exactly.

    `stage_ns` is forward + backward of one micro-batch through all chunks of the rank, `update_ns` what
    `StepEnd.updates_ns` says of its pieces.
    """
    given = (dense_elements, expert_elements, stage_ns, update_ns)
    parts: dict[str, Number] = {}
    scaled: Number = 0
    before: Number = 0
    for name, rows in (
        ("gradient_reduce", terms.step_end.reduce),
        ("param_gather", terms.step_end.gather),
        ("gradient_clear", (terms.step_end.clear,)),
        ("optimizer", (terms.step_end.optimizer,)),
    ):
        values = [row.scaled_ns(*given) + row.fixed for row in rows]
        scaled = scaled + maximum(values[0], *values[1:])
        so_far = ceil_div(scaled, SCALE)
        parts[name] = so_far - before
        before = so_far
    return parts
