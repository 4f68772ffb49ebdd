"""The output folder: complete, readable by the shell and by Kubernetes, and safe against hostile input."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from launch_cases import full_job, name, record, solution
from moeopt.__main__ import run
from moeopt.errors import InputError
from moeopt.frameworks.megatron_core import check
from moeopt.units import format_ns
from moeopt.writers.job import read_solution
from moeopt.writers.shell import slug
from moeopt.writers.smoke import smoke
from moeopt.writers.write import LAUNCHERS, launch, launch_files

HOSTILE = "$(touch pwned); `touch pwned` 'x\" \n#!/bin/sh\ntouch pwned\\ ../../evil <script> ${HOME} \x1b[31m"
LAYOUTS = [case for case in record() if case["run"] == "layout"]


def texts(
    given: dict[str, Any], framework: str = "megatron-lm", launcher: str = "torchrun", **more: Any
) -> dict[str, str]:
    return launch_files(read_solution(given), given, framework, launcher, **more)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_folder_is_complete(launcher: str, tmp_path: Path) -> None:
    """Scripts, README, the solution and a smoke script; scripts may be executed; the solution is the one given."""
    given = solution()
    paths = launch(given, tmp_path / "a" / "out", launcher=launcher)
    names = {path.name for path in paths}
    assert {"train.sh", "smoke.sh", "README.md", "solution.json"} <= names
    extra = {"torchrun": set(), "slurm": {"train.sbatch"}, "kubernetes": {"train-jobset.yaml", "train-pytorchjob.yaml"}}
    assert extra[launcher] <= names
    assert json.loads((tmp_path / "a" / "out" / "solution.json").read_text()) == given
    assert all(path.stat().st_mode & 0o100 for path in paths if path.suffix == ".sh")
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir()) == sorted(names)


def test_readme_says_what_decided() -> None:
    """Both GPU equations, the memory of every stage, the step time with the evaluation's own range and its reasons, the
    environment."""
    given = solution()
    readme = texts(given)["README.md"]
    for equation in given["gpus"]["equations"]:
        assert equation in readme
    stages = re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)
    assert [int(stage) for stage in stages] == [stage["stage"] for stage in given["memory"]["per_stage"]]
    ends = [format_ns(given["step_time"]["range"][name]) for name in ("low_ns", "high_ns")]
    assert f"{format_ns(given['step_time']['total_ns'])}, {' to '.join(ends)} (within " in readme
    assert all(re.sub(r"\s+", " ", reason)[:40] in readme for reason in given["step_time"]["range"]["reasons"])
    assert "CUDA\\_DEVICE\\_MAX\\_CONNECTIONS" in readme


def test_readme_quotes_the_proof() -> None:
    """A solution of `solve` is introduced with its status and bound, as text: markup in the file stays text."""
    given = {**solution(), "status": "optimal"}
    given["objective"] = {"name": "step_time", "value": 7, "bound": 7, "unit": "<b>ns|`x`"}
    assert "(optimal: step\\_time 7 &lt;b&gt;ns\\|\\`x\\`, proven bound 7" in texts(given)["README.md"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge", "torchtitan"])
def test_scripts_pass_shellcheck(launcher: str, framework: str, tmp_path: Path) -> None:
    """Every script of every framework and launcher, with a hostile architecture name, is clean shell."""
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    given = solution()
    given["problem"]["architecture"]["name"] = HOSTILE
    paths = launch(given, tmp_path, framework, launcher, image="team/image:1")
    scripts = [str(path) for path in paths if path.suffix in (".sh", ".sbatch")]
    done = subprocess.run([tool, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge", "torchtitan"])
def test_a_hostile_name_runs_nothing(framework: str, tmp_path: Path) -> None:
    """The name of an architecture is text: the script, run against a stand-in torchrun, receives exactly the emitted
    words and starts nothing else; nothing is written outside the folder."""
    given = solution({"tp": 2, "ep": 8, "etp": 1}, gpus=8, cluster="b300")
    given["problem"]["architecture"]["name"] = HOSTILE
    folder, tools = tmp_path / "out", tmp_path / "tools"
    tools.mkdir()
    (tools / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tools / "torchrun").chmod(0o755)
    launch(given, folder, framework)
    done = subprocess.run(
        ["/bin/bash", str(folder / "train.sh")],
        cwd=tmp_path,
        env={"PATH": f"{tools}:/usr/bin:/bin", "MEGATRON_LM": "/megatron"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "--nproc-per-node" in done.stdout.splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tools"]
    assert not list(tmp_path.rglob("pwned"))
    assert not list(tmp_path.rglob("evil*"))


def test_script_hands_over_every_word(tmp_path: Path) -> None:
    """What torchrun receives is the arguments in order, whatever characters the layout string and patterns hold."""
    from moeopt.writers import megatron_lm
    from moeopt.writers.shell import words

    given = solution(
        {"tp": 2, "pp": 2, "ep": 4, "etp": 1, "pipeline_layout": "Et*13|t*14L"}, 8, "deepseek-v2-lite", "b300"
    )
    (tmp_path / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    launch(given, tmp_path / "out")
    done = subprocess.run(
        ["/bin/bash", str(tmp_path / "out" / "train.sh"), "--more", "a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "MEGATRON_LM": "/megatron"},
        capture_output=True,
        text=True,
        check=True,
    )
    received = done.stdout.splitlines()
    start = received.index("/megatron/pretrain_gpt.py") + 1
    assert received[start:] == [*words(megatron_lm.payload(read_solution(given)).groups), "--more", "a b"]


@pytest.mark.parametrize("case", LAYOUTS, ids=[f"{i}-{name(case)}" for i, case in enumerate(LAYOUTS)])
def test_smoke_run_is_legal_and_fits_one_node(case: dict[str, Any]) -> None:
    """The scaled layout fills one node, breaks no rule, and keeps every decision that is not a degree; a degree above 1
    becomes 1 only where the node has no room (and is then listed)."""
    found = full_job(case)
    scaled = smoke(found)
    small = scaled.job
    assert small.gpus == small.gpus_per_node
    assert small.nodes == 1
    assert all(verdict.holds for verdict in check(small.problem, small.layout))
    for field in ("distributed_optimizer", "sequence_parallel", "dispatcher", "overlap", "cuda_graphs"):
        assert getattr(small.layout, field) == getattr(found.layout, field)
    assert small.layout.recompute.modules == found.layout.recompute.modules
    assert small.layout.recompute.granularity == found.layout.recompute.granularity
    assert small.problem.workload.precision == found.problem.workload.precision
    assert {kind.ffn for kind in small.problem.architecture.kinds} == {k.ffn for k in found.problem.architecture.kinds}
    assert small.problem.mtp_layers == found.problem.mtp_layers
    for degree in ("tp", "pp", "cp", "ep", "vpp", "dp"):
        assert getattr(small.layout, degree) <= getattr(found.layout, degree) or degree == "dp"
        if getattr(found.layout, degree) > 1 and degree not in scaled.lost:
            assert getattr(small.layout, degree) > 1


SCHEMAS: dict[str, dict[str, Any]] = {
    "ConfigMap": {"apiVersion": "v1", "metadata": {"name": str}, "data": dict},
    "JobSet": {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "metadata": {"name": str},
        "spec": {"network": {"enableDNSHostnames": bool}, "replicatedJobs": list},
    },
    "PyTorchJob": {"apiVersion": "kubeflow.org/v1", "metadata": {"name": str}, "spec": {"pytorchReplicaSpecs": dict}},
}
"""Required fields of each kind, from the projects' API references: a value, or its type."""


