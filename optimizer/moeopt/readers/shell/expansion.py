"""Words into fields: quotes removed, variables and arithmetic filled in, everything else marked as unknown."""

import re
from fnmatch import fnmatchcase
from typing import Protocol

from moeopt.errors import InputError
from moeopt.readers.shell.arithmetic import Arithmetic, NotKnown
from moeopt.readers.shell.tokens import after
from moeopt.readers.shell.values import LONGEST, Unknowns

_NAME = re.compile(r"[A-Za-z_]\w*|[0-9]|[@*#?$!-]")
_PARAMETER = re.compile(r"(#?)(!?)([A-Za-z_]\w*|\d+|[@*#?$!-])(?:\[([^\]]*)\])?(.*)", re.DOTALL)
_ESCAPED_IN_QUOTES = '$`"\\\n'
DEEPEST = 40


class Environment(Protocol):
    """What an expansion asks of the interpreter."""

    unknowns: Unknowns
    where: str

    def read(self, name: str) -> str | list[str] | None:
        """A variable's value, an array's items, or None where it is not set."""

    def write(self, name: str, value: str) -> None:
        """Assign (`${NAME:=word}`, `$((NAME = 1))`)."""

    def substituted(self, command: str, line: int) -> str:
        """What stands for a command substitution; nothing is run."""


