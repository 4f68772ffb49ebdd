"""The rows of a sweep that are done: one JSON object a line, only ever appended to.

A line that was cut off (power, disk full, kill) is skipped when read, and never takes the next line with it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from moeopt.errors import InputError
from moeopt.sweeping.point import SETTLED, Record


class Journal:
    """A file of rows; without a path, rows are only kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.torn = 0
        """Lines that could not be read."""
        self.records: dict[str, Record] = {}
        """The latest row of each key, in the order in which keys were first seen."""
        if path is not None and path.exists():
            for record in self._read(path):
                self.records[record["key"]] = record

    def _read(self, path: Path) -> Iterator[Record]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"output: {path} cannot be read: {error.strerror}") from None
        for line in content.splitlines():
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                self.torn += 1
                continue
            if isinstance(record, dict) and isinstance(record.get("key"), str):
                yield record
            else:
                self.torn += 1

    def done(self, key: str, time_limit: float | None) -> bool:
        """Whether a row need not be solved again: settled, or given at least as much time before."""
        record = self.records.get(key)
        if record is None or record.get("status") == "error":
            return False
        if record.get("status") in SETTLED:
            return True
        before = record.get("time_limit_seconds")
        return before is None or (time_limit is not None and time_limit <= before)

    def add(self, record: Record) -> None:
        """Keep a row, on disk before this returns."""
        self.records[record["key"]] = record
        if self.path is None:
            return
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            with self.path.open("ab") as stream:
                if stream.tell() and not self._ends_whole():
                    line = b"\n" + line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"output: {self.path} cannot be written: {error.strerror}") from None

    def _ends_whole(self) -> bool:
        """Whether the last line on disk was ended."""
        assert self.path is not None
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"