def conforms(value: Any, schema: Any) -> bool:
    if isinstance(schema, dict):
        return isinstance(value, dict) and all(key in value and conforms(value[key], schema[key]) for key in schema)
    return isinstance(value, schema) if isinstance(schema, type) else bool(value == schema)


@pytest.mark.parametrize("stem", ["train", "smoke"])
@pytest.mark.parametrize("kind", ["jobset", "pytorchjob"])
def test_kubernetes_files_conform(kind: str, stem: str) -> None:
    """Both kinds have their required fields, names are DNS labels, pods and GPUs add up to the job, and the script in
    the ConfigMap is the script beside it."""
    given = solution()
    given["problem"]["architecture"]["name"] = HOSTILE
    written = texts(given, launcher="kubernetes", image="team/image:1")
    config, run = yaml.safe_load_all(written[f"{stem}-{kind}.yaml"])
    for document in (config, run):
        assert conforms(document, SCHEMAS[document["kind"]])
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])
    assert config["data"][f"{stem}.sh"] == written[f"{stem}.sh"]
    if kind == "jobset":
        spec = run["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert spec["parallelism"] == spec["completions"]
        pods = [(spec["completions"], spec["template"]["spec"])]
    else:
        roles = run["spec"]["pytorchReplicaSpecs"]
        assert roles["Master"]["replicas"] == 1
        pods = [(role["replicas"], role["template"]["spec"]) for role in roles.values()]
    gpus = 0
    for count, pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == "team/image:1"
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        gpus += count * container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == (64 if stem == "train" else 8)


def test_slurm_asks_for_the_whole_job() -> None:
    """Nodes, one task a node, GPUs a node and the container line of the sbatch script are the job's."""
    script = texts(solution(), launcher="slurm", image="team/image:1")["train.sbatch"]
    for line in ("#SBATCH --nodes=8", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8"):
        assert line in script.splitlines()
    assert "--container-image" in script
    assert "team/image:1" in script


@pytest.mark.parametrize("text", ["", "../../etc/passwd", "A B", "9lives", "-x-", "é", "x" * 300, HOSTILE])
def test_names_become_labels(text: str) -> None:
    """Any name becomes a DNS label: letters, digits and inner dashes, a letter first, no path."""
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", slug(text))


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    """An existing file stops the launch before anything is written; --force replaces it (a link is not followed)."""
    outside = tmp_path / "outside"
    outside.write_text("keep")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").symlink_to(outside)
    with pytest.raises(InputError, match=r"README\.md exists already"):
        launch(solution(), folder)
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    launch(solution(), folder, force=True)
    assert outside.read_text() == "keep"
    assert not (folder / "README.md").is_symlink()


def test_folder_is_checked_first(tmp_path: Path) -> None:
    """A file in the folder's place is refused, even before the solution is looked at."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"^output: "):
            launch({}, folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema": None}, "schema"),
        ({"status": "illegal", "rules": [{"rule": "heads_by_tp", "holds": False}]}, "heads_by_tp"),
        ({"status": "infeasible"}, "status"),
        ({"status": "unknown"}, "status"),
        ({"layout": None}, "layout"),
        ({"problem": [1]}, "problem"),
        ({"layout": {"tp": 3}}, "illegal"),
        ({"layout": {"tp": 2, "ep": 8, "extra": 1}}, "extra"),
    ],
)
def test_only_a_legal_solution_is_launched(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    """Whatever the file claims, an illegal or unfinished answer is refused with the reason, and nothing is written."""
    given = {**solution(), **change}
    with pytest.raises(InputError, match=word):
        launch(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("image", ["a b", "$(id)", "x\ny", "-x", "`id`", "a'b"])
def test_image_is_a_name(image: str) -> None:
    """A container image that is not a plain reference is refused."""
    with pytest.raises(InputError, match=r"^image: "):
        texts(solution(), launcher="slurm", image=image)


def test_whole_nodes_only() -> None:
    """A job that does not fill its last node is refused with the equation."""
    given = solution(
        {"tp": 4, "ep": 4, "etp": 1, "micro_batch_size": 1}, gpus=12, cluster="b300", global_batch_size=513
    )
    with pytest.raises(InputError, match="12 % gpus_per_node 8 = 4"):
        texts(given)


def test_command_line(tmp_path: Path) -> None:
    """`launch` lists its files as JSON on stdout and ends with 0; bad words end with 2."""
    path = tmp_path / "solution.json"
    path.write_text(json.dumps(solution()))
    from moeopt.cli import cli

    done = CliRunner().invoke(cli, ["launch", str(path), "-o", str(tmp_path / "out"), "--format", "json"])
    assert "README.md" in json.loads(done.stdout)["files"]
    assert run(["launch", str(path), "-o", str(tmp_path / "out")]) == 2
    assert run(["launch", str(path), "-o", str(tmp_path / "new"), "--framework", "nemo"]) == 2
    assert run(["launch", str(path), "-o", str(tmp_path / "new"), "--launcher", "lsf"]) == 2
    assert run(["launch", str(path)]) == 2
    assert not (tmp_path / "new").exists()
