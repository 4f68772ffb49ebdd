"""How the command line starts, ends and stays out of the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import moeopt
from moeopt.__main__ import BLAS_THREADS, run
from moeopt.cli import COMMANDS, cli

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["presets"], ["--version"], ["presets", "clusters", "h100-sxm"]])
def test_the_quick_commands_import_neither_the_solver_nor_numpy(arguments):
    """Help and presets answer at once: OR-Tools alone would cost half a second."""
    code = f"import sys, moeopt.__main__ as m; assert m.run({arguments}) == 0; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"ortools", "numpy", "pandas"}
    assert "moeopt" in loaded


@pytest.mark.parametrize(("given", "taken"), [({}, "1"), (dict.fromkeys(BLAS_THREADS, "3"), "3")])
def test_matrix_products_take_one_thread_unless_the_user_says_more(given, taken):
    """The number of BLAS threads is settled before numpy is loaded, which reads it once; a user's own number stays."""
    code = (
        "import os, sys, moeopt.__main__ as m\n"
        "sys.argv = ['moeopt', '--version']; loaded = 'numpy' in sys.modules\n"
        "try: m.main()\nexcept SystemExit: print(loaded, *(os.environ[name] for name in m.BLAS_THREADS))"
    )
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in BLAS_THREADS} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"False {taken} {taken}"


def test_version(capsys):
    """The version is the package's."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"moeopt {moeopt.__version__}\n"


def test_no_arguments_show_the_help(capsys):
    """A newcomer who types the name alone is told what there is."""
    assert run([]) == 0
    assert "moeopt solve --gpus 512" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_listed_command_has_help_with_the_common_options(command, capsys):
    """What the group lists exists, and takes the options that all commands share."""
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--format", "--output", "--quiet", "--verbose"))


def test_module_and_console_script_are_one():
    """`python -m moeopt` answers like the console script."""
    assert python(
        "import runpy, sys; sys.argv = ['moeopt', '--version']; runpy.run_module('moeopt', run_name='__main__')"
    )


def test_an_interrupt_outside_a_search_ends_with_130(monkeypatch, capsys):
    """Ctrl-C is no fault: the shell's own exit code and no traceback."""

    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("moeopt.problem.loading.presets", interrupt)
    assert run(["presets"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


def test_a_fault_of_moeopt_is_one_sentence_and_says_so(monkeypatch, capsys):
    """An exception nobody raised on purpose is not called bad input, and -v shows it in full."""

    def fail(*_arguments, **_options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("moeopt.problem.loading.presets", fail)
    assert run(["presets"]) == 70
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero (a fault in moeopt; -v shows where)\n"
    with pytest.raises(ZeroDivisionError):
        run(["presets", "-v"])


def test_a_reader_that_leaves_early_is_no_error():
    """`moeopt presets | head -0`: a closed pipe ends quietly, with the answer's exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.3)\nfrom moeopt.__main__ import main\nmain()", "presets"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_process_leaves_no_traceback(sent):
    """The real signals, while a command reads a file that never ends."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "moeopt", "params", f"/dev/fd/{reading}"],
        pass_fds=[reading],
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    os.write(writing, b"# started\n")
    time.sleep(1.0)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    os.close(writing)
    os.close(reading)
    assert "Traceback" not in err
    assert process.returncode in (130, -sent)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_job_keeps_the_points_of_a_frontier(sent):
    """A frontier that is told to stop prints the points that it has, says that it is incomplete, and exits with 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moeopt", "pareto", "--gpus", "512", "--resolution", "exact", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    assert any("points" in line for line in process.stderr)
    process.send_signal(sent)
    out, _ = process.communicate(timeout=60)
    answer = json.loads(out)
    assert process.returncode == 0
    assert answer["points"]
    assert not answer["complete"]


def test_commands_are_click_commands():
    """The group resolves every name it lists."""
    assert all(cli.get_command(None, name) is not None for name in COMMANDS)
