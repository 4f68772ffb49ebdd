"""Megatron-LM's arguments -> a Layout's fields, with Megatron's own defaults, not moeopt's.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:587-588 (etp follows tp), 607-641 (old recompute and CUDA
graph names), transformer_config.py:891 (allgather), 1901-1941 (recompute), 1743-1811.
"""

from typing import Any

from moeopt.accounting.time.muon import STEPS
from moeopt.errors import InputError
from moeopt.layout import FLEX_DISPATCHERS, RECOMPUTE_MODULES
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.pipeline import read_pipeline
from moeopt.readers.megatron.sharding import read_sharding
from moeopt.readers.megatron.workload import read_workload
from moeopt.readers.reading import Reading

_OPTIONAL_DEGREES = {
    "tensor-model-parallel-size": "tp",
    "pipeline-model-parallel-size": "pp",
    "context-parallel-size": "cp",
    "expert-model-parallel-size": "ep",
}


def read_layout(flags: Flags, reading: Reading) -> None:
    """Fill `reading.layout` and `reading.workload`. Raises InputError."""
    layout = reading.layout
    for name, field in _OPTIONAL_DEGREES.items():
        value = flags.integer(name)
        layout[field] = 1 if value is None else value
    experts = bool(reading.architecture.get("num_experts")) or reading.preset is not None or layout["ep"] > 1
    _expert_tensor_parallel(flags, reading, experts)
    micro = flags.integer("micro-batch-size")
    if micro is None:
        reading.warn("--micro-batch-size", "absent: Megatron refuses to start; read as 1", "write --micro-batch-size 1")
    layout["micro_batch_size"] = micro or 1
    layout["sequence_parallel"] = flags.on("sequence-parallel") or layout["tp"] == 1  # without effect there
    if layout["tp"] > 1 and experts and not layout["sequence_parallel"]:
        reading.warn(
            "--sequence-parallel",
            "absent: MoE layers with tensor parallelism fail in training",
            "add --sequence-parallel",
        )
    read_workload(flags, reading)
    read_pipeline(flags, reading)
    layout["recompute"] = _recompute(flags, reading)
    _optimizer(flags, reading)
    layout["dispatcher"] = _dispatcher(flags, reading, experts)
    layout["dispatcher_sms"] = _dispatcher_sms(flags, layout["dispatcher"])
    layout["overlap"] = {
        "grad_reduce": flags.on("overlap-grad-reduce"),
        "param_gather": flags.on("overlap-param-gather"),
        "ep_all_to_all": flags.on("overlap-moe-expert-parallel-comm"),
        "delay_wgrad": flags.on("delay-wgrad-compute"),
        "tp_comm": flags.on("tp-comm-overlap"),
    }
    layout["cuda_graphs"] = _cuda_graphs(flags, reading, experts)
    read_sharding(flags, reading)


def _expert_tensor_parallel(flags: Flags, reading: Reading, experts: bool) -> None:
    tp = reading.layout["tp"]
    etp = flags.integer("expert-tensor-parallel-size")
    if etp not in (None, 1, tp) and not experts and reading.architecture:
        reading.note(f"--expert-tensor-parallel-size {etp} has no effect: there are no experts; read as absent")
        etp = None
    reading.layout["etp"] = tp if etp is None else etp
    if etp is None and tp > 1 and experts:
        reading.warn(
            "--expert-tensor-parallel-size",
            f"absent: it follows --tensor-model-parallel-size {tp}, so an expert is cut into {tp} parts",
            f"write --expert-tensor-parallel-size 1 (or {tp}, where that is meant)",
        )


