"""The list of kept tensors against what autograd really keeps of plain PyTorch layers on the CPU.

Where torch's own operators keep other bytes than the fused kernels that the list describes, the difference is a line
of `plain_torch`, derived from the operator. Skipped where torch is not installed.
"""

from typing import Any

import pytest

from memory_problems import degrees, problem
from moeopt.accounting.memory.activations import kept_tensors
from moeopt.accounting.memory.terms import memory_terms
from moeopt.layout import Choices, Recompute
from moeopt.problem.layer_kind import LayerKind

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

TOKENS = 48
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "vocab_size": 64,
    "intermediate_size": 96,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
}
GQA = {**BASE, "num_key_value_heads": 2, "head_dim": 16}
GQA_NORMS = {**GQA, "qk_norm": "head"}
MLA = {
    **BASE,
    "q_lora_rank": 40,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
ARCHITECTURES = {"gqa": GQA, "gqa with norms of q and k": GQA_NORMS, "mla": MLA}


def plain_torch(architecture: dict[str, Any], moe: bool, recompute: frozenset[str]) -> dict[str, int]:
    """Bytes that torch's operators keep beyond (or below) the list of Transformer Engine's and Megatron's kernels."""
    t, heads, h = TOKENS, architecture["num_attention_heads"], architecture["hidden_size"]
    found: dict[str, int] = {}

    def norm(name: str, rows: int, width: int, stays: bool = False) -> None:
        """LayerNorm's CPU kernel keeps mean and deviation in bf16 (4 bytes a row), not fp32 (8). RMSNorm is composed of
        fp32 operators on the CPU: the input in fp32 and the product before the weight are kept, the bf16 input is not
        (unless something else keeps it: `stays`)."""
        if architecture["norm"] == "layernorm":
            found[f"{name}: statistics in bf16"] = -4 * rows
        else:
            found[f"{name}: fp32 copies of input and output"] = 8 * rows * width
            found[f"{name}: bf16 input"] = 0 if stays else -2 * rows * width

    mla = "kv_lora_rank" in architecture
    up_again = mla and "mla_up_proj" in recompute
    if not (mla and "layernorm" in recompute):
        norm("input norm", t, h)
    if up_again:
        found["log-sum-exp: attention lies in the same checkpoint"] = -4 * t * heads
    elif mla:
        norm("query latent norm", t, architecture["q_lora_rank"])
        norm("key-value latent norm", t, architecture["kv_lora_rank"])
        if architecture["norm"] == "rmsnorm":
            # Its input is a slice of the down-projection's output; only the slice was taken off above.
            found["rotary key in the latent's storage"] = -2 * t * architecture["qk_rope_head_dim"]
    elif architecture.get("qk_norm") == "head":
        norm("query norm", t * heads, architecture["head_dim"])
        norm("key norm", t * architecture["num_key_value_heads"], architecture["head_dim"])
        if architecture["norm"] == "layernorm":
            # Both inputs are slices of the packed projection's output, so the storage of the value's slice stays too.
            found["value in the packed output"] = 2 * t * architecture["num_key_value_heads"] * architecture["head_dim"]
    block = _experts(architecture, recompute, norm) if moe else _dense(architecture, recompute, norm)
    return {**found, **block}


def _dense(architecture: dict[str, Any], recompute: frozenset[str], norm: Any) -> dict[str, int]:
    if "mlp" in recompute:
        return {}
    norm("feed-forward norm", TOKENS, architecture["hidden_size"])
    # silu and the product are two operators: the product keeps silu's output (a fused SwiGLU computes it again).
    return {"silu of the gate": 2 * TOKENS * architecture["intermediate_size"]}


def _experts(architecture: dict[str, Any], recompute: frozenset[str], norm: Any) -> dict[str, int]:
    t, k, experts = TOKENS, architecture["num_experts_per_tok"], architecture["num_experts"]
    rows, width = t * k, architecture["moe_intermediate_size"]
    if not {"moe", "layernorm"} <= recompute:
        norm("feed-forward norm", t, architecture["hidden_size"])
    if "moe" in recompute:
        return {}
    extra = {
        # Without a fused permutation: indices in int64, of the experts chosen and of the sorted rows, and no row map.
        "row map": -4 * t * (2 * experts + 1),
        "chosen experts": 8 * rows,
        "order of the rows": 8 * rows,
    }
    if "moe_act" not in recompute:
        # silu, product with the other half, product with the probability: three operators, two of whose values stay.
        extra["silu of the gate"] = 2 * rows * width
        extra["activation before its probability"] = 2 * rows * width
    if "shared_experts" not in recompute:
        extra["silu of the shared gate"] = 2 * t * architecture["shared_expert_intermediate_size"]
    return extra


CASES = [
    (name, norm, moe, modules)
    for name in ARCHITECTURES
    for norm in ("layernorm", "rmsnorm")
    for moe, modules in [
        (False, ()),
        (False, ("mlp",)),
        (True, ()),
        (True, ("moe_act",)),
        (True, ("shared_experts",)),
        (True, ("moe_act", "shared_experts")),
        (True, ("moe",)),
        *([(True, ("mla_up_proj",)), (True, ("layernorm", "moe"))] if name == "mla" else [(True, ("core_attn",))]),
    ]
]


@pytest.mark.parametrize(("name", "norm", "moe", "modules"), CASES)
def test_autograd_keeps_what_the_list_says(name: str, norm: str, moe: bool, modules: tuple[str, ...]) -> None:
    """Bytes of all storages that autograd saves = the list + what torch's own operators change, to the byte."""
    from torch_layers import DTYPE, Layer, kept_bytes

    torch.manual_seed(1)
    architecture = {**ARCHITECTURES[name], "norm": norm, "norm_bias": False}
    asked = problem(architecture, sequence_length=TOKENS)
    recompute = {"recompute": Recompute(granularity="selective", modules=modules)} if modules else {}
    kept = kept_tensors(asked, LayerKind("moe" if moe else "dense"), degrees(), Choices(**recompute))
    layer = Layer(asked.architecture, moe, frozenset(modules))
    tokens = torch.randn(TOKENS, architecture["hidden_size"], dtype=DTYPE, requires_grad=True)
    differences = plain_torch(architecture, moe, frozenset(modules))
    listed = {item.name: int(item.bytes) for item in kept}
    assert kept_bytes(layer, tokens) == sum(listed.values()) + sum(differences.values()), (listed, differences)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("moe", [False, True])
def test_full_recomputation_keeps_the_layer_input(name: str, moe: bool) -> None:
    """A layer under one checkpoint keeps its input and nothing else: kept_bytes, to the byte."""
    from torch_layers import DTYPE, Layer, kept_bytes

    asked = problem({**ARCHITECTURES[name], "norm": "rmsnorm"}, sequence_length=TOKENS)
    choices = Choices(recompute=Recompute(granularity="full", method="uniform", num_layers=1))
    terms = memory_terms(asked, degrees(), choices)
    tokens = torch.randn(TOKENS, asked.architecture.hidden_size, dtype=DTYPE, requires_grad=True)
    found = kept_bytes(Layer(asked.architecture, moe, frozenset({"full"})), tokens)
    kind = next(iter(terms.kept_bytes))
    assert found == terms.kept_bytes[kind] == 2 * TOKENS * asked.architecture.hidden_size
