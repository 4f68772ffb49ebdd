"""A deployment document's numbers, one by one, and the smallest change of dimensions that would make one true."""

import json
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest

from moeopt.__main__ import run
from moeopt.accounting.parameters import count
from moeopt.cpsat.reconcile import changed, coefficients, dimensions, reconcile
from moeopt.problem.loading import load_architecture, load_problem_file

SEED = Path(__file__).parent.parent / "problems" / "seed-deployment.yaml"


def audit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["audit", *arguments, "--format", "json", "-q"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def test_the_seed_deployment_fails_number_by_number(capsys: pytest.CaptureFixture[str]) -> None:
    """512 GPUs, 30B parameters and 149.2 GB: each is computed otherwise, with the arithmetic."""
    code, answer = audit(capsys, str(SEED))
    claims = {claim["name"]: claim for claim in answer["claims"]}
    assert code == 1
    assert not any(claim["holds"] for claim in claims.values())
    assert claims["gpus"]["computed"] == 8 * 4 * 4
    assert claims["params"]["computed"] == 4_428_694_528
    assert "tp 8 * pp 4 * ep 16 * dp 4 = 2048" in claims["gpus"]["explanation"]


def test_the_same_file_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """What the file claims is no part of its problem."""
    assert load_problem_file(SEED).gpus == 512
    assert run(["evaluate", str(SEED), "--layout", "tp=8,pp=4,ep=16", "--format", "json", "-q"]) == 0
    assert "claims" not in json.loads(capsys.readouterr().out)


def test_reconcile_reaches_the_claim_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    """Every way that is offered gives a number that rounds to 30B by the real count, in friendly multiples."""
    _, answer = audit(capsys, str(SEED), "--reconcile")
    (found,) = answer["reconciliations"]
    assert found["range"] == [29_500_000_000, 30_500_000_000]
    base = load_problem_file(SEED).architecture
    assert found["options"]
    for option in found["options"]:
        fields = {change["dimension"]: change["to"] for change in option["changes"]}
        assert count(changed(base, fields)).total == option["parameters"]
        assert 29_500_000_000 <= option["parameters"] <= 30_500_000_000
        assert fields.get("num_hidden_layers", 0) % 4 == 0
        assert fields.get("hidden_size", 0) % 128 == fields.get("moe_intermediate_size", 0) % 128 == 0
        assert fields.get("num_experts", 0) % 16 == 0


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "llama-3-8b"])
def test_the_polynomial_is_the_count(name: str) -> None:
    """Its coefficients reproduce the exact count away from the points they were read from."""
    architecture = load_architecture(name)
    free = dimensions(architecture)
    polynomial = coefficients(architecture, free)
    steps = {each.field: number + 2 for number, each in enumerate(free)}
    steps = {
        field: step * (architecture.n_group or 1 if field == "num_experts" else 1) for field, step in steps.items()
    }
    values = {each.field: each.value + steps[each.field] for each in free}
    expected = 0
    for names, coefficient in polynomial.items():
        term = coefficient
        for field in names:
            term *= steps[field]
        expected += term
    assert count(changed(architecture, values)).total == expected


def test_each_dimension_alone_is_the_smallest_by_enumeration() -> None:
    """Against all values one by one, no nearer one gives the number; and where none does, none is offered."""
    base = load_problem_file(SEED).architecture
    free = dimensions(base)
    low, high = 9_950_000_000, 10_050_000_000
    ways = {next(iter(way.changes)): way for way in reconcile(base, low, high, free) if len(way.changes) == 1}
    for each in free:
        reached = [v for v in each.values if low <= count(changed(base, {each.field: v})).total <= high]
        assert (each.field in ways) == bool(reached), each.field
        if reached:
            nearest = min(reached, key=lambda value: abs(log(value / each.value)))
            assert ways[each.field].changes[each.field] == (each.value, nearest)


def test_two_dimensions_change_only_where_one_does_not_do() -> None:
    """A narrow claim that no single dimension gives: the pair that is found is the best of all pairs."""
    base = changed(load_problem_file(SEED).architecture, {"num_experts": 8, "num_hidden_layers": 2})
    free = [each for each in dimensions(base) if each.field in ("num_experts", "num_hidden_layers")]
    target = count(changed(base, {"num_experts": 24, "num_hidden_layers": 5})).total
    (way, *_) = [way for way in reconcile(base, target, target, free) if "gated" not in way.changes]
    best = min(
        (abs(log(experts / 8)) + abs(log(layers / 2)))
        for experts, layers in product(free[0].values, free[1].values)
        if count(changed(base, {"num_experts": experts, "num_hidden_layers": layers})).total == target
    )
    assert len(way.changes) == 2
    assert sum(abs(log(new / old)) for old, new in way.changes.values()) == pytest.approx(best, abs=2e-3)


def test_a_claim_that_holds_gives_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of claims with a legal layout, all of them true; nothing is left to reconcile."""
    path = tmp_path / "claims.yaml"
    path.write_text(
        "architecture: qwen3-30b-a3b\ncluster: h100-sxm\ngpus: 64\nlayout: {tp: 1, pp: 1, ep: 8}\n"
        "workload: {global_batch_size: 512}\n"
        "claims: [{name: gpus, value: 64}, {name: params, value: 30.5B}, {name: dp, value: 64}]\n"
    )
    code, answer = audit(capsys, str(path), "--reconcile")
    assert (code, answer["reconciliations"]) == (0, [])


def test_tokens_a_second_of_all_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate of the whole job is the step's tokens over its time."""
    path = tmp_path / "claims.yaml"
    path.write_text(
        "architecture: qwen3-30b-a3b\ncluster: h100-sxm\ngpus: 64\nlayout: {tp: 1, pp: 1, ep: 8}\n"
        "workload: {global_batch_size: 512}\nclaims: {tokens_per_second: 1M}\n"
    )
    _, answer = audit(capsys, str(path))
    tokens = 512 * answer["problem"]["workload"]["sequence_length"]
    expected = tokens * 1e9 / answer["step_time"]["total_ns"]
    assert answer["claims"][0]["computed"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: {gpus: 8}\n", "layout"),
        ("layout: {tp: 1}\n", "claims"),
        ("layout: {tp: 1}\nclaims: {gpu: 8}\n", "gpu"),
        ("layout: {tp: 1}\nclaims: {gpus: lots}\n", "lots"),
        ("layout: {tp: 1}\nclaims: {gpus: 8}\nclaimz: 1\n", "claimz"),
        ("layout: {tp: 1}\nclaims: {}\n", "nothing"),
        ("layout: {tp: 1}\nclaims: {gpus: 8}\nproblem: ../missing.yaml\n", "missing"),
        ("!!python/object/apply:os.system ['touch pwned']\n", "tag"),
    ],
)
def test_bad_files_of_claims(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that names what is wrong, and exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("claims.yaml").write_text(text)
    assert run(["audit", "claims.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("pwned").exists()
