"""Shell completion: the scripts, and what they offer at Tab."""

import json
import shutil
import subprocess
import sys

import pytest

from moeopt.__main__ import run
from moeopt.cli import COMMANDS
from moeopt.problem.loading import presets
from test_cli_start import ENVIRONMENT


def offered(line: str, shell: str = "bash") -> list[str]:
    """What Tab offers at the end of a line, asked as the shell's script asks."""
    words = line.split(" ")
    environment = ENVIRONMENT | {"_MOEOPT_COMPLETE": f"{shell}_complete", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(words) - 1) if shell != "fish" else words[-1]
    command = [sys.executable, "-m", "moeopt"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    if shell == "zsh":
        return done.stdout.splitlines()[1::3]
    return [row.partition(",")[2].partition("\t")[0] for row in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("moeopt ", list(COMMANDS)),
        ("moeopt eval", ["evaluate"]),
        ("moeopt solve --obj", ["--objective"]),
        ("moeopt solve --objective ", ["step_time", "gpus", "cost", "peak_memory"]),
        ("moeopt solve --precision mx", ["mxfp8"]),
        ("moeopt solve --optimizer ", ["adam", "muon"]),
        ("moeopt params qwen3-2", ["qwen3-235b-a22b"]),
        ("moeopt solve --cluster ", presets("clusters")),
        ("moeopt launch s.json --framework mega", ["megatron-lm", "megatron-bridge"]),
        ("moeopt launch s.json --launcher ", ["torchrun", "slurm", "kubernetes"]),
        ("moeopt presets ", ["architectures", "clusters"]),
        ("moeopt presets clusters gb", ["gb200-nvl72", "gb300-nvl72"]),
        ("moeopt completion ", ["bash", "zsh", "fish"]),
        ("moeopt nosuch x", []),
    ],
)
def test_tab_offers_what_the_command_takes(line: str, expected: list[str]) -> None:
    """Commands, options, presets, objectives: each where it fits, and only those that begin as typed."""
    found = offered(line)
    assert [word for word in found if word] == expected or (line.endswith("nosuch x") and set(found) <= set(COMMANDS))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_ask_the_same(shell: str) -> None:
    """Every shell's script gets the same values."""
    assert offered("moeopt solve --objective p", shell) == ["peak_memory"]


def test_tab_leaves_files_to_the_shell() -> None:
    """Where a file may stand and no preset begins as typed, the shell is told to list files."""
    environment = ENVIRONMENT | {"_MOEOPT_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words in ("moeopt report x", "moeopt params ./x", "moeopt solve problems/"):
        done = subprocess.run(
            [sys.executable, "-m", "moeopt"],
            env=environment | {"COMP_WORDS": words},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("file,")


def test_completing_stays_quick() -> None:
    """Tab never loads the solver."""
    code = "import sys, moeopt.__main__ as m\ntry: m.run(['solve'])\nfinally: print(*sys.modules, file=sys.stderr)"
    environment = ENVIRONMENT | {"_MOEOPT_COMPLETE": "bash_complete", "COMP_WORDS": "moeopt s", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "solve" in done.stdout
    assert not {name.partition(".")[0] for name in done.stderr.split()} & {"ortools", "numpy"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_or_given_as_json(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One script a shell, which calls moeopt with the variable that click reads."""
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_MOEOPT_COMPLETE={shell}_complete" in script
    assert run(["completion", shell, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"].strip() == script.strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_accepts_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    """bash evaluates the script and then knows a completion for moeopt."""
    assert run(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    done = subprocess.run(["bash", "-c", f"{script}\ncomplete -p moeopt"], capture_output=True, text=True, check=True)
    assert "moeopt" in done.stdout


def test_an_unknown_shell_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest shell is named."""
    assert run(["completion", "bsh"]) == 2
    assert "'bsh' is none of bash, zsh, fish; did you mean 'bash'?" in capsys.readouterr().err
