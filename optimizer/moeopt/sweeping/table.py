"""The rows of a sweep as CSV or Parquet: the coordinates first, then the numbers, then the layout as JSON."""

import csv
import json
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any

from moeopt.errors import InputError
from moeopt.sweeping.grid import COORDINATES
from moeopt.sweeping.point import Record

_RATES = ("tokens_per_second_per_gpu", "model_tflops_per_gpu", "mfu")
_FLOATS = (*_RATES, "gpu_hours_per_trillion_tokens", "usd_per_trillion_tokens", "seconds", "time_limit_seconds")
_TEXTS = ("architecture", "cluster", "precision", "status", "objective", "objective_unit", "layout", "error", "key")
COLUMNS = (
    *COORDINATES,
    "status",
    "objective",
    "objective_value",
    "objective_bound",
    "objective_unit",
    "total_gpus",
    "sequences",
    "step_time_ns",
    "tokens_per_second_per_gpu",
    "model_tflops_per_gpu",
    "mfu",
    "peak_memory_bytes",
    "gpu_hours_per_trillion_tokens",
    "usd_per_trillion_tokens",
    *("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp", "micro_batch_size", "num_microbatches"),
    "layout",
    "error",
    "seconds",
    "time_limit_seconds",
    "key",
)
"""Every column, always in this order and always all of them, so that files of two sweeps fit together."""


def table_bytes(rows: Sequence[Record], suffix: str) -> bytes:
    """The content of a file with this suffix: `.csv` or `.parquet`."""
    return _parquet(rows) if suffix == ".parquet" else _csv(rows)


def require_parquet() -> None:
    """Raises InputError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise InputError("output: Parquet needs pyarrow: pip install 'moeopt[parquet]'; .csv needs nothing")


def _cell(row: Record, column: str) -> Any:
    value = row.get(column)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _csv(rows: Sequence[Record]) -> bytes:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["" if (value := _cell(row, column)) is None else value for column in COLUMNS])
    return stream.getvalue().encode()


def _parquet(rows: Sequence[Record]) -> bytes:
    require_parquet()
    import pyarrow
    import pyarrow.parquet

    def kind(column: str) -> Any:
        return pyarrow.string() if column in _TEXTS else pyarrow.float64() if column in _FLOATS else pyarrow.int64()

    schema = pyarrow.schema([(column, kind(column)) for column in COLUMNS])
    table = pyarrow.Table.from_pylist([{c: _cell(row, c) for c in COLUMNS} for row in rows], schema=schema)
    stream = BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()
