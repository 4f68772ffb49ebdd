"""One formula, two readers: columns of layouts give the same integers as one layout at a time."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_problems import problem
from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees

NAMES = tuple(field.name for field in fields(Degrees))


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Small architectures: latent or grouped attention, dense, MoE or both, with or without MTP."""
    experts = draw(st.sampled_from([0, 8, 16]))
    found: dict[str, Any] = {
        "hidden_size": 64 * draw(st.integers(1, 40)),
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "head_dim": 16 * draw(st.integers(1, 8)),
        "num_key_value_heads": draw(st.sampled_from([1, 2, 8])),
        "vocab_size": draw(st.integers(1000, 200_000)),
        "intermediate_size": 64 * draw(st.integers(1, 100)),
        "gated": draw(st.booleans()),
        "qk_norm": draw(st.sampled_from(["none", "head"])),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm"])),
    }
    if draw(st.booleans()):
        found |= {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}
        found["q_lora_rank"] = draw(st.sampled_from([None, 96]))
        if found["q_lora_rank"]:
            found["index_topk"] = draw(st.sampled_from([None, 512, 2048]))
            found |= {"index_n_heads": 4, "index_head_dim": 16 * draw(st.integers(1, 8))}
    else:
        found["attention_output_gate"] = draw(st.booleans())
    if draw(st.booleans()):
        found |= {"linear_attention_pattern": draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))}
        found |= {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_conv_kernel_dim": 4}
        found |= {"linear_key_head_dim": 16 * draw(st.integers(1, 8)), "linear_value_head_dim": 64}
    if draw(st.booleans()) and not {"kv_lora_rank", "linear_attention_pattern"} & set(found):
        found |= {"hybrid_pattern": draw(st.text("M*-E" if experts else "M*-", min_size=4, max_size=4))}
        found |= {"mamba_num_heads": 16, "mamba_head_dim": 8 * draw(st.integers(1, 8)), "attention_output_gate": False}
        found |= {"mamba_num_groups": draw(st.sampled_from([1, 8])), "mamba_state_dim": 16}
    if experts and "hybrid_pattern" in found:
        found |= {"num_experts": experts, "num_experts_per_tok": draw(st.integers(1, 4)), "moe_intermediate_size": 128}
        found["moe_latent_size"] = draw(st.sampled_from([0, 32]))
    elif experts:
        found |= {"num_experts": experts, "num_experts_per_tok": draw(st.integers(1, 4)), "first_k_dense_replace": 1}
        found |= {"moe_intermediate_size": 128, "shared_expert_intermediate_size": draw(st.sampled_from([0, 128]))}
        found["num_nextn_predict_layers"] = draw(st.integers(0, 2))
    return found


@st.composite
def choices(draw: st.DrawFn) -> Choices:
    modules = draw(st.lists(st.sampled_from(RECOMPUTE_MODULES), unique=True))
    full = [{"granularity": "full"}, {"granularity": "full", "method": "block", "num_layers": 2}]
    return Choices(
        recompute=draw(st.sampled_from([{"modules": modules} if modules else {}, *full])),
        dispatcher=draw(st.sampled_from(["alltoall", "deepep", "hybridep", "allgather"])),
        distributed_optimizer=draw(st.booleans()),
        optimizer={
            "offload_fraction": draw(st.sampled_from([0.0, 0.3])),
            "moments": draw(st.sampled_from(["fp32", "bf16"])),
        },
        sequence_parallel=draw(st.booleans()),
        overlap={"ep_all_to_all": draw(st.booleans())},
    )


ROUTING: list[Any] = ["balanced", "worst", {"imbalance": 1.37}, {"capacity_factor": 1.25}]
WORKLOADS = st.fixed_dictionaries(
    {
        "sequence_length": st.sampled_from([1024, 4096, 1_048_576]),
        "precision": st.sampled_from(["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]),
        "cross_entropy": st.sampled_from(["unfused", "native", "te"]),
        "attention_backend": st.sampled_from(["fused", "unfused"]),
        "routing": st.sampled_from(ROUTING),
        "optimizer": st.sampled_from(["adam", "muon"]),
    }
)
SIZES = st.sampled_from([1, 2, 3, 4, 8])
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, SIZES)), min_size=1, max_size=6)


def _values(terms: MemoryTerms) -> dict[str, Any]:
    """Every number of the terms, by a flat name."""
    return {name: value for field in fields(terms) for name, value in _flat(field.name, getattr(terms, field.name))}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}[{key}]", item)
    else:
        yield name, value


@settings(max_examples=60, deadline=None)
@given(architectures(), choices(), WORKLOADS, ROWS)
def test_columns_equal_integers(
    architecture: dict[str, Any], chosen: Choices, workload: dict[str, Any], rows: list[dict[str, int]]
) -> None:
    """Every term of a column of layouts equals that of each layout alone, an exact int, at up to a million tokens."""
    asked = problem(architecture, **workload)
    column = Degrees(**{name: np.array([row[name] for row in rows], dtype=np.int64) for name in NAMES})
    together = _values(memory_terms(asked, column, chosen))
    for index, row in enumerate(rows):
        alone = _values(memory_terms(asked, Degrees(**row), chosen))
        assert alone.keys() == together.keys()
        for name, value in together.items():
            at = value[index] if isinstance(value, np.ndarray) else value
            assert at == alone[name], (name, row)
            assert not isinstance(alone[name], (float, np.generic)), name


@settings(max_examples=40, deadline=None)
@given(architectures(), choices(), WORKLOADS, ROWS)
def test_nothing_kept_is_negative(
    architecture: dict[str, Any], chosen: Choices, workload: dict[str, Any], rows: list[dict[str, int]]
) -> None:
    """Elements, kept, transient and overhead bytes are never below zero, at any degrees; what 4-bit copies save of a
    piece's 16-bit weights is less than those weights."""
    terms = memory_terms(problem(architecture, **workload), Degrees(**rows[0]), chosen)
    for name, value in _values(terms).items():
        saving = name == "present_bytes[embedding]" or name.startswith("quantized_bytes[")
        assert value >= 0 or saving, name
    for piece, quantized in terms.quantized_bytes.items():
        weights = 2 * (terms.dense_elements[piece] + terms.expert_elements[piece])
        assert weights + quantized >= 0, piece
        assert quantized >= 0 or workload["precision"] == "nvfp4", piece
