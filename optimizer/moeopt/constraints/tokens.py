"""Characters to tokens: numbers with their units, words, quoted words, signs; anything else is refused there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moeopt.errors import InputError
from moeopt.problem.base import shown

LONGEST = 2000
"""Characters of one constraint."""
MOST_TOKENS = 400
_UNITS = "(?i:KiB|MiB|GiB|TiB|KB|MB|GB|TB|B)|ns|us|µs|ms|min|s|h"
_PATTERN = re.compile(
    rf"(?P<space>\s+)"
    rf"|(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>(?:{_UNITS})(?![A-Za-z0-9_]))?"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)"
    r"|(?P<quoted>'[^'\"]*'|\"[^'\"]*\")"
    r"|(?P<sign>//|<=|>=|==|!=|[-+*%<>=()\[\],])"
)
_HINTS = {
    "/": "'/' need not be a whole number; write // (rounded down) or multiply the other side",
    "&": "write and",
    "|": "write or",
    "!": "write not, or != between two values",
}


@dataclass(frozen=True)
class Token:
    """One token and the column (from 1) at which it starts; `end` stands after the last."""

    kind: Literal["number", "word", "quoted", "sign", "end"]
    text: str
    column: int
    unit: str = ""


def refusal(text: str, column: int, why: str) -> InputError:
    """One sentence: the constraint, where in it, and what is wrong."""
    return InputError(f"constraint {shown(text)}, column {column}: {why}")


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a constraint, and one `end`. Raises InputError."""
    if len(text) > LONGEST:
        raise refusal(text, LONGEST + 1, f"longer than {LONGEST} characters")
    position = 0
    while position < len(text):
        match = _PATTERN.match(text, position)
        if match is None or text.startswith("**", position):
            letter = text[position]
            raise refusal(text, position + 1, _HINTS.get(letter, f"{letter!r} is not part of a constraint"))
        if match["number"]:
            yield Token("number", match["number"], position + 1, match["unit"] or "")
        elif match["word"]:
            yield Token("word", match["word"], position + 1)
        elif match["quoted"]:
            yield Token("quoted", match["quoted"][1:-1], position + 1)
        elif match["sign"]:
            yield Token("sign", match["sign"], position + 1)
        position = match.end()
    yield Token("end", "", len(text) + 1)
