"""Every legality rule alone: a layout that breaks it and nothing else, and a neighbour that breaks nothing."""

from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pytest

from moeopt.frameworks import megatron_core as mcore
from moeopt.frameworks.rules import Rule
from moeopt.layout import Degrees
from moeopt.resolve import complete
from rule_problems import DENSE, MLA, layout, problem
from rule_witnesses import WITNESSES, Witness

BY_NAME = {witness.rule: witness for witness in WITNESSES}
SAMPLES = {
    "tp": (1, 2, 3, 4, 8, 32),
    "pp": (1, 2, 4, 5),
    "cp": (1, 2, 3, 4, 8),
    "dp": (1, 2, 3, 8, 64),
    "ep": (1, 2, 8, 24, 64, 128),
    "etp": (1, 2, 3, 4, 8),
    "edp": (1, 2, 3, 6, 8),
    "vpp": (1, 2, 3),
    "micro_batch_size": (1, 2, 3, 8, 7),
    "num_microbatches": (1, 4, 6, 8, 13),
    "interleave_group": (0, 1, 4, 6, 13),
}


def verdicts(witness: Witness, changes: dict[str, Any], changed_problem: dict[str, Any]) -> dict[str, Any]:
    asked = problem(**{**witness.problem, **changed_problem})
    given = layout(**{**witness.broken, **changes})
    return {verdict.rule: verdict for verdict in mcore.check(asked, complete(asked, given))}


def degree_witnesses() -> list[Any]:
    found = []
    for witness in WITNESSES:
        rules = {rule.name: rule for rule in mcore.rules_for(problem(**witness.problem))}
        if witness.rule in rules and rules[witness.rule].scope:
            found.append(pytest.param(witness, rules[witness.rule], id=witness.rule))
    ranged = mcore.rules_for(problem(gpus={"min": 48, "max": 128}))[:2]
    ranged_problem = Witness("", {"gpus": {"min": 48, "max": 128}}, {}, {})
    return [*found, *(pytest.param(ranged_problem, rule, id=f"{rule.name}_of_a_range") for rule in ranged)]


def grid(rule: Rule) -> list[dict[str, int]]:
    return [dict(zip(rule.scope, values, strict=True)) for values in product(*(SAMPLES[name] for name in rule.scope))]


class Unread:
    """A degree that raises on every use."""

    def _refuse(self, *_: object) -> Any:
        raise AssertionError("a rule read a degree outside its scope")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __floordiv__ = _refuse
    __rfloordiv__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __index__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def degrees(scope: dict[str, Any]) -> Degrees:
    return Degrees(**{field.name: scope.get(field.name, Unread()) for field in fields(Degrees)})


def test_every_rule_has_a_witness_and_a_name_of_its_own():
    """No rule is untested, none is tested that does not exist, and no two share a name."""
    asked = problem(limits={"ep": {"max": 8}}, fix={"tp": 2, "dispatcher": "deepep"})
    names = [rule.name for rule in (*mcore.rules_for(asked), *mcore.PIPELINE_RULES)]
    assert len(set(names)) == len(names)
    assert set(names) == set(BY_NAME)


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.rule)
def test_rule_breaks_alone(witness):
    """The layout breaks exactly one rule; only where its degrees cannot be derived are others left unjudged."""
    judged = verdicts(witness, {}, {})
    assert [name for name, verdict in judged.items() if verdict.holds is False] == [witness.rule]
    unjudged = [verdict for verdict in judged.values() if verdict.holds is None]
    assert not unjudged or witness.rule in ("gpu_total_dense", "gpu_total_expert", "batch_by_dp")
    assert all("cannot be derived" in verdict.equation for verdict in unjudged)


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.rule)
def test_neighbour_breaks_nothing(witness):
    """With one field mended, every rule holds."""
    judged = verdicts(witness, witness.mend, witness.mend_problem)
    assert [name for name, verdict in judged.items() if verdict.holds is not True] == []


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.rule)
def test_broken_rule_says_its_numbers(witness):
    """The equation of a broken rule names every degree of its scope with its value, and differs once mended."""
    asked = problem(**witness.problem)
    done = complete(asked, layout(**witness.broken))
    text = verdicts(witness, {}, {})[witness.rule].equation
    scope = next((rule.scope for rule in mcore.rules_for(asked) if rule.name == witness.rule), ())
    missing = [name for name in scope if f"{name} {getattr(done, name)}" not in text]
    assert not missing, text
    assert text != verdicts(witness, witness.mend, witness.mend_problem)[witness.rule].equation
    assert "does not apply" not in text


@pytest.mark.parametrize(("witness", "rule"), degree_witnesses())
def test_rule_reads_only_its_scope(witness, rule):
    """A rule and its equation give an answer when every degree outside the scope refuses to be read."""
    asked, choices = problem(**witness.problem), layout(**witness.broken).choices
    for point in grid(rule)[:50]:
        assert rule.holds(asked, degrees(point), choices) in (True, False)
        assert rule.equation(asked, degrees(point), choices)


