"""Kept tensors: hand-derived sizes, what each recompute module drops, and how degrees and routing scale them."""

from math import prod

import pytest

from memory_problems import DEEPSEEK_V3, LLAMA3_70B, MIB, QWEN3_30B, degrees, problem
from moeopt.accounting.memory.activations import all_tensors, kept_tensors
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.memory.tensors import total
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.pieces import pieces
from moeopt.accounting.time.terms import time_terms
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.loading import load_problem
from moeopt.problem.problem import Problem

MOE, DENSE = LayerKind("moe"), LayerKind("dense")


def sizes_of(
    asked: Problem, at: Degrees, choices: Choices | None = None, recipe: Recipe = DEFAULT_RECIPE, kind: LayerKind = MOE
) -> dict[str, int]:
    choices = choices or Choices()
    return {item.name: int(item.bytes) for item in kept_tensors(asked, kind, at, choices, recipe)}


def test_deepseek_v3_layer_by_hand() -> None:
    """DeepSeek-V3, one GPU a replica, 4096 tokens: attention 787 MiB (512 of them q, k and v), routed experts 832,
    shared experts 48 (the derivation for a MoE layer of 1796 MiB in all, where router matrices are rough)."""
    kept = sizes_of(problem(DEEPSEEK_V3), degrees())
    assert kept["query"] + kept["key (one a head)"] + kept["value"] == 512 * MIB
    attention = sum(
        size
        for name, size in kept.items()
        if not any(word in name for word in ("routed", "shared", "router", "routing", "row", "feed-forward", "MoE"))
    )
    assert attention / MIB == pytest.approx(787, abs=2)
    routed = ("routed fc1 input (sorted)", "routed fc1 output", "routed activation (fc2 input)")
    assert [kept[name] / MIB for name in routed] == [448, 256, 128]
    assert kept["shared fc1 output"] + kept["shared activation (fc2 input)"] == 48 * MIB
    assert sum(kept.values()) / MIB == pytest.approx(1796, rel=0.01)


def test_llama_layer_by_hand() -> None:
    """Llama-3 70B at tp 8 with sequence parallelism, 4096 tokens (T = 512): 3 * 2Th + q 2A*1024, k and v 2A*128 each,
    output 2A*1024, log-sum-exp 4A*8, fc1 output 4A*3584, activation 2A*3584, and 8T of statistics."""
    a, t, h = 4096, 512, 8192
    expected = 4 * 2 * t * h + 2 * a * (1024 + 2 * 128 + 1024) + 4 * a * 8 + 6 * a * 3584 + 2 * 4 * t
    assert sum(sizes_of(problem(LLAMA3_70B), degrees(tp=8), kind=DENSE).values()) == expected


def test_query_key_norms_keep_their_inputs() -> None:
    """Norms on q and k keep both inputs (2A*(n_q + n_kv)*d) and 4 bytes a head and token."""
    with_norm = sizes_of(problem(QWEN3_30B), degrees())
    without = sizes_of(problem({**QWEN3_30B, "qk_norm": "none"}), degrees())
    assert sum(with_norm.values()) - sum(without.values()) == 4096 * 36 * (2 * 128 + 4)


@pytest.mark.parametrize("architecture", [DEEPSEEK_V3, QWEN3_30B, LLAMA3_70B])
@pytest.mark.parametrize("module", RECOMPUTE_MODULES)
def test_a_module_drops_the_sum_of_its_tensors(architecture: dict[str, object], module: str) -> None:
    """Recomputing a module lowers the kept bytes of each piece by exactly the tensors marked as dropped by it."""
    asked, at = problem(architecture, attention_backend="unfused"), degrees(tp=2, ep=2)
    chosen = Choices(recompute={"modules": [module]})
    before, after = memory_terms(asked, at, Choices()), memory_terms(asked, at, chosen)
    sizes = symbols(asked, at, chosen)
    for piece in before.kept_bytes:
        marked = [
            item for item in all_tensors(asked, sizes, piece, chosen, DEFAULT_RECIPE) if module in item.dropped_by
        ]
        assert before.kept_bytes[piece] - after.kept_bytes[piece] == total(marked)


def test_modules_drop_what_the_code_says() -> None:
    """mla_up_proj: q, k, v, the normed compressed states and their statistics. moe_act: 2R*f_e. layernorm: both
    separate norms. moe: everything of the block but its residual and its normed input."""
    asked, at = problem(DEEPSEEK_V3), degrees()
    a, h, rows = 4096, 7168, 4096 * 8

    def saved(*modules: str) -> int:
        kept = sizes_of(asked, at, Choices(recompute={"modules": modules}))
        return sum(sizes_of(asked, at).values()) - sum(kept.values())

    assert saved("mla_up_proj") == 2 * a * 128 * (2 * 192 + 128) + 2 * a * (1536 + 512) + 2 * 4 * a
    assert saved("moe_act") == 2 * rows * 2048
    assert saved("layernorm") == 2 * (2 * a * h + 4 * a)
    assert saved("moe") > saved("moe_act", "shared_experts")
    assert saved("moe", "moe_act", "shared_experts") == saved("moe")


