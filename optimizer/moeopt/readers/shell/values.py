"""Values that a script does not tell: marks inside strings, so that they travel through concatenation and splitting."""

import re
from dataclasses import dataclass, field

OPEN, CLOSE = "\ue000", "\ue001"
"""Private-use characters; the text of a script is cleared of them before it is read."""
_MARK = re.compile(f"{OPEN}(\\d+){CLOSE}")
LONGEST = 2**18
"""Characters of one value: far above any command line, far below what would exhaust memory."""


@dataclass(frozen=True)
class Unknown:
    """Why a value is not known; `empty` where a shell would see an empty string (a variable that is never set)."""

    text: str
    reason: str
    empty: bool = False


@dataclass
class Unknowns:
    """All marks of one script."""

    entries: list[Unknown] = field(default_factory=list)

    def mark(self, text: str, reason: str, empty: bool = False) -> str:
        """A new mark, to stand where the value would."""
        self.entries.append(Unknown(text, reason, empty))
        return f"{OPEN}{len(self.entries) - 1}{CLOSE}"

    def within(self, text: str) -> list[Unknown]:
        """The marks inside a string, those that a shell would see as empty included."""
        return [self.entries[int(number)] for number in _MARK.findall(text)]

    def seen(self, text: str) -> str | None:
        """The string as a shell would see it; None where that is not known."""
        if any(not unknown.empty for unknown in self.within(text)):
            return None
        return _MARK.sub("", text)

    def shown(self, text: str) -> str:
        """The string with each mark as it stands in the script."""
        return _MARK.sub(lambda match: self.entries[int(match[1])].text, text)


def clean(text: str) -> str:
    """A script's text without the characters that marks are made of."""
    return text.replace(OPEN, "?").replace(CLOSE, "?").replace("\r\n", "\n")
