"""Decisions that a problem may free for the search (`free:`), each declared once, with its values, simplest first.

What a search tries, which of two equal layouts is simpler, what help and errors name: all of it reads `FREEABLE`. A
decision that is neither free nor fixed keeps its default, or what the search decides of it anyway (`configurations`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from moeopt.errors import InputError
from moeopt.problem.base import Input, nearest, shown

if TYPE_CHECKING:
    from moeopt.layout import Choices, Recompute, RecomputeModule
    from moeopt.problem.problem import Problem

OFFLOAD_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the optimizer's state in host memory that a search tries."""
UNIT_LAYERS = (1, 2, 4, 8)
"""Layers of one unit of full recompute that a search tries."""
MOST_BLOCK_LAYERS = 256
"""Most first layers of a chunk that a search recomputes by block: above the layers of any architecture."""
_EXPERT_MODULES = frozenset({"expert_fc1", "moe_act"})


def _nothing(_value: Any) -> Mapping[str, Any]:
    return {}


def _every(_problem: "Problem", _value: Any) -> bool:
    return True


@cache
def _typed(name: str) -> tuple[Any, ...]:
    """The values of a field's type, its default first."""
    from moeopt.layout import Choices

    kind: type[Input] = Choices
    *path, last = name.split(".")
    for part in path:
        inner = kind.model_fields[part].annotation
        assert isinstance(inner, type)
        kind = inner
    field = kind.model_fields[last]
    every = get_args(field.annotation) if get_origin(field.annotation) is Literal else (False, True)
    return tuple(sorted(every, key=lambda value: value != field.default))


@cache
def _recomputes() -> tuple["Recompute", ...]:
    """None, every set of modules, full by units, full by block. `moe` recomputes its own parts, so it stands without
    them."""
    from moeopt.accounting.time.recompute import PARTS_OF_MOE
    from moeopt.layout import RECOMPUTE_MODULES, Recompute

    sets = [
        chosen
        for size in range(1, len(RECOMPUTE_MODULES) + 1)
        for chosen in combinations(sorted(RECOMPUTE_MODULES), size)
        if "moe" not in chosen or not PARTS_OF_MOE & set(chosen)
    ]
    selective = (Recompute(granularity="selective", modules=chosen) for chosen in sets)
    full = (Recompute(granularity="full", method="uniform", num_layers=layers) for layers in UNIT_LAYERS)
    block = (
        Recompute(granularity="full", method="block", num_layers=layers) for layers in range(1, MOST_BLOCK_LAYERS + 1)
    )
    return Recompute(), *selective, *full, *block


@cache
def _offloads() -> tuple[tuple[str, ...], ...]:
    """Every set of modules, small ones first."""
    from moeopt.layout import OffloadModule

    modules = sorted(get_args(OffloadModule))
    return tuple(chosen for size in range(len(modules) + 1) for chosen in combinations(modules, size))


@dataclass(frozen=True)
class Freeable:
    """One decision: its dotted path in a layout. Without values of its own it is a degree's (`interleave_group`): its
    values depend on the other degrees, and `space` lists them."""

    name: str
    values: Callable[[], tuple[Any, ...]] | None = None
    """Every value, simplest first (default: the field's own type, its default first)."""
    admits: Callable[["Problem", Any], bool] = _every
    """Whether the value says something in this problem."""
    needs: Callable[[Any], Mapping[str, Any]] = _nothing
    """What a value needs of decisions that are neither free nor fixed: they follow it."""
    degree: bool = False

    @property
    def domain(self) -> tuple[Any, ...]:
        """Every value, simplest first."""
        return _typed(self.name) if self.values is None else self.values()


def _precision_aware(value: Any) -> Mapping[str, Any]:
    return {"optimizer.precision_aware": True} if value not in ("fp32", 0) else {}


def _not_gathered_ahead(value: bool) -> Mapping[str, Any]:
    return {} if value else {"overlap.param_gather": False}


def _recomputable(problem: "Problem", recompute: "Recompute") -> bool:
    """Units and blocks that a chunk may hold; blocks where they are freed. A block of all layers is full, one layer a
    unit, but for MTP modules, which only that recomputes."""
    layers = problem.architecture.num_hidden_layers
    if recompute.block_layers:
        if "block_recompute" not in problem.free:
            return False
        layers -= not problem.mtp_layers
    return (recompute.num_layers or 0) <= layers and set(recompute.modules) <= set(modules_present(problem))


def _has_experts(problem: "Problem", modules: Iterable[str]) -> bool:
    return problem.architecture.is_moe or not _EXPERT_MODULES & set(modules)