def _recompute(flags: Flags, reading: Reading) -> dict[str, Any]:
    granularity = flags.text("recompute-granularity")
    modules = flags.words("recompute-modules")
    if flags.on("recompute-activations"):
        reading.warn(
            "--recompute-activations",
            "it stands for selective recompute" + ("" if modules else " of core_attn alone"),
            "write --recompute-granularity selective and --recompute-modules",
        )
        granularity, modules = "selective", modules or ["core_attn"]
    if flags.on("moe-layer-recompute"):
        reading.warn(
            "--moe-layer-recompute", "renamed", "write --recompute-granularity selective --recompute-modules moe"
        )
        granularity, modules = granularity or "selective", [*modules, "moe"]
    method, layers = flags.text("recompute-method"), flags.integer("recompute-num-layers")
    if granularity is None:
        if method or modules:
            reading.warn(
                "--recompute-granularity",
                "absent: nothing is recomputed",
                "add --recompute-granularity selective or full",
            )
        return {"granularity": "none"}
    if granularity == "full":
        if method is None or layers is None:
            reading.warn(
                "--recompute-granularity full",
                "needs --recompute-method and --recompute-num-layers",
                "write --recompute-method uniform --recompute-num-layers 1",
            )
        return {"granularity": "full", "method": method or "uniform", "num_layers": layers or 1}
    if granularity != "selective":
        raise InputError(f"--recompute-granularity: {granularity!r} is neither selective nor full")
    if not modules:
        modules = ["core_attn"]
        reading.warn("--recompute-modules", "absent: selective means core_attn alone", "name the modules")
    unknown = [module for module in modules if module not in RECOMPUTE_MODULES]
    if unknown:
        raise InputError(f"--recompute-modules: {unknown[0]!r} is not priced (known: {', '.join(RECOMPUTE_MODULES)})")
    return {"granularity": "selective", "modules": sorted(set(modules))}


def _optimizer(flags: Flags, reading: Reading) -> None:
    layout = reading.layout
    layout["distributed_optimizer"] = flags.on("use-distributed-optimizer")
    _kind_of_optimizer(flags, reading)
    aware = flags.on("use-precision-aware-optimizer")
    moments = [flags.text(name) or "fp32" for name in ("exp-avg-dtype", "exp-avg-sq-dtype")]
    if moments[0] != moments[1]:
        reading.note(f"the two moments have types {moments[0]} and {moments[1]}; the wider one is priced for both")
    order = ("fp32", "bf16", "fp8")
    for name, value in zip(("--exp-avg-dtype", "--exp-avg-sq-dtype"), moments, strict=True):
        if value not in order:
            raise InputError(f"{name}: {value!r} is not priced (known: {', '.join(order)})")
    grads = flags.text("main-grads-dtype") or "fp32"
    whole = flags.on("accumulate-allreduce-grads-in-fp32")
    half = reading.workload.get("precision") == "fp16"
    if (not whole) if half else flags.on("grad-reduce-in-bf16"):  # fp16 gradients follow the parameters (:1193-1217)
        grads = "bf16"
    offload = 0.0
    if flags.on("optimizer-cpu-offload"):
        text = flags.text("optimizer-offload-fraction") or "1.0"
        try:
            offload = float(text)
        except ValueError:
            raise InputError(f"--optimizer-offload-fraction: {text!r} is not a number") from None
    layout["optimizer"] = {
        "moments": min(moments, key=order.index),
        "main_params": "fp16" if flags.text("main-params-dtype") == "fp16" else "fp32",
        "main_grads": grads,
        "precision_aware": aware,
        "offload_fraction": offload,
        "instances": flags.integer("num-distributed-optimizer-instances") or 1,
    }


def _kind_of_optimizer(flags: Flags, reading: Reading) -> None:
    """Adam or Muon. dist_muon is Muon with a layer-wise optimizer (arguments.py:1724-1737, and Megatron-Bridge's)."""
    kind = flags.text("optimizer") or "adam"
    if kind not in ("muon", "dist_muon"):
        if kind not in ("adam", "dist_adam"):
            reading.warn("--optimizer", f"{kind} is read as adam: only its state is priced", "know that memory differs")
        return
    reading.workload["optimizer"] = "muon"
    if kind == "dist_muon":
        reading.layout["distributed_optimizer"] = True
    elif reading.layout["distributed_optimizer"] and not flags.on("no-use-layer-wise-param-layout"):
        reading.warn(
            "--no-use-layer-wise-param-layout",
            "absent: buckets of matrices are padded to the ranks times the largest of them; priced without that",
            "add it where there are more ranks than matrices of one size",
        )
    steps, mode = flags.integer("muon-num-ns-steps"), flags.text("muon-tp-mode")
    if steps not in (None, STEPS):
        reading.note(f"--muon-num-ns-steps {steps}: an update is priced with {STEPS}")
    if mode == "blockwise":
        reading.workload["muon_tp_mode"] = mode
    elif mode not in (None, "duplicated"):
        reading.note(f"--muon-tp-mode {mode}: an update is priced as duplicated")


