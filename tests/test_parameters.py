"""Sizes of architectures, against Hugging Face's modules and against what their authors state."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeopt.accounting.parameters import COMPONENTS, count, piece_parameters
from moeopt.accounting.pieces import pieces
from moeopt.problem.architecture import Architecture
from moeopt.problem.loading import load_architecture, presets

DATA = Path(__file__).parent / "data"
ROWS = json.loads((DATA / "hf_params.json").read_text())["rows"]
IDS = [row["config"] for row in ROWS]
COMPONENT = {
    "qk_or_latent_norms": "norms",
    "shared_expert": "shared_experts",
    "shared_expert_gate": "shared_experts",
    "router_bias": "router",
}
"""The file splits some components further than the package does."""


def _architecture(row):
    return load_architecture(str(DATA / "hf_configs" / row["config"]))


def _components(fine):
    merged = dict.fromkeys(COMPONENTS, 0)
    for name, size in fine.items():
        merged[COMPONENT.get(name, name)] += size
    return merged


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_totals_are_those_of_hugging_face(row):
    """Total and active parameters equal, to the last one, those of the modules that transformers builds."""
    counted = count(_architecture(row))
    assert counted.total == row["total"]
    assert counted.active == row["active"]
    assert counted.active_without_embeddings == row["active_without_embedding"]
    without_head = counted.to_json(_architecture(row))["active_without_embeddings_and_head"]
    assert without_head == row["active_without_embedding_and_head"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_components_are_those_of_hugging_face(row):
    """Every component's sum, correction biases counted with the router."""
    expected = _components(row["components"])
    counted = count(_architecture(row)).components
    assert {name: size for name, size in counted.items() if name != "mtp"} == {
        name: size for name, size in expected.items() if name != "mtp"
    }


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_layer_kinds_are_those_of_hugging_face(row):
    """Layers of a kind hold what the modules of that kind hold (windows split kinds, and hold no parameters)."""
    layers = count(_architecture(row)).layers
    assert sum(layer.count for layer in layers) == sum(kind["count"] for kind in row["layers"])
    for kind in row["layers"]:
        expected = _components({name: size for name, size in kind.items() if name not in ("count", "first")})
        matching = [layer for layer in layers if layer.components == expected]
        assert sum(layer.count for layer in matching) == kind["count"]


@pytest.mark.parametrize("row", [row for row in ROWS if row["mtp_module"]], ids=lambda row: row["config"])
def test_mtp_module_is_counted_apart(row):
    """An MTP module is a decoder layer, a projection from 2h to h and three norms; the total leaves it out."""
    architecture = _architecture(row)
    assert count(architecture).mtp == row["mtp_module"] * architecture.num_nextn_predict_layers
    assert count(architecture.model_copy(update={"num_nextn_predict_layers": 0})).total == count(architecture).total


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_correction_biases_are_the_only_untrainable_parameters(row):
    """What is not trained equals the buffers that Hugging Face registers."""
    architecture = _architecture(row)
    untrained = 0
    for kind in architecture.layers:
        untrained += sum(p.total for p in piece_parameters(architecture, kind) if not p.trainable)
    assert untrained == row["buffers"]


STATED = {
    # name: (total, active), as digits that their authors or cards print. Fewer digits where the stated figure counts
    # more than the text transformer without MTP: GLM-4.5 (355B, see below), Llama 4 Scout (109B with its vision part).
    "mixtral-8x7b": ("46.7e9", "12.9e9"),
    "mixtral-8x22b": ("141e9", "39e9"),
    "qwen2-57b-a14b": ("57.41e9", "14e9"),
    "qwen3-30b-a3b": ("30.5e9", "3.3e9"),
    "qwen3-235b-a22b": ("235e9", "22e9"),
    "qwen3-next-80b-a3b": ("80e9", "3e9"),
    "qwen3-coder-480b": ("480e9", "35e9"),
    "deepseek-v2-lite": ("15.7e9", "2.4e9"),
    "deepseek-v2": ("236e9", "21e9"),
    "deepseek-v3": ("671e9", "37e9"),
    "nemotron-3-nano-30b-a3b": ("31.6e9", "3.6e9"),
    "nemotron-3-super-120b-a12b": ("120e9", "12e9"),
    "nemotron-h-8b": ("8.1e9", "8.1e9"),
    "deepseek-v3.2": ("671e9", "37e9"),
    "glm-5": ("744e9", "40e9"),
    "kimi-k2": ("1.0e12", "32e9"),
    "moonlight-16b-a3b": ("16e9", "3e9"),
    "glm-4.5": ("35e10", "32e9"),
    "glm-4.5-air": ("106e9", "12e9"),
    "gpt-oss-20b": ("20.9e9", "3.6e9"),
    "gpt-oss-120b": ("116.8e9", "5.1e9"),
    "olmoe-1b-7b": ("6.9e9", "1.3e9"),
    "dbrx": ("132e9", "36e9"),
    "phi-3.5-moe": ("41.9e9", "6.6e9"),
    "llama-4-scout": ("11e10", "17e9"),
    "llama-4-maverick": ("400e9", "17e9"),
    "minimax-m2": ("23e10", "10e9"),
    "ernie-4.5-21b": ("21e9", "3e9"),
    "ernie-4.5-300b": ("300e9", "47e9"),
    "llama-3-8b": ("8.03e9", "8.03e9"),
    "llama-3-70b": ("70.6e9", "70.6e9"),
    "llama-3-405b": ("405e9", "405e9"),
}


