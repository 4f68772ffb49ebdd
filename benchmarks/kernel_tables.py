"""Efficiency tables from measured kernels: `python benchmarks/kernel_tables.py [--write FOLDER]`.

An optional source behind the same interface. Reads what the package aiconfigurator-core ships (NVIDIA, Apache-2.0:
kernel and NCCL timings of inference frameworks; needs the extra `kernels`), turns it into the shares that our formulas
take, and compares them, and the published runs predicted with them, to the shipped tables. A written table is put to
use with `efficiency: FILE.yaml` in a cluster.

Taken: products with all sides of 4,096 and more, less the passes over operands that are priced apart (median); causal
attention of 128-wide heads at 8K to 32K, with the law s / (s + 1250) taken out (median); NCCL all-gather of 128 MiB and
more in one domain.
Kept from the shipped table: what the package does not measure (host, network, overlap, memory-bound kernels, backward).
"""

import argparse
import json
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from moeopt.accounting.time.attention import HALF_SPEED_SEQUENCE
from moeopt.accounting.time.efficiency import Efficiency, load_efficiency, using
from moeopt.problem.base import read_fields
from moeopt.problem.cluster import Cluster
from moeopt.problem.formats import FORMATS, Format, Precision
from moeopt.problem.loading import load_cluster, preset_fields
from step_time import ROWS, predict, summary

SYSTEMS = {
    "hopper": ("h100_sxm", "h100-sxm"),
    "blackwell": ("b200_sxm", "b200"),
    "blackwell-ultra": ("b300_sxm", "b300"),
}
"""Our table: their system and our cluster preset."""
KINDS: dict[Precision, str] = {"bf16": "bfloat16", "fp8": "fp8", "nvfp4": "nvfp4"}
"""Our precision: their name of it."""
LIKE: dict[str, Precision] = {"fp16": "bf16", "mxfp8": "fp8"}
"""Precisions that they have not, and the nearest that they have."""
LONG_SIDE, LONG_SEQUENCES, LARGE_ELEMENTS = 4096, (8192, 32768), 2**26


def rows(system: str, pattern: str, columns: list[str]) -> list[dict[str, Any]]:
    """Rows of the newest file that matches, as dictionaries."""
    from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    spec = find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("aiconfigurator-core is not installed: pip install moeopt[kernels]")
    folder = Path(spec.submodule_search_locations[0]) / "systems" / "data" / system
    files = sorted(folder.glob(pattern))
    found: list[dict[str, Any]] = parquet.read_table(files[-1], columns=columns).to_pylist()
    return found


def product_share(system: str, cluster: Cluster, form: Format, memory: float, weight_memory: float) -> float:
    """Share of the dense peak of large products, beside one pass over their weights; of quantised ones (whose timings
    include the quantisation of the input) also beside that and a pass over inputs and outputs, as `gemm` prices
    them."""
    peak, width = getattr(cluster.peak_flops, form.peak), float(form.product_bytes)
    bandwidth = cluster.memory_bandwidth_bytes_per_s
    kind = KINDS.get(form.name)
    shares = []
    for row in rows(system, "gemm/trtllm/*/gemm_perf.parquet", ["gemm_dtype", "m", "n", "k", "latency"]):
        m, n, k = row["m"], row["n"], row["k"]
        if row["gemm_dtype"] == kind and min(m, n, k) >= LONG_SIDE:
            moved = width * n * k + (width * m * k + 2 * m * n if form.quantized else 0)
            seconds = row["latency"] / 1000 - moved / (bandwidth * weight_memory)
            seconds -= (2 + width) * m * k / (bandwidth * memory) if form.quantized else 0
            shares.append(2 * m * n * k / seconds / peak)
    return float(statistics.median(shares))


def attention_share(system: str, cluster: Cluster) -> float:
    """Share of the bf16 peak of causal attention for very long sequences."""
    columns = ["batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "window_size", "attn_dtype"]
    columns += ["kv_cache_dtype", "step", "latency"]
    shares = []
    for row in rows(system, "attention/trtllm/*/context_attention_perf.parquet", columns):
        s, wide = row["isl"], row["head_dim"]
        plain = row["attn_dtype"] == row["kv_cache_dtype"] == "bfloat16" and not row["window_size"] and not row["step"]
        if plain and wide == 128 and row["num_heads"] >= 32 and LONG_SEQUENCES[0] <= s <= LONG_SEQUENCES[1]:
            flops = 2 * row["batch_size"] * row["num_heads"] * s * s * wide
            rate = flops / (row["latency"] / 1000) / cluster.peak_flops.bf16
            shares.append(rate * (s + HALF_SPEED_SEQUENCE) / s)
    return float(statistics.median(shares))


def nvlink_share(system: str, cluster: Cluster) -> float:
    """Share of the one-way NVLink bandwidth that a large all-gather reaches in one domain."""
    columns = ["op_name", "num_gpus", "message_size", "nccl_dtype", "latency"]
    best = 0.0
    for row in rows(system, "comm/nccl/*/nccl_perf.parquet", columns):
        large = row["message_size"] >= LARGE_ELEMENTS and row["num_gpus"] == 8
        if row["op_name"] == "all_gather" and row["nccl_dtype"] == "half" and large:
            moved = 2 * row["message_size"] * (row["num_gpus"] - 1) / row["num_gpus"]
            best = max(best, moved / (row["latency"] / 1000) / cluster.nvlink_bandwidth_bytes_per_s)
    return best


def measured(table: str) -> dict[str, Any]:
    """The fields of our table with what the package measures put in."""
    system, preset = SYSTEMS[table]
    cluster = load_cluster(preset)
    fields = preset_fields("efficiency", table)
    fields.pop("calibration", None)
    bandwidths = float(fields["memory"]), float(fields["weight_memory"])
    measurable = {name: FORMATS[LIKE.get(name, name)] for name in fields["gemm"]}
    fields["gemm"] = {
        name: round(product_share(system, cluster, form, *bandwidths), 3) for name, form in measurable.items()
    }
    fields["attention"] = round(attention_share(system, cluster), 3)
    fields["nvlink"] = round(min(1.0, nvlink_share(system, cluster)), 3)
    source = f"measured: aiconfigurator-core, systems/data/{system}, read by benchmarks/kernel_tables.py"
    fields["sources"] = {**fields["sources"], **dict.fromkeys(("gemm", "attention", "nvlink"), source)}
    return fields


def main() -> int:
    """Print both tables side by side and the errors with each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", type=Path, metavar="FOLDER", help="write the tables as YAML files here")
    given = arguments.parse_args()
    tables = {name: measured(name) for name in SYSTEMS}
    for name, fields in tables.items():
        shipped = load_efficiency(name)
        for field in ("gemm", "attention", "nvlink"):
            print(f"{name:16s} {field:10s} measured {fields[field]}   shipped {getattr(shipped, field)}")
        if given.write:
            given.write.mkdir(exist_ok=True)
            text = yaml.safe_dump(fields, sort_keys=False, width=112)
            (given.write / f"{name}.yaml").write_text(text, encoding="utf-8")
    data = json.loads(ROWS.read_text(encoding="utf-8"))["rows"]
    published = [row for row in data if not {"apart", "outlier"} & set(row)]
    print(f"shipped tables   {summary(map(predict, published))}")
    with using({name: read_fields(Efficiency, fields, name) for name, fields in tables.items()}):
        print(f"measured kernels {summary(map(predict, published))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
