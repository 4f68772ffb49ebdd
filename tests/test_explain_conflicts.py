"""Conflicts of small random problems, judged by listing: together impossible, and possible without any one of them.

The listing is one table of all degrees with one mask a member; where memory or layers are in the conflict, every
placement of every legal layout is judged by the exact reader.
"""

import random
from itertools import product
from typing import Any

import numpy as np
import pytest

from campaign import blocks
from enumeration import legal_candidates, placed, random_problem, random_seeds
from moeopt.configurations import modes, recomputes
from moeopt.constraints import constrain
from moeopt.constraints.evaluate import Placed, Reader
from moeopt.constraints.rules import trees
from moeopt.constraints.tree import items
from moeopt.explain.conflict import Conflict, conflict
from moeopt.explain.placing import Clock
from moeopt.frameworks.megatron_core import FRAMEWORK_RULES
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import DEGREES, Bound, Problem
from moeopt.solving.branch import Search
from moeopt.solving.settings import Settings
from moeopt.space import default_group, divisors
from test_constraints_search import random_constraint

GIB = 2**30
SEEDS = random_seeds(400)
BATCH = 20
ORDER = ("tp", "pp", "cp", "dp", "ep", "etp", "micro_batch_size", "vpp")


def wishful(seed: int) -> Problem:
    """A small problem with wishes that often contradict each other, the framework or the memory."""
    rng = random.Random(f"conflict {seed}")
    problem = random_problem(seed + 9000)
    fix: dict[str, Any] = dict(problem.fix)
    for name in rng.sample(["tp", "pp", "ep", "vpp", "cp", "dp", "micro_batch_size"], rng.choice([0, 1, 1, 2, 3])):
        fix[name] = rng.choice([1, 2, 2, 4])
    limits = {name: problem.bound(name) for name in DEGREES if problem.bound(name) != Bound()}
    for name in rng.sample(["pp", "ep", "etp", "num_microbatches", "edp"], rng.choice([0, 1, 2])):
        limits[name] = Bound(min=rng.choice([2, 3, 4])) if rng.random() < 0.6 else Bound(max=1)
    peak = 6 * GIB + rng.choice([2**24, 2**26, 2**27, 2**33])
    changed = problem.limits.model_copy(update={**limits, "peak_memory": peak})
    problem = problem.model_copy(update={"fix": fix, "limits": changed, "objective": "step_time"})
    return constrain(problem, *(random_constraint(rng) for _ in range(rng.choice([0, 0, 1, 2]))))


def without_wishes(problem: Problem) -> Problem:
    """The same with nothing fixed, limited or constrained."""
    limits = problem.limits.model_copy(update={**{name: Bound() for name in DEGREES}, "peak_memory": None})
    return problem.model_copy(update={"fix": {}, "limits": limits, "constraints": ()})


