"""The Python API: five names from the package, imported when they are used."""

import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import moeopt
from moeopt import InputError, Layout, Problem, evaluate, launch, pareto, solve
from test_cli_start import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "architecture": {"base": "olmoe-1b-7b", "qk_norm": "head"},
    "cluster": "h100-sxm",
    "gpus": 8,
    "workload": {"global_batch_size": 64},
}


def test_the_public_names_are_those_of_all_and_none_is_a_module():
    """`from moeopt import X` gives a class or a function for every promised name: no submodule takes its place."""
    modules = {module.name for module in pkgutil.iter_modules(moeopt.__path__)}
    assert not modules & set(moeopt.__all__)

    assert {"Problem", "solve", "evaluate", "pareto", "launch"} <= set(moeopt.__all__) <= set(dir(moeopt))
    assert all(callable(getattr(moeopt, name)) for name in moeopt.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = moeopt.optimise


def test_importing_the_package_loads_no_solver():
    """`import moeopt` is for everybody; OR-Tools and numpy come with the first solve."""
    code = "import sys, moeopt; print(*sorted({'ortools', 'numpy', 'pydantic', 'click'} & set(sys.modules)), end='')"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_a_problem_takes_names_mappings_and_objects_alike():
    """Keyword arguments, a mapping and a file's fields make the same problem."""
    written = Problem(**SMALL)
    assert written == Problem.load(SMALL) == Problem(**written.model_dump()) == Problem(**dict(written))
    assert pickle.loads(pickle.dumps(written)) == written
    assert Problem(**{**SMALL, "gpus": "8..64"}).gpu_range.max == 64


def test_a_problem_loads_from_a_file_with_changes(tmp_path):
    """Paths stand relative to the file; a changed field replaces the file's."""
    (tmp_path / "small.yaml").write_text("base: olmoe-1b-7b\nnum_hidden_layers: 4\n")
    (tmp_path / "problem.yaml").write_text("{architecture: small.yaml, cluster: h100-sxm, gpus: 8}")
    problem = Problem.load(tmp_path / "problem.yaml", gpus=16)
    assert (problem.architecture.num_hidden_layers, problem.gpus) == (4, 16)
    assert Problem.load(str(ROOT / "problems" / "olmoe-1b-7b-256-h100.yaml")).gpus == 256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "olmoe-1b-7c"}, "architecture: no preset and no file is called 'olmoe-1b-7c'; did you mean"),
        ({"gpus": "eight"}, "gpus: 'eight' is not a whole number"),
        ({"gpus": None}, "problem.gpus: "),
        ({"workload": {"precision": "int4"}}, "workload.precision: 'int4' is refused"),
        ({"objective": "speed"}, "problem.objective: 'speed' is refused"),
        ({"fixed": {}}, "problem.fixed: no such field"),
        ({"fix": {"tp": "two"}}, "fix.tp: 'two' is refused"),
        ({"fix": {"tensor": 2}}, "fix.tensor: a layout has no such decision; did you mean 'tp'?"),
        ({"fix": "tp=8"}, "problem.fix: expected a mapping of fields, got 'tp=8'"),
        ({"sequence_length": 8192}, "problem.sequence_length: no such field; did you mean 'workload.sequence_length'?"),
        ({"architecture": None, "model": "x"}, "problem.model: no such field; did you mean 'architecture'?"),
    ],
)
def test_bad_fields_are_one_sentence(change, said):
    """The constructor refuses as the command line does: InputError, starting with the field."""
    with pytest.raises(InputError) as caught:
        Problem(**{**SMALL, **change})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_loading_checks_what_no_layout_can_satisfy():
    """`Problem.load` refuses a decision that no layout has, instead of searching for it."""
    with pytest.raises(InputError, match=r"fix\.tp: tp 3 does not divide gpus 8"):
        Problem.load(SMALL, fix={"tp": 3})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top": 0}, "top: 0 is not a whole number above 0"),
        ({"top": True}, "top: True is not"),
        ({"time_limit": "60s"}, "time_limit: '60s' is not a number of seconds"),
        ({"problem": "olmoe-1b-7b"}, "problem: 'olmoe-1b-7b' is no Problem"),
        ({"gap": "1%"}, "gap: 1% says how far to certify, and certify is not asked for"),
        ({"gap": "1", "certify": True}, "gap: '1' is not a percentage from 0% to 100%"),
        ({"gap": 2, "certify": True}, "gap: 2 is neither a percentage (1%) nor a share from 0 to 1"),
    ],
)
def test_bad_arguments_of_solve_are_one_sentence(given, said):
    """What the command line refuses, `solve` refuses before it searches."""
    with pytest.raises(InputError) as caught:
        solve(**{"problem": Problem(**SMALL), **given})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": "step_time"}, "objectives: a frontier needs two or more of"),
        ({"objectives": "step_time,speed"}, "objectives: 'speed' is none of"),
        ({"time_limit": "60s"}, "time_limit: '60s' is not a number of seconds"),
        ({"problem": "olmoe-1b-7b"}, "problem: 'olmoe-1b-7b' is no Problem"),
    ],
)
def test_bad_arguments_of_pareto_are_one_sentence(given, said):
    """The same of `pareto`; a text names objectives with commas, as the command line takes them."""
    with pytest.raises(InputError) as caught:
        pareto(**{"problem": Problem(**SMALL), **given})
    assert str(caught.value).startswith(said)


def test_a_problem_loads_from_a_problem_and_from_an_answer():
    """`Problem.load` takes what `solve` and `evaluate` give, and a problem itself, with changes."""
    problem = Problem(**SMALL)
    answer = evaluate(problem, {"ep": 8})
    assert Problem.load(problem) == Problem.load(answer) == problem
    assert Problem.load(answer, gpus=16) == Problem.load(problem, gpus=16) == Problem(**{**SMALL, "gpus": 16})


def test_solve_evaluate_launch_agree(tmp_path):
    """What `solve` returns is judged to the same integers by `evaluate`, and `launch` writes it."""
    problem = Problem(**SMALL)
    solution = solve(problem, workers=2)
    judged = evaluate(problem, solution["layout"])
    assert solution["status"] == "optimal"
    assert {key: judged[key] for key in ("memory", "step_time", "gpus")} == {
        key: solution[key] for key in ("memory", "step_time", "gpus")
    }
    assert judged == evaluate(problem, Layout(**solution["layout"]))
    with pytest.raises(InputError, match=r"layout\.tpp: no such field"):
        evaluate(problem, {"tpp": 2})
    assert {path.name for path in launch(solution, tmp_path, "megatron-bridge")} >= {"train.sh", "README.md"}
