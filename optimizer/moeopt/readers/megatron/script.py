"""A Megatron-LM launch script or argument file: which command it would start, on how many GPUs, with which arguments.

Nothing is executed: see `moeopt.readers.shell`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from moeopt.errors import InputError
from moeopt.readers.deepspeed import translate
from moeopt.readers.flags import Flags, parse_flags
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.megatron.around import SWIFT_COMMANDS, set_by_slime, set_by_swift
from moeopt.readers.reading import Reading
from moeopt.readers.shell import Command, Opener, Script, interpret
from moeopt.readers.shell.values import clean

_PROGRAM = re.compile(r"(?:.*/)?[\w.-]+\.py")
_PARALLEL = ("tensor-model-parallel-size", "pipeline-model-parallel-size", "expert-model-parallel-size")
_DIMENSIONS = ("num-layers", "hidden-size", "num-attention-heads")
_OTHER_PROGRAMS = re.compile(
    r"(?:pretrain|train|finetune)_(bert|t5|ict|retro|vision|vlm|realm)\w*\.py|.*deepspeed_?moe.*"
)
_SBATCH = re.compile(r"^#SBATCH\s+(.*)$", re.MULTILINE)
_DIRECTIVES = {
    "nodes": r"(?:--nodes[= ]|-N[ =]?)(\d+)",
    "tasks": r"--ntasks-per-node[= ](\d+)",
    "gpus": r"--gpus-per-node[= ](?:[\w.-]+:)?(\d+)|--gres[= ]gpu:(?:[\w.-]+:)?(\d+)",
    "all": r"(?:--ntasks[= ]|-n[ =]?)(\d+)",
}


def read_script(
    text: str,
    where: str,
    arguments: Sequence[str] = (),
    given: Mapping[str, str] | None = None,
    *,
    beside: Callable[[str], Reading | None] = lambda _: None,
    opened: Opener = lambda _: None,
) -> Reading:
    """The reading of a script. Raises InputError for what cannot be told without running it.

    `beside` reads a configuration file that the training command names instead of arguments; `opened` opens a file
    that the script sources.
    """
    script = interpret(text, where, arguments, given, opened)
    reading = Reading("Megatron-LM launch script")
    command = _launch(script)
    named = None if command is not None else _configured(script, clean(text), beside)
    if named is not None:
        return named
    if command is None:
        flags = _arrays(script, where)
        reading.format = "Megatron-LM arguments"
        reading.note("the file starts no training command; its lists of arguments are read together")
    else:
        _refuse_other(command, script, where)
        flags = parse_flags(_after_program(command, script), script.unknowns)
        reading.gpus, reading.gpus_per_node = _gpus(command, script, clean(text), reading)
        if command.words[0].startswith("--"):
            reading.warn(
                f"line {command.line}",
                "arguments without a program: the shell runs the line before it without them",
                "end the line before it with a backslash",
            )
    for note in script.notes:
        reading.note(note)
    set_by_slime(flags, reading)
    if command is not None:
        _swift(command, script, flags, reading, where)
    if flags.on("deepspeed"):
        _deepspeed(flags, reading, beside, where)
    else:
        apply(flags, reading, where)
    return reading


def _deepspeed(flags: Flags, reading: Reading, beside: Callable[[str], Reading | None], where: str) -> None:
    """Megatron-DeepSpeed: its own names of arguments, and the JSON that they name."""
    reading.format = "Megatron-DeepSpeed launch script"
    named = flags.unknowns.shown("".join(flags.values.get("deepspeed-config", ())))
    configuration = beside(named) if named.endswith(".json") else None
    try:
        translate(flags)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    apply(flags, reading, where)
    if configuration is not None:
        flags.used.add("deepspeed-config")
        for name in ("overlap", "distributed_optimizer", "optimizer"):
            if name in configuration.layout:
                reading.layout[name] = configuration.layout[name]
        reading.understood += configuration.understood
        reading.warnings += configuration.warnings


def read_arguments(words: Sequence[str], where: str) -> Reading:
    """The reading of a plain list of arguments."""
    reading = Reading("Megatron-LM arguments")
    apply(parse_flags(words), reading, where)
    return reading


def _known(words: Sequence[str]) -> int:
    """How many of a command's words name what tells a Megatron run."""
    names = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in words if word.startswith("--")}
    return len(names & {*_PARALLEL, *_DIMENSIONS, "micro-batch-size", "global-batch-size", "seq-length", "num-experts"})


def _launch(script: Script) -> Command | None:
    """The command with the most arguments that are Megatron's, the last of them where several have as many."""
    best, most = None, 0
    for command in script.commands:
        first = (script.unknowns.seen(command.words[0]) or "").rpartition("/")[2]
        count = 0 if first in ("echo", "printf", "cat", "tee", "test") else _known(command.words)
        if count and count >= most:
            best, most = command, count
    return best


