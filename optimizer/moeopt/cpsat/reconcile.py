"""The smallest change of an architecture's dimensions that makes a claimed number of parameters true.

With heads and their width kept, the exact count (`moeopt.accounting.parameters.count`) is a polynomial of degree one in
each of layers, experts, hidden size and the two feed-forward widths. Its coefficients are read off that function by
finite differences, so that no second formula exists; a gate (three matrices instead of two) is tried both ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

from ortools.sat.python import cp_model

from moeopt.accounting.parameters import count
from moeopt.problem.architecture import Architecture
from moeopt.problem.loading import load_architecture

Polynomial = dict[tuple[str, ...], int]
WIDTH_STEP = 128
"""Widths are multiples of it: the tile of a tensor-core GEMM, and 8-bit recipes scale blocks of 128 by 128."""
EXPERT_STEP = 8
"""Experts are multiples of a node's GPUs, so that expert parallelism can spread them over a node."""
FARTHEST = 16
"""Largest factor by which a dimension may grow or shrink."""
_PER_CHANGE = 10**6
"""Price of touching one more dimension: above any sum of relative changes (1000 * ln of the ratio)."""
_SECONDS = 10.0


@dataclass(frozen=True)
class Dimension:
    """A dimension that may change: its field, its value and the values it may take."""

    field: str
    value: int
    step: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """One way to make the claim true."""

    changes: Mapping[str, tuple[int | bool, int | bool]]
    """Field -> (old, new)."""
    parameters: int
    proven: bool
    """Whether no smaller change of the allowed dimensions does it."""