@pytest.mark.parametrize(("witness", "rule"), degree_witnesses())
def test_every_degree_of_the_scope_matters(witness, rule):
    """For each degree of a scope there are two points that differ only there and are judged differently."""
    asked, choices = problem(**witness.problem), layout(**witness.broken).choices
    judged = {tuple(p.items()): rule.holds(asked, degrees(p), choices) for p in grid(rule)}
    for name in rule.scope:
        by_rest: dict[Any, set[bool]] = {}
        for point, holds in judged.items():
            by_rest.setdefault(tuple(item for item in point if item[0] != name), set()).add(holds)
        assert any(len(answers) == 2 for answers in by_rest.values()), f"{name} never matters"


@pytest.mark.parametrize(("witness", "rule"), degree_witnesses())
def test_columns_are_judged_as_integers_are(witness, rule):
    """A column of layouts gives, entry by entry, what each layout gives alone; also where the rule is not in play."""
    choices = layout(**witness.broken).choices
    points = grid(rule)
    columns = degrees({name: np.array([point[name] for point in points]) for name in rule.scope})
    for other in ({}, DENSE, MLA):
        asked = problem(**{**witness.problem, **({"architecture": other} if other else {})})
        column = rule.holds(asked, columns, choices)
        assert column.dtype == bool
        assert column.tolist() == [rule.holds(asked, degrees(point), choices) for point in points]


def test_legal_is_every_rule_together():
    """The search's predicate is the conjunction of all rules on degrees and choices."""
    asked = problem(architecture={"shared_expert_intermediate_size": 2820}, limits={"ep": {"max": 32}})
    choices = layout(dispatcher="deepep").choices
    rng = np.random.default_rng(1)
    rows = {name: rng.choice([value for value in values if value], 400) for name, values in SAMPLES.items()}
    column = mcore.legal(asked, Degrees(**rows), choices)
    alone = [
        all(
            rule.holds(asked, Degrees(**{name: int(rows[name][i]) for name in rows}), choices)
            for rule in mcore.rules_for(asked)
        )
        for i in range(400)
    ]
    assert column.tolist() == alone
    assert 0 < sum(alone) < 400


def test_choices_that_no_degree_can_mend_make_nothing_legal():
    """A broken rule without a scope empties the whole space, and is named."""
    asked = problem()
    choices = layout(optimizer={"moments": "bf16"}).choices
    assert [rule.name for rule in mcore.broken_choices(asked, choices)] == ["optimizer_types_need_precision_aware"]
    ones = {name: np.ones(3, dtype=np.int64) for name in SAMPLES}
    assert not np.any(mcore.legal(asked, Degrees(**ones), choices))


def test_rules_in_play_are_those_that_can_break():
    """A rule that is left out for a search holds for every degree."""
    asked = problem()
    choices = layout().choices
    kept = {rule.name for rule in mcore.degree_rules(asked, choices)}
    for rule in mcore.rules_for(asked):
        if rule.scope and rule.name not in kept:
            assert all(rule.holds(asked, degrees(point), choices) for point in grid(rule))
    assert "deepep_needs_expert_group" not in kept


def test_every_rule_has_a_source():
    """Each rule names the file and lines it was read from (or that it is the problem's or cluster's own)."""
    for rule in (*mcore.FRAMEWORK_RULES, *mcore.PIPELINE_RULES):
        assert rule.checked == "moeopt" or ".py:" in rule.source or "[TE]" in rule.source or ".md:" in rule.source


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"sliding_window": 128}, False),
        ({"sliding_window": 128, "window_pattern": [0] * 16}, True),
        ({"attention_sinks": True}, False),
        ({}, True),
    ],
)
def test_cp_ring_refuses_windows_and_sinks(changes, held):
    """cp 2 is legal exactly where no layer has a window and no head a sink."""
    asked = problem(architecture=changes)
    rule = next(rule for rule in mcore.rules_for(asked) if rule.name == "cp_ring_without_windows_or_sinks")
    assert rule.holds(asked, degrees({"cp": 2}), layout().choices) is held


@pytest.mark.parametrize(
    ("dispatcher", "capability", "host", "held"),
    [
        ("deepep", "8.0", "x86", True),
        ("deepep", "9.0", "x86", True),
        ("deepep", "9.0", "grace", True),
        ("deepep", "10.0", "x86", True),
        ("deepep", "10.3", "grace", False),
        ("hybridep", "10.3", "grace", True),
        ("hybridep", "12.0", "x86", False),
        ("deepep", "gfx942", "x86", True),
    ],
)
def test_dispatcher_by_gpu(dispatcher, capability, host, held):
    """What Megatron-Bridge validates, by compute capability and host; unknown GPUs are not judged."""
    asked = problem(cluster={"compute_capability": capability, "host": host})
    rule = next(rule for rule in mcore.rules_for(asked) if rule.name == "dispatcher_supports_gpu")
    assert rule.holds(asked, mcore.NO_DEGREES, layout(dispatcher=dispatcher).choices) is held


def test_full_graph_takes_hybridep():
    """HybridEP's buffers have a fixed size, so routed experts can be captured without dropping tokens."""
    asked = problem()
    assert not mcore.choices_legal(asked, layout(cuda_graphs="full_iteration").choices)
    assert mcore.choices_legal(asked, layout(cuda_graphs="full_iteration", dispatcher="hybridep").choices)
