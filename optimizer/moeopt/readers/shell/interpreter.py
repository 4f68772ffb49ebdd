"""Follows a script over known values and collects the commands that it would start. Nothing is started."""

from collections.abc import Callable, Mapping, Sequence

from moeopt.errors import InputError
from moeopt.readers.shell import conditions
from moeopt.readers.shell.conditions import Truth
from moeopt.readers.shell.control import Control, Leave
from moeopt.readers.shell.environment import ASSIGNMENT, Command, Script, formatted
from moeopt.readers.shell.expansion import Expansion
from moeopt.readers.shell.syntax import Simple
from moeopt.readers.shell.tokens import Token
from moeopt.readers.shell.values import CLOSE, clean

DEEPEST = 12
"""Functions inside functions, scripts inside scripts."""
_SHORT = 8
"""Words of the longest command that is surely not the training run itself."""
_ELSEWHERE = ("/", "~", "$HOME", "${HOME}")
"""What the path of a sourced file begins with that is looked up on the machine, not by the script."""
_DECLARING = ("export", "local", "declare", "readonly", "typeset")
Opener = Callable[[str], "tuple[str, str] | None"]
"""The path and the text of a file that a script sources, None where it is not read."""


def interpret(
    text: str,
    where: str,
    arguments: Sequence[str] = (),
    given: Mapping[str, str] | None = None,
    opened: Opener = lambda _: None,
) -> Script:
    """Follow a script called with `arguments`, in an environment that holds only `given`. Raises InputError."""
    script = Script()
    script.variables.update({"IFS": " \t\n", **(given or {})})
    interpreter = _Interpreter(script, where, [where, *arguments], opened)
    try:
        interpreter.block(interpreter.parsed(clean(text)))
    except Leave:
        pass
    except RecursionError:
        raise InputError(f"{where}: the script is nested too deeply") from None
    return script


