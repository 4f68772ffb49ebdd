"""`python -m moeopt` and the `moeopt` command: runs the command line and turns every outcome into an exit code."""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence

import click

from moeopt.cli import cli
from moeopt.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130
"""What shells give a process that ended on SIGINT: 128 + 2."""
BUG = 70
"""EX_SOFTWARE of sysexits.h: an error that moeopt did not raise on purpose."""
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""How many threads numpy's matrix products use. Those here are small: on a busy machine threads wait for each other
several times as long as they compute."""


GARBAGE = 50_000
"""Objects that are made before the collector looks for cycles of garbage, instead of 700: imports and searches make
hundreds of thousands that stay, and next to no cycles (a tenth of the time to the first layout)."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. What was wrong with the input is one sentence on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = cli.main(args=arguments or ["--help"], prog_name="moeopt", standalone_mode=False)
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except click.ClickException as error:
        return _complain(_usage(error), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:
        if "-v" in arguments:
            raise
        return _complain(f"{type(error).__name__}: {error} (a fault in moeopt; -v shows where)", BUG)
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    """Click's message as one sentence that starts with the option it is about."""
    text = error.format_message().strip().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        from moeopt.cli.hints import option_hint

        return f"{error.option_name}: no such option{option_hint(error)}"
    return text if ":" in text else f"usage: {text[:1].lower()}{text[1:]}"


def _complain(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody listens: the exit code still says it
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def main() -> None:
    """The console script. Nothing has loaded numpy before it. What ends a job (SIGTERM) is taken as Ctrl-C, so that the
    best that was found is kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(GARBAGE)
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
    code = run()
    gc.freeze()  # what is left goes with the process: to look for garbage in it takes a tenth of a second
    sys.exit(code)


if __name__ == "__main__":
    main()