def _configured(script: Script, text: str, beside: Callable[[str], Reading | None]) -> Reading | None:
    """The configuration that a training command names, with the GPUs that the command starts it on."""
    for command in reversed(script.commands):
        words = [script.unknowns.shown(word) for word in command.words]
        if not any(
            word.rpartition("/")[2] in ("torchrun", "srun", "deepspeed") or "torch.distributed" in word
            for word in words
        ):
            continue
        for word in words:
            reading = beside(word.strip("\"'")) if word.endswith((".toml", ".yaml", ".yml", ".py")) else None
            if reading is not None:
                gpus, each = _gpus(command, script, text, reading)
                reading.gpus, reading.gpus_per_node = gpus or reading.gpus, each
                reading.note(f"read through {word.rpartition('/')[2]}, which the script's command names")
                return reading
    return None


def _arrays(script: Script, where: str) -> Flags:
    words: list[str] = []
    for value in script.variables.values():
        if isinstance(value, list):
            words += value
        elif value.lstrip().startswith("--"):
            words += value.split()
    if not _known(words):
        raise InputError(
            f"{where}: no command with Megatron's arguments is found (--num-layers, --tensor-model-parallel-size, ...)"
        )
    return parse_flags(words, script.unknowns)


def _refuse_other(command: Command, script: Script, where: str) -> None:
    for word in command.words:
        name = (script.unknowns.seen(word) or "").rpartition("/")[2]
        if _PROGRAM.fullmatch(name) and _OTHER_PROGRAMS.fullmatch(name):
            raise InputError(
                f"{where}: {name} trains no decoder-only transformer of the GPT kind; only those are priced"
            )
    words = [(script.unknowns.seen(word) or "").rpartition("/")[2] for word in command.words]
    if ("megatron", "export") in pairwise(words):
        raise InputError(f"{where}: megatron export trains nothing; only training is priced")


def _after_program(command: Command, script: Script) -> list[str]:
    """The program's own arguments: those behind its name, or all of them where no program is seen."""
    for index, word in enumerate(command.words):
        known = script.unknowns.seen(word) or ""
        if _PROGRAM.fullmatch(known.strip("\"'")) or _starts_swift(command, index, known):
            return list(command.words[index + 1 :])
    return list(command.words)


def _starts_swift(command: Command, index: int, word: str) -> bool:
    return word in SWIFT_COMMANDS and index > 0 and "megatron" in command.words[index - 1]


def _swift(command: Command, script: Script, flags: Flags, reading: Reading, where: str) -> None:
    """ms-swift's defaults, where a command starts it."""
    started = _of_swift(command, script)
    if started is None:
        return
    try:
        set_by_swift(flags, reading, started)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _of_swift(command: Command, script: Script) -> str | None:
    """What of ms-swift's a command starts, if anything."""
    words = [script.unknowns.seen(word) or "" for word in command.words]
    return next((word for index, word in enumerate(words) if _starts_swift(command, index, word)), None)


def _gpus(command: Command, script: Script, text: str, reading: Reading) -> tuple[int | None, int | None]:
    """GPUs in all and in one node: from torchrun's, DeepSpeed's or mpirun's arguments, else from Slurm's directives."""
    end = len(command.words) - len(_after_program(command, script))
    launcher = parse_flags(command.words[:end] or command.words, script.unknowns)
    slurm = _directives(text)
    per_node = _number(launcher, "nproc-per-node", "num-gpus", "actor-num-gpus-per-node")
    per_node = per_node or _environment(command, script, "NPROC_PER_NODE")
    nodes = _number(launcher, "nnodes", "num-nodes", "actor-num-nodes") or _environment(command, script, "NNODES")
    own = parse_flags(command.words, script.unknowns)
    per_node = per_node or _number(own, "actor-num-gpus-per-node", "num-gpus-per-node")
    nodes = nodes or _number(own, "actor-num-nodes")
    if per_node and nodes is None and not launcher.given("nnodes"):
        nodes = slurm.get("nodes", 1)
    if per_node is None:
        per_node = slurm.get("gpus") or slurm.get("tasks")
        nodes = nodes or slurm.get("nodes")
    if per_node is None and slurm.get("all"):
        return slurm["all"], None
    if per_node is None or nodes is None:
        reading.note("the file does not say on how many GPUs it runs (nodes * processes a node); --gpus does")
        return None, per_node
    reading.understand("GPUs", f"{nodes} * {per_node}", f"gpus {nodes * per_node}")
    return nodes * per_node, per_node


def _environment(command: Command, script: Script, name: str) -> int | None:
    """`NPROC_PER_NODE=8 megatron …`, as launchers around torchrun read it."""
    text = script.unknowns.seen(command.environment.get(name, ""))
    return int(text) if text and text.isdecimal() and len(text) < 6 else None


def _number(flags: Flags, *names: str) -> int | None:
    for name in names:
        values = flags.values.get(name, ())
        known = flags.unknowns.seen(values[0]) if values else None
        if known and known.isdecimal() and 0 < len(known) < 8 and int(known) > 0:
            return int(known)
    return None


def _directives(text: str) -> dict[str, int]:
    lines = " ".join(_SBATCH.findall(text))
    found: dict[str, int] = {}
    for name, pattern in _DIRECTIVES.items():
        match = re.search(rf"(?:^|\s)(?:{pattern})(?:\s|$)", f" {lines} ")
        if match:
            found[name] = int(next(group for group in match.groups() if group))
    return found
