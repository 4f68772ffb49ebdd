"""`--launcher torchrun`: `train.sh` on every node, nothing else."""

from moeopt.writers.job import Job
from moeopt.writers.script import Payload

USE = """One node: `./train.sh`. Several: on each node, with the first node's address,

    MASTER_ADDR=first-node NODE_RANK=0 ./train.sh     # 1, 2, ... on the others
"""


def files(_job: Job, _payload: Payload, _stem: str, _image: str | None) -> dict[str, str]:
    """No files beside the script that every launcher has."""
    return {}
