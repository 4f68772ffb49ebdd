"""Layer patterns as Megatron's command line writes them: `([0]*3+[1]*58)`, read without `eval`.

Grammar (Megatron-LM d98e8a6, megatron/training/arguments.py:245-253, 327-350): lists of digits, `+` joins, `*` repeats.
"""

import re

from moeopt.errors import InputError
from moeopt.problem.base import shown

LONGEST = 10_000
"""Layers of a pattern: far above any transformer, far below what would exhaust memory."""
_TOKEN = re.compile(r"\s*(\d+|[\[\]()+*,])")


def read_pattern(text: str, name: str) -> int | tuple[int, ...]:
    """An integer, or one number a layer. Raises InputError naming the argument."""
    text = text.strip().strip("'\"")
    if re.fullmatch(r"\d{1,6}", text):
        return int(text)
    reader = _Reader(text, name)
    value = reader.sum()
    if reader.at < len(reader.tokens) or not isinstance(value, tuple):
        reader.fail()
    assert isinstance(value, tuple)
    return value


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at, self.depth = text, name, 0, 0
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or len(self.tokens) > LONGEST:
                self.fail()
            assert match is not None
            self.tokens.append(match[1])
            position = match.end()

    def fail(self) -> None:
        """Refuse it."""
        raise InputError(
            f"{self.name}: {shown(self.text)} is neither a number nor a pattern of layers such as ([0]*3+[1]*58)"
        )

    def sum(self) -> int | tuple[int, ...]:
        """Parts joined by `+`."""
        self.depth += 1
        if self.depth > 30:
            self.fail()
        value = self._product()
        while self._next() == "+":
            self.at += 1
            value = self._added(value, self._product())
        self.depth -= 1
        return value

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _added(self, left: int | tuple[int, ...], right: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(left, tuple) != isinstance(right, tuple):
            self.fail()
        return self._checked(left + right)  # type: ignore[operator]

    def _checked(self, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if (len(value) if isinstance(value, tuple) else value) > LONGEST:
            self.fail()
        return value

    def _product(self) -> int | tuple[int, ...]:
        value = self._primary()
        while self._next() == "*":
            self.at += 1
            right = self._primary()
            if isinstance(value, tuple) and isinstance(right, tuple):
                self.fail()
            size = (len(value) if isinstance(value, tuple) else value) * (
                len(right) if isinstance(right, tuple) else right
            )
            if size > LONGEST:
                self.fail()
            value = value * right  # type: ignore[operator]
        return value

    def _primary(self) -> int | tuple[int, ...]:
        token = self._next()
        self.at += 1
        if token.isdecimal() and len(token) < 7:
            return int(token)
        if token == "(":
            value = self.sum()
            if self._next() != ")":
                self.fail()
            self.at += 1
            return value
        if token != "[":
            self.fail()
        items: list[int] = []
        while self._next() not in ("]", ""):
            item = self.sum()
            if not isinstance(item, int):
                self.fail()
            assert isinstance(item, int)
            items.append(item)
            if self._next() == ",":
                self.at += 1
        self.at += 1
        return tuple(items)
