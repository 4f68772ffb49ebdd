"""Configs unlike the published ones: absent fields, other names, odd layer patterns, text parts without a family."""

import copy
import json
from pathlib import Path

import pytest

from moeopt.accounting.parameters import count
from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.huggingface import FAMILIES, architecture_fields
from moeopt.problem.huggingface.refused import REFUSED
from moeopt.problem.loading import load_architecture

DATA = Path(__file__).parent / "data"
ROWS = json.loads((DATA / "hf_variants.json").read_text())["rows"]
HUB = json.loads((DATA / "hub_configs.json").read_text())["configs"]
LLAMA = HUB["llama-3-8b"]
BUILT = {path.parent.name: json.loads(path.read_text()) for path in (DATA / "hf_configs").glob("*/config.json")}


def _read(config):
    return Architecture.model_validate(architecture_fields(config, "architecture"))


def _without(config, *names):
    return {name: value for name, value in copy.deepcopy(config).items() if name not in names}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"]["model_type"])
def test_totals_of_variants_are_those_of_hugging_face(row):
    """Whatever a config leaves out, the total equals, to the last parameter, that of transformers' modules."""
    assert count(_read(row["config"])).total == row["total"]


def test_every_family_has_variants():
    """No family is left to its published config alone."""
    assert {row["config"]["model_type"] for row in ROWS} == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "heads", "dim"),
    [("mistral", 8, 128), ("mixtral", 8, 128), ("qwen3", 32, 128), ("gpt_oss", 8, 64), ("minimax_m2", 8, 128)],
)
def test_absent_heads_are_the_family_s_own(family, heads, dim):
    """An absent num_key_value_heads or head_dim is what the family's class takes, not one a query head; null is."""
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    config = {**_without(LLAMA, "num_key_value_heads", "head_dim"), **experts, "model_type": family}
    assert (_read(config).num_key_value_heads, _read(config).head_dim) == (heads, dim)
    assert _read({**config, "num_key_value_heads": None}).num_key_value_heads == 32


def test_a_default_that_cannot_be_is_said_to_be_one():
    """Nobody wrote the 8 of `12 % 8`: the refusal says where it comes from."""
    config = {**_without(LLAMA, "num_key_value_heads"), "model_type": "mistral", "num_attention_heads": 12}
    with pytest.raises(InputError, match=r"num_key_value_heads: missing, and the family's default of 8 does not"):
        _read({**config, "hidden_size": 3072})


def test_rope_parameters_come_before_the_family_s_base():
    """An absent rotary base is the family's; one that is written, in either spelling, is never replaced by it."""
    config = {**_without(LLAMA, "rope_theta", "rope_scaling"), "model_type": "llama"}
    assert _read(config).rope_theta == 1e4
    assert _read({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}).rope_theta == 5e5
    assert _read({**config, "rope_theta": 2e5}).rope_theta == 2e5


def test_an_absent_window_is_the_family_s_and_null_is_none():
    """Mistral's class has a window of 4,096 keys where the config has no field for it; null switches it off."""
    config = {**_without(LLAMA, "sliding_window"), "model_type": "mistral"}
    assert {kind.window for kind in _read(config).layers} == {4096}
    assert {kind.window for kind in _read({**config, "sliding_window": None}).layers} == {0}


