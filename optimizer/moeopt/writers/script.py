"""The script that starts one node's processes: what every framework fills in and every launcher calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moeopt.writers.job import Job
from moeopt.writers.shell import Group, array_uses, arrays, comment, exports

PORT = 29500
"""torchrun's own default."""


@dataclass(frozen=True)
class Payload:
    """What a framework runs on every GPU."""

    framework: str
    root: str
    """Shell variable that names the framework's checkout; empty where there is none."""
    root_meaning: str
    program: str
    """The program as shell text, already quoted."""
    groups: tuple[Group, ...]
    environment: Mapping[str, tuple[str, str]]
    notes: list[str] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the run, beside the script."""
    module: bool = False
    """Whether `program` is a module's name (`python -m`)."""
    imports: bool = False
    """Whether the program imports from the script's folder."""


PURPOSE = {"train": "Training", "smoke": "Smoke run"}
"""What a script of each stem is for."""


def train_script(job: Job, payload: Payload, stem: str) -> str:
    """`<stem>.sh`: one call on each node starts that node's processes; with one node it starts the run."""
    parts = [_head(job, payload, PURPOSE[stem]), _environment(payload), _rendezvous(job, payload)]
    if payload.groups:
        parts.append(arrays(payload.groups))
    parts.append(_call(payload))
    return "\n\n".join(parts) + "\n"


def _head(job: Job, payload: Payload, what: str) -> str:
    equations = job.answer["gpus"]["equations"]
    lines = [
        "#!/usr/bin/env bash",
        f"# {what} of {comment(job.problem.architecture.name)} with {payload.framework}, written by moeopt.",
        *(f"# {equation}" for equation in equations),
        "# Run it once on every node; further arguments go to the program. README.md says why.",
        "set -euo pipefail",
    ]
    return "\n".join(lines)


def _environment(payload: Payload) -> str:
    return exports({name: value for name, (value, _) in payload.environment.items()})


def _rendezvous(job: Job, payload: Payload) -> str:
    lines = [f'{payload.root}="${{{payload.root}:?set it to {payload.root_meaning}}}"'] if payload.root else []
    if payload.files:
        lines.append('HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"')
    if payload.imports:
        lines.append('export PYTHONPATH="${HERE}${PYTHONPATH:+:${PYTHONPATH}}"')
    lines += [
        f"NNODES={job.nodes}",
        f"GPUS_PER_NODE={job.gpus_per_node}",
        'NODE_RANK="${NODE_RANK:-0}"',
        f'MASTER_ADDR="${{MASTER_ADDR:-{"localhost" if job.nodes == 1 else ""}}}"',
        f'MASTER_PORT="${{MASTER_PORT:-{PORT}}}"',
    ]
    if job.nodes > 1:
        lines.append('if [[ -z "${MASTER_ADDR}" ]]; then')
        lines.append('    echo "set MASTER_ADDR to the first node, and NODE_RANK on each node" >&2')
        lines.append("    exit 2")
        lines.append("fi")
    return "\n".join(lines)


def _call(payload: Payload) -> str:
    lines = [
        "exec torchrun",
        '--nnodes "${NNODES}" --nproc-per-node "${GPUS_PER_NODE}" --node-rank "${NODE_RANK}"',
        '--master-addr "${MASTER_ADDR}" --master-port "${MASTER_PORT}"',
        f"--module {payload.program}" if payload.module else payload.program,
        *array_uses(payload.groups),
        '"$@"',
    ]
    return " \\\n    ".join(lines)
