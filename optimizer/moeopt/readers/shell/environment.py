"""Variables of a script that is followed: reading, assigning, and what stands for a command substitution."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moeopt.errors import InputError
from moeopt.readers.shell import substitutions
from moeopt.readers.shell.expansion import Expansion
from moeopt.readers.shell.paths import path_of
from moeopt.readers.shell.syntax import Block, Parser, Simple
from moeopt.readers.shell.tokens import Lexer, Token
from moeopt.readers.shell.values import LONGEST, Unknowns

MOST_ROUNDS = 2_000
"""Rounds of one loop, numbers of one sequence."""
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[([^\]]*)\])?(\+?)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command that the script would start: its words, its own environment, and where it stands."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    line: int


@dataclass
class Script:
    """What following a script gave."""

    commands: list[Command] = field(default_factory=list)
    variables: dict[str, str | list[str]] = field(default_factory=dict)
    unknowns: Unknowns = field(default_factory=Unknowns)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say it once."""
        if text not in self.notes and len(self.notes) < 200:
            self.notes.append(text)


class Values:
    """What expansions ask for."""

    def __init__(self, script: Script, where: str, arguments: list[str]) -> None:
        self.script, self.where, self.arguments = script, where, arguments
        self.unknowns = script.unknowns

    def read(self, name: str) -> str | list[str] | None:
        """A variable, a positional argument or a special parameter."""
        if name in ("@", "*"):
            return self.arguments[1:]
        if name == "#":
            return str(len(self.arguments) - 1)
        if name.isdigit():
            return self.arguments[int(name)] if int(name) < len(self.arguments) else None
        if name == "BASH_SOURCE":
            return [self.where]
        if name in ("?", "$", "!", "-"):
            return "0" if name == "?" else self.unknowns.mark(f"${name}", "it exists only in a run")
        return self.script.variables.get(name)

    def write(self, name: str, value: str) -> None:
        """Assign."""
        self.script.variables[name] = value

    def substituted(self, command: str, line: int) -> str:
        """The text of an `echo`, a `seq` or a path over known values, else a mark; InputError for what does more than
        read."""
        nodes = self.parsed(command)
        words = [token.text for node in nodes if isinstance(node, Simple) for token in node.words]
        echoes = bool(nodes) and all(isinstance(node, Simple) for node in nodes) and "echo" in words
        if echoes and all(word == "echo" or ASSIGNMENT.fullmatch(word) for word in words[:-1]):
            return self._echoed(nodes, line)
        numbers = re.fullmatch(r"\s*seq((?:\s+\d{1,6}){1,3})\s*", _plain(self, command, line))
        if numbers:
            return _sequence([int(number) for number in numbers[1].split()])
        why = substitutions.reason(command, self.where, line)
        path = path_of(nodes, self._words)
        if path is not None and self.unknowns.seen(path) is not None:
            return path
        return self.unknowns.mark(f"$({command.strip()})", why)

    def _words(self, node: Simple) -> list[str]:
        return [text for token in node.words for text in Expansion(self, token.line).fields(token.text)]

    def _echoed(self, nodes: Block, line: int) -> str:
        """`IFS=,; echo "${array[*]}"`: assignments that end with the substitution, and the words of its echo."""
        kept = dict(self.script.variables)
        text = ""
        for node in nodes:
            for token in node.words if isinstance(node, Simple) else ():
                if ASSIGNMENT.fullmatch(token.text):
                    self.assign(token)
                elif token.text != "echo":
                    text = " ".join(Expansion(self, line).fields(token.text))
        self.script.variables = kept
        return text

    def parsed(self, text: str) -> Block:
        """The commands of a text."""
        return Parser(Lexer(text, self.where).all(), self.where).script()

    def assign(self, token: Token) -> None:
        """`NAME=value`, `NAME+=value`, `NAME=(items)`."""
        match = ASSIGNMENT.fullmatch(token.text)
        assert match is not None
        name, index, adds, text = match.groups()
        expansion = Expansion(self, token.line)
        old = self.script.variables.get(name)
        if text.startswith("("):
            items = [
                item
                for inner in Lexer(text[1:-1], self.where).all()
                if not inner.operator
                for item in Expansion(self, token.line).fields(inner.text)
            ]
            before = (old if isinstance(old, list) else [old] if old else []) if adds else []
            if len(before) + len(items) > LONGEST:
                raise InputError(f"{self.where}, line {token.line}: an array of more than {LONGEST} items")
            self.script.variables[name] = [*before, *items]
        elif index is not None or (adds and isinstance(old, list)):
            self.script.variables[name] = self.unknowns.mark(
                f"${{{name}}}", "single items of an array are not followed"
            )
        else:
            value = expansion.text(text)
            self.script.variables[name] = (
                f"{old or ''}{value}" if adds and isinstance(old, (str, type(None))) else value
            )


def _plain(interpreter: Values, command: str, line: int) -> str:
    """A command with its variables filled in, where it holds no further substitution."""
    return "" if "`" in command or "$(" in command else Expansion(interpreter, line).text(command)


def _sequence(numbers: list[int]) -> str:
    """`seq LAST`, `seq FIRST LAST`, `seq FIRST STEP LAST`."""
    first, last = numbers[0] if len(numbers) > 1 else 1, numbers[-1]
    step = numbers[1] if len(numbers) == 3 else 1
    return " ".join(str(number) for number in range(first, last + 1, step or 1)[:MOST_ROUNDS])


def formatted(pattern: str, values: Sequence[str]) -> str:
    """`printf` with %s and %d only."""
    rest = list(values)
    return re.sub(r"%[sd]", lambda _: rest.pop(0) if rest else "", pattern)
