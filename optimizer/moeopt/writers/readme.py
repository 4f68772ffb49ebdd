"""README.md of an output folder: what was decided and why, with the numbers that decided it."""

from collections.abc import Sequence
from types import ModuleType

from moeopt.units import format_bytes, format_ns
from moeopt.writers.job import Job
from moeopt.writers.script import Payload
from moeopt.writers.shell import comment
from moeopt.writers.smoke import Smoke


def readme(job: Job, payload: Payload, launcher: ModuleType, scaled: Smoke, names: Sequence[str]) -> str:
    """The whole page, in Markdown."""
    parts = [
        f"# {_cell(job.problem.architecture.name)} on {job.gpus} GPUs with {payload.framework}",
        f"Written by moeopt from a solution ({_cell(job.proof)}); solution.json beside this file is that solution. "
        f"{job.nodes} nodes of {job.gpus_per_node} {_cell(job.problem.cluster.gpu)}.",
        "## Start it",
        str(launcher.USE).strip(),
        "First `./smoke.sh` on one node: the same combination of decisions, scaled down (see below).",
        "## GPUs",
        "Two grids over the same GPUs share only pp:\n\n"
        + "\n".join(f"    {line}" for line in job.answer["gpus"]["equations"]),
        "## Decisions",
        _table(["decision", "value", "why"], _decisions(job)),
        "## Memory of one GPU, by pipeline stage",
        _memory(job),
        "## Predicted step time",
        _time(job),
        "## Environment",
        _table(["variable", "value", "why"], [[n, v, w] for n, (v, w) in payload.environment.items()]),
        "## Smoke run",
        _smoke(scaled),
        "## Notes",
        "\n".join(f"- {note}" for note in [*payload.notes, *_assumptions(job)]),
        "## Files",
        "\n".join(f"- {name}" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(text: object) -> str:
    """Text that stays inside its table cell or line, whatever it holds."""
    safe = comment(str(text))
    for letter in "\\`|<>[]*_#":
        safe = safe.replace(letter, f"\\{letter}" if letter not in "<>" else {"<": "&lt;", ">": "&gt;"}[letter])
    return safe


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows])


def _decisions(job: Job) -> list[list[object]]:
    layout, workload = job.layout, job.problem.workload
    tokens = workload.batch * workload.sequence_length
    rows: list[list[object]] = [
        ["tp", layout.tp, _splits(layout.tp, "attention, dense blocks, shared experts and vocabulary")],
        ["pp", layout.pp, f"stages; the bubble is {_share(job, 'pipeline_bubble')} of the step"],
        ["cp", layout.cp, _splits(layout.cp, f"sequences of {workload.sequence_length} tokens")],
        ["dp", layout.dp, "follows from the first equation"],
        ["ep", layout.ep, _experts(job)],
        ["etp", layout.etp, "given explicitly: Megatron's default is tp, which multiplies the expert grid"],
        ["edp", layout.edp, "follows from the second equation: copies of each expert"],
        ["vpp", layout.vpp, "chunks a stage: more of them shrink the bubble and add hops and activations"],
        ["pipeline layout", job.pipeline, "layers, MTP (m), embedding (E) and loss (L) of every stage"],
        ["micro-batch", layout.micro_batch_size, f"{layout.num_microbatches} micro-batches a step ({tokens} tokens)"],
        ["recompute", layout.recompute, f"costs {_share(job, 'recompute')} of the step, saves activations"],
        ["distributed optimizer", layout.distributed_optimizer, _optimizer(job)],
        ["dispatcher", layout.dispatcher, f"expert-parallel communication: {_share(job, 'ep_comm')} of the step"],
        ["overlap", _overlaps(job), "communication that runs under computation"],
        ["CUDA graphs", layout.cuda_graphs, f"host time: {_share(job, 'host')} of the step"],
        ["precision", workload.precision, "of the workload, not a decision"],
        ["optimizer", workload.optimizer, f"of the workload too; its update: {_share(job, 'optimizer')} of the step"],
    ]
    return rows


def _splits(degree: int, what: str) -> str:
    return f"splits {what} over {degree} GPUs" if degree > 1 else f"does not split {what}"


def _experts(job: Job) -> str:
    architecture = job.problem.architecture
    if not architecture.is_moe:
        return "no routed experts"
    held = architecture.num_experts // job.layout.ep
    return f"{architecture.num_experts} experts / {job.layout.ep} = {held} a GPU, folded inside tp * cp * dp"


def _optimizer(job: Job) -> str:
    kept = job.layout.optimizer
    text = f"moments {kept.moments}, main parameters {kept.main_params}, main gradients {kept.main_grads}"
    return text + (f", {kept.offload_fraction:g} of it on the host" if kept.offload_fraction else "")


def _overlaps(job: Job) -> str:
    chosen = job.layout.overlap.model_dump()
    return ", ".join(name for name, on in chosen.items() if on) or "none"


def _share(job: Job, part: str) -> str:
    time = job.answer["step_time"]
    return f"{100 * time['parts'].get(part, 0) / time['total_ns']:.1f} %"


def _memory(job: Job) -> str:
    memory = job.answer["memory"]
    names = ["weights", "gradients", "optimizer", "activations", "buffers", "overhead", "total"]
    rows = [[s["stage"], *(format_bytes(s[f"{name}_bytes"]) for name in names)] for s in memory["per_stage"]]
    peak, limit = format_bytes(memory["peak_bytes"]), format_bytes(memory["limit_bytes"])
    return _table(["stage", *names], rows) + f"\n\nPeak: stage {memory['peak_stage']}, {peak} of {limit}."


def _time(job: Job) -> str:
    time = job.answer["step_time"]
    total, reach = time["total_ns"], time["range"]
    ends = f"{format_ns(reach['low_ns'])} to {format_ns(reach['high_ns'])}"
    lines = [
        f"{format_ns(total)}, {ends} (within {reach['percent']} %, 2 in 3); "
        f"{time['tokens_per_second_per_gpu']:,.0f} tokens/s and {time['model_tflops_per_gpu']:,.0f} model "
        "TFLOP/s a GPU."
    ]
    lines += [f"- {_cell(reason)}" for reason in reach["reasons"]]
    rows = [[name, format_ns(ns), f"{100 * ns / total:.1f} %"] for name, ns in time["parts"].items()]
    return "\n".join(lines) + "\n\n" + _table(["part", "time", "share"], rows)


def _smoke(scaled: Smoke) -> str:
    job = scaled.job
    equations = "\n".join(f"    {line}" for line in job.answer["gpus"]["equations"])
    lost = ", ".join(scaled.lost)
    kept = f"One node has no room for: {_cell(lost)}." if lost else "Every feature of the layout is in it."
    memory = job.answer["memory"]
    return (
        f"{job.problem.architecture.num_hidden_layers} layers, {job.problem.architecture.num_experts} experts, layout "
        f"`{job.pipeline}`, sequences of {job.problem.workload.sequence_length}:\n\n{equations}\n\n{kept} Every rule "
        f"holds for it too; its peak is {format_bytes(memory['peak_bytes'])} of {format_bytes(memory['limit_bytes'])}."
    )


def _assumptions(job: Job) -> list[str]:
    return [
        f"Routing: {job.answer['routing']}.",
        "Memory and time are moeopt's ledger for Megatron-Core; another framework allocates and overlaps differently.",
    ]
