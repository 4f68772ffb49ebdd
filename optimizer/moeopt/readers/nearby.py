"""The file that is read and others that it names, opened only where they lie by it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.reading import parse_text, read_text
from moeopt.readers.placeholders import filled

_CONFIGURATIONS = (".yaml", ".yml", ".toml", ".json")


class Nearby:
    """What lies by one file. Every text that is opened is kept, to tell whether a variable occurs anywhere."""

    def __init__(self, path: Path, given: Mapping[str, str]) -> None:
        self.path, self.given = path, given
        self.texts: list[str] = []

    def text(self, path: Path) -> str:
        """A file's text. Raises InputError."""
        self.texts.append(read_text(path, "from"))
        return self.texts[-1]

    def check_given(self) -> None:
        """Raise InputError for a variable that occurs in no text that was opened."""
        for name in self.given:
            if not any(re.search(rf"\b{re.escape(name)}\b", text) for text in self.texts):
                raise InputError(f"set: {name} occurs nowhere in {self.path}")

    def content(self, path: Path, text: str, repeated: list[str] | None = None) -> Any:
        """A YAML or JSON file's values, with what is given filled in. Raises InputError."""
        name = str(path) if path.suffix.lower() in _CONFIGURATIONS else f"{path}.json"
        return filled(parse_text(text, name, "from", repeated), self.given)

    def configuration(self, name: str) -> Path | None:
        """A configuration that a script's command names, where it lies in the script's own folder."""
        candidate = self.path.parent / Path(name).name
        if candidate.suffix == ".py":
            candidate = candidate.with_suffix(".yaml")
        return candidate if candidate.suffix.lower() in _CONFIGURATIONS and candidate.is_file() else None

    def training(self, name: str) -> Any:
        """The content of a training configuration that an experiment names, None where it does not lie in `train`
        beside it."""
        candidate = self.path.parent / "train" / f"{Path(name).name}.yaml"
        return self.content(candidate, self.text(candidate)) if candidate.is_file() else None

    def module(self, name: str) -> str | None:
        """The text of a Python module that a job imports, where it lies in the job's own folder. It is not imported."""
        candidate = self.path.parent / f"{Path(name).name}.py"
        return self.text(candidate) if candidate.is_file() else None

    def sourced(self, name: str) -> tuple[str, str] | None:
        """The path and text of a file that a script sources, by its path from the script's folder or from where the
        script was named: only from that folder's neighbourhood (two folders up and everything under them)."""
        folder = self.path.resolve().parent
        near = [root for root in [folder, *folder.parents][:3] if len(root.parts) > 1]
        for candidate in (folder / name, Path(name)):
            found = candidate.resolve()
            if near and found.is_relative_to(near[-1]) and found.is_file():
                try:
                    return os.path.relpath(found), self.text(found)
                except InputError:
                    return None
        return None

    def of_repository(self, folder: str, name: str) -> Any:
        """The content of a file of a folder of the repository that the file lies in, None where there is none."""
        for root in self.path.resolve().parents:
            if (root / folder).is_dir():
                found = (root / folder / name).resolve()
                if not found.is_relative_to((root / folder).resolve()) or not found.is_file():
                    return None
                return self.content(found, self.text(found))
        return None
