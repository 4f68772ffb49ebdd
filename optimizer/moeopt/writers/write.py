"""Put the files of a launch into a folder: all of them or none, nothing outside it, nothing replaced unasked."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import nearest
from moeopt.writers.job import Job, read_solution
from moeopt.writers.readme import readme
from moeopt.writers.script import train_script
from moeopt.writers.smoke import smoke

FRAMEWORKS = ("megatron-lm", "megatron-bridge", "torchtitan", "deepspeed")
LAUNCHERS = ("torchrun", "slurm", "kubernetes")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*|README\.md")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+#-]{0,511}")


def launch(
    solution: Mapping[str, Any],
    output: str | os.PathLike[str],
    framework: str = "megatron-lm",
    launcher: str = "torchrun",
    *,
    image: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the files that start a solution's run; returns their paths.

    Raises InputError for a solution that cannot run, a decision that the framework cannot express (named), a folder
    that cannot be written, or a file that exists (unless `force`).
    """
    folder = Path(output)
    check_folder(folder)
    texts = launch_files(read_solution(solution), solution, framework, launcher, image)
    return _write(folder, texts, force)


def launch_files(
    job: Job, solution: Mapping[str, Any], framework: str, launcher: str, image: str | None = None
) -> dict[str, str]:
    """File name -> text of everything that `launch` writes."""
    emitter = _module(framework, FRAMEWORKS, "framework")
    starter = _module(launcher, LAUNCHERS, "launcher")
    if image is not None and not _IMAGE.fullmatch(image):
        raise InputError(f"image: {image!r} is not the name of a container image")
    payload = emitter.payload(job, "train")
    scaled = smoke(job)
    small = emitter.payload(scaled.job, "smoke")
    texts = {
        "train.sh": train_script(job, payload, "train"),
        **payload.files,
        "smoke.sh": train_script(scaled.job, small, "smoke"),
        **small.files,
        **starter.files(job, payload, "train", image),
        **starter.files(scaled.job, small, "smoke", image),
        "solution.json": json.dumps(solution, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    texts["README.md"] = readme(job, payload, starter, scaled, sorted([*texts, "README.md"]))
    return texts


def _module(name: str, known: tuple[str, ...], field: str) -> ModuleType:
    if name not in known:
        raise InputError(f"{field}: {name!r} is none of {', '.join(known)}{nearest(str(name), list(known))}")
    return import_module(f"moeopt.writers.{name.replace('-', '_')}")


def check_folder(folder: Path) -> None:
    """Raise InputError unless the folder (or the nearest one above it that exists) can be written."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"output: {folder} is a file, not a folder")
        existing = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
        if existing is None or not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"output: {folder} cannot be written")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"output: {folder} cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _write(folder: Path, texts: Mapping[str, str], force: bool) -> list[Path]:
    for name in texts:
        if not _NAME.fullmatch(name):
            raise InputError(f"output: {name!r} is not a file name of this folder")
    there = sorted(name for name in texts if (folder / name).is_symlink() or (folder / name).exists())
    if there and not force:
        raise InputError(f"output: {folder / there[0]} exists already; --force replaces it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(folder / name, text)
    except OSError as error:
        raise InputError(f"output: {folder} cannot be written: {error.strerror}") from None
    return [folder / name for name in texts]


def _replace(path: Path, text: str) -> None:
    """Beside the file, then renamed over it: a link that stands there is replaced, never followed."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    mask = os.umask(0)
    os.umask(mask)
    Path(temporary).chmod((0o777 if path.suffix == ".sh" else 0o666) & ~mask)
    Path(temporary).replace(path)