def test_each_formula_says_what_it_counts() -> None:
    """The arithmetic of a tensor, evaluated with the printed numbers, gives its bytes."""
    asked, choices = problem(DEEPSEEK_V3, precision="fp8"), Choices(dispatcher="allgather")
    at = degrees(tp=4, cp=2, ep=8, etp=2)
    for piece in (*pieces(asked.architecture), DENSE):
        for item in kept_tensors(asked, piece, at, choices):
            product, _, denominator = item.arithmetic.partition(" = ")[2].partition("/")
            value = prod(int(factor) for factor in product.split("*"))
            assert -(-value // int(denominator or 1)) == item.bytes
    first = kept_tensors(asked, MOE, at, choices)[0]
    assert first.arithmetic == f"2*T*h = 2*{4096 // 8}*7168"


def test_expert_parallelism_keeps_the_mean() -> None:
    """With balanced routing the bytes kept do not depend on ep; with worst-case routing they do not fall with it."""
    asked, worst = problem(DEEPSEEK_V3), problem(DEEPSEEK_V3, routing="worst")
    sizes = [sum(sizes_of(asked, degrees(ep=ep)).values()) for ep in (1, 2, 8, 64)]
    assert len(set(sizes)) == 1
    highest = [sum(sizes_of(worst, degrees(ep=ep)).values()) for ep in (1, 2, 8, 64)]
    assert highest == sorted(highest)
    assert highest[0] == sizes[0]
    assert sizes_of(worst, degrees(ep=8))["routed fc1 input (sorted)"] == 2 * 8 * 4096 * 8 * 7168


def test_routing_scales_rows_upwards() -> None:
    """An imbalance multiplies rows; a capacity factor pads each expert to ceil(T*k/E*factor) rows (160 experts of
    DeepSeek-V2, 4096 tokens, top 6: 154 * 160 rows)."""
    v2 = {**DEEPSEEK_V3, "num_experts": 160, "num_experts_per_tok": 6}
    name = "routed fc1 input (sorted)"
    assert sizes_of(problem(v2, routing={"imbalance": 1.25}), degrees())[name] == 2 * 30720 * 7168
    assert sizes_of(problem(v2, routing={"capacity_factor": 1.0}), degrees())[name] == 2 * 154 * 160 * 7168


def test_expert_tensor_parallelism_gathers_rows_and_splits_width() -> None:
    """etp multiplies the rows (2R*h grows) and divides the experts' width (2R*f_e stays)."""
    one, four = sizes_of(problem(DEEPSEEK_V3), degrees(tp=4, etp=1)), sizes_of(problem(DEEPSEEK_V3), degrees(tp=4))
    assert four["routed fc1 input (sorted)"] == 4 * one["routed fc1 input (sorted)"]
    assert four["routed fc1 output"] == one["routed fc1 output"]


def test_squared_relu_takes_probabilities_along_where_nothing_has_a_bias() -> None:
    """Two-matrix experts: GELU keeps its output once more before the probabilities; the fused squared ReLU does not."""
    plain = {**QWEN3_30B, "gated": False}
    gelu, fused, biased = (
        sizes_of(problem({**plain, **given}), degrees())
        for given in ({}, {"squared_relu": True}, {"squared_relu": True, "mlp_bias": True})
    )
    assert sum(gelu.values()) - sum(fused.values()) == gelu["routed activation (fc2 input)"]
    assert biased.keys() == gelu.keys()


def test_sequence_parallelism_and_context_parallelism_divide_tokens() -> None:
    """cp divides every activation; without sequence parallelism tensors outside tensor-parallel regions stay whole."""
    asked = problem(LLAMA3_70B)
    whole, half = sizes_of(asked, degrees(), kind=DENSE), sizes_of(asked, degrees(cp=2), kind=DENSE)
    assert {name: size // 2 for name, size in whole.items()} == half
    plain = sizes_of(asked, degrees(tp=2), Choices(sequence_parallel=False), kind=DENSE)
    assert plain["layer input (residual)"] == whole["layer input (residual)"]
    assert plain["fc1 output"] == whole["fc1 output"] // 2


def test_dropout_and_unfused_attention() -> None:
    """Hidden dropout keeps one byte an element at each of two additions; unfused attention keeps b*n*s*s probabilities
    (2 bytes), with attention dropout two more such tensors (2 and 1 bytes), instead of the log-sum-exp."""
    asked = problem(LLAMA3_70B, attention_backend="unfused")
    recipe = Recipe(hidden_dropout=True, attention_dropout=True)
    kept = sizes_of(asked, degrees(), recipe=recipe, kind=DENSE)
    scores = 64 * 4096 * 4096
    assert kept["softmax probabilities"] + kept["dropped probabilities"] + kept["dropout mask"] == 5 * scores
    assert "log-sum-exp of the softmax" not in kept
    assert kept["dropout mask after attention"] == kept["dropout mask after the feed-forward block"] == 4096 * 8192
    dropped = sizes_of(asked, degrees(), Choices(recompute={"modules": ["core_attn"]}), recipe, kind=DENSE)
    assert "softmax probabilities" not in dropped


@pytest.mark.parametrize(("precision", "element", "padding"), [("mxfp8", (33, 32), 31), ("nvfp4", (9, 16), 127)])
def test_quantized_training_keeps_less(precision: str, element: tuple[int, int], padding: int) -> None:
    """Inputs of linears take 33/32 bytes an element in mxfp8 and 9/16 in nvfp4; attention's own tensors stay in 16
    bits; rows are padded by at most 31 and 127 a local expert."""
    half, less = problem(DEEPSEEK_V3), problem(DEEPSEEK_V3, precision=precision)
    at = degrees(ep=64)
    before, after = sizes_of(half, at), sizes_of(less, at)
    assert after["query"] == before["query"]
    rows = 4096 * 8 + padding * 4
    assert after["routed fc1 input (sorted)"] == rows * 7168 * element[0] // element[1]
    assert sum(after.values()) < sum(before.values())


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "nvfp4"])
def test_layers_that_stay_in_bf16_cost_what_bf16_layers_do(precision: str) -> None:
    """A layer at an end that is left in bf16 keeps, weighs and takes what it does in a bf16 run (but for its experts'
    rows, which are padded all the same); MTP modules and the layers between stay narrow."""
    given = {**DEEPSEEK_V3, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1}
    ends = {**given, "num_layers_at_start_in_bf16": 3, "num_layers_at_end_in_bf16": 2}
    wide, narrow, mixed = problem(given), problem(given, precision=precision), problem(ends, precision=precision)
    dense, moe = LayerKind("dense"), LayerKind("moe")
    kept, left = LayerKind("dense", in_bf16=True), LayerKind("moe", in_bf16=True)
    assert mixed.architecture.layers_of_kind == {kept: 3, moe: len(mixed.architecture.layers) - 5, left: 2}
    at = degrees(ep=64)
    memory = {name: memory_terms(each, at, Choices()) for name, each in (("b", wide), ("n", narrow), ("m", mixed))}
    assert memory["m"].kept_bytes[kept] == memory["b"].kept_bytes[dense] > memory["n"].kept_bytes[dense]
    assert memory["m"].quantized_bytes[left] == memory["m"].quantized_bytes[kept] == 0
    for piece in (moe, "mtp"):
        assert memory["m"].kept_bytes[piece] == memory["n"].kept_bytes[piece]
        assert memory["m"].quantized_bytes[piece] == memory["n"].quantized_bytes[piece]
    cluster = load_problem({"architecture": given, "cluster": "b200", "gpus": 64}).cluster
    times = [
        time_terms(each.model_copy(update={"cluster": cluster}), at, Choices()).backward_ns
        for each in (wide, narrow, mixed)
    ]
    assert times[2][kept] == times[0][dense] != times[1][dense]
    assert times[2][moe] == times[1][moe]
    assert times[2][left] > times[1][moe]


def test_four_bits_leave_mtp_modules_alone() -> None:
    """MTP modules of an nvfp4 run keep what those of a bf16 run keep, but for the padded rows of their experts, and no
    weight of theirs is packed (Megatron computes them in 16 bits: multi_token_prediction.py:1394)."""
    given = {**DEEPSEEK_V3, "num_nextn_predict_layers": 1}
    at = degrees(ep=64)
    half, four = (memory_terms(problem(given, precision=name), at, Choices()) for name in ("bf16", "nvfp4"))
    assert four.quantized_bytes["mtp"] == 0
    padded = 4 * 127 * (2 * 7168 + 3 * 2 * 2048 + 4)
    assert 0 < four.kept_bytes["mtp"] - half.kept_bytes["mtp"] <= padded
    assert four.kept_bytes[LayerKind("moe")] < half.kept_bytes[LayerKind("moe")] * 3 // 4
