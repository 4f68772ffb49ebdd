"""Megatron-LM's arguments -> a Workload's fields.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:1099-1101 (one narrow format), transformer_config.py:2014.
"""

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.problem.formats import FORMATS, Precision
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading


def read_workload(flags: Flags, reading: Reading) -> None:
    """Fill `reading.workload`; the layout's degrees and micro-batch are there already. Raises InputError."""
    workload, layout = reading.workload, reading.layout
    length = flags.integer("seq-length") or flags.integer("max-length") or flags.integer("encoder-seq-length")
    if length is not None:
        workload["sequence_length"] = length
    batch = flags.integer("global-batch-size")
    if batch is not None:
        workload["global_batch_size"] = batch
    elif reading.gpus is not None:
        replicas = reading.gpus // (layout["tp"] * layout["pp"] * layout["cp"]) or 1
        workload["global_batch_size"] = replicas * layout["micro_batch_size"]
        reading.warn(
            "--global-batch-size",
            f"absent: micro_batch_size {layout['micro_batch_size']} * dp {replicas} = {workload['global_batch_size']}",
            "write it",
        )
    workload["precision"] = _precision(flags, reading)
    workload["cross_entropy"] = _cross_entropy(flags)
    workload["attention_backend"] = "unfused" if flags.text("attention-backend") in ("unfused", "local") else "fused"
    divisor = flags.integer("make-vocab-size-divisible-by")
    workload["make_vocab_size_divisible_by"] = divisor or 128
    capacity = flags.text("moe-expert-capacity-factor")
    if capacity is not None:
        try:
            workload["routing"] = {"capacity_factor": float(capacity)}
        except ValueError:
            raise InputError(f"--moe-expert-capacity-factor: {capacity!r} is not a number") from None


def _precision(flags: Flags, reading: Reading) -> Precision:
    found = _format(flags, reading)
    if found == "fp8" and flags.on("fp8-param-gather"):
        reading.workload["fp8_param_gather"] = True
    gather = f"{FORMATS[found].peak}-param-gather"
    if FORMATS[found].keeps_parameters and not flags.on(gather):
        reading.warn(
            f"--{gather}",
            "not given: Megatron then keeps 16-bit parameters beside the quantised ones; priced without them, 2 bytes "
            "an element of the linears less",
            f"add --{gather}",
        )
    return found


def _format(flags: Flags, reading: Reading) -> Precision:
    eight, four = flags.given("fp8-format") or flags.given("fp8"), flags.given("fp4-format")
    recipe, packed = flags.text("fp8-recipe"), flags.text("fp4-recipe")
    for name in ("fp8-format", "fp8", "fp4-format"):
        if flags.given(name):
            flags.used.add(name)
    half, brain = flags.on("fp16"), flags.on("bf16")
    if four and eight:
        raise InputError("--fp4-format and --fp8-format: Megatron takes one of them (arguments.py:1099-1101)")
    if four:
        if packed not in (None, "nvfp4"):
            raise InputError(f"--fp4-recipe: {shown(packed)} is not priced (known: nvfp4)")
        return "nvfp4"
    if eight:
        return "mxfp8" if recipe == "mxfp8" else "fp8"
    if not half and not brain:
        reading.warn(
            "--bf16",
            "neither --bf16 nor --fp16: Megatron then trains in fp32, which is not priced; read as bf16",
            "add --bf16",
        )
    return "fp16" if half and not brain else "bf16"


def _cross_entropy(flags: Flags) -> str:
    implementation = flags.text("cross-entropy-fusion-impl") or "native"
    if not flags.on("cross-entropy-loss-fusion"):
        return "unfused"
    return "te" if implementation == "te" else "native"