class Expansion:
    """Expands the words of one line."""

    def __init__(self, environment: Environment, line: int, depth: int = 0) -> None:
        self.environment, self.line = environment, line
        self.depth = depth
        if depth > DEEPEST:
            raise InputError(f"{environment.where}, line {line}: expansions are nested too deeply")

    def fields(self, word: str) -> list[str]:
        """The fields that a word becomes: none, one or several."""
        fields: list[str] = []
        open_ = False
        for text, quoted in self._pieces(word):
            if isinstance(text, list):  # "${array[@]}": one field an item
                for index, item in enumerate(text):
                    open_ = _append(fields, item, open_ and index == 0)
                continue
            if quoted:
                open_ = _append(fields, text, open_)
                continue
            for index, part in enumerate(re.split(r"[ \t\n]+", text)):
                if index:
                    open_ = False
                if part:
                    open_ = _append(fields, part, open_)
        self._limit(sum(map(len, fields)) + len(fields))
        return fields

    def text(self, word: str) -> str:
        """A word as one string, not split (assignments, conditions)."""
        pieces = [" ".join(text) if isinstance(text, list) else text for text, _ in self._pieces(word)]
        self._limit(sum(map(len, pieces)))
        return "".join(pieces)

    def inside_quotes(self, text: str) -> str:
        """Text that is expanded as between double quotes: a here-document."""
        pieces = [" ".join(part) if isinstance(part, list) else part for part in self._quoted(text)]
        self._limit(sum(map(len, pieces)))
        return "".join(pieces)

    def _limit(self, length: int) -> None:
        if length > LONGEST:
            raise InputError(f"{self.environment.where}, line {self.line}: a value is longer than {LONGEST} characters")

    def _pieces(self, word: str) -> list[tuple[str | list[str], bool]]:
        """Pieces with whether they were quoted (a quoted piece is not split)."""
        pieces: list[tuple[str | list[str], bool]] = []
        at = 0
        while at < len(word):
            end = after(word, at, self.environment.where, self.line)
            piece, letter = word[at:end], word[at]
            if letter == "\\":
                pieces.append(("" if piece == "\\\n" else piece[1:], True))
            elif letter == "'":
                pieces.append((piece[1:-1], True))
            elif piece.startswith("$'"):
                pieces.append((piece[2:-1].replace("\\n", "\n").replace("\\t", "\t"), True))
            elif letter == '"':
                pieces += [(part, True) for part in self._quoted(piece[1:-1]) or [""]]
            elif letter in "$`":
                value, end = self._dollar(word, at, end)
                pieces.append((" ".join(value) if isinstance(value, list) else value, False))
            else:
                pieces.append((piece, True))
            at = end
        return pieces

    def _quoted(self, text: str) -> list[str | list[str]]:
        parts: list[str | list[str]] = []
        at, plain = 0, ""
        while at < len(text):
            letter = text[at]
            if letter == "\\" and at + 1 < len(text):
                plain += {"\n": ""}.get(
                    text[at + 1], text[at + 1] if text[at + 1] in _ESCAPED_IN_QUOTES else text[at : at + 2]
                )
                at += 2
            elif letter in "$`":
                end = (
                    after(text, at, self.environment.where, self.line)
                    if letter == "`" or text[at + 1 : at + 2] in ("{", "(")
                    else at + 1
                )
                value, at = self._dollar(text, at, end)
                parts += [plain, value]
                plain = ""
            else:
                plain += letter
                at += 1
        return [*parts, plain] if plain or not parts else parts

    def _dollar(self, text: str, at: int, end: int) -> tuple[str | list[str], int]:
        """The value of the expansion at a `$` or backtick, and where the text goes on."""
        piece = text[at:end]
        if piece.startswith("`"):
            return self.environment.substituted(piece[1:-1].replace("\\`", "`"), self.line), end
        if piece.startswith("$((") and piece.endswith("))"):
            return self.arithmetic(piece[3:-2]), end
        if piece.startswith("$("):
            return self.environment.substituted(piece[2:-1], self.line), end
        if piece.startswith("${"):
            return self._parameter(piece[2:-1], piece), end
        match = _NAME.match(text, at + 1)
        if match is None:
            return "$", at + 1
        return self._value(match[0], f"${match[0]}"), match.end()

    def arithmetic(self, text: str) -> str:
        """The value of `$((text))`, or a mark."""
        environment, unknowns = self.environment, self.environment.unknowns

        def get(name: str) -> str | None:
            value = environment.read(name)
            return "" if value is None else unknowns.seen(value if isinstance(value, str) else " ".join(value[:1]))

        filled = self.inside_quotes(text)
        known = unknowns.seen(filled)
        try:
            if known is None:
                raise NotKnown(filled)
            return str(Arithmetic(known, get, environment.write).value())
        except NotKnown:
            inner = unknowns.within(filled)
            reason = inner[0].reason if inner else "the arithmetic needs a number that the script does not give"
            return unknowns.mark(f"$(({text}))", reason)

    def _value(self, name: str, shown: str) -> str | list[str]:
        value = self.environment.read(name)
        if value is None:
            return self.environment.unknowns.mark(shown, f"{_named(name)} is not set in the script", empty=True)
        return value if isinstance(value, str) or name == "@" else (value[0] if value else "")

    def _parameter(self, text: str, shown: str) -> str | list[str]:
        match = _PARAMETER.fullmatch(text)
        if match is None:
            return self.environment.unknowns.mark(shown, "this kind of expansion is not followed")
        length, indirect, name, index, rest = match.groups()
        if length and text == "#":
            return self._value("#", shown)
        if indirect:
            return self._indirect(name, shown)
        value = self._indexed(name, index, shown)
        if length and not rest:
            known = value if isinstance(value, list) else self.environment.unknowns.seen(value)
            return shown if known is None else str(len(known))
        return self._operated(name, value, rest, shown) if rest else value

    def _indirect(self, name: str, shown: str) -> str | list[str]:
        inner = self.environment.read(name)
        known = self.environment.unknowns.seen(inner) if isinstance(inner, str) else None
        if not known or not re.fullmatch(r"[A-Za-z_]\w*", known):
            return self.environment.unknowns.mark(shown, "the name that it stands for is not known")
        return self._value(known, shown)

    def _indexed(self, name: str, index: str | None, shown: str) -> str | list[str]:
        if index is None:
            return self._value(name, shown)
        value = self.environment.read(name)
        if value is None:
            return [] if index == "@" else self._value(name, shown)
        items = value if isinstance(value, list) else [value]
        if index in ("@", "*"):
            return items if index == "@" else self._separator().join(items)
        number = self.environment.unknowns.seen(self.arithmetic(index))
        if number is None or not -len(items) <= int(number) < len(items):
            return self.environment.unknowns.mark(shown, f"{name} has no item {index}", empty=number is not None)
        return items[int(number)]

    def _separator(self) -> str:
        """What joins the items of `${array[*]}`: the first letter of IFS."""
        value = self.environment.read("IFS")
        known = self.environment.unknowns.seen(value) if isinstance(value, str) else None
        return known[:1] if known is not None else " "

    def _operated(self, name: str, value: str | list[str], rest: str, shown: str) -> str | list[str]:
        joined = " ".join(value) if isinstance(value, list) else value
        known = self.environment.unknowns.seen(joined)
        sign = re.match(r":?[-=+?]", rest)
        if sign is not None:
            given = self.environment.read(name) is not None and not (sign[0][0] == ":" and known == "")
            return self._defaulted(name, value, sign[0][-1], rest[sign.end() :], given)
        if known is None:
            return joined
        for mark in ("%%", "##", "%", "#"):
            if rest.startswith(mark):
                return _trimmed(known, mark, self.text(rest[len(mark) :]))
        if rest in ("^^", ",,", "^", ","):
            return {"^^": known.upper(), ",,": known.lower(), "^": known[:1].upper() + known[1:]}.get(
                rest, known[:1].lower() + known[1:]
            )
        replaced = re.fullmatch(r"/(/?)([^/*?\[]+)/(.*)", rest, re.DOTALL)
        if replaced:
            return known.replace(self.text(replaced[2]), self.text(replaced[3]), -1 if replaced[1] else 1)
        return self.environment.unknowns.mark(shown, "this kind of expansion is not followed")

    def _defaulted(self, name: str, value: str | list[str], sign: str, word: str, given: bool) -> str | list[str]:
        inner = Expansion(self.environment, self.line, self.depth + 1)
        if sign == "+":
            return inner.text(word) if given else ""
        if given:
            return value
        if sign == "?":
            return self.environment.unknowns.mark(
                f"${{{name}}}", f"{_named(name)} is not set in the script", empty=True
            )
        default = inner.text(word)
        if sign == "=" and not name.isdigit():
            self.environment.write(name, default)
        return default


def _named(name: str) -> str:
    return f"argument {name} of the script" if name.isdigit() else name


def _append(fields: list[str], text: str, open_: bool) -> bool:
    if open_:
        fields[-1] += text
    else:
        fields.append(text)
    return True


def _trimmed(text: str, mark: str, pattern: str) -> str:
    """`${X%pattern}` and its three kin."""
    cuts = range(len(text) + 1)
    if mark[0] == "%":
        for start in cuts if mark == "%%" else reversed(cuts):
            if fnmatchcase(text[start:], pattern):
                return text[:start]
    else:
        for end in reversed(cuts) if mark == "##" else cuts:
            if fnmatchcase(text[:end], pattern):
                return text[end:]
    return text
