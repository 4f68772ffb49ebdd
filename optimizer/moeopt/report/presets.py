"""What ships, as a table; one preset, field by field."""

from collections.abc import Mapping
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moeopt.units import format_bytes


def render_presets(answer: Mapping[str, Any], console: Console) -> None:
    """Tables of architectures and of clusters, whichever the answer holds."""
    first = True
    for kind, columns in (
        ("architectures", ("name", "layers", "hidden_size", "experts", "experts_per_token", "attention")),
        ("clusters", ("name", "gpu", "memory_bytes", "nvlink_domain_size")),
    ):
        if kind not in answer:
            continue
        table = Table(box=None, padding=(0, 2), pad_edge=False, title=None if first else " ", header_style="bold")
        first = False
        for column in columns:
            right = column not in ("name", "gpu")
            table.add_column(_heading(kind, column), justify="right" if right else "left", no_wrap=True)
        for row in answer[kind]:
            table.add_row(*(escape(_cell(column, row[column])) for column in columns))
        console.print(table)


def _heading(kind: str, column: str) -> str:
    words = {"name": kind.removesuffix("s"), "memory_bytes": "memory", "attention": "heads/KV heads"}
    return words.get(column, column.replace("_", " "))


def _cell(column: str, value: Any) -> str:
    return format_bytes(value) if column == "memory_bytes" else str(value)


def render_preset(answer: Mapping[str, Any], console: Console) -> None:
    """One preset as the YAML that a problem file takes."""
    text = yaml.safe_dump(answer["fields"], sort_keys=False, allow_unicode=True, width=1000)
    console.print(text.rstrip(), markup=False, soft_wrap=True)
