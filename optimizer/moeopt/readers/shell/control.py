"""Follows a script's control flow: sequences, conditions, loops and groups, as far as values tell the way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase

from moeopt.errors import InputError
from moeopt.readers.shell import conditions
from moeopt.readers.shell.conditions import Truth
from moeopt.readers.shell.environment import ASSIGNMENT, MOST_ROUNDS, Script, Values
from moeopt.readers.shell.expansion import Expansion
from moeopt.readers.shell.syntax import AndOr, Block, Case, For, Function, Group, If, Node, Pipe, Simple, While

MOST_STEPS = 20_000
"""Commands that are followed, loops unrolled."""


class Leave(Exception):  # noqa: N818 - control flow, not an error
    """A command that ends a loop, a function or the script: `kind` is its name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Control(Values, ABC):
    """What a script's commands do to each other. What one of them does by itself is for `simple` to say."""

    def __init__(self, script: Script, where: str, arguments: list[str]) -> None:
        super().__init__(script, where, arguments)
        self.functions: dict[str, Block] = {}
        self._steps = 0

    @abstractmethod
    def simple(self, node: Simple) -> Truth:
        """Follow one command without commands inside."""

    def block(self, nodes: Block) -> Truth:
        """Follow commands one after another; the truth of the last."""
        truth: Truth = True
        for node in nodes:
            truth = self.node(node)
        return truth

    def node(self, node: Node) -> Truth:
        """Follow one command; whether it succeeds, None where only a run could tell."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise InputError(f"{self.where}: more than {MOST_STEPS} commands are followed")
        if isinstance(node, Simple):
            return self.simple(node)
        if isinstance(node, AndOr):
            return self._and_or(node)
        if isinstance(node, Pipe):
            truth = None
            for part in node.parts:
                truth = self.node(part)
            return conditions.opposite(truth) if node.negated else truth if len(node.parts) == 1 else None
        if isinstance(node, Group):
            return self._group(node)
        if isinstance(node, Function):
            self.functions[node.name] = node.body
            return True
        if isinstance(node, If):
            return self._if(node)
        if isinstance(node, Case):
            return self._case(node)
        if isinstance(node, For):
            return self._for(node)
        return self._while(node)

    def arithmetic(self, text: str, line: int) -> Truth:
        """Whether an arithmetic expression is not zero."""
        value = self.unknowns.seen(Expansion(self, line).arithmetic(text))
        return None if value is None else value != "0"

    def _and_or(self, node: AndOr) -> Truth:
        truth: Truth = True
        for sign, part in node.parts:
            if (sign == "&&" and truth is False) or (sign == "||" and truth is True):
                continue
            if sign and truth is None:
                self._forget((part,))
                continue
            truth = self.node(part)
        return truth

    def _group(self, node: Group) -> Truth:
        if not node.subshell:
            return self.block(node.body)
        kept = dict(self.script.variables)
        try:
            return self.block(node.body)
        except Leave:
            return None
        finally:
            self.script.variables = kept

    def _if(self, node: If) -> Truth:
        for index, (condition, body) in enumerate(node.branches):
            truth: Truth = True if condition is None else self.block(condition)
            if truth:
                return self.block(body)
            if truth is None:
                for _, skipped in node.branches[index:]:
                    self._forget(skipped)
                return None
        return True

    def _case(self, node: Case) -> Truth:
        word = self.unknowns.seen(Expansion(self, node.word.line).text(node.word.text))
        if word is None:
            for _, body in node.branches:
                self._forget(body)
            return None
        for patterns, body in node.branches:
            texts = [Expansion(self, node.word.line).text(pattern) for pattern in patterns]
            if any(fnmatchcase(word, text) for text in texts):
                return self.block(body)
        return True

    def _for(self, node: For) -> Truth:
        if node.name is None:
            return self._counted(node)
        items = [item for token in node.words for item in Expansion(self, token.line).fields(token.text)]
        if len(items) > MOST_ROUNDS or any(self.unknowns.seen(item) is None for item in items):
            self.write(node.name, self.unknowns.mark(f"${node.name}", "a loop over unknown words is not followed"))
            self._forget(node.body)
            return None
        for item in items:
            self.write(node.name, item)
            if not self._round(node.body):
                break
        return True

    def _counted(self, node: For) -> Truth:
        start, *rest = node.words[0].text[2:-2].split(";")
        line = node.words[0].line
        condition, step = [*rest, "", ""][:2]
        Expansion(self, line).arithmetic(start)
        for _ in range(MOST_ROUNDS):
            truth = self.arithmetic(condition, line) if condition.strip() else True
            if truth is None:
                self._forget(node.body)
                return None
            if not truth or not self._round(node.body):
                return True
            Expansion(self, line).arithmetic(step)
        raise InputError(f"{self.where}, line {line}: a loop of more than {MOST_ROUNDS} rounds")

    def _while(self, node: While) -> Truth:
        for _ in range(MOST_ROUNDS):
            truth = self.block(node.condition)
            if truth is None:
                self._forget(node.body)
                return None
            if truth == node.until:
                return True
            if not self._round(node.body):
                return True
        raise InputError(f"{self.where}: a loop of more than {MOST_ROUNDS} rounds")

    def _round(self, body: Block) -> bool:
        try:
            self.block(body)
        except Leave as leave:
            if leave.kind == "break":
                return False
            if leave.kind != "continue":
                raise
        return True

    def _forget(self, nodes: Sequence[Node]) -> None:
        """Everything that skipped commands may assign is unknown from here on."""
        for node in nodes:
            if isinstance(node, Simple):
                for token in node.words:
                    match = ASSIGNMENT.fullmatch(token.text)
                    if match:
                        reason = f"{match[1]} depends on line {token.line}, which only a run could decide"
                        self.write(match[1], self.unknowns.mark(f"${{{match[1]}}}", reason))
                continue
            for block in _blocks(node):
                self._forget(block)


def _blocks(node: Node) -> list[Block]:
    """The blocks inside a command."""
    if isinstance(node, If):
        return [block for condition, body in node.branches for block in (condition or (), body)]
    if isinstance(node, Case):
        return [body for _, body in node.branches]
    if isinstance(node, (For, Group)):
        return [node.body]
    if isinstance(node, While):
        return [node.condition, node.body]
    if isinstance(node, AndOr):
        return [(part,) for _, part in node.parts]
    return [node.parts] if isinstance(node, Pipe) else []
