"""Substitutions that only rearrange a path (`dirname`, `basename`, `cd X && pwd`, ...): their text over known words.

No folder is looked at: a link stays a link, and a relative path stays relative to where the script was named from.
"""

import posixpath
from collections.abc import Callable

from moeopt.readers.shell.syntax import AndOr, Block, Node, Simple

_HARMLESS = ("--", "-f", "-e", "-m", "-P", "-L")
"""Options that leave the text of the path as it is."""
Words = Callable[[Simple], list[str]]
"""The words of a command after expansion."""


def path_of(nodes: Block, words: Words) -> str | None:
    """What the commands would print, or None where they are something else."""
    parts: list[Node] = list(nodes)
    if len(nodes) == 1 and isinstance(nodes[0], AndOr) and all(sign in ("", "&&") for sign, _ in nodes[0].parts):
        parts = [part for _, part in nodes[0].parts]
    simple = [part for part in parts if isinstance(part, Simple)]
    if not simple or len(simple) < len(parts):
        return None
    commands = [words(part) for part in simple]
    return _entered(commands) if len(commands) > 1 else _rearranged(commands[0])


def _entered(commands: list[list[str]]) -> str | None:
    """`cd FOLDER && pwd`, `cd FOLDER; cd ..; pwd`."""
    *moves, last = ([word for word in command if word not in _HARMLESS] for command in commands)
    if last != ["pwd"] or not all(len(move) == 2 and move[0] == "cd" for move in moves):
        return None
    return posixpath.normpath(posixpath.join(*(move[1] for move in moves)))


def _rearranged(texts: list[str]) -> str | None:
    name, *operands = [text for text in texts if text not in _HARMLESS] or [""]
    if any(text.startswith("-") for text in operands):
        return None
    if name == "dirname" and len(operands) == 1:
        return posixpath.dirname(operands[0].rstrip("/")) or "."
    if name == "basename" and len(operands) in (1, 2):
        last = posixpath.basename(operands[0].rstrip("/"))
        return last.removesuffix(operands[1]) if len(operands) == 2 else last
    if name in ("realpath", "readlink") and len(operands) == 1:
        return posixpath.normpath(operands[0])
    return None
