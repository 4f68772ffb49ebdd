"""Programs around Megatron that set some of its arguments themselves, whatever a script leaves out."""

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading


def set_by_slime(flags: Flags, reading: Reading) -> None:
    """slime, known by its own arguments, sets two (slime/backends/megatron_utils/arguments.py, slime_validate_args)."""
    if not flags.given("actor-num-gpus-per-node"):
        return
    for name in ("use-distributed-optimizer", *(() if flags.on("fp16") else ("bf16",))):
        if not flags.on(name):
            flags.put(name)
            reading.note(f"--{name} is set by slime, which this script starts")


SWIFT_COMMANDS = ("sft", "pt", "rlhf")
"""What ms-swift's `megatron` starts."""
_SWIFT = {
    "use-distributed-optimizer": (),
    "moe-token-dispatcher-type": ("alltoall",),
    "moe-grouped-gemm": (),
    "expert-tensor-parallel-size": ("1",),
    "recompute-granularity": ("selective",),
    "recompute-modules": ("core_attn",),
    "cross-entropy-loss-fusion": (),
    "attention-backend": ("flash",),
    "micro-batch-size": ("1",),
    "global-batch-size": ("16",),
    "mtp-num-layers": ("0",),
    "muon-tp-mode": ("blockwise",),
}
"""Defaults of ms-swift that are not Megatron's (ms-swift 3602360, swift/megatron/arguments/megatron_args.py)."""


def set_by_swift(flags: Flags, reading: Reading, command: str) -> None:
    """ms-swift's `megatron sft`, `pt` and `rlhf`: its defaults in place of Megatron's. Raises InputError where only a
    part of the parameters is trained."""
    reading.format = "ms-swift launch script"
    _refuse_partial(flags)
    if not flags.on("fp16") and not flags.given("bf16"):
        flags.put("bf16")
        reading.note(
            "16-bit parameters are taken to be bf16, as the checkpoints of nearly all shipped architectures are"
        )
    applies = {"muon-tp-mode": _muon(flags), "recompute-modules": _selective(flags)}
    defaults = [name for name in _SWIFT if not flags.given(name) and applies.get(name, True)]
    for name in defaults:
        flags.put(name, *_SWIFT[name])
    shown = ", ".join(f"--{name.replace('-', '_')} {' '.join(_SWIFT[name]) or 'true'}" for name in defaults)
    if shown:
        reading.note(f"defaults of ms-swift: {shown}")
    if flags.values["recompute-granularity"] == ("none",):
        del flags.values["recompute-granularity"]
    if flags.on("sequence-parallel") and (flags.text("tensor-model-parallel-size") or "1") == "1":
        flags.values["sequence-parallel"] = ("false",)
        reading.note("--sequence_parallel is switched off by ms-swift where --tensor_model_parallel_size is 1")
    if command == "rlhf":
        reading.warn(
            "megatron rlhf",
            "a reference model and what is generated need memory and time that are not counted",
            "read the answer as that of supervised training with these batches",
        )


def _muon(flags: Flags) -> bool:
    return any("muon" in word for word in flags.values.get("optimizer", ()))


def _selective(flags: Flags) -> bool:
    return flags.values.get("recompute-granularity", ("selective",)) == ("selective",)


def _refuse_partial(flags: Flags) -> None:
    for name in ("tuner-type", "train-type"):
        kind = flags.text(name) if flags.given(name) else None
        if kind not in (None, "full"):
            raise InputError(f"{flags.spelled[name]}: {kind} trains adapters alone, which is not priced (full is)")
    for name in ("adapters", "mcore-adapter", "freeze-llm"):
        if flags.given(name) and flags.on(name):
            raise InputError(f"{flags.spelled[name]}: a run that trains a part of its parameters is not priced")
