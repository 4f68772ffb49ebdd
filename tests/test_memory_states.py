"""Bytes of weights, gradients and optimizer state; dummy gradients, workspaces and overheads."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from memory_problems import DEEPSEEK_V3, LLAMA3_70B, MIB, QWEN3_30B, degrees, problem
from moeopt.accounting.memory.overhead import communicators, default_overheads, load_overheads
from moeopt.accounting.memory.persistent import dummy_gradient_bytes
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.states import shard_counts, state_prices
from moeopt.accounting.memory.symbols import symbols
from moeopt.accounting.memory.terms import memory_terms
from moeopt.errors import InputError
from moeopt.layout import Choices
from moeopt.problem.layer_kind import LayerKind


@pytest.mark.parametrize(
    ("precision", "optimizer", "expected"),
    [
        ("bf16", {}, (2, 4, 12)),
        ("bf16", {"main_grads": "bf16"}, (2, 2, 12)),
        ("bf16", {"precision_aware": True}, (2, 4, 10)),
        ("bf16", {"precision_aware": True, "moments": "bf16"}, (2, 4, 6)),
        ("bf16", {"precision_aware": True, "moments": "fp8", "main_grads": "bf16"}, (2, 2, 4)),
        ("fp8", {"precision_aware": True, "moments": "bf16"}, (2, 4, 8)),
        ("mxfp8", {"precision_aware": True, "moments": "bf16", "main_params": "fp16"}, (2, 4, 6)),
        ("nvfp4", {"main_grads": "bf16"}, (2, 2, 12)),
        ("fp16", {}, (2, 4, 12)),
    ],
)
def test_bytes_an_element(precision: str, optimizer: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """6 + 12/n in bf16; 16-bit gradients cost 2; a precision-aware optimizer keeps 2 bytes of the master, in bf16."""
    prices = state_prices(problem(QWEN3_30B, precision=precision), Choices(optimizer=optimizer), DEFAULT_RECIPE)
    assert (prices.weight, prices.gradient, int(prices.optimizer)) == expected
    assert prices.optimizer.denominator == 1


def test_offload_takes_the_moments() -> None:
    """An offloaded fraction F lowers the GPU's state by 8*F bytes a shard element: master weights stay."""
    for fraction, left in ((0.25, 10), (0.5, 8), (1.0, 4)):
        chosen = Choices(optimizer={"offload_fraction": fraction})
        assert state_prices(problem(QWEN3_30B), chosen, DEFAULT_RECIPE).optimizer == left
    third = Choices(optimizer={"offload_fraction": 0.3})
    assert state_prices(problem(QWEN3_30B), third, DEFAULT_RECIPE).optimizer == 4 + 8 * Fraction(7, 10)


def test_shards() -> None:
    """Dense state is shared by dp*cp ranks, expert state by edp, over the instances; by nobody without a distributed
    optimizer."""
    at = degrees(dp=8, cp=2, edp=4)
    assert shard_counts(at, Choices()) == (16, 4)
    assert shard_counts(at, Choices(optimizer={"instances": 2})) == (8, 2)
    assert shard_counts(at, Choices(distributed_optimizer=False)) == (1, 1)


