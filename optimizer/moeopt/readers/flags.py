"""Command-line arguments as names and values, known ones with their number of values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from moeopt.errors import InputError
from moeopt.readers.reading import integer, placeholder_hint, short
from moeopt.readers.shell.values import Unknowns

_NAME = re.compile(r"--?[A-Za-z][\w.-]*")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass
class Flags:
    """Arguments by name (dashes, no leading ones); a name given twice has its last value, as argparse has it."""

    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unknowns: Unknowns = field(default_factory=Unknowns)
    used: set[str] = field(default_factory=set)
    spelled: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def put(self, name: str, *values: str, spelled: str = "") -> None:
        """Give one argument."""
        if name in self.values and self.values[name] != values:
            self.repeated.append(name)
        self.values[name] = values
        self.spelled[name] = spelled or f"--{name}"

    def given(self, name: str) -> bool:
        """Whether an argument is there."""
        return name in self.values

    def on(self, name: str) -> bool:
        """A switch: given, and not with `false` behind it."""
        if name not in self.values:
            return False
        self.used.add(name)
        value = [text for text in map(self.unknowns.seen, self.values[name]) if text]
        return not (value and value[0].lower() in _FALSE)

    def words(self, name: str) -> list[str]:
        """The values of an argument. Raises InputError where one of them is not known."""
        self.used.add(name)
        words: list[str] = []
        for value in self.values.get(name, ()):
            known = self.unknowns.seen(value)
            if known is None:
                self._unresolved(name, value)
            elif "${" in known:
                raise InputError(f"{self.spelled[name]}: the value {known} is not known{placeholder_hint(known)}")
            elif known:
                words.extend(known.strip("'\"").split() if " " in known else [known.strip("'\"")])
        if name in self.values and not words:
            self._unresolved(name, "".join(self.values[name]))
        return words

    def text(self, name: str) -> str | None:
        """The one value of an argument, None where it is absent."""
        words = self.words(name)
        return words[0] if words else None

    def joined(self, name: str) -> str | None:
        """All values of an argument as one text without spaces: lists that a shell split."""
        words = self.words(name)
        return "".join(words) if words else None

    def integer(self, name: str) -> int | None:
        """A whole number, None where it is absent."""
        text = self.text(name)
        return None if text is None else integer(text, self.spelled[name])

    def shown(self, name: str) -> str:
        """The values as they stand in the file."""
        return short(" ".join(self.unknowns.shown(value) for value in self.values[name]))

    def _unresolved(self, name: str, value: str) -> None:
        spelled = self.spelled.get(name, f"--{name}")
        marks = self.unknowns.within(value)
        if not marks:
            raise InputError(f"{spelled}: the value is missing")
        how = (
            "give it with --set NAME=VALUE, or the script's own arguments with --arguments"
            if marks[0].empty
            else ("the script is not run, so it must be written out")
        )
        raise InputError(f"{spelled}: the value {marks[0].text} is not known: {marks[0].reason}; {how}")


def parse_flags(words: Sequence[str], unknowns: Unknowns | None = None) -> Flags:
    """Arguments from the words of a command; what stands before the first `--name` is skipped.

    A name may be spelled with underscores, or with `=` before its value. A switch has no values; words behind it that
    are no name belong to it (`--bf16 true`) and are judged where it is read.
    """
    flags = Flags(unknowns=unknowns or Unknowns())
    name, values = "", list[str]()
    spelled = ""
    for word in words:
        head, sign, value = word.partition("=")
        if head.startswith("--") and _NAME.fullmatch(head):
            _put(flags, name, values, spelled)
            name, values, spelled = head[2:].replace("_", "-"), [value] if sign else [], head
        elif word.startswith("--") and " " in word and _NAME.fullmatch(word.split()[0]):
            _put(flags, name, values, spelled)
            inner = word.split()
            name, values, spelled = inner[0][2:].replace("_", "-"), inner[1:], inner[0]
        else:
            values.append(word)
    _put(flags, name, values, spelled)
    return flags


def _put(flags: Flags, name: str, values: list[str], spelled: str) -> None:
    if name:
        flags.put(name, *values, spelled=spelled)
