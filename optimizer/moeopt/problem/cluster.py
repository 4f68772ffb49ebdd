"""The machines: what one GPU holds and computes, and what joins it to the others."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moeopt.problem.base import Bandwidth, Input, Name, Nanoseconds, Positive, PositiveBytes

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
    memory_bandwidth_bytes_per_s: Bandwidth
    peak_flops: PeakFlops
    gpus_per_node: Positive = 8
    nvlink_domain_size: Positive = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """GPUs that reach each other over the fast fabric (72 in an NVL72 rack); those of a node by default."""
    ranks_per_domain: Positive = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """GPUs of one domain that a job is given: 64 of an NVL72's 72, so that degrees divide it; all by default."""
    nvlink_bandwidth_bytes_per_s: Bandwidth
    nvlink_latency_ns: Nanoseconds
    network_bandwidth_bytes_per_s: Bandwidth
    network_latency_ns: Nanoseconds
    host: Literal["x86", "grace"] = "x86"
    host_bandwidth_bytes_per_s: Bandwidth | None = None
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
        """NVLink ends at the node, and a job is given whole domains, unless the cluster says otherwise."""
        if not isinstance(values, dict):
            return values
        found = dict(values)
        for name, like in (("nvlink_domain_size", "gpus_per_node"), ("ranks_per_domain", "nvlink_domain_size")):
            if found.get(name) is None:
                found[name] = found.get(like, cls.model_fields["gpus_per_node"].default)
        return found

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
