"""Command substitutions: never run. One that only reads leaves an unknown value; any other refuses the file."""

import re

from moeopt.errors import InputError
from moeopt.readers.shell.syntax import AndOr, Block, Group, Node, Parser, Pipe, Simple
from moeopt.readers.shell.tokens import Lexer, closing

_READS = frozenset(
    [
        "[",
        "awk",
        "basename",
        "cat",
        "cd",
        "cut",
        "date",
        "dirname",
        "echo",
        "env",
        "expr",
        "false",
        "find",
        "getent",
        "git",
        "grep",
        "head",
        "hostid",
        "hostname",
        "ibstat",
        "id",
        "ifconfig",
        "ip",
        "jq",
        "ls",
        "lsb_release",
        "lscpu",
        "md5sum",
        "mktemp",
        "nproc",
        "nvcc",
        "nvidia-smi",
        "printf",
        "ps",
        "pwd",
        "readlink",
        "realpath",
        "rocm-smi",
        "sacct",
        "scontrol",
        "sed",
        "seq",
        "sha256sum",
        "shuf",
        "sinfo",
        "sort",
        "squeue",
        "tail",
        "test",
        "tr",
        "true",
        "ulimit",
        "uname",
        "uniq",
        "wc",
        "which",
        "whoami",
        "yq",
    ]
)
"""Programs that such substitutions are made of: they look something up."""
_SUBCOMMANDS = {
    "apt": ("list", "show"),
    "command": ("-v", "-V"),
    "git": ("rev-parse", "log", "describe", "version"),
    "pip": ("list", "show", "freeze"),
    "pip3": ("list", "show", "freeze"),
}
"""Programs that only read where their next word is one of these."""
_DEVICE_COUNT = re.compile(r"\s*import torch\s*;\s*print\(\s*torch\.cuda\.device_count\(\)\s*\)\s*")
_HARMLESS_TARGETS = re.compile(r"(?:\d?>>?|&>)\s*(?:/dev/null|&\d)")


def reason(command: str, where: str, line: int) -> str:
    """Why the value is not known. Raises InputError where the command does more than read."""
    shown = " ".join(command.split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    if not _only_reads(command, where, line, 0):
        raise InputError(
            f"{where}, line {line}: the command substitution $({shown}) is refused: it is not run, and it is not one "
            "that only looks something up"
        )
    return f"the command $({shown}) on line {line} is not run"


def _only_reads(command: str, where: str, line: int, depth: int) -> bool:
    if depth > 8 or re.search(r"[<>]\(", command):
        return False
    if ">" in re.sub(r"'[^']*'|\"[^\"]*\"", "", _HARMLESS_TARGETS.sub("", command)):
        return False
    nodes = Parser(Lexer(command, where).all(), where).script()
    return all(_node_reads(node, where, line, depth) for node in nodes)


def _node_reads(node: Node, where: str, line: int, depth: int) -> bool:
    if isinstance(node, AndOr):
        return all(_node_reads(part, where, line, depth) for _, part in node.parts)
    if isinstance(node, Pipe):
        return all(_node_reads(part, where, line, depth) for part in node.parts)
    if isinstance(node, Group):
        body: Block = node.body
        return all(_node_reads(part, where, line, depth) for part in body)
    if not isinstance(node, Simple):
        return False
    words = [token.text for token in node.words]
    while words and re.match(r"[A-Za-z_]\w*\+?=", words[0]):
        if not _inner_read(words[0], where, line, depth):
            return False
        words.pop(0)
    if not words:
        return True
    if not all(_inner_read(word, where, line, depth) for word in words):
        return False
    return _program_reads(words)


def _program_reads(words: list[str]) -> bool:
    name = words[0].rpartition("/")[2]
    if name in ("python", "python3") and len(words) == 3 and words[1] == "-c":
        return _DEVICE_COUNT.fullmatch(words[2].strip("\"'")) is not None
    if name == "find" and any(word.startswith(("-exec", "-delete", "-ok", "-fprint", "-fls")) for word in words):
        return False
    if name == "sed" and any(word.startswith(("-i", "--in-place")) for word in words):
        return False
    if name in ("awk", "sed") and any("system" in word or "|" in word or "getline" in word for word in words):
        return False
    if name == "yq" and any(word.startswith(("-i", "--inplace")) for word in words):
        return False
    if name == "env":
        return len(words) == 1
    if name in _SUBCOMMANDS:
        return len(words) > 1 and words[1] in _SUBCOMMANDS[name]
    return name in _READS


def _inner_read(word: str, where: str, line: int, depth: int) -> bool:
    """Substitutions inside a substitution's words."""
    for inner in re.findall(r"`([^`]*)`", word):
        if not _only_reads(inner, where, line, depth + 1):
            return False
    if word.count("`") % 2 or "\\`" in word:
        return False
    at = 0
    while (at := word.find("$(", at)) >= 0:
        if word.startswith("$((", at):
            at += 3
            continue
        end = closing(word, at + 1, "(", ")", where, line)
        if not _only_reads(word[at + 2 : end - 1], where, line, depth + 1):
            return False
        at = end
    return True
