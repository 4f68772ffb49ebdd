"""`--launcher kubernetes`: the same pods as a JobSet and as a PyTorchJob, with the script in a ConfigMap.

API fields: jobset.x-k8s.io/v1alpha2 (JobSet) and kubeflow.org/v1 (PyTorchJob, whose operator sets MASTER_ADDR,
MASTER_PORT and RANK; its RANK counts pods, hence nodes here).
"""

from typing import Any

import yaml

from moeopt.frameworks.megatron_core.precision import compute_capability
from moeopt.writers.job import Job
from moeopt.writers.script import PORT, Payload, train_script
from moeopt.writers.shell import slug

USE = """`kubectl apply -f train-jobset.yaml`, or `kubectl apply -f train-pytorchjob.yaml` where Kubeflow's training
operator runs. Set the image, and the paths and volumes of code and data, first.
"""
IMAGE = "training-image"
"""Stands for the image until --image names one."""
FOLDER = "/launch"


def files(job: Job, payload: Payload, stem: str, image: str | None) -> dict[str, str]:
    """`<stem>-jobset.yaml` and `<stem>-pytorchjob.yaml`."""
    scripts = {f"{stem}.sh": train_script(job, payload, stem), **payload.files}
    name = slug(f"{job.problem.architecture.name}-{stem}")
    config = _config_map(f"{name}-files", scripts)
    image = image or IMAGE
    return {
        f"{stem}-jobset.yaml": _documents(config, _jobset(job, payload, name, stem, image)),
        f"{stem}-pytorchjob.yaml": _documents(config, _pytorchjob(job, payload, name, stem, image)),
    }


def _config_map(name: str, scripts: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(scripts)}


def _jobset(job: Job, payload: Payload, name: str, stem: str, image: str) -> dict[str, Any]:
    variables = {"MASTER_ADDR": f"{name}-nodes-0-0.{name}", "MASTER_PORT": str(PORT)}
    command = f'NODE_RANK="${{JOB_COMPLETION_INDEX}}" exec bash {FOLDER}/{stem}.sh'
    pod = _pod(job, payload, f"{name}-files", image, command, variables, "trainer")
    template = {
        "spec": {
            "parallelism": job.nodes,
            "completions": job.nodes,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "template": {"spec": {**pod, "restartPolicy": "Never", "subdomain": name}},
        }
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": True, "subdomain": name},
            "replicatedJobs": [{"name": "nodes", "replicas": 1, "template": template}],
        },
    }


def _pytorchjob(job: Job, payload: Payload, name: str, stem: str, image: str) -> dict[str, Any]:
    command = f'NODE_RANK="${{RANK}}" exec bash {FOLDER}/{stem}.sh'
    pod = _pod(job, payload, f"{name}-files", image, command, {}, "pytorch")
    replicas = {"Master": _replica(1, pod)}
    if job.nodes > 1:
        replicas["Worker"] = _replica(job.nodes - 1, pod)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"runPolicy": {"backoffLimit": 0}, "pytorchReplicaSpecs": replicas},
    }


def _replica(count: int, pod: dict[str, Any]) -> dict[str, Any]:
    return {"replicas": count, "restartPolicy": "Never", "template": {"spec": pod}}


def _pod(
    job: Job, payload: Payload, config: str, image: str, command: str, variables: dict[str, str], container: str
) -> dict[str, Any]:
    resource = "nvidia.com/gpu" if compute_capability(job.problem) else "amd.com/gpu"
    if payload.root:
        variables = {**variables, payload.root: f"/opt/{slug(payload.root)}"}
    return {
        "containers": [
            {
                "name": container,
                "image": image,
                "command": ["bash", "-c", command],
                "env": [{"name": key, "value": value} for key, value in variables.items()],
                "ports": [{"containerPort": PORT}],
                "resources": {"limits": {resource: job.gpus_per_node}},
                "volumeMounts": [
                    {"name": "launch", "mountPath": FOLDER},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "launch", "configMap": {"name": config, "defaultMode": 0o755}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


class _Dumper(yaml.SafeDumper):
    """Scripts as literal blocks, everything else as usual; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml's signature
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _documents(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)