FREEABLE: tuple[Freeable, ...] = (
    Freeable("overlap.ep_all_to_all", admits=lambda problem, on: problem.architecture.is_moe or not on),
    Freeable("overlap.delay_wgrad", admits=lambda problem, on: problem.architecture.is_moe or not on),
    Freeable("dispatcher", admits=lambda problem, name: problem.architecture.is_moe or name == "alltoall"),
    Freeable("recompute", _recomputes, _recomputable),
    Freeable("distributed_optimizer", needs=_not_gathered_ahead),
    Freeable("sequence_parallel"),
    Freeable("overlap.grad_reduce", needs=_not_gathered_ahead),
    Freeable("overlap.param_gather"),
    Freeable("overlap.tp_comm"),
    Freeable("cuda_graphs"),
    Freeable("optimizer.precision_aware"),
    Freeable("optimizer.moments", needs=_precision_aware),
    Freeable("optimizer.main_params", needs=_precision_aware),
    Freeable("optimizer.main_grads"),
    Freeable("optimizer.offload_fraction", lambda: OFFLOAD_FRACTIONS, needs=_precision_aware),
    Freeable("fsdp"),
    Freeable("fsdp_double_buffer"),
    Freeable("offload", _offloads, _has_experts),
    Freeable("interleave_group", degree=True),
)
"""In the order of the tie-break: of two equal layouts the one that is simpler in the first that differs wins."""


WIDER = {"block_recompute": "recompute"}
"""Names that free a decision with values that its own name leaves out, because they make a search longer."""


def names() -> list[str]:
    """Every name that `free` may hold: the decisions, the heads of dotted ones, which free all their parts, and those
    that free a decision more widely."""
    heads = [decision.name.partition(".")[0] for decision in FREEABLE]
    return sorted({*heads, *(decision.name for decision in FREEABLE), *WIDER})


def parts(name: str) -> list[str]:
    """The decisions that a name frees."""
    if name in WIDER:
        return [WIDER[name]]
    return [each.name for each in FREEABLE if each.name == name or each.name.startswith(f"{name}.")]


def is_fixed(problem: "Problem", name: str) -> bool:
    """Whether the problem has made this decision."""
    head, _, part = name.partition(".")
    given = problem.fix.get(head)
    return head in problem.fix and (part in given if part and isinstance(given, Mapping) else True)


def freed(problem: "Problem") -> set[str]:
    """The decisions that the problem leaves to the search. (A question about one layout fixes some: not those.)"""
    return {part for name in problem.free for part in parts(name) if not is_fixed(problem, part)}


def open_values(problem: "Problem", name: str) -> list[Any]:
    """What a search tries of a freed decision in this problem, simplest first."""
    decision = next(each for each in FREEABLE if each.name == name)
    return [value for value in decision.domain if decision.admits(problem, value)]


def with_values(problem: "Problem", choices: "Choices", values: Mapping[str, Any]) -> "Choices":
    """Choices with some decisions made, and with what these need of decisions that are neither free nor fixed."""
    changed = dict(values)
    for decision in FREEABLE:
        if decision.name in values:
            for name, value in decision.needs(values[decision.name]).items():
                if name not in values and not is_fixed(problem, name):
                    changed[name] = value
    update: dict[str, Any] = {}
    for name, value in changed.items():
        head, _, part = name.partition(".")
        update[head] = update.get(head, getattr(choices, head)).model_copy(update={part: value}) if part else value
    return choices.model_copy(update=update)


def simplicity(choices: "Choices") -> tuple[int, ...]:
    """Ranks of every decision's value, simplest 0: the tie-break between choices. Choices of one problem that differ
    differ here, because what is not in a domain is fixed."""
    return tuple(ranks.get(_read(choices, parts), -1) for parts, ranks in _ranked())


def check_free(problem: "Problem") -> None:
    """Raise InputError for a name that no decision has, that is searched anyway, or that is fixed as well."""
    from moeopt.problem.problem import DEGREES

    known = names()
    for name in problem.free:
        if name in (*DEGREES, "pipeline_layout"):
            raise InputError(f"free.{name}: the search decides it already; leave it out here, or limit it")
        if name not in known:
            hint = nearest(name, known) or f"; there are {', '.join(known)}"
            raise InputError(f"free.{name}: no such decision can be freed{hint}")
        for part in parts(name):
            if is_fixed(problem, part):
                value = problem.fix[part.partition(".")[0]]
                raise InputError(f"free.{name}: fix decides {part} (as {shown(value)}); a decision is fixed or free")


def modules_present(problem: "Problem") -> tuple["RecomputeModule", ...]:
    """Recompute modules that the architecture has. Attention's core only where kernels are not fused, or with
    sparse attention: elsewhere it frees little (Megatron itself warns)."""
    architecture = problem.architecture
    moe, mla = architecture.is_moe, architecture.is_mla
    found: dict[RecomputeModule, bool] = {
        "core_attn": problem.workload.attention_backend == "unfused" or architecture.has_indexer,
        "layernorm": moe or mla,
        "mla_up_proj": mla,
        "mlp": any(kind.ffn == "dense" for kind in architecture.layers),
        "moe": moe,
        "moe_act": moe,
        "shared_experts": moe and architecture.shared_expert_intermediate_size > 0,
    }
    return tuple(name for name, there in found.items() if there)


@cache
def _ranked() -> tuple[tuple[tuple[str, ...], dict[Any, int]], ...]:
    """The parts of each decision's name, and the ranks of its values."""
    return tuple(
        (tuple(decision.name.split(".")), {value: rank for rank, value in enumerate(decision.domain)})
        for decision in FREEABLE
        if not decision.degree
    )


def _read(choices: "Choices", parts: Sequence[str]) -> Any:
    value: Any = choices
    for part in parts:
        value = getattr(value, part)
    return value
