"""Whether some limits and rules leave any degrees: tables over the degrees that they read, exact.

Only the degrees that are read are listed, one after the other; a rule is asked as soon as all that it reads is there.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import maximum
from moeopt.configurations import every_mode, recomputes
from moeopt.errors import InputError
from moeopt.explain.members import Member, variant
from moeopt.frameworks.megatron_core.grids import BATCH
from moeopt.frameworks.rules import Rule
from moeopt.frameworks.wishes import wish_rules
from moeopt.freedom import freed
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import GpuRange, Problem
from moeopt.space import divisors, domain, with_groups

Column = NDArray[np.int64]
Table = dict[str, Column]
_ORDER = ("pp", "tp", "cp", "dp", "ep", "etp", "micro_batch_size", "vpp")
_DERIVED = {
    "edp": ("tp", "cp", "dp", "ep", "etp"),
    "num_microbatches": ("dp", "micro_batch_size"),
    "interleave_group": ("pp", "vpp", "dp", "micro_batch_size"),
    "vpp": ("pp", "vpp"),
}
"""What else a degree needs to be known."""
_DENSE = ("tp", "cp", "pp", "dp")
_MOST_ROWS = 4_000_000
_MOST_CHOICES = 2_000
"""Combinations of choices that are asked; only problems that free decisions have more."""


class Undecided(Exception):  # noqa: N818 - an answer, not an error
    """The question is too large, or the time is over."""


class DegreeOracle:
    """Answers whether some members together leave any degrees and choices."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._known: dict[frozenset[str], bool] = {}

    def feasible(self, kept: Sequence[Member]) -> bool:
        """Whether these leave degrees; the members on placements are ignored. Raises Undecided."""
        names = frozenset(member.name for member in kept if not member.placing)
        if names not in self._known:
            self._known[names] = self._ask(names, [member for member in kept if not member.placing])
        return self._known[names]

    def witness(self, kept: Sequence[Member], broken: Rule) -> tuple[Degrees, Choices] | None:
        """Degrees and choices that satisfy these members and break a rule: what the rule rules out."""
        names = frozenset(member.name for member in kept if not member.placing)
        problem, rules = self._question(names, kept)
        for mode in _modes(problem):
            for recompute in recomputes(problem):
                choices = mode.with_recompute(recompute)
                if not broken.applies(problem, choices) or not _choices_hold(problem, rules, choices):
                    continue
                asked = [rule for rule in rules if rule.scope and rule.applies(problem, choices)]
                table = _listed(problem, choices, asked, _scope([*asked, broken]))
                if _rows(table):
                    columns = _degrees(problem, table)
                    first = {name: None if value is None else int(value[0]) for name, value in vars(columns).items()}
                    return Degrees(**first), choices
        return None

    def _question(self, names: frozenset[str], kept: Sequence[Member]) -> tuple[Problem, list[Rule]]:
        problem = variant(self.problem, names)
        return problem, [*(member.rule for member in kept if member.rule is not None), *wish_rules(problem)]

    def _ask(self, names: frozenset[str], kept: Sequence[Member]) -> bool:
        problem, rules = self._question(names, kept)
        settings = recomputes(problem)
        for mode in _modes(problem):
            options = [mode.with_recompute(recompute) for recompute in settings]
            allowed = [choices for choices in options if _choices_hold(problem, rules, choices)]
            if allowed and self._degrees(problem, rules, mode, allowed):
                return True
        return False

    def _degrees(self, problem: Problem, rules: Sequence[Rule], mode: Choices, allowed: Sequence[Choices]) -> bool:
        asked = [rule for rule in rules if rule.scope and rule.applies(problem, mode)]
        table = _listed(problem, mode, [rule for rule in asked if not rule.waits], _scope(asked))
        if not _rows(table):
            return False
        late = [rule for rule in asked if rule.waits]
        return not late or any(
            np.logical_and.reduce([rule.holds(problem, _degrees(problem, table), choices) for rule in late]).any()
            for choices in allowed
        )


def _modes(problem: Problem) -> list[Choices]:
    """Every mode, legal or not: which rules there are is the question. Raises Undecided where they are too many."""
    try:
        found = every_mode(problem)
    except InputError:
        raise Undecided from None
    if len(found) * len(recomputes(problem)) > _MOST_CHOICES:
        raise Undecided
    return found


def _choices_hold(problem: Problem, rules: Sequence[Rule], choices: Choices) -> bool:
    nothing = Degrees(*[None] * len(Degrees.__dataclass_fields__))
    return all(rule.holds(problem, nothing, choices) for rule in rules if not rule.scope)