def _dispatcher(flags: Flags, reading: Reading, experts: bool) -> str:
    kind = flags.text("moe-token-dispatcher-type")
    backend = flags.text("moe-flex-dispatcher-backend") or "deepep"
    if flags.on("moe-enable-deepep"):
        reading.warn(
            "--moe-enable-deepep",
            "renamed",
            "write --moe-token-dispatcher-type flex --moe-flex-dispatcher-backend deepep",
        )
        return "deepep"
    if kind is None:
        if experts:
            reading.warn(
                "--moe-token-dispatcher-type",
                "absent: the default is allgather, which sends every token everywhere",
                "write --moe-token-dispatcher-type alltoall",
            )
        return "allgather" if experts else "alltoall"
    if kind == "flex":
        if backend not in FLEX_DISPATCHERS:
            known = ", ".join(FLEX_DISPATCHERS)
            raise InputError(f"--moe-flex-dispatcher-backend: {backend!r} is not priced (known: {known})")
        return backend
    if kind == "alltoall_seq":
        reading.warn(
            "--moe-token-dispatcher-type", "alltoall_seq is gone from Megatron-Core; read as alltoall", "write alltoall"
        )
        return "alltoall"
    if kind not in ("alltoall", "allgather"):
        raise InputError(f"--moe-token-dispatcher-type: {kind!r} is unknown (known: alltoall, allgather, flex)")
    return kind


def _dispatcher_sms(flags: Flags, dispatcher: str) -> int | None:
    """SMs of the flex dispatchers: the newer name goes first, and those of one backend count for the other too
    (transformer_config.py:1792-1811)."""
    if dispatcher not in FLEX_DISPATCHERS:
        return None
    newer, *older = (flags.integer(f"moe-{name}-num-sms") for name in ("flex-dispatcher", *FLEX_DISPATCHERS))
    found = list(dict.fromkeys(sms for sms in older if sms is not None))
    if newer is None and len(found) > 1:
        raise InputError(f"--moe-hybridep-num-sms: {found[1]} beside --moe-deepep-num-sms {found[0]}: Megatron refuses")
    return newer if newer is not None else next(iter(found), None)


def _cuda_graphs(flags: Flags, reading: Reading, experts: bool) -> str:
    implementation = flags.text("cuda-graph-impl") or "none"
    old = next((name for name in ("enable-cuda-graph", "external-cuda-graph") if flags.on(name)), None)
    if old is not None:
        implementation = "local" if old == "enable-cuda-graph" else "transformer_engine"
        reading.warn(f"--{old}", "renamed", f"write --cuda-graph-impl {implementation}")
    modules = flags.words("cuda-graph-modules")
    if flags.given("cuda-graph-scope"):
        modules = flags.words("cuda-graph-scope")
        reading.warn("--cuda-graph-scope", "renamed", "write --cuda-graph-modules")
    if implementation == "none":
        return "none"
    if implementation == "full_iteration" or "full_iteration" in modules:
        return "full_iteration"
    if modules and "attn" not in modules:
        return "router"
    routed = experts and "moe" not in reading.layout["recompute"].get("modules", ())  # beside it none is captured
    if modules and routed and "moe_router" not in modules:
        reading.warn(
            "--cuda-graph-modules",
            "attn without moe_router: priced as if routers were captured too, so host time is some per cent low",
            "add moe_router moe_preprocess",
        )
    return "attention"