def _unit(text):
    """One unit of the last digit printed: such figures are rounded by some and cut off by others."""
    mantissa, _, exponent = text.partition("e")
    return 10 ** (int(exponent) - len(mantissa.partition(".")[2]))


@pytest.mark.parametrize("name", sorted(STATED))
def test_presets_have_the_size_that_is_stated(name):
    """Total within one unit of the last digit stated; active too, with or without embedding and head."""
    total, active = STATED[name]
    counted = count(load_architecture(name))
    assert abs(counted.total - float(total)) <= _unit(total)
    head = counted.components["output_head"]
    without = counted.active_without_embeddings
    assert min(abs(size - float(active)) for size in (counted.active, without, without - head)) <= _unit(active)


def test_every_preset_has_a_stated_size():
    """No preset ships unchecked."""
    assert set(presets("architectures")) == set(STATED)


EXACT = {
    # safetensors metadata of the published checkpoints (huggingface.co, "Model size")
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v2-lite": 15_706_484_224,
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_presets_match_published_checkpoints(name):
    """Where a checkpoint stores each parameter once, its count is ours."""
    assert count(load_architecture(name)).total == EXACT[name]


def test_minimax_m2_matches_its_checkpoint_less_the_scales():
    """MiniMax-M2 publishes 228,703,644,928 elements: the parameters and one scale a 128 x 128 block of float8 weight.

    Everything is float8 but embedding, head, norms, router and its correction bias.
    """
    architecture = load_architecture("minimax-m2")
    counted = count(architecture)
    scaled = counted.components["attention"] + counted.components["routed_experts"]
    assert counted.total + scaled // 128**2 == 228_703_644_928


def test_glm_counts_depend_on_what_is_counted():
    """355B is GLM-4.5 with its MTP module and without embedding and head; 358B its checkpoint, which repeats both."""
    counted = count(load_architecture("glm-4.5"))
    tables = counted.components["embedding"] + counted.components["output_head"]
    assert round((counted.total + counted.mtp - tables) / 1e9) == 355
    assert round((counted.total + counted.mtp + tables) / 1e9) == 358


@pytest.mark.parametrize("name", presets("architectures"))
def test_json_adds_up(name):
    """Components without MTP sum to the total; layers times their count, embedding and head do too."""
    architecture = load_architecture(name)
    shown = count(architecture).to_json(architecture)
    components = shown["components"]
    assert set(components) == set(COMPONENTS)
    assert sum(components.values()) - components["mtp"] == shown["total"]
    layers = sum(layer["count"] * layer["total"] for layer in shown["layers"])
    final_norm = architecture.hidden_size * (2 if architecture.norm_bias else 1)
    assert layers + components["embedding"] + components["output_head"] + final_norm == shown["total"]
    assert sum(layer["count"] for layer in shown["layers"]) == architecture.num_hidden_layers
    assert shown["mtp"] == components["mtp"]
    assert shown["total_with_mtp"] == shown["total"] + shown["mtp"]
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize("name", presets("architectures"))
def test_names_are_unique_within_a_piece(name):
    """No tensor of a piece is listed twice."""
    architecture = load_architecture(name)
    for piece in pieces(architecture):
        names = [parameter.name for parameter in piece_parameters(architecture, piece)]
        assert len(names) == len(set(names))


BASE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "intermediate_size": 512,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
}


@given(st.integers(1, 8), st.integers(0, 4))
def test_active_differs_from_total_only_in_experts(top_k, dense):
    """total - active is what the E - k unvisited experts of every MoE layer hold."""
    fields = {**BASE, "num_experts_per_tok": top_k, "first_k_dense_replace": dense}
    counted = count(Architecture.model_validate(fields))
    expert = 3 * 256 * 128
    assert counted.total - counted.active == (4 - dense) * (8 - top_k) * expert


def test_tied_embeddings_count_once():
    """A tied head has no parameters of its own, and the embedding counts as embedding."""
    free = count(Architecture.model_validate(BASE))
    tied = count(Architecture.model_validate({**BASE, "tie_word_embeddings": True}))
    assert free.total - tied.total == 1000 * 256
    assert tied.components["output_head"] == 0
    assert tied.components["embedding"] == 1000 * 256


def test_learned_positions_add_their_rows():
    """position_embedding learned adds max_position_embeddings rows to the embedding."""
    plain = count(Architecture.model_validate(BASE))
    fields = {**BASE, "position_embedding": "learned", "max_position_embeddings": 77}
    learned = count(Architecture.model_validate(fields))
    assert learned.components["embedding"] - plain.components["embedding"] == 77 * 256


def test_ungated_blocks_have_two_matrices():
    """gated false drops one of three matrices of every block."""
    gated = count(Architecture.model_validate(BASE)).components["routed_experts"]
    plain = count(Architecture.model_validate({**BASE, "gated": False})).components["routed_experts"]
    assert plain * 3 == gated * 2