def dimensions(architecture: Architecture, layer_step: int = 1, expert_step: int = 1) -> list[Dimension]:
    """The dimensions that may change; steps are those of a layout too (layers of pp * vpp, experts of ep)."""
    fields = [("hidden_size", WIDTH_STEP), ("num_experts", _lcm(EXPERT_STEP, expert_step))]
    kinds = {kind.ffn for kind in architecture.layers}
    fields += [("moe_intermediate_size", WIDTH_STEP)] if "moe" in kinds else []
    fields += [("intermediate_size", WIDTH_STEP)] if "dense" in kinds else []
    if architecture.moe_layer_freq == 1 and not (
        architecture.window_pattern or architecture.linear_attention_pattern or architecture.hybrid_pattern
    ):
        fields.append(("num_hidden_layers", layer_step))
    found = []
    for field, step in fields:
        value = getattr(architecture, field)
        if not value:
            continue
        least = _least(architecture, field)
        values = {*range(step, value * FARTHEST + 1, step), value}
        found.append(
            Dimension(field, value, step, tuple(sorted(v for v in values if max(least, value // FARTHEST) <= v)))
        )
    return found


def _lcm(left: int, right: int) -> int:
    from math import lcm

    return lcm(left, right)


def _least(architecture: Architecture, field: str) -> int:
    if field == "num_experts":
        return max(architecture.num_experts_per_tok, architecture.n_group or 1)
    if field == "num_hidden_layers":
        return architecture.first_k_dense_replace + 1
    return 1


def reconcile(architecture: Architecture, low: int, high: int, found: Sequence[Dimension]) -> list[Change]:
    """Ways to reach a count from `low` to `high`, smallest first: each dimension alone, then the best of all together.

    Smallest means: fewest dimensions touched, then the smallest sum of |ln(new / old)|.
    """
    ways: list[Change] = []
    for gated in (architecture.gated, not architecture.gated):
        base = changed(architecture, {"gated": gated})
        if gated != architecture.gated and low <= count(base).total <= high:
            ways.append(Change({"gated": (architecture.gated, gated)}, count(base).total, True))
        polynomial = coefficients(base, found)
        alone = [_solve(architecture, base, polynomial, [each], low, high) for each in found]
        together = [] if any(alone) else [_solve(architecture, base, polynomial, found, low, high)]
        ways += [way for way in (*alone, *together) if way is not None]
    return sorted(ways, key=_size)


def changed(architecture: Architecture, fields: Mapping[str, int | bool]) -> Architecture:
    """The architecture with other dimensions; heads and their width stay."""
    return load_architecture({**architecture.model_dump(), **fields})


def coefficients(architecture: Architecture, found: Sequence[Dimension]) -> Polynomial:
    """Coefficients of the count in (value - present value), a monomial a set of fields.

    Finite differences over steps of one unit of each field are exact, because the count has degree one in each.
    """
    names = [each.field for each in found]
    values = {each.field: each.value for each in found}
    unit = {name: architecture.n_group or 1 if name == "num_experts" else 1 for name in names}
    totals: Polynomial = {}
    polynomial: Polynomial = {}
    for size in range(len(names) + 1):
        for subset in combinations(names, size):
            fields = {name: values[name] + unit[name] for name in subset}
            totals[subset] = count(changed(architecture, fields)).total
            smaller = [part for width in range(size) for part in combinations(subset, width)]
            scale = 1
            for name in subset:
                scale *= unit[name]
            difference = totals[subset] - sum(polynomial[part] * _product(unit, part) for part in smaller)
            polynomial[subset] = difference // scale
    return polynomial


def _product(values: Mapping[str, int], names: Sequence[str]) -> int:
    result = 1
    for name in names:
        result *= values[name]
    return result


def _solve(
    original: Architecture, base: Architecture, polynomial: Polynomial, free: Sequence[Dimension], low: int, high: int
) -> Change | None:
    """The smallest change of the free dimensions, or None where none (or none in time) does it."""
    model = cp_model.CpModel()
    steps: dict[str, cp_model.IntVar] = {}
    costs: list[cp_model.IntVar] = []
    for each in free:
        index = model.new_int_var(0, len(each.values) - 1, f"index_{each.field}")
        distance = model.new_int_var(-each.value, each.values[-1] - each.value, each.field)
        model.add_element(index, [value - each.value for value in each.values], distance)
        prices = [_price(value, each.value) for value in each.values]
        cost = model.new_int_var(0, max(prices), f"cost_{each.field}")
        model.add_element(index, prices, cost)
        steps[each.field], costs = distance, [*costs, cost]
    terms = [polynomial[names] * variable for names, variable in _monomials(model, polynomial, steps)]
    model.add_linear_constraint(sum(terms) + polynomial[()], low, high)
    model.minimize(sum(costs))
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False
    solver.parameters.max_time_in_seconds = _SECONDS
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    new = {each.field: each.value + solver.value(steps[each.field]) for each in free}
    result = changed(base, new)
    changes: dict[str, tuple[int | bool, int | bool]] = {
        each.field: (each.value, new[each.field]) for each in free if new[each.field] != each.value
    }
    if base.gated != original.gated:
        changes["gated"] = (original.gated, base.gated)
    if not new or changes.keys() <= {"gated"}:
        return None
    total = count(result).total
    assert low <= total <= high, "the polynomial is not the count"
    return Change(changes, total, status == cp_model.OPTIMAL)


def _price(value: int, old: int) -> int:
    return 0 if value == old else _PER_CHANGE + round(1000 * abs(log(value / old)))


def _monomials(
    model: cp_model.CpModel, polynomial: Polynomial, steps: Mapping[str, cp_model.IntVar]
) -> list[tuple[tuple[str, ...], cp_model.IntVar]]:
    """Each product of free dimensions with a coefficient, built from the product of its first factors."""
    known: dict[tuple[str, ...], cp_model.IntVar] = {}
    for names in sorted(polynomial, key=len):
        if not names or not set(names) <= set(steps):
            continue
        if len(names) == 1:
            known[names] = steps[names[0]]
            continue
        left, right = known[names[:-1]], steps[names[-1]]
        bound = max(map(abs, _reach(left))) * max(map(abs, _reach(right)))
        product = model.new_int_var(-bound, bound, "*".join(names))
        model.add_multiplication_equality(product, [left, right])
        known[names] = product
    return [(names, variable) for names, variable in known.items() if polynomial[names]]


def _reach(variable: cp_model.IntVar) -> tuple[int, int]:
    domain = list(variable.proto.domain)
    return int(domain[0]), int(domain[-1])


def _size(change: Change) -> tuple[int, float]:
    """Fewest changes first, then the least relative change; a gate counts as its factor 3 / 2."""
    ratios = [1.5 if field == "gated" else new / old for field, (old, new) in change.changes.items()]
    return len(change.changes), sum(abs(log(ratio)) for ratio in ratios)
