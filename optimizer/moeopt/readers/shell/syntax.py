"""Tokens into commands, conditions, loops and functions."""

import re
from dataclasses import dataclass
from typing import TypeAlias

from moeopt.errors import InputError
from moeopt.readers.shell.tokens import Token

DEEPEST = 60
"""Blocks inside blocks."""
_FUNCTION = re.compile(r"[A-Za-z_][\w:.-]*")


@dataclass(frozen=True)
class Simple:
    """Assignments and words of one command, with the text of its here-document."""

    words: tuple[Token, ...]
    document: Token | None
    line: int


@dataclass(frozen=True)
class AndOr:
    """Commands joined by `&&` and `||`, first the one before any sign."""

    parts: tuple[tuple[str, "Node"], ...]


@dataclass(frozen=True)
class Pipe:
    """Commands joined by `|`."""

    parts: tuple["Node", ...]
    negated: bool = False


@dataclass(frozen=True)
class If:
    """Conditions with their branches; the last condition may be None (else)."""

    branches: tuple[tuple["Block | None", "Block"], ...]


@dataclass(frozen=True)
class For:
    """`for NAME in WORDS`, or `for ((a; b; c))` with the name None."""

    name: str | None
    words: tuple[Token, ...]
    body: "Block"


@dataclass(frozen=True)
class While:
    """`while` and `until`."""

    condition: "Block"
    body: "Block"
    until: bool


@dataclass(frozen=True)
class Case:
    """A word with patterns."""

    word: Token
    branches: tuple[tuple[tuple[str, ...], "Block"], ...]


@dataclass(frozen=True)
class Function:
    """A definition."""

    name: str
    body: "Block"


@dataclass(frozen=True)
class Group:
    """`{ …; }` or `( … )`."""

    body: "Block"
    subshell: bool


Node: TypeAlias = Simple | AndOr | Pipe | If | For | While | Case | Function | Group
Block: TypeAlias = tuple[Node, ...]