def test_qwen3_moe_windows_hold_for_every_layer():
    """Qwen3 MoE has no first windowed layer: with use_sliding_window all layers have the window."""
    config = {**BUILT["qwen3-30b-a3b"], "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 40}
    assert {kind.window for kind in _read(_without(config, "layer_types")).layers} == {64}


def test_llama4_without_any_moe_layer():
    """An empty list of MoE layers is a list, not an absent one."""
    text = HUB["llama-4-maverick"]["text_config"]
    assert not _read({**text, "moe_layers": []}).is_moe


def test_a_text_part_may_leave_its_family_to_the_whole():
    """Llama 4's text part without a model_type is still Llama 4's; fields of the whole beside it do not matter."""
    whole = copy.deepcopy(HUB["llama-4-maverick"])
    del whole["text_config"]["model_type"]
    assert _read(whole) == _read(HUB["llama-4-maverick"])
    with pytest.raises(InputError, match=r"^architecture\.text_config\.model_type: the family 'llava' is not known"):
        _read({"model_type": "llava", "text_config": _without(LLAMA, "model_type")})


def _variant(family):
    return next(row["config"] for row in ROWS if row["config"]["model_type"] == family)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_cannot_be_read_is_not_taken_for_another(family):
    """DeepSeek-V3.2 is not read as DeepSeek-V3: the refusal says what is in the way, and hints at no other family."""
    with pytest.raises(InputError) as refusal:
        _read({**LLAMA, "model_type": family})
    assert str(refusal.value) == f"architecture.model_type: the family {family!r} cannot be read: {REFUSED[family]}"
    assert family not in FAMILIES


def test_a_thinker_s_text_part_is_found():
    """A config of several parts may hold the text transformer two levels down, without its family's name."""
    text = _variant("qwen3_omni_moe_text")
    parts = {"model_type": "qwen3_omni_moe_thinker", "text_config": _without(text, "model_type")}
    assert _read({"model_type": "qwen3_omni_moe", "thinker_config": parts}) == _read(text)


def test_the_whole_says_whether_embeddings_are_tied_where_its_text_part_does_not():
    """Qwen3-VL's class ties by default, its configs say otherwise outside of the text part; the part's word is last."""
    text = _without(_variant("qwen3_vl_moe_text"), "tie_word_embeddings")
    assert _read(text).tie_word_embeddings
    whole = {"model_type": "qwen3_vl_moe", "tie_word_embeddings": False, "text_config": text}
    assert not _read(whole).tie_word_embeddings
    assert _read({**whole, "text_config": {**text, "tie_word_embeddings": True}}).tie_word_embeddings


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**_variant("hy_v3"), "mlp_bias": True}, "mlp_bias: true is refused"),
        (
            {**_variant("hy_v3"), "num_hidden_layers": 2, "mlp_layer_types": ["dense", "moe"]},
            "mlp_layer_types: entry 1, 'moe', is",
        ),
        ({**_variant("hunyuan_v1_moe"), "num_hidden_layers": 2, "moe_topk": [1, 2]}, "moe_topk: layers that differ"),
        ({**_variant("hunyuan_v1_moe"), "num_shared_expert": 2}, "num_shared_expert: 2 is refused"),
        ({**_variant("hunyuan_v1_moe"), "num_hidden_layers": 2, "num_experts": ["4", "4"]}, "num_experts: '4' is not"),
        (
            {**BUILT["mixtral-8x7b"], "num_local_experts": 8, "num_experts": 4},
            "num_local_experts: 8 contradicts num_exp",
        ),
        ({**BUILT["olmoe-1b-7b"], "head_dim": 64}, "head_dim: 64 * num_attention_heads 16 is not hidden_size 2048"),
        ({**BUILT["dbrx"], "tie_word_embeddings": True}, "tie_word_embeddings: true is refused"),
        ({**BUILT["deepseek-v2-lite"], "mlp_bias": True}, "mlp_bias: true is refused"),
        ({**BUILT["mixtral-8x7b"], "hidden_act": "gelu"}, "hidden_act: 'gelu' is refused: launches of this family use"),
        ({**HUB["ernie-4.5-21b"], "use_bias": True}, "use_bias: true is refused"),
        ({**HUB["minimax-m2"], "attn_type_list": [1, 0] * 31}, "attn_type_list: only softmax attention"),
        (
            {**BUILT["qwen3-30b-a3b"], "layer_types": ["linear_attention"] * 48},
            "layer_types: entry 0, 'linear_attention', is none of full_attention",
        ),
    ],
)
def test_what_the_family_cannot_build_is_refused(config, sentence):
    """A field that says what nobody builds, or two things at once, is named and not counted as something else."""
    with pytest.raises(InputError) as refusal:
        _read(config)
    assert str(refusal.value).startswith(f"architecture.{sentence}")


@pytest.mark.parametrize("layers", [2, 3, 6, 48, 61, 100])
@pytest.mark.parametrize("name", ["gpt-oss-20b", "llama-4-maverick", "ernie-4.5-300b"])
def test_a_variant_with_other_layers_keeps_the_pattern(name, layers, tmp_path):
    """Fewer layers are the first ones; more go on as the last ones repeat. A preset and its config.json agree."""
    config = HUB.get(name) or BUILT[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = load_architecture(name).layers
    variants = [load_architecture({"base": base, "num_hidden_layers": layers}) for base in (name, str(tmp_path))]
    for variant in variants:
        assert variant.num_hidden_layers == layers
        assert variant.layers[: len(whole)] == whole[:layers]
        assert set(variant.layers) <= set(whole)
    assert variants[0].layers == variants[1].layers


def test_a_pattern_that_does_not_repeat_is_not_continued():
    """What comes after an irregular pattern is not guessed; cutting it is no guess."""
    base = {
        "base": "qwen3-30b-a3b",
        "num_hidden_layers": 6,
        "moe_layer_freq": [0, 1, 1, 0, 0, 1],
        "intermediate_size": 8,
    }
    with pytest.raises(InputError, match="moe_layer_freq has 6 entries and num_hidden_layers is 8"):
        load_architecture({"base": base, "num_hidden_layers": 8})
    assert len(load_architecture({"base": base, "num_hidden_layers": 4}).layers) == 4
