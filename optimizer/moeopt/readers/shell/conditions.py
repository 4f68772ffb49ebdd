"""Tests: `[ … ]`, `[[ … ]]` and `test`, as True, False or None (only a run could tell)."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

_FILE_TESTS = {
    "-a",
    "-b",
    "-c",
    "-d",
    "-e",
    "-f",
    "-g",
    "-h",
    "-k",
    "-L",
    "-N",
    "-p",
    "-r",
    "-s",
    "-S",
    "-t",
    "-u",
    "-w",
    "-x",
}
_NUMBERS = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
}
Truth = bool | None


def judge(words: Sequence[str | None], patterns: bool) -> Truth:
    """The truth of a test's words (None: a word that is not known). `patterns`: inside `[[ … ]]`."""
    return _Judge(list(words), patterns).all()


def both(left: Truth, right: Truth) -> Truth:
    """And: False where either is."""
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def either(left: Truth, right: Truth) -> Truth:
    """Or: True where either is."""
    return opposite(both(opposite(left), opposite(right)))


def opposite(value: Truth) -> Truth:
    """Not."""
    return None if value is None else not value


class _Judge:
    def __init__(self, words: list[str | None], patterns: bool) -> None:
        self.words, self.patterns, self.at = words, patterns, 0

    def all(self) -> Truth:
        return self._or() if self.words else False

    def _next_is(self, *signs: str) -> bool:
        return self.at < len(self.words) and self.words[self.at] in signs

    def _or(self) -> Truth:
        value = self._and()
        while self._next_is("-o", "||"):
            self.at += 1
            value = either(value, self._and())
        return value

    def _and(self) -> Truth:
        value = self._not()
        while self._next_is("-a", "&&"):
            self.at += 1
            value = both(value, self._not())
        return value

    def _not(self) -> Truth:
        if self._next_is("!") and self.at + 1 < len(self.words):
            self.at += 1
            return opposite(self._not())
        if self._next_is("("):
            self.at += 1
            value = self._or()
            self.at += self._next_is(")")
            return value
        return self._one()

    def _one(self) -> Truth:
        rest = self.words[self.at :]
        if len(rest) >= 2 and rest[0] in ("-z", "-n") and not (len(rest) >= 3 and rest[1] in ("=", "==")):
            self.at += 2
            value = rest[1]
            return None if value is None else (value == "") == (rest[0] == "-z")
        if (len(rest) >= 2 and rest[0] in _FILE_TESTS) or (len(rest) >= 2 and rest[0] in ("-v", "-o")):
            self.at += 2
            return None
        if len(rest) >= 3 and (rest[1] in ("=", "==", "!=", "=~", "<", ">") or rest[1] in _NUMBERS):
            self.at += 3
            sign = rest[1]
            assert sign is not None
            return self._compared(rest[0], sign, rest[2])
        self.at += 1
        if not rest:
            return False
        return None if rest[0] is None else rest[0] != ""

    def _compared(self, left: str | None, sign: str, right: str | None) -> Truth:
        if left is None or right is None or sign == "=~":
            return None
        if sign in _NUMBERS:
            if not (re.fullmatch(r"\s*-?\d{1,19}\s*", left) and re.fullmatch(r"\s*-?\d{1,19}\s*", right)):
                return False  # the shell complains, and the test fails
            return bool(_NUMBERS[sign](int(left), int(right)))
        if sign in ("<", ">"):
            return left < right if sign == "<" else left > right
        same = fnmatchcase(left, right) if self.patterns else left == right
        return same if sign != "!=" else not same