class _Interpreter(Control):
    """What single commands do: assignments, the shell's own commands, functions, and programs, which are noted."""

    def __init__(self, script: Script, where: str, arguments: list[str], opened: Opener) -> None:
        super().__init__(script, where, arguments)
        self.opened = opened
        self.depth = 0

    def simple(self, node: Simple) -> Truth:
        words = list(node.words)
        own: dict[str, str] = {}
        assigned: list[Token] = []
        while words and ASSIGNMENT.fullmatch(words[0].text):
            assigned.append(words.pop(0))
        if not words:
            for token in assigned:
                self.assign(token)
            return True
        for token in assigned:
            match = ASSIGNMENT.fullmatch(token.text)
            assert match is not None
            own[match[1]] = Expansion(self, token.line).text(match[4])
        if words[0].text == "[[":
            return self._test(words, patterns=True)
        if words[0].text.startswith("(("):
            return self.arithmetic(words[0].text[2:-2], words[0].line)
        if words[0].text in _DECLARING:
            return self._declare(words)
        fields = [item for token in words for item in Expansion(self, token.line).fields(token.text)]
        return self._run(fields, own, node)

    def _test(self, words: Sequence[Token], patterns: bool) -> Truth:
        inner = [token for token in words[1:] if token.text not in ("]]", "]")]
        texts = [
            token.text if token.operator else self.unknowns.seen(Expansion(self, token.line).text(token.text))
            for token in inner
        ]
        return conditions.judge(texts, patterns)

    def _declare(self, words: Sequence[Token]) -> Truth:
        for token in words[1:]:
            if ASSIGNMENT.fullmatch(token.text):
                self.assign(token)
        return True

    def _run(self, fields: list[str], own: dict[str, str], node: Simple) -> Truth:
        if not fields:
            return True
        name = self.unknowns.seen(fields[0])
        if name in ("[", "test"):
            return self._test(node.words, patterns=False)
        builtin = self._builtin(name or "")
        if builtin is not None:
            return builtin(fields, node)
        if name in ("exit", "return", "break", "continue"):
            if name == "exit" and not any(len(command.words) > _SHORT for command in self.script.commands):
                self.script.note(f"line {node.line}: exit, because of what is not set here; read on")
                return None
            raise Leave(name)
        if name in ("true", ":", "false"):
            return name != "false"
        if name in self.functions:
            return self._call(name, fields)
        if name == "printf" and len(fields) > 3 and fields[1] == "-v":
            self.write(fields[2], formatted(fields[3], fields[4:]))
            return True
        return self._start(fields, own, node)

    def _builtin(self, name: str) -> Callable[[list[str], Simple], Truth] | None:
        return {
            "set": self._set,
            "shift": self._shift,
            "unset": self._unset,
            "eval": self._eval,
            "source": self._source,
            ".": self._source,
        }.get(name)

    def _set(self, fields: list[str], node: Simple) -> Truth:  # noqa: ARG002 - one signature for all
        if "--" in fields:
            self.arguments = [self.arguments[0], *fields[fields.index("--") + 1 :]]
        return True

    def _shift(self, fields: list[str], node: Simple) -> Truth:  # noqa: ARG002
        count = self.unknowns.seen(fields[1]) if len(fields) > 1 else "1"
        times = int(count) if count and count.isdecimal() and len(count) < 6 else 1
        enough = len(self.arguments) > times
        if enough:
            del self.arguments[1 : 1 + times]
        return enough

    def _unset(self, fields: list[str], node: Simple) -> Truth:  # noqa: ARG002
        for name in fields[1:]:
            self.script.variables.pop(name, None)
        return True

    def _eval(self, fields: list[str], node: Simple) -> Truth:
        return self._inner(" ".join(fields[1:]), node.line, "eval")

    def _source(self, fields: list[str], node: Simple) -> Truth:
        """Follow a sourced file where it lies by the script, in the script's own variables; else note it. One that
        cannot be followed changes nothing."""
        shown = " ".join(map(self.unknowns.shown, fields[1:2]))
        written = node.words[1].text.strip("\"'") if len(node.words) > 1 else ""
        before, _, tail = fields[1].rpartition(CLOSE) if len(fields) > 1 else ("", "", "")
        tail = tail.lstrip("/") if before else tail
        found = self.opened(tail) if tail and not written.startswith(_ELSEWHERE) else None
        if found is None:
            self.script.note(f"line {node.line}: {shown} is sourced and was not read: it does not lie by the script")
            return None
        kept = self.where, dict(self.script.variables), dict(self.functions), len(self.script.commands)
        self.where = found[0]
        try:
            truth = self._inner(clean(found[1]), node.line, "source")
        except Leave as leave:
            if leave.kind == "exit":
                raise
            truth = None
        except InputError as error:
            _, self.script.variables, self.functions, started = kept
            del self.script.commands[started:]
            self.script.note(f"line {node.line}: {found[0]} is sourced and was not read: {error}")
            return None
        finally:
            self.where = kept[0]
        self.script.note(f"line {node.line}: {found[0]} is sourced and was read too")
        return truth

    def _inner(self, text: str, line: int, how: str) -> Truth:
        """A text that the shell would read as commands: read here the same way, with its unknowns kept."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"{self.where}, line {line}: {how} inside {how}, too deep")
        try:
            return self.block(self.parsed(text))
        finally:
            self.depth -= 1

    def _call(self, name: str, fields: list[str]) -> Truth:
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"{self.where}: function {name} calls too deeply")
        kept, self.arguments = self.arguments, [self.arguments[0], *fields[1:]]
        try:
            return self.block(self.functions[name])
        except Leave as leave:
            if leave.kind == "exit":
                raise
            return None
        finally:
            self.arguments = kept
            self.depth -= 1

    def _start(self, fields: list[str], own: dict[str, str], node: Simple) -> Truth:
        names = [(self.unknowns.seen(each) or "").rpartition("/")[2] for each in fields]
        for index, name in enumerate(names):
            if name in ("bash", "sh") and "-c" in fields[index:]:
                at = fields.index("-c", index)
                self.script.commands.append(Command(tuple(fields[:at]), own, node.line))
                return self._inner(fields[at + 1], node.line, "bash -c") if at + 1 < len(fields) else None
        if node.document is not None and names[0] in ("sbatch", "bash", "sh", "qsub", "srun"):
            body = node.document
            text = body.text if body.quoted else Expansion(self, body.line).inside_quotes(body.text)
            self.script.commands.append(Command(tuple(fields), own, node.line))
            return self._inner(text, body.line, "a here-document")
        self.script.commands.append(Command(tuple(fields), own, node.line))
        return True if names[0] in ("echo", "printf", "mkdir", "cd", "sleep", "ulimit") else None