class Listing:
    """All degrees of a problem without any wish, GPU equation or batch, and which members each row satisfies."""

    def __init__(self, problem: Problem, names: list[str]) -> None:
        self.problem, self.names = problem, names
        architecture, gpus, batch = problem.architecture, problem.gpu_range, problem.workload.global_batch_size
        sizes = divisors(batch)
        pieces = architecture.num_hidden_layers + 2
        exact = divisors(gpus.max) if gpus.min == gpus.max else []
        domains = {
            "tp": [t for t in divisors(architecture.num_attention_heads) if t <= 8],
            "pp": range(1, pieces + 1),
            "cp": [c for c in divisors(problem.workload.sequence_length) if c <= 16],
            "dp": sorted({*sizes, *exact}),
            "ep": divisors(architecture.num_experts or 1),
            "etp": [q for q in divisors(architecture.moe_intermediate_size or 1) if q <= 8],
            "micro_batch_size": sizes,
            "vpp": range(1, pieces + 1),
        }
        needed = {name: sorted({*domains[name], problem.fix.get(name, 1)}) for name in ORDER}
        grid = np.array(list(product(*needed.values())), dtype=np.int64)
        table = dict(zip(ORDER, grid.T, strict=True))
        room = pieces + bool(problem.mtp_layers)
        keep = (table["pp"] * table["vpp"] <= room) & ((table["vpp"] == 1) | (table["pp"] > 1))
        table = {name: column[keep] for name, column in table.items()}
        microbatches = batch // (table["micro_batch_size"] * table["dp"])
        self.degrees = Degrees(
            **table,
            edp=table["tp"] * table["cp"] * table["dp"] // (table["ep"] * table["etp"]),
            num_microbatches=microbatches,
            interleave_group=default_group(table["pp"], table["vpp"], np.maximum(microbatches, 1)),
        )
        self.in_domain = {name: np.isin(table[name], list(domains[name])) for name in ORDER}

    def holds(self, names: set[str], choices: Choices) -> np.ndarray:
        """Which rows satisfy the named members under some choices."""
        d, problem = self.degrees, self.problem
        ok = np.ones(len(d.tp), dtype=bool)
        for name in ORDER:
            ok &= getattr(d, name) == problem.fix[name] if f"fix_{name}" in names else self.in_domain[name]
        for name in DEGREES:
            if f"limit_{name}" in names:
                bound, value = problem.bound(name), getattr(d, name)
                ok &= (value >= (bound.min or 0)) & (value <= (bound.max or 10**9))
        if "gpu_total_dense" in names:
            ok &= (d.gpus >= problem.gpu_range.min) & (d.gpus <= problem.gpu_range.max)
        if "gpu_total_expert" in names:
            ok &= (d.tp * d.cp * d.dp) % (d.ep * d.etp) == 0
        if "batch_by_dp" in names:
            ok &= problem.workload.global_batch_size % (d.micro_batch_size * d.dp) == 0
        for rule in FRAMEWORK_RULES:
            if rule.name in names and rule.name != "batch_by_dp":
                ok &= np.asarray(rule.holds(problem, d, choices))
        for name, tree in trees(problem).items():
            if name in names:
                ok &= np.asarray(Reader(d, choices).holds(tree))
        return ok

    def possible(self, names: set[str]) -> bool:
        """Whether any row and any choices satisfy them all."""
        fixed = {name for name in self.problem.fix if f"fix_{name}" in names}
        free = self.problem.model_copy(update={"fix": {name: self.problem.fix[name] for name in fixed}})
        return any(
            self.holds(names, mode.model_copy(update={"recompute": recompute})).any()
            for mode in modes(free)
            for recompute in recomputes(free)
        )


def placeable(problem: Problem, names: set[str]) -> bool:
    """Whether any layout and placement satisfy the named wishes and memory, under all rules of the framework."""
    free = without_wishes(problem)
    limits = {name: problem.bound(name) for name in DEGREES if f"limit_{name}" in names}
    fix = {name: value for name, value in problem.fix.items() if f"fix_{name}" in names}
    held = free.model_copy(update={"fix": fix, "limits": free.limits.model_copy(update=limits)})
    wanted = [tree for name, tree in trees(problem).items() if name in names]
    early = [tree for tree in wanted if not items(tree)]
    room = 2**60
    if "memory_fits" in names:
        room = problem.memory_limit if "limit_peak_memory" in names else problem.cluster.memory
    for ledger in legal_candidates(held):
        at, choices = ledger.degrees, ledger.choices
        if not all(Reader(at, choices).holds(tree) for tree in early):
            continue
        for pipeline in placed(ledger):
            peaks = [stage.total_bytes for stage in ledger.memory(pipeline)]
            if max(peaks) > room:
                continue
            finished = Placed.of(pipeline, peaks, ledger.step_time(pipeline).total_ns)
            if all(Reader(at, choices, finished).holds(tree) for tree in wanted):
                return True
    return False


def check(seed: int) -> Conflict | None:
    problem = wishful(seed)
    result = Search(problem, Settings(workers=1)).run()
    if result.best is not None:
        return None
    found = conflict(problem, Clock.after(60))
    names = set(found.names)
    assert found.minimal, (seed, names)
    assert names, seed
    listing = Listing(problem, found.names)
    possible = (lambda kept: placeable(problem, kept)) if found.about_placement else listing.possible
    assert not possible(names), (seed, names)
    for name in names:
        assert possible(names - {name}), (seed, names, name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("first", blocks(range(0, len(SEEDS), BATCH), 8))
def test_every_conflict_is_minimal(first: int) -> None:
    """What a conflict names cannot hold together, and can without any one of its members."""
    found = [check(seed) for seed in SEEDS[first : first + BATCH]]
    assert any(found)
