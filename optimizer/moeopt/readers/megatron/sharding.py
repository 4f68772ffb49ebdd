"""Megatron-FSDP and fine-grained activation offloading -> a Layout's `fsdp` and `offload`.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:1118-1190, 3180-3215, 3686-3698 (Megatron-FSDP),
megatron/core/transformer/transformer_config.py:1323-1345 and 2127-2195 (offloading).
"""

from typing import get_args

from moeopt.errors import InputError
from moeopt.layout import OffloadModule, Sharding
from moeopt.readers.flags import Flags
from moeopt.readers.reading import Reading


def read_sharding(flags: Flags, reading: Reading) -> None:
    """Fill `fsdp`, `offload` and the types that Megatron-FSDP's own options set. Raises InputError."""
    if flags.on("use-megatron-fsdp"):
        _fsdp(flags, reading)
    elif flags.given("data-parallel-sharding-strategy"):
        reading.warn(
            "--data-parallel-sharding-strategy", "without effect: --use-megatron-fsdp is absent", "add it, or drop both"
        )
    _offload(flags, reading)


def _fsdp(flags: Flags, reading: Reading) -> None:
    layout = reading.layout
    if (flags.integer("megatron-fsdp-version") or 1) != 1:
        raise InputError("--megatron-fsdp-version: version 2 (a prototype without tp, pp and cp) is not priced")
    strategy = flags.text("data-parallel-sharding-strategy") or "optim_grads_params"
    if strategy not in get_args(Sharding) or strategy == "none":
        raise InputError(f"--data-parallel-sharding-strategy: {strategy!r} is unknown")
    if not layout["distributed_optimizer"]:
        reading.warn(
            "--use-megatron-fsdp", "turns --use-distributed-optimizer on", "write --use-distributed-optimizer too"
        )
    layout["fsdp"], layout["distributed_optimizer"] = strategy, True
    # User buffers switch double buffers on (arguments.py:1172-1177).
    if any([flags.on("use-nccl-ub"), flags.on("fsdp-double-buffer")]):
        layout["fsdp_double_buffer"] = True
    half = "fp16" if reading.workload.get("precision") == "fp16" else "bf16"
    main = flags.text("megatron-fsdp-main-params-dtype") or "fp32"
    grads = flags.text("megatron-fsdp-main-grads-dtype") or "auto"
    grads = half if grads == "auto" else grads
    layout["optimizer"]["main_params"] = "fp16" if main == "fp16" else "fp32"
    layout["optimizer"]["main_grads"] = "fp32" if grads == "fp32" else "bf16"
    if main not in ("fp32", "fp16"):
        reading.note(f"--megatron-fsdp-main-params-dtype {main}: main parameters are priced in fp32")
    if strategy in ("optim_grads", "optim_grads_params"):
        layout["overlap"]["grad_reduce"] = True
    if strategy == "optim_grads_params":
        layout["overlap"]["param_gather"] = True


def _offload(flags: Flags, reading: Reading) -> None:
    modules = flags.words("offload-modules")
    if not flags.on("fine-grained-activation-offloading"):
        if modules:
            reading.warn(
                "--offload-modules",
                "without effect: --fine-grained-activation-offloading is absent",
                "add it, or drop both",
            )
        return
    known = get_args(OffloadModule)
    for module in modules:
        if module not in known:
            raise InputError(f"--offload-modules: {module!r} is not priced (known: {', '.join(known)})")
    if not modules:
        reading.warn(
            "--fine-grained-activation-offloading",
            "names no modules: Megatron refuses to start",
            f"write --offload-modules and some of {' '.join(known)}",
        )
    reading.layout["offload"] = sorted(set(modules))
