"""A shell script as words and operators. Quotes, expansions and arrays stay inside their word, unread."""

import re
from dataclasses import dataclass

from moeopt.errors import InputError

OPERATORS = (";;&", "<<<", "<<-", "&>>", ";;", ";&", "&&", "||", "<<", ">>", ">&", "<&", "&>", ">|", "|&", "\n")
SINGLE = ";&|()<>"
_ASSIGNED_ARRAY = re.compile(r"[A-Za-z_]\w*\+?=")


@dataclass(frozen=True)
class Token:
    """A word as written, or an operator; a here-document's text comes as the word after its operator."""

    text: str
    line: int
    operator: bool = False
    quoted: bool = False
    """Of a here-document: its text is not expanded."""


class Lexer:
    """Splits a script. Raises InputError with the line for a quote or bracket that is never closed."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.at, self.line = 0, 1
        self.tokens: list[Token] = []
        self.documents: list[tuple[int, str, bool, bool]] = []

    def all(self) -> list[Token]:
        """Every token."""
        while self.at < len(self.text):
            letter = self.text[self.at]
            if letter in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self._advance(2)
            elif letter == "#":
                self.at = self._end_of_line()
            elif not self._operator():
                self._word()
        return self.tokens

    def _advance(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _end_of_line(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _operator(self) -> bool:
        if self.text.startswith("((", self.at) and self._starts_command():
            self._arithmetic_command()
            return True
        found = next((each for each in OPERATORS if self.text.startswith(each, self.at)), None)
        if found is None and self.text[self.at] in SINGLE:
            found = self.text[self.at]
        if found is None:
            return False
        line = self.line
        self._advance(len(found))
        self.tokens.append(Token(found, line, operator=True))
        if found in ("<<", "<<-"):
            self._announce_document(found == "<<-")
        if found == "\n" and self.documents:
            self._read_documents()
        return True

    def _starts_command(self) -> bool:
        last = self.tokens[-1] if self.tokens else None
        words = ("if", "elif", "while", "until", "then", "else", "do", "for", "!")
        return last is None or (last.operator and last.text not in "<>") or last.text in words

    def _arithmetic_command(self) -> None:
        start, line = self.at, self.line
        self.at = closing(self.text, self.at, "(", ")", self.where, self.line)
        self.line += self.text.count("\n", start, self.at)
        self.tokens.append(Token(self.text[start : self.at], line))

    def _announce_document(self, tabs: bool) -> None:
        match = re.compile(r"[ \t]*(\\?)(['\"]?)([\w.!-]+)\2").match(self.text, self.at)
        if match is None:
            raise InputError(f"{self.where}, line {self.line}: a here-document without its end word")
        self.at = match.end()
        self.tokens.append(Token("", self.line))
        self.documents.append((len(self.tokens) - 1, match[3], bool(match[1] or match[2]), tabs))

    def _read_documents(self) -> None:
        for index, end, quoted, tabs in self.documents:
            line, lines = self.line, []
            while self.at < len(self.text):
                stop = self._end_of_line()
                text = self.text[self.at : stop]
                self._advance(stop + 1 - self.at)
                if (text.lstrip("\t") if tabs else text) == end:
                    break
                lines.append(text)
            self.tokens[index] = Token("\n".join(lines) + "\n", line, quoted=quoted)
        self.documents = []

    def _word(self) -> None:
        start, line = self.at, self.line
        while self.at < len(self.text):
            letter = self.text[self.at]
            if letter in " \t\n;&|<>)" or (letter == "(" and not self._opens_array(start)):
                break
            self.at = after(self.text, self.at, self.where, line)
        self.line += self.text.count("\n", start, self.at)
        if self.at == start:
            raise InputError(f"{self.where}, line {line}: {self.text[start]!r} is not expected here")
        self.tokens.append(Token(self.text[start : self.at], line))

    def _opens_array(self, start: int) -> bool:
        word = self.text[start : self.at]
        return _ASSIGNED_ARRAY.fullmatch(word) is not None or word[-1:] in "@?*+!"


def after(text: str, at: int, where: str, line: int) -> int:
    """The position behind the piece that starts at `at`: an escape, a quoted string, an expansion, or one letter."""
    letter = text[at]
    if letter == "\\":
        return min(at + 2, len(text))
    if letter == "'" or text.startswith("$'", at):
        end = text.find("'", at + 1 + (letter == "$"))
        return _found(end, "'", where, line) + 1
    if letter == '"':
        return _double_quote(text, at, where, line)
    if letter == "`":
        return _found(_backtick(text, at), "`", where, line) + 1
    if text.startswith("${", at):
        return closing(text, at + 1, "{", "}", where, line)
    if text.startswith("$(", at):
        return closing(text, at + 1, "(", ")", where, line)
    if letter == "(":
        return closing(text, at, "(", ")", where, line)
    return at + 1


def _double_quote(text: str, at: int, where: str, line: int) -> int:
    at += 1
    while at < len(text) and text[at] != '"':
        at = at + 1 if text[at] == "'" or text.startswith("$'", at) or text[at] == "(" else after(text, at, where, line)
    return _found(at if at < len(text) else -1, '"', where, line) + 1


def _backtick(text: str, at: int) -> int:
    at += 1
    while at < len(text) and text[at] != "`":
        at += 2 if text[at] == "\\" else 1
    return at if at < len(text) else -1


def closing(text: str, at: int, opening: str, close: str, where: str, line: int) -> int:
    """The position behind the bracket that closes the one at `at`; quotes, comments and inner brackets are skipped."""
    depth = 0
    while at < len(text):
        letter = text[at]
        if letter == opening:
            depth += 1
        elif letter == close:
            depth -= 1
            if depth == 0:
                return at + 1
        elif letter == "#" and opening == "(" and text[at - 1] in " \t\n":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        elif letter in "\\'\"`" or text.startswith(("${", "$("), at):
            at = after(text, at, where, line)
            continue
        at += 1
    return _found(-1, close, where, line)


def _found(position: int, mark: str, where: str, line: int) -> int:
    if position < 0:
        raise InputError(f"{where}, line {line}: a {mark} is never closed")
    return position
