"""Rows of the vocabulary, and the shipped architecture that names of tokenizers and checkpoints tell."""

from typing import Any

from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading

_TOKENIZER_ROWS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}
"""Entries of the two tokenizers that have one vocabulary: GPT-2's BPE, Llama 2's SentencePiece (Mixtral's too)."""


def read_vocabulary(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    """`vocab_size`, where it is told."""
    size = flags.integer("vocab-size")
    padded = flags.integer("padded-vocab-size") if flags.given("padded-vocab-size") else None
    if size is None and padded is not None:
        size = padded
        reading.note(f"--padded-vocab-size {padded} is read as the vocabulary's size")
    if size is None:
        size = _by_tokenizer(flags, reading)
    if size is not None:
        fields["vocab_size"] = size


def _by_tokenizer(flags: Flags, reading: Reading) -> int | None:
    """Rows of the vocabulary where the tokenizer tells them; None where only its file would."""
    from moeopt.problem.loading import preset_fields

    values = {name: flags.values.get(name, ()) for name in ("tokenizer-type", "tokenizer-model")}
    known = {name: flags.unknowns.seen(value[0]) if value else None for name, value in values.items()}
    kind, path = known["tokenizer-type"] or "", known["tokenizer-model"] or ""
    if not kind and flags.given("merge-file"):
        kind = "GPT2BPETokenizer"
    preset = preset_named(path) if path else None
    if preset is not None:
        rows = int(preset_fields("architectures", preset)["vocab_size"])
        reading.note(f"--vocab-size is absent: {rows} by the tokenizer of {preset}, which --tokenizer-model names")
        return rows
    if kind in _TOKENIZER_ROWS:
        reading.note(f"--vocab-size is absent: {_TOKENIZER_ROWS[kind]} is assumed by --tokenizer-type {kind}")
        return _TOKENIZER_ROWS[kind]
    return None


def preset_named(path: str) -> str | None:
    """The shipped architecture whose name a path or repository name ends in (suffixes like -Instruct aside)."""
    from moeopt.problem.loading import presets

    name = path.rstrip("/").rpartition("/")[2].lower()
    matches = [
        preset for preset in presets("architectures") if name == preset or name.startswith((f"{preset}-", f"{preset}_"))
    ]
    return max(matches, key=len) if matches else None


def preset_by_name(flags: Flags, reading: Reading) -> None:
    """Set `reading.preset` where a checkpoint's or repository's name is that of a shipped architecture."""
    for flag in ("model", "hf-checkpoint", "hf-model-path", "load", "pretrained-checkpoint", "tokenizer-model"):
        values = flags.values.get(flag, ())
        known = flags.unknowns.seen(values[0]) if values else None
        preset = preset_named(known) if known else None
        if preset is not None:
            reading.preset = preset
            reading.note(f"--{flag} names {preset}: its dimensions are taken")
            return