def test_quantized_weights() -> None:
    """fp8 caches two one-byte copies of each linear, one where GEMMs take any layout (compute capability 10); mxfp8
    exceeds two bytes by its scales (1/16); nvfp4 keeps 9/8 bytes, 7/8 less; 16-bit training exceeds by nothing; where
    fp8 copies are the parameters, the 16-bit ones (2 bytes) are gone. The routed experts of a DeepSeek-V3 layer at ep
    64: 4 * 3 * 7168 * 2048 elements."""
    layer, at = LayerKind("moe"), degrees(ep=64)
    bytes_of = {
        precision: memory_terms(problem(DEEPSEEK_V3, precision=precision), at, Choices()).quantized_bytes[layer]
        for precision in ("bf16", "fp8", "mxfp8", "nvfp4")
    }
    assert bytes_of["bf16"] == 0
    assert bytes_of["fp8"] == 32 * bytes_of["mxfp8"]
    assert 16 * bytes_of["nvfp4"] == -7 * bytes_of["fp8"]
    attention = 1536 * 7168 + 24576 * 1536 + 576 * 7168 + 32768 * 512 + 7168 * 16384
    assert bytes_of["fp8"] == 2 * (attention + 5 * 3 * 7168 * 2048)
    asked = problem(DEEPSEEK_V3, precision="fp8")
    for capability, copies in (("8.9", 2), ("9.0", 2), ("10.0", 1), ("10.3", 1), ("12.0", 2)):
        cluster = asked.cluster.model_copy(update={"compute_capability": capability})
        terms = memory_terms(asked.model_copy(update={"cluster": cluster}), at, Choices())
        assert 2 * terms.quantized_bytes[layer] == copies * bytes_of["fp8"]
        gathered = problem(DEEPSEEK_V3, precision="fp8", fp8_param_gather=True)
        gathered = gathered.model_copy(update={"cluster": cluster})
        assert 2 * memory_terms(gathered, at, Choices()).quantized_bytes[layer] == (copies - 2) * bytes_of["fp8"]


@pytest.mark.parametrize(
    ("architecture", "tp", "layers_mib", "head_mib"),
    [
        (LLAMA3_70B, 8, 204, 252),
        (DEEPSEEK_V3, 1, 441, 1767.5),
        (
            {
                **LLAMA3_70B,
                "hidden_size": 16384,
                "num_attention_heads": 128,
                "num_key_value_heads": 16,
                "intermediate_size": 53248,
            },
            1,
            6144,
            4008,
        ),
    ],
)
def test_dummy_gradients(architecture: dict[str, Any], tp: int, layers_mib: float, head_mib: float) -> None:
    """One 16-bit tensor a distinct weight shape: Llama-3 70B at tp 8, a MoE stage of DeepSeek-V3, Llama-3.1 405B with
    16 key-value heads; equal shapes (DeepSeek-V3's shared and routed experts) count once. Without fusion: none."""
    asked = problem(architecture)
    sizes = symbols(asked, degrees(tp=tp), Choices())
    found = dummy_gradient_bytes(asked, sizes, DEFAULT_RECIPE)
    block = found["moe"] if asked.architecture.is_moe else found["dense"]
    assert (found["layer"] + block) / MIB == pytest.approx(layers_mib, abs=0.5)
    assert found["loss"] / MIB == pytest.approx(head_mib, abs=0.5)
    without = dummy_gradient_bytes(asked, sizes, Recipe(gradient_accumulation_fusion=False))
    assert set(without.values()) == {0}


def test_workspaces_by_compute_capability() -> None:
    """An unknown capability takes the nearest lower entry, one below all entries the lowest."""
    table = default_overheads()
    assert table.workspaces("9.0").grouped == 128 * MIB
    assert table.workspaces("9.4") == table.workspaces("9.0")
    assert table.workspaces("10.3") == table.workspaces("10.0")
    assert table.workspaces("7.0") == table.workspaces("8.0")


def test_overhead_is_its_own_line_and_can_be_replaced(tmp_path: Path) -> None:
    """Another table changes the overhead and nothing else; communicators count groups of more than one rank."""
    shipped = Path(__file__).parents[1] / "optimizer" / "moeopt" / "presets" / "overheads.yaml"
    changed = tmp_path / "mine.yaml"
    text = shipped.read_text(encoding="utf-8")
    changed.write_text(text.replace("communicator: 392MB", "communicator: 100MB"), encoding="utf-8")
    at = degrees(tp=2, pp=4, dp=8, ep=8, edp=2)
    assert communicators(at) == 5
    default = memory_terms(problem(QWEN3_30B), at, Choices())
    mine = memory_terms(problem(QWEN3_30B), at, Choices(), overheads=load_overheads(changed))
    assert default.overhead_bytes - mine.overhead_bytes == 5 * (392 - 100) * 10**6
    assert default.present_bytes == mine.present_bytes
    changed.write_text("context: many", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.yaml"):
        load_overheads(changed)
