"""The machines: what one GPU holds and computes, and what joins it to the others."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moeopt.problem.base import Input, Name, Nanoseconds, Positive, PositiveBytes

Rate = Annotated[float, Field(gt=0)]


class PeakFlops(Input):
    """Dense (not sparse) matrix FLOP/s of one GPU, by the type of the operands; absent where the GPU has none."""

    bf16: Rate
    fp16: Rate | None = None
    fp8: Rate | None = None
    fp4: Rate | None = None


class Cluster(Input):
    """One kind of GPU, its NVLink (or xGMI) domain and the network between domains. Every rate is one way, a GPU."""

    name: Name = "custom"
    gpu: str
    memory: PositiveBytes
    """Bytes of one GPU that a process can allocate: what the driver reports in total, before the CUDA context."""
    memory_bandwidth_bytes_per_s: Rate
    peak_flops: PeakFlops
    gpus_per_node: Positive = 8
    nvlink_domain_size: Positive = 8
    """GPUs that reach each other over the fast fabric (72 in an NVL72 rack)."""
    ranks_per_domain: Positive = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """GPUs of one domain that a job is given: 64 of an NVL72's 72, so that degrees divide it; all by default."""
    nvlink_bandwidth_bytes_per_s: Rate
    nvlink_latency_ns: Nanoseconds
    network_bandwidth_bytes_per_s: Rate
    network_latency_ns: Nanoseconds
    host: Literal["x86", "grace"] = "x86"
    host_bandwidth_bytes_per_s: Rate | None = None
    """Between one GPU and host memory, over PCIe or NVLink-C2C. Absent: as `host` usually has it."""
    compute_capability: str = "9.0"
    efficiency: str = "hopper"
    """Table of measured efficiencies: the name of a shipped one (presets/efficiency) or a YAML file."""
    price_per_gpu_hour_usd: Annotated[float, Field(ge=0)] = 0.0
    sources: dict[str, str] = Field(default={})
    """Where each number comes from, by field."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """A job is given whole domains unless the cluster says otherwise."""
        if isinstance(values, dict) and values.get("ranks_per_domain") is None:
            return {**values, "ranks_per_domain": values.get("nvlink_domain_size", 8)}
        return values

    @model_validator(mode="after")
    def _domain_holds_nodes(self) -> "Cluster":
        if self.nvlink_domain_size % self.gpus_per_node and self.gpus_per_node % self.nvlink_domain_size:
            raise ValueError(
                f"nvlink_domain_size {self.nvlink_domain_size} and gpus_per_node {self.gpus_per_node}: neither "
                "divides the other"
            )
        if self.ranks_per_domain > self.nvlink_domain_size:
            raise ValueError(
                f"ranks_per_domain {self.ranks_per_domain} is above nvlink_domain_size {self.nvlink_domain_size}"
            )
        return self
