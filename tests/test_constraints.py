"""The language of constraints: what it reads, what it refuses, and that integers and columns are read alike."""

import random

import numpy as np
import pytest
import yaml

from enumeration import random_problem
from example_answer import ARCHITECTURE
from moeopt.__main__ import run
from moeopt.constraints import constrain
from moeopt.constraints.evaluate import Placed, Reader, calculated
from moeopt.constraints.intervals import possible
from moeopt.constraints.parse import parse
from moeopt.constraints.rules import trees
from moeopt.constraints.tree import items
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Choices, Degrees, Overlap, Recompute
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_problem
from moeopt.space import row
from test_constraints_search import random_constraint

GIB = 2**30
NUMBERS = {
    "tp": 4, "pp": 3, "cp": 2, "dp": 8, "ep": 16, "etp": 1, "edp": 4, "vpp": 2, "micro_batch_size": 2,
    "num_microbatches": 12, "interleave_group": 3,
}  # fmt: skip
AT = Degrees(**NUMBERS)
CHOICES = Choices(
    recompute=Recompute(granularity="selective", modules=("moe_act",)),
    dispatcher="deepep",
    overlap=Overlap(ep_all_to_all=True),
    optimizer={"offload_fraction": 0.25, "precision_aware": True},
)
PLACED = Placed([[2, 1], [3, 2], [1, 0]], [[0, 0], [0, 0], [0, 1]], [70 * GIB, 60 * GIB, 50 * GIB], 3 * 10**9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tp * cp <= 8", True),
        ("tp * cp < 8", False),
        ("ep >= 32 or etp == 1", True),
        ("ep >= 32 and etp == 1", False),
        ("num_microbatches % pp == 0", True),
        ("gpus = 192", True),
        ("gpus // 8 == 24", True),
        ("2 <= tp <= 4 < pp + cp", True),
        ("2 <= tp <= 3", False),
        ("not tp > 4", True),
        ("not (tp > 4 or cp == 2)", False),
        ("tp + 2 * cp == 8 and (tp + 2) * cp == 12", True),
        ("-tp < -3", True),
        ("tp in [1, 2, 4]", True),
        ("tp not in [1, 2, 4]", False),
        ("dispatcher == deepep", True),
        ("dispatcher in [alltoall, allgather]", False),
        ("dispatcher != 'alltoall'", True),
        ("overlap.ep_all_to_all", True),
        ("overlap.ep_all_to_all == false", False),
        ("not overlap.tp_comm", True),
        ('"moe_act" in recompute', True),
        ("layernorm in recompute.modules", False),
        ("layernorm not in recompute", True),
        ("recompute == selective", True),
        ("recompute.granularity != full", True),
        ("recompute.method == none", True),
        ("optimizer.offload_fraction <= 0.25", True),
        ("optimizer.offload_fraction > 0.25", False),
        ("optimizer.offload_fraction < 1", True),
        ("tp % (cp - 2) == tp and tp // (cp - 2) == 0", True),
        ("1_000 > tp", True),
        ("layers[0] == 3", True),
        ("layers[0, 1] == 1 and layers[-1, -1] == 0", True),
        ("layers[7] == 0 and layers[0, 5] == 0", True),
        ("max(layers) == 5 and min(layers) == 1", True),
        ("mtp[2, 1] == 1 and mtp[0] == 0", True),
        ("peak_memory[0] <= 70GiB", True),
        ("peak_memory[0] < 70 GiB", False),
        ("peak_memory[-1] <= 51200 MiB", True),
        ("peak_memory[1] <= 64424509440", True),
        ("peak_memory <= 69.5GiB", False),
        ("2 * peak_memory[1] <= 3 * 40GiB", True),
        ("60GiB >= peak_memory[1]", True),
        ("step_time <= 3s", True),
        ("step_time < 3000ms", False),
        ("not step_time > 0.05min", True),
    ],
)
def test_what_a_constraint_says(text, expected):
    """Every form of the language, judged by hand on one layout."""
    assert bool(Reader(AT, CHOICES, PLACED).holds(parse(text))) is expected


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("", 1, "empty"),
        ("tp * cx <= 8", 6, "unknown name 'cx'; did you mean 'cp'?"),
        ("tp <=", 6, "the end"),
        ("(tp <= 8", 9, "')' is expected"),
        ("tp <= 8)", 8, "not expected"),
        ("tp", 1, "not true or false"),
        ("tp <= 2.5", 4, "not a whole number"),
        ("tp / 2 <= 4", 4, "write //"),
        ("tp ** 2 < 5", 4, "not part of"),
        ("tp % 0 == 1", 4, "division by zero"),
        ("tp <= 8GiB", 4, "a count and bytes"),
        ("peak_memory[0] <= 12s", 16, "bytes"),
        ("peak_memory * step_time < 3", 13, "does not join"),
        ("dispatcher", 1, "compare it"),
        ("dispatcher == deepp", 15, "did you mean 'deepep'?"),
        ("dispatcher < deepep", 12, "only == and !="),
        ("alltoall", 1, "dispatcher == alltoall"),
        ("overlap.ep_all_to_all == 1", 26, "true, false"),
        ("moe_acts in recompute", 1, "did you mean 'moe_act'?"),
        ("moe_act in dispatcher", 12, "in takes recompute"),
        ("recompute.modules == moe_act", 19, "in recompute.modules"),
        ("layers <= 3", 1, "layers needs a stage"),
        ("layers[1.5] < 2", 8, "whole number"),
        ("layers[tp] < 2", 8, "whole number"),
        ("layers[0] * layers[1] < 3", 23, "not linear"),
        ("peak_memory[0] >= 10GiB", 16, "only be bounded from above"),
        ("peak_memory == 10GiB", 13, "only be bounded from above"),
        ("not peak_memory <= 10GiB", 17, "only be bounded from above"),
        ("peak_memory[0] <= peak_memory[1]", 16, "only be bounded from above"),
        ("(tp - 4) * peak_memory <= 8GiB", 24, "only be bounded from above"),
        ("peak_memory[0, 1] <= 8GiB", 1, "not for a chunk"),
        ("step_time[0] < 3s", 1, "without [ ]"),
        ("max(tp) < 3", 5, "takes layers"),
        ("__import__('os')", 1, "unknown name"),
        ("tp.__class__ == 1", 1, "unknown name"),
        ("(lambda: 1)() == tp", 8, "not part of"),
        ("[x for x in tp]", 1, "a number or a name"),
        ("tp; pp", 3, "not part of"),
        ("tp if cp else 1", 1, "not true or false"),
        ("tp <= 1e9", 8, "not expected"),
        ("tp <= " + "9" * 40, 7, "30 digits"),
        ("(" * 300, 41, "nested"),
        ("-" * 300 + "tp < 1", 41, "nested"),
        ("not " * 300 + "tp < 1", 165, "nested"),
        ("tp < 1 or " * 150 + "tp < 1", None, "more than 400"),
        ("tp < 1 " * 400, 2001, "longer than"),
        ("tp ≤ 8", 4, "not part of"),
        ("tp <= 8 \x00", 9, "not part of"),
    ],
)
def test_what_is_refused(text, column, why):
    """One sentence with the constraint, the column and what is wrong; nothing is run, nothing overflows."""
    with pytest.raises(InputError) as refused:
        parse(text)
    sentence = str(refused.value)
    assert why in sentence
    assert column is None or f"column {column}:" in sentence
    assert "\n" not in sentence