def _scope(rules: Iterable[Rule]) -> list[str]:
    read = {needed for rule in rules for needed in _needed(rule)}
    return [name for name in _ORDER if name in read]


def _needed(rule: Rule) -> set[str]:
    return {part for name in rule.scope for part in _DERIVED.get(name, (name,))}


def _listed(problem: Problem, mode: Choices, rules: Sequence[Rule], scope: Collection[str]) -> Table:
    """Every combination of the degrees in scope that the rules allow."""
    table: Table = {}
    waiting = list(rules)
    counted = any(rule.name == "gpu_total_dense" for rule in rules)
    exact = problem.gpu_range.min == problem.gpu_range.max
    for name in _ORDER:
        if name not in scope:
            continue
        values = np.array(_values(problem, name, rules), dtype=np.int64)
        rows = _rows(table)
        if rows * len(values) > _MOST_ROWS:
            raise Undecided
        table = {key: np.repeat(old, len(values)) for key, old in table.items()}
        table[name] = np.tile(values, rows)
        if name == "vpp":
            most = problem.architecture.num_hidden_layers + 2 + bool(problem.mtp_layers)
            possible = (table["pp"] * table["vpp"] <= most) & ((table["vpp"] == 1) | (table["pp"] > 1))
            table = _grouped(problem, _keep(table, possible))
        if counted and name in _DENSE:
            product = np.prod([table[key] for key in _DENSE if key in table], axis=0)
            table = _keep(table, (problem.gpu_range.max % product == 0) if exact else product <= problem.gpu_range.max)
        ready = [rule for rule in waiting if _needed(rule) <= set(table)]
        waiting = [rule for rule in waiting if rule not in ready]
        for rule in ready:
            if not _rows(table):
                return table
            table = _keep(table, np.asarray(rule.holds(problem, _degrees(problem, table), mode)))
    return table


def _values(problem: Problem, name: str, rules: Sequence[Rule]) -> list[int]:
    """The domain of a degree on any number of GPUs; dp need not divide the batch where the batch is given up."""
    values = domain(_on_any_gpus(problem), name)
    if name != "dp" or name in problem.fix or any(rule.name == BATCH.name for rule in rules):
        return values
    bound, most = problem.bound(name), problem.gpu_range.max
    further = divisors(most) if problem.gpu_range.min == most else []
    return sorted({*values, *(value for value in further if bound.admits(value))})


def _on_any_gpus(problem: Problem) -> Problem:
    """The problem with so many GPUs that their number cuts no domain."""
    architecture, workload = problem.architecture, problem.workload
    most = max(
        architecture.num_attention_heads,
        architecture.num_hidden_layers + 2,
        architecture.num_experts,
        architecture.moe_intermediate_size,
        workload.sequence_length,
        workload.batch,
    )
    return problem.model_copy(update={"gpus": GpuRange(min=1, max=most)})


def _degrees(problem: Problem, table: Table) -> Degrees:
    """Columns of what is listed and of what follows from it; the others are None."""
    values: dict[str, Column | None] = {name: table.get(name) for name in Degrees.__dataclass_fields__}
    batch = problem.workload.batch
    if set(_DERIVED["edp"]) <= set(table):
        values["edp"] = table["tp"] * table["cp"] * table["dp"] // (table["ep"] * table["etp"])
    if set(_DERIVED["num_microbatches"]) <= set(table):
        values["num_microbatches"] = batch // (table["micro_batch_size"] * table["dp"])
    if set(_DERIVED["interleave_group"]) <= set(table):
        microbatches = maximum(values["num_microbatches"], 1)
        if values["interleave_group"] is None:
            values["interleave_group"] = with_groups(problem, table, microbatches)["interleave_group"]
    return Degrees(**values)


def _grouped(problem: Problem, table: Table) -> Table:
    """Every micro-batch group where the problem frees it and what it depends on is listed; it is derived otherwise."""
    if "interleave_group" not in freed(problem) or not set(_DERIVED["interleave_group"]) <= set(table):
        return table
    microbatches = problem.workload.batch // (table["micro_batch_size"] * table["dp"])
    return with_groups(problem, table, maximum(microbatches, 1))


def _rows(table: Table) -> int:
    return len(next(iter(table.values()))) if table else 1


def _keep(table: Table, mask: NDArray[np.bool_]) -> Table:
    mask = np.broadcast_to(mask, next(iter(table.values())).shape)
    return {name: column[mask] for name, column in table.items()}
