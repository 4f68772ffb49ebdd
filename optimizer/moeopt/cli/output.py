"""Where an answer goes: stdout or a file, as text or as JSON. A file is checked before the work and replaced whole."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moeopt.errors import InputError
from moeopt.problem.base import nearest

if TYPE_CHECKING:
    from rich.console import Console

    Render: TypeAlias = Callable[[Mapping[str, Any], Console], None]
    """Prints an answer."""

FORMATS = ("text", "json")
TEXT_WIDTH = 100


class Output:
    """The answer's destination; notes go to stderr, so that stdout holds the answer alone."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.quiet: bool = bool(options.get("quiet"))
        self.verbose: bool = bool(options.get("verbose"))
        given = options.get("output")
        if given == "":
            raise InputError("output: the file name is empty")
        self.path = None if given is None else Path(given)
        self.format = _format(options.get("format_"), self.path)
        if self.path is not None:
            _check_writable(self.path, bool(options.get("force")))
        self._status = Status()
        self._begun = False

    def note(self, text: str) -> None:
        """One line on stderr, unless -q."""
        self._status.clear()
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @property
    def progress(self) -> Callable[[str], None] | None:
        """What tells how far a search is: on a terminal one line, each text in the last one's place; none with -q."""
        return None if self.quiet else self._status.show if Status.fits() else self.note

    def page(self, text: str) -> None:
        """Send off a text that is neither a table nor JSON: a page."""
        if self.path is not None:
            _replace(self.path, text)
            self.note(f"wrote {self.path}")
        else:
            _to_stdout({}, lambda _, console: print(text, end="", file=console.file), "text")

    def begin(self, answer: Mapping[str, Any], render: "Render") -> None:
        """Print the first part of an answer's text on stdout while the rest is looked for. (A file and JSON are written
        whole, later.)"""
        if self.path is None and self.format == "text":
            self._status.clear()
            _to_stdout(answer, render, self.format)
            self._begun = True

    def emit(self, answer: Mapping[str, Any], render: "Render", rest: "Render | None" = None) -> None:
        """Send the answer off; the rest of it where `begin` has printed the first part. Raises InputError where it
        cannot be written."""
        self._status.clear()
        render = rest if rest is not None and self._begun else render
        if self.path is not None:
            text = to_json(answer) if self.format == "json" else _text(answer, render)
            _replace(self.path, text)
            self.note(f"wrote {self.path}")
        else:
            _to_stdout(answer, render, self.format)


class Status:
    """One line at the bottom of a terminal, on stderr."""

    def __init__(self) -> None:
        self._console: Console | None = None

    @staticmethod
    def fits() -> bool:
        """Whether stderr is a terminal that can replace a line."""
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def show(self, text: str) -> None:
        """Put a text in the place of the last one."""
        if self._console is None:
            from click import get_current_context
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
            get_current_context().call_on_close(self.clear)
        self.clear()
        self._console.print(text, style="dim", end="", markup=False, no_wrap=True, overflow="ellipsis", crop=True)

    def clear(self) -> None:
        """Leave the line empty."""
        if self._console is not None:
            from rich.control import Control
            from rich.segment import ControlType

            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))


class SideFile:
    """A further file that a command writes beside its answer: checked before the work, replaced whole."""

    def __init__(self, given: str, field: str, force: bool) -> None:
        if not given:
            raise InputError(f"{field}: the file name is empty")
        self.path = Path(given)
        _check_writable(self.path, force, field)

    def write(self, content: bytes, note: Callable[[str], None]) -> None:
        """Put the content there. Raises InputError where it cannot be written."""
        _replace(self.path, content)
        note(f"wrote {self.path}")


def _format(given: str | None, path: Path | None) -> str:
    if given is None:
        return "json" if path is not None and path.suffix == ".json" else "text"
    if given not in FORMATS:
        raise InputError(f"format: {given!r} is neither text nor json{nearest(given, list(FORMATS))}")
    return given


def _check_writable(path: Path, force: bool, field: str = "output") -> None:
    try:
        if path.is_dir():
            raise InputError(f"{field}: {path} is a directory")
        if _is_device(path):
            return
        if path.exists() and not force:
            raise InputError(f"{field}: {path} exists already; --force replaces it")
        if path.exists() and not os.access(path, os.W_OK):
            raise InputError(f"{field}: {path} cannot be written: Permission denied")
        handle, probe = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        os.close(handle)
        Path(probe).unlink()
    except OSError as error:
        raise InputError(f"{field}: {path} cannot be written: {error.strerror}") from None


def _is_device(path: Path) -> bool:
    """A pipe, a terminal, /dev/null: nothing there can be lost, and nothing there may be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _replace(path: Path, content: str | bytes) -> None:
    """Write beside the file and rename: a reader sees the old file or the new one, never a part."""
    temporary = None
    content = content.encode() if isinstance(content, str) else content
    try:
        if _is_device(path):
            path.write_bytes(content)
            return
        path = path.resolve()
        with tempfile.NamedTemporaryFile(prefix=f".{path.name[:64]}.", dir=path.parent, delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(content)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(f"output: {path} cannot be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(answer: Mapping[str, Any]) -> str:
    """An answer as it is printed: indented, and never with NaN."""
    return json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _text(answer: Mapping[str, Any], render: "Render") -> str:
    from rich.console import Console

    stream = StringIO()
    render(answer, Console(file=stream, width=TEXT_WIDTH, color_system=None, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def _to_stdout(answer: Mapping[str, Any], render: "Render", format_: str) -> None:
    try:
        if sys.stdout is None:
            raise InputError("output: standard output is closed")
        if format_ == "json":
            sys.stdout.write(to_json(answer))
        elif sys.stdout.isatty():
            from rich.console import Console

            render(answer, Console(highlight=False))
        else:
            sys.stdout.write(_text(answer, render))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough: the answer's exit code still stands
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise InputError(f"output: standard output cannot be written: {error.strerror}") from None
    except UnicodeEncodeError:
        raise InputError("output: the terminal's encoding cannot show the text; set PYTHONUTF8=1 or use -o") from None