class Parser:
    """Recursive descent over the tokens of one script. Raises InputError with the line for what it cannot follow."""

    def __init__(self, tokens: list[Token], where: str) -> None:
        self.tokens, self.where, self.at, self.depth = tokens, where, 0, 0

    def script(self) -> Block:
        """The whole script."""
        block = self.block(())
        if self.at < len(self.tokens):
            self._fail(f"{self.tokens[self.at].text!r} is not expected here")
        return block

    def block(self, ends: tuple[str, ...]) -> Block:
        """Commands up to one of the words or operators that end them."""
        self.depth += 1
        if self.depth > DEEPEST:
            self._fail("blocks are nested too deeply")
        nodes: list[Node] = []
        while True:
            while self._is_operator("\n", ";", "&"):
                self.at += 1
            token = self._peek()
            if token is None or token.text in ends:
                break
            nodes.append(self._and_or())
        self.depth -= 1
        return tuple(nodes)

    def _peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _is_operator(self, *texts: str) -> bool:
        token = self._peek()
        return token is not None and token.operator and token.text in texts

    def _fail(self, text: str) -> None:
        token = self._peek() or (self.tokens[-1] if self.tokens else Token("", 1))
        raise InputError(f"{self.where}, line {token.line}: {text}")

    def _expect(self, *texts: str) -> Token:
        while self._is_operator("\n") and "\n" not in texts:
            self.at += 1
        token = self._peek()
        if token is None or token.text not in texts:
            self._fail(f"{texts[0]!r} is missing" + ("" if token is None else f" before {token.text[:40]!r}"))
            raise AssertionError
        self.at += 1
        return token

    def _and_or(self) -> Node:
        parts = [("", self._pipe())]
        while self._is_operator("&&", "||"):
            sign = self.tokens[self.at].text
            self.at += 1
            while self._is_operator("\n"):
                self.at += 1
            parts.append((sign, self._pipe()))
        return parts[0][1] if len(parts) == 1 else AndOr(tuple(parts))

    def _pipe(self) -> Node:
        negated = False
        token = self._peek()
        while token is not None and not token.operator and token.text in ("!", "time"):
            negated ^= token.text == "!"
            self.at += 1
            token = self._peek()
        parts = [self._command()]
        while self._is_operator("|", "|&"):
            self.at += 1
            while self._is_operator("\n"):
                self.at += 1
            parts.append(self._command())
        return parts[0] if len(parts) == 1 and not negated else Pipe(tuple(parts), negated)

    def _command(self) -> Node:
        token = self._peek()
        if token is None:
            self._fail("a command is missing at the end")
            raise AssertionError
        if token.operator and token.text != "(" and token.text not in (">", ">>", "<", "&>", "<<", "<<-"):
            self._fail(f"{token.text!r} is not expected here")
        compound = {
            "if": self._if,
            "for": self._for,
            "select": self._for,
            "while": self._while,
            "until": self._while,
            "case": self._case,
            "{": self._group,
            "(": self._group,
            "function": self._function,
        }.get(token.text)
        if compound is not None:
            node = compound()
            self._redirects()
            return node
        following = self.tokens[self.at + 1 : self.at + 3]
        if _FUNCTION.fullmatch(token.text) and [each.text for each in following] == ["(", ")"]:
            return self._function()
        return self._simple()

    def _redirects(self) -> None:
        while self._is_operator(">", ">>", "<", ">&", "<&", "&>", "&>>", "<<", "<<-", "<<<", ">|"):
            self.at += 2

    def _simple(self) -> Node:
        words: list[Token] = []
        document: Token | None = None
        line = self.tokens[self.at].line
        brackets = 0
        while (token := self._peek()) is not None:
            if token.operator and token.text in (">", ">>", "<", ">&", "<&", "&>", "&>>", "<<<", ">|") and not brackets:
                if words and words[-1].text.isdecimal() and token.text not in ("&>", "&>>"):
                    words.pop()
                self.at += 2
                continue
            if token.operator and token.text in ("<<", "<<-"):
                document = self.tokens[self.at + 1]
                self.at += 2
                continue
            if token.operator and not (brackets and token.text != ";"):
                break
            brackets += (token.text == "[[") - (token.text == "]]")
            if not (token.operator and token.text == "\n"):
                words.append(token)
            self.at += 1
        return Simple(tuple(words), document, line)

    def _if(self) -> Node:
        branches: list[tuple[Block | None, Block]] = []
        word = "if"
        while word in ("if", "elif"):
            self.at += word == "if"
            condition = self.block(("then",))
            self._expect("then")
            branches.append((condition, self.block(("elif", "else", "fi"))))
            word = self._expect("elif", "else", "fi").text
        if word == "else":
            branches.append((None, self.block(("fi",))))
            self._expect("fi")
        return If(tuple(branches))

    def _for(self) -> Node:
        self.at += 1
        name = self._peek()
        if name is None:
            self._fail("a loop without a variable")
            raise AssertionError
        self.at += 1
        words: list[Token] = []
        if name.text.startswith("(("):
            return For(None, (name,), self._do())
        while self._is_operator("\n"):
            self.at += 1
        token = self._peek()
        if token is not None and token.text == "in":
            self.at += 1
            while (token := self._peek()) is not None and not token.operator:
                words.append(token)
                self.at += 1
        else:
            words.append(Token('"$@"', name.line))
        return For(name.text, tuple(words), self._do())

    def _do(self) -> Block:
        while self._is_operator("\n", ";"):
            self.at += 1
        self._expect("do")
        body = self.block(("done",))
        self._expect("done")
        return body

    def _while(self) -> Node:
        until = self.tokens[self.at].text == "until"
        self.at += 1
        condition = self.block(("do",))
        return While(condition, self._do(), until)

    def _case(self) -> Node:
        self.at += 1
        word = self.tokens[self.at]
        self.at += 1
        self._expect("in")
        branches: list[tuple[tuple[str, ...], Block]] = []
        while True:
            while self._is_operator("\n"):
                self.at += 1
            token = self._peek()
            if token is None or token.text == "esac":
                break
            patterns: list[str] = []
            while not self._is_operator(")"):
                token = self._peek()
                if token is None:
                    self._fail("a case pattern is not closed")
                    raise AssertionError
                if not token.operator:
                    patterns.append(token.text)
                self.at += 1
            self.at += 1
            branches.append((tuple(patterns), self.block((";;", ";&", ";;&", "esac"))))
            if self._is_operator(";;", ";&", ";;&"):
                self.at += 1
        self._expect("esac")
        return Case(word, tuple(branches))

    def _group(self) -> Node:
        subshell = self.tokens[self.at].text == "("
        end = ")" if subshell else "}"
        self.at += 1
        body = self.block((end,))
        self._expect(end)
        return Group(body, subshell)

    def _function(self) -> Node:
        self.at += self.tokens[self.at].text == "function"
        name = self.tokens[self.at].text
        self.at += 1
        if self._is_operator("("):
            self.at += 2
        while self._is_operator("\n"):
            self.at += 1
        if not (self._is_operator("(") or (self._peek() or Token("", 1)).text == "{"):
            self._fail(f"the body of function {name} is missing")
        body = self._group()
        assert isinstance(body, Group)
        return Function(name, body.body)