def test_a_broken_constraint_is_bad_input(tmp_path, monkeypatch, capsys):
    """Exit code 2 and one sentence, from an option, a file, and Python."""
    monkeypatch.chdir(tmp_path)
    fields = {"architecture": ARCHITECTURE, "cluster": "h100-sxm", "gpus": 8}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(fields))
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({**fields, "constraints": ["tp <= 8", "tpp <= 8"]}))
    for arguments in (
        ["solve", "p.yaml", "--constraint", "tpp <= 8"],
        ["evaluate", "p.yaml", "--layout", "tp=1", "--constraint", "tpp <= 8"],
        ["solve", "q.yaml"],
    ):
        assert run(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "column 1: unknown name 'tpp'; did you mean 'tp'?" in error
    with pytest.raises(InputError, match="column 5"):
        constrain(load_problem(fields), "tp <> 8")
    with pytest.raises(InputError, match="constraints"):
        load_problem({**fields, "constraints": [8]})
    with pytest.raises(InputError, match="at most"):
        load_problem({**fields, "constraints": ["tp <= 8"] * 1000})


def test_constraints_of_file_option_and_python_are_joined(tmp_path, monkeypatch, capsys):
    """The option adds to the file's; evaluate judges all, in order, with their numbers."""
    monkeypatch.chdir(tmp_path)
    fields = {"architecture": ARCHITECTURE, "cluster": "h100-sxm", "gpus": 8, "constraints": "tp <= 2"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(fields))
    arguments = ["evaluate", "p.yaml", "--layout", "tp=4,ep=2,etp=4", "--constraint", "layers[0] > 20 or pp == 2"]
    assert run(arguments) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "x constraint_1: tp 4 <= 2: does not hold" in out
    assert "x constraint_2: layers[0] 16 > 20 or pp 1 == 2: does not hold" in out
    problem = constrain(load_problem(fields), "cp == 1")
    assert problem.constraints == ("tp <= 2", "cp == 1")
    assert load_problem(problem.model_dump()) == problem
    assert "constraints" not in load_problem({**fields, "constraints": []}).model_dump()


def test_integers_and_columns_are_read_alike():
    """One row of columns gives what the row's integers give, overflow and division by zero included."""
    rng = random.Random(7)
    names = list(NUMBERS)
    most = {name: 50 if name in ("tp", "cp", "dp", "pp") else 10**9 for name in names}
    columns = Degrees(**{name: np.array([rng.choice([1, 2, 3, most[name]]) for _ in range(50)]) for name in names})
    for _ in range(200):
        first, second, third = (rng.choice(names) for _ in range(3))
        text = f"{first} {rng.choice(['*', '+', '-', '//', '%'])} ({second} - 1) * {third} * gpus"
        text += f" {rng.choice(['<', '<=', '==', '!=', '>', '>='])} {rng.choice([0, 1, 5, 10**18])} * {third}"
        tree = parse(text)
        column = Reader(columns, CHOICES).holds(tree)
        assert column.dtype == bool
        assert [bool(Reader(row(columns, i), CHOICES).holds(tree)) for i in range(50)] == column.tolist(), text


def test_division_gives_the_number_back():
    """x = d * (x // d) + x % d for every d, zero and negative ones too."""
    for x in range(-7, 8):
        for d in range(-3, 4):
            assert d * calculated("//", x, d) + calculated("%", x, d) == x


def test_what_screening_rules_out_no_placement_satisfies():
    """A row that is dropped before layers are placed has no placement that the constraint allows."""
    rng = random.Random(3)
    dropped = 0
    for seed in range(300):
        problem = random_problem(seed)
        layers, mtp = problem.architecture.num_hidden_layers, problem.mtp_layers
        pp, vpp = rng.choice([(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)])
        at = Degrees(**{**NUMBERS, "pp": pp, "vpp": vpp})
        tree = parse(random_constraint(rng))
        if not items(tree):
            continue
        if possible(problem, Reader(at, CHOICES), tree):
            continue
        dropped += 1
        for _ in range(20):
            cuts = sorted(rng.choice(range(layers + 1)) for _ in range(pp * vpp - 1))
            counts = [b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True)]
            last = rng.choice([stage for stage in range(pp * (vpp - 1), pp * vpp) if stage % pp or pp == 1])
            pipeline = PipelineLayout.from_counts(pp, counts, mtp, last)
            placed = Placed.of(pipeline, [rng.randrange(2**40) for _ in range(pp)], rng.randrange(2**40))
            assert not Reader(at, CHOICES, placed).holds(tree)
    assert dropped > 5


def test_evaluate_judges_placements_with_exact_bytes():
    """A limit on one stage holds at that stage's bytes and breaks one byte below."""
    problem = random_problem(3).model_copy(update={"gpus": 2, "fix": {}})
    layout = {"pp": 2, "tp": 1, "pipeline_layout": "Et|" + "t" * (problem.architecture.num_hidden_layers - 1)}
    layout["pipeline_layout"] += "m" * problem.mtp_layers + "L"
    answer = evaluate(problem, layout)
    for stage, part in enumerate(answer["memory"]["per_stage"]):
        need = part["total_bytes"]
        held = constrain(problem, f"peak_memory[{stage}] <= {need}", f"peak_memory[{stage}] < {need}")
        verdicts = {rule["rule"]: rule["holds"] for rule in evaluate(held, layout)["rules"]}
        assert verdicts["constraint_1"] is True
        assert verdicts["constraint_2"] is False
        assert set(trees(held)) == {"constraint_1", "constraint_2"}
