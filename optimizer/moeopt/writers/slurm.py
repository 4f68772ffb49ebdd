"""`--launcher slurm`: an sbatch script that starts one torchrun a node, in a container where one is named."""

from moeopt.writers.job import Job
from moeopt.writers.script import Payload
from moeopt.writers.shell import comment, shell_word, slug

USE = """`sbatch train.sbatch` (add `--partition`, `--account`, `--time`). `CONTAINER_IMAGE` and `CONTAINER_MOUNTS` are
handed to srun's container plugin (pyxis); without them the nodes' own environment is used.
"""


def files(job: Job, payload: Payload, stem: str, image: str | None) -> dict[str, str]:
    """`<stem>.sbatch`: nodes, one task a node (torchrun starts the processes), GPUs, container line."""
    return {f"{stem}.sbatch": _script(job, payload, stem, image)}


def _script(job: Job, payload: Payload, stem: str, image: str | None) -> str:
    architecture = job.problem.architecture.name
    default = "" if image is None else shell_word(image)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={slug(f"{architecture}-{stem}")}
#SBATCH --nodes={job.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={job.gpus_per_node}
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
# {comment(architecture)} with {payload.framework}: {job.gpus} GPUs on {job.nodes} nodes, written by moeopt.
{_segment(job)}set -euo pipefail

MASTER_ADDR="$(scontrol show hostnames "${{SLURM_JOB_NODELIST}}" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
LAUNCH_FOLDER="${{LAUNCH_FOLDER:-${{SLURM_SUBMIT_DIR}}}}"
export MASTER_ADDR MASTER_PORT LAUNCH_FOLDER

DEFAULT_IMAGE={default or "''"}
CONTAINER_IMAGE="${{CONTAINER_IMAGE:-${{DEFAULT_IMAGE}}}}"
CONTAINER_ARGS=()
if [[ -n "${{CONTAINER_IMAGE}}" ]]; then
    CONTAINER_ARGS=(
        --container-image "${{CONTAINER_IMAGE}}"
        --container-mounts "${{CONTAINER_MOUNTS:-${{LAUNCH_FOLDER}}:${{LAUNCH_FOLDER}}}}"
        --no-container-mount-home
    )
fi

# shellcheck disable=SC2016  # the inner shell expands these on each node
srun --kill-on-bad-exit=1 --export=ALL "${{CONTAINER_ARGS[@]}}" \\
    bash -c 'NODE_RANK="${{SLURM_NODEID}}" exec bash "${{LAUNCH_FOLDER}}/{stem}.sh" "$@"' {stem} "$@"
"""


def _segment(job: Job) -> str:
    """Where an NVLink domain spans nodes, the job must be given whole domains."""
    per_domain = job.problem.cluster.ranks_per_domain // job.gpus_per_node
    if per_domain <= 1 or job.nodes % per_domain:
        return ""
    return f"# An NVLink domain is {per_domain} nodes of this job: with a block topology add --segment={per_domain}.\n"
