"""Integer arithmetic as shells do it: `$(( … ))` and `(( … ))`, over known values only."""

import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"\s*(?:(0[xX][0-9a-fA-F]+|\d+)|([A-Za-z_]\w*)|(\*\*|<<|>>|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%]=|[-+*/%<>=!~&^|?:(),]))"
)
_LEVELS = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", ">", "<=", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
LARGEST = 2**63
DEEPEST = 60


class NotKnown(Exception):  # noqa: N818 - an outcome, not an error
    """The value of an expression cannot be told."""


class Arithmetic:
    """One expression; `get` gives a variable's text (None: not known), `put` receives what is assigned."""

    def __init__(self, text: str, get: Callable[[str], str | None], put: Callable[[str, str], None]) -> None:
        self.get, self.put, self.at, self.depth = get, put, 0, 0
        self.tokens: list[str] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise NotKnown(text)
            self.tokens.append(match[1] or match[2] or match[3])
            position = match.end()

    def value(self) -> int:
        """The value of all of it. Raises NotKnown."""
        if not self.tokens:
            return 0
        result = self._comma()
        if self.at < len(self.tokens):
            raise NotKnown("".join(self.tokens))
        return result

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _comma(self) -> int:
        result = self._assignment()
        while self._peek() == ",":
            self.at += 1
            result = self._assignment()
        return result

    def _assignment(self) -> int:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotKnown("too deep")
        name, sign = self._peek(), self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
        if _is_name(name) and sign in ("=", "+=", "-=", "*=", "/=", "%="):
            self.at += 2
            right = self._assignment()
            result = right if sign == "=" else _apply(sign[0], self._variable(name), right)
            self.put(name, str(result))
        else:
            result = self._choice()
        self.depth -= 1
        return result

    def _choice(self) -> int:
        condition = self._binary(0)
        if self._peek() != "?":
            return condition
        self.at += 1
        yes = self._assignment()
        if self._peek() != ":":
            raise NotKnown("? without :")
        self.at += 1
        no = self._assignment()
        return yes if condition else no

    def _binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._power()
        left = self._binary(level + 1)
        while self._peek() in _LEVELS[level]:
            sign = self._peek()
            self.at += 1
            left = _apply(sign, left, self._binary(level + 1))
        return left

    def _power(self) -> int:
        base = self._unary()
        if self._peek() != "**":
            return base
        self.at += 1
        return _apply("**", base, self._power())

    def _unary(self) -> int:
        sign = self._peek()
        if sign in ("-", "+", "!", "~"):
            self.at += 1
            self.depth += 1
            if self.depth > DEEPEST:
                raise NotKnown("too deep")
            value = self._unary()
            self.depth -= 1
            return {"-": -value, "+": value, "!": int(not value), "~": ~value}[sign]
        if sign in ("++", "--"):
            self.at += 1
            return self._step(self._name(), sign, before=True)
        return self._primary()

    def _primary(self) -> int:
        token = self._peek()
        self.at += 1
        if token == "(":
            value = self._comma()
            if self._peek() != ")":
                raise NotKnown("( without )")
            self.at += 1
            return value
        if token[:1].isdigit():
            if len(token) > 20:
                raise NotKnown(token)
            return int(token, 16) if token[:2] in ("0x", "0X") else int(token, 8 if _is_octal(token) else 10)
        if not _is_name(token):
            raise NotKnown(token)
        if self._peek() in ("++", "--"):
            sign = self._peek()
            self.at += 1
            return self._step(token, sign, before=False)
        return self._variable(token)

    def _name(self) -> str:
        name = self._peek()
        self.at += 1
        if not _is_name(name):
            raise NotKnown(name)
        return name

    def _step(self, name: str, sign: str, before: bool) -> int:
        old = self._variable(name)
        new = old + 1 if sign == "++" else old - 1
        self.put(name, str(new))
        return new if before else old

    def _variable(self, name: str) -> int:
        text = self.get(name)
        if text is None or not re.fullmatch(r"\s*-?\d{0,19}\s*", text):
            raise NotKnown(name)
        return int(text) if text.strip() else 0


def _is_name(token: str) -> bool:
    return token[:1].isalpha() or token[:1] == "_"


def _is_octal(token: str) -> bool:
    if len(token) > 1 and token[0] == "0" and set(token) & set("89"):
        raise NotKnown(token)
    return len(token) > 1 and token[0] == "0"


def _apply(sign: str, left: int, right: int) -> int:
    if sign in ("/", "%") and right == 0:
        raise NotKnown("division by zero")
    if (sign == "**" and not 0 <= right <= 64) or (sign in ("<<", ">>") and not 0 <= right <= 63):
        raise NotKnown(f"{left} {sign} {right}")
    result = _OPERATIONS[sign](left, right)
    if abs(result) >= LARGEST:
        raise NotKnown(f"{left} {sign} {right}")
    return result


def _truncated(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: int(bool(a) or bool(b)),
    "&&": lambda a, b: int(bool(a) and bool(b)),
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    ">": lambda a, b: int(a > b),
    "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _truncated,
    "%": lambda a, b: a - b * _truncated(a, b),
    "**": lambda a, b: a**b,
}
