"""Wheel and sdist: built from this checkout, they work from an empty folder."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from moeopt import __version__
from moeopt.problem.loading import presets

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("hatchling", reason="hatchling builds the packages (extra test)")
BUILD = """
import sys
from hatchling.build import build_sdist, build_wheel
print(build_wheel(sys.argv[1]) if sys.argv[2] == "wheel" else build_sdist(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of this checkout, and the wheel built from that sdist (not from the checkout): nothing is missing."""
    folder = tmp_path_factory.mktemp("packages")
    sdist = folder / build("sdist", ROOT, folder)
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder / "source")
    (source,) = (folder / "source").iterdir()
    return {"sdist": sdist, "source": source, "wheel": folder / build("wheel", source, folder)}


def build(kind: str, source: Path, target: Path) -> str:
    """Build one package with the checkout's own backend; no network."""
    command = [sys.executable, "-c", BUILD, str(target), kind]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing else; its dependencies come from this interpreter."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(built["wheel"])], check=True)
    return target


def moeopt(installed: Path, folder: Path, *arguments: str) -> str:
    """Standard output of the installed command, run in an empty folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(installed)
    code = (
        f"import moeopt, sys; assert moeopt.__file__.startswith({str(installed)!r}), moeopt.__file__; "
        "from moeopt.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Presets, parameters and a solve need nothing of the checkout; the presets are inside."""
    assert moeopt(installed, tmp_path, "--version") == f"moeopt {__version__}\n"
    shipped = json.loads(moeopt(installed, tmp_path, "presets", "--format", "json"))
    assert [each["name"] for each in shipped["architectures"]] == presets("architectures")
    assert [each["name"] for each in shipped["clusters"]] == presets("clusters")
    counted = json.loads(moeopt(installed, tmp_path, "params", "mixtral-8x7b", "--format", "json"))
    assert counted["total"] == 46_702_792_704
    answer = json.loads(moeopt(installed, tmp_path, "solve", "--gpus", "64", "--format", "json", "--workers", "2"))
    assert answer["status"] == "optimal"
    assert answer["gpus"]["total"] == 64
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_says_what_it_is(built: dict[str, Path]) -> None:
    """Typed package, presets and licence, no test and no document; name, licence, Python and dependencies."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert all(name.startswith(("moeopt/", f"moeopt-{__version__}.dist-info/")) for name in names)
    assert "moeopt/py.typed" in names
    assert sum(name.startswith("moeopt/presets/architectures/") for name in names) == len(presets("architectures"))
    assert any(name.endswith("LICENSE") for name in names)
    for line in ("Name: moeopt", f"Version: {__version__}", "Requires-Python: >=3.10", "Summary: ", "Apache-2.0"):
        assert line in metadata
    assert {"click", "numpy", "ortools", "pydantic", "pyyaml", "rich"} <= {
        line.split()[1].split(">")[0].lower() for line in metadata.splitlines() if line.startswith("Requires-Dist: ")
    }
    assert "moeopt = moeopt.__main__:main" in scripts


@pytest.mark.slow
def test_the_sdist_holds_what_the_tests_need(built: dict[str, Path]) -> None:
    """Someone with the sdist alone can run the tests and rebuild the documents."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile", "mkdocs.yml", "tests/data", "problems", "docs"):
        assert (built["source"] / name).exists(), name
    assert not list(built["source"].rglob("__pycache__"))
