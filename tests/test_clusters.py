import pytest

from moeopt.accounting.time.efficiency import load_efficiency
from moeopt.errors import InputError
from moeopt.problem.cluster import Cluster
from moeopt.problem.loading import load_cluster, presets

UNSOURCED = {"name", "gpu", "sources"}
MIB = 2**20


def test_what_ships() -> None:
    """The clusters that the documentation promises, by their names."""
    assert presets("clusters") == [
        "a100-80g", "b200", "b300", "gb200-nvl72", "gb300-nvl72", "h100-sxm", "h200", "h800", "mi300x"
    ]  # fmt: skip


@pytest.mark.parametrize("name", presets("clusters"))
def test_every_field_of_a_cluster_has_a_source(name: str) -> None:
    """Every number of a shipped cluster says where it comes from, and no source is left over; the efficiency table it
    names exists."""
    cluster = load_cluster(name)
    expected = set(Cluster.model_fields) - UNSOURCED
    if cluster.ranks_per_domain == cluster.nvlink_domain_size:
        expected -= {"ranks_per_domain"}
    assert set(cluster.sources) == expected
    assert all(len(text) > 10 for text in cluster.sources.values())
    assert cluster.name == name
    assert load_efficiency(cluster.efficiency).gemm.bf16 > 0


@pytest.mark.parametrize("name", ["ampere", "hopper", "blackwell", "blackwell-ultra", "cdna3"])
def test_every_share_says_measured_fitted_or_assumed(name: str) -> None:
    """Every constant of an efficiency table says how it was found, in the first words of its source."""
    table = load_efficiency(name)
    assert set(table.sources) == set(type(table).model_fields) - {"sources", "calibration"}
    for text in table.sources.values():
        assert text.startswith(("measured", "fitted", "assumed"))
    if name in ("ampere", "cdna3"):
        assert not any(text.startswith("fitted") for text in table.sources.values())


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("a100-80g", 81920),
        ("h100-sxm", 81559),
        ("h200", 143771),
        ("b200", 183359),
        ("gb200-nvl72", 189471),
        ("b300", 275040),
        ("gb300-nvl72", 284208),
    ],
)
def test_memory_is_what_the_driver_reports(name: str, mebibytes: int) -> None:
    """Capacity is nvidia-smi's total, not the data sheet's round figure (GB of 10^9 would be up to 7 % off)."""
    assert load_cluster(name).memory == mebibytes * MIB


def test_h800_is_an_h100_with_less_nvlink() -> None:
    """The H800 differs from the H100 in its NVLink bandwidth and in nothing else that time depends on."""
    first, second = load_cluster("h100-sxm").model_dump(), load_cluster("h800").model_dump()
    different = {key for key in first if first[key] != second[key]}
    assert different == {"name", "gpu", "nvlink_bandwidth_bytes_per_s", "sources"}
    assert second["nvlink_bandwidth_bytes_per_s"] * 2 == 400e9


def test_fp8_doubles_the_dense_rate_where_there_is_fp8() -> None:
    """Peaks are dense: fp8 is twice bf16 (a figure with sparsity would be four times), fp16 equals bf16."""
    for name in presets("clusters"):
        peak = load_cluster(name).peak_flops
        assert peak.fp16 == peak.bf16
        if name == "a100-80g":
            assert peak.fp8 is None
        else:
            assert peak.fp8 == pytest.approx(2 * peak.bf16, rel=1e-3)


def test_ranks_per_domain_defaults_to_the_domain_and_cannot_exceed_it() -> None:
    """A job is given whole domains unless the cluster says otherwise; 64 of an NVL72's 72, never more than it has."""
    assert load_cluster("h100-sxm").ranks_per_domain == 8
    assert load_cluster("gb200-nvl72").ranks_per_domain == 64
    assert load_cluster({"base": "gb200-nvl72", "ranks_per_domain": 72}).ranks_per_domain == 72
    with pytest.raises(InputError, match="ranks_per_domain 16 is above nvlink_domain_size 8"):
        load_cluster({"base": "h100-sxm", "ranks_per_domain": 16})


def test_nvlink_ends_at_the_node_unless_the_cluster_says_more() -> None:
    """A variant with other nodes has their NVLink domain where the base's domain is its node; a rack keeps its own, and
    what the variant says itself holds. A job is given whole domains."""
    assert load_cluster({"base": "h100-sxm", "gpus_per_node": 4}).nvlink_domain_size == 4
    assert load_cluster({"base": "h100-sxm", "gpus_per_node": 4}).ranks_per_domain == 4
    assert load_cluster({"base": "h100-sxm", "gpus_per_node": 4, "nvlink_domain_size": 8}).nvlink_domain_size == 8
    assert load_cluster({"base": "gb200-nvl72", "gpus_per_node": 8}).nvlink_domain_size == 72
    own = load_cluster("h100-sxm").model_dump(exclude={"nvlink_domain_size", "ranks_per_domain"}) | {"gpus_per_node": 4}
    assert (load_cluster(own).nvlink_domain_size, load_cluster(own).ranks_per_domain) == (4, 4)


def test_bandwidths_may_have_units() -> None:
    """`12.5GB/s` is the number that `12.5e9` is."""
    rates = [load_cluster({"base": "h100-sxm", "network_bandwidth_bytes_per_s": rate}) for rate in ("12.5GB/s", 12.5e9)]
    assert rates[0] == rates[1]
