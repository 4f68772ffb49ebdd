"""Reading Hugging Face configs, and the presets beside them."""

import copy
import json
from pathlib import Path

import pytest

from moeopt.accounting.parameters import count
from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.huggingface import FAMILIES, architecture_fields, is_huggingface
from moeopt.problem.loading import load_architecture, preset_fields, presets

DATA = Path(__file__).parent / "data"
PUBLISHED = json.loads((DATA / "hub_configs.json").read_text())
HUB = PUBLISHED["configs"]
BUILT = {path.parent.name: json.loads(path.read_text()) for path in (DATA / "hf_configs").glob("*/config.json")}
PRESET_OF = {name: name.removesuffix("-text") for name in BUILT if not name.startswith("synthetic")}
CONFIGS = {**{PRESET_OF[name]: BUILT[name] for name in PRESET_OF}, **HUB}
SPELLINGS = {
    "name",
    "source",
    "max_position_embeddings",
    "moe_layer_freq",
    "first_k_dense_replace",
    "window_pattern",
    "linear_attention_pattern",
    "n_group",
    "topk_group",
}
"""Fields that say the same thing in several ways (compared as layers), or that no size depends on."""
CONSTANTS = {
    "rope_theta",
    "partial_rotary_factor",
    "rope_scaling",
    "rms_norm_eps",
    "norm_topk_prob",
    "routed_scaling_factor",
}
"""Fields that cost nothing; the configs that transformers built anew hold its defaults there."""


def _read(config):
    return Architecture.model_validate(architecture_fields(config, "architecture"))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_preset_is_its_config(name):
    """A preset and the published config of the same transformer describe the same architecture."""
    preset, config = load_architecture(name), _read(CONFIGS[name])
    shown = [each.model_dump(exclude=SPELLINGS | CONSTANTS) for each in (preset, config)]
    assert shown[0] == shown[1]
    assert preset.layers == config.layers
    assert count(preset) == count(config)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_preset_has_the_constants_of_its_config(name):
    """Rotary base and scaling, norm epsilon and routing weights are the published ones, in either spelling."""
    config, published = CONFIGS[name], PUBLISHED["constants"][name]
    merged = {
        key: {**config.get(key, {}), **value} if isinstance(value, dict) else value for key, value in published.items()
    }
    text = config.get("text_config", config)
    read = _read({**text, "rope_parameters": None, **merged})
    preset = load_architecture(name)
    assert read.model_dump(include=CONSTANTS) == preset.model_dump(include=CONSTANTS)
    assert preset.rope_theta or preset.position_embedding == "none"
    scaling = merged.pop("rope_scaling", {"rope_type": "default"})
    theta = merged.pop("rope_theta", None)
    if theta:  # transformers 5 keeps both in one mapping
        again = _read({**text, **merged, "rope_parameters": {**scaling, "rope_theta": theta}})
        assert again.model_dump(include=CONSTANTS) == preset.model_dump(include=CONSTANTS)


def test_constants_of_the_wrong_type_are_refused():
    """A rotary base that is text, and a scaling of a kind that is not known, end with the field's name."""
    with pytest.raises(InputError, match=r"^architecture\.rope_theta: '1e6' is not a number"):
        _read(_with(LLAMA, rope_theta="1e6"))
    with pytest.raises(InputError, match=r"^architecture\.rope_scaling\.rope_type: 'spiral' is refused"):
        load_architecture(_with(LLAMA, rope_scaling={"type": "spiral", "factor": 2.0}))


def test_every_preset_has_a_config_to_compare_with():
    """No preset is typed in without a second reading of its source."""
    assert set(CONFIGS) == set(presets("architectures"))


@pytest.mark.parametrize("name", presets("architectures"))
def test_presets_say_where_they_come_from(name):
    """Every preset names the config it was taken from."""
    source = preset_fields("architectures", name)["source"]
    assert source.startswith("https://huggingface.co/")
    assert source.endswith("/config.json")


def test_every_family_is_read_by_some_test():
    """Each family has a published config here, or modules of random ones (test_architecture_variants.py)."""
    read = {config.get("text_config", config)["model_type"] for config in CONFIGS.values()}
    built = {row["config"]["model_type"] for row in json.loads((DATA / "hf_variants.json").read_text())["rows"]}
    assert set(FAMILIES) == read | built


LLAMA = HUB["llama-3-8b"]


def _with(config, **changes):
    changed = {**copy.deepcopy(config), **changes}
    return {key: value for key, value in changed.items() if value != "absent"}


def test_mistral_window_holds_for_all_layers_and_null_is_none():
    """Mistral: `sliding_window` is every layer's; null means full attention."""
    windowed = _read(_with(LLAMA, model_type="mistral", sliding_window=4096))
    assert {kind.window for kind in windowed.layers} == {4096}
    assert {kind.window for kind in _read(_with(LLAMA, model_type="mistral", sliding_window=None)).layers} == {0}


def test_qwen2_has_biases_on_its_inputs_only():
    """Qwen2: one bias each on queries, keys and values, none on the output."""
    plain = count(_read(LLAMA)).total
    assert count(_read(_with(LLAMA, model_type="qwen2"))).total - plain == 32 * (4096 + 2 * 1024)


def test_qwen3_norms_each_head():
    """Qwen3: one weight vector of head_dim for all queries, one for all keys, a layer."""
    plain = count(_read(LLAMA)).total
    assert count(_read(_with(LLAMA, model_type="qwen3", head_dim=128))).total - plain == 32 * 2 * 128


def test_llama_attention_bias_covers_the_output_too():
    """Llama: attention_bias is on all four projections; mlp_bias on all three."""
    plain = count(_read(LLAMA)).total
    assert count(_read(_with(LLAMA, attention_bias=True))).total - plain == 32 * (4096 + 2 * 1024 + 4096)
    assert count(_read(_with(LLAMA, mlp_bias=True))).total - plain == 32 * (2 * 14336 + 4096)


def test_qwen_windows_are_off_unless_asked_for():
    """Qwen configs carry a sliding_window that only use_sliding_window turns on, from max_window_layers on."""
    config = _with(LLAMA, model_type="qwen2", sliding_window=4096, max_window_layers=28)
    assert {kind.window for kind in _read(config).layers} == {0}
    on = _read({**config, "use_sliding_window": True})
    assert [kind.window for kind in on.layers] == [0] * 28 + [4096] * 4


def test_qwen_sparse_step_and_dense_layers():
    """Layer i is MoE when (i + 1) % decoder_sparse_step == 0, unless mlp_only_layers lists it."""
    config = _with(CONFIGS["qwen3-30b-a3b"], num_hidden_layers=8, decoder_sparse_step=2, mlp_only_layers=[3])
    assert [kind.ffn for kind in _read(config).layers] == ["dense", "moe", "dense", "dense"] + ["dense", "moe"] * 2
    assert count(_read(config)).components["dense_mlp"] == 5 * 3 * 2048 * 6144


def test_deepseek_moe_layer_frequency():
    """moe_layer_freq N: of the layers after the dense ones, those with i % N == 0 are MoE."""
    config = _with(CONFIGS["deepseek-v3"], num_hidden_layers=7, moe_layer_freq=2)
    assert [kind.ffn for kind in _read(config).layers] == ["dense"] * 4 + ["moe", "dense", "moe"]


def test_deepseek_correction_bias_follows_the_method():
    """Only topk_method noaux_tc has correction biases."""
    config = CONFIGS["deepseek-v3"]
    assert _read(config).router_correction_bias
    assert not _read(_with(config, topk_method="greedy")).router_correction_bias
    assert not _read(CONFIGS["deepseek-v2"]).router_correction_bias


def test_deepseek_query_latent_may_be_absent():
    """q_lora_rank null is one query projection instead of two."""
    assert _read(CONFIGS["deepseek-v2-lite"]).q_lora_rank is None
    assert _read(CONFIGS["deepseek-v2"]).q_lora_rank == 1536


def test_glm_qk_norm_is_a_flag():
    """use_qk_norm tells GLM-4.5 from GLM-4.5-Air."""
    assert _read(CONFIGS["glm-4.5"]).qk_norm == "head"
    assert _read(CONFIGS["glm-4.5-air"]).qk_norm == "none"


def test_gpt_oss_windows_alternate():
    """The first layer has the window, the second not, with and without layer_types."""
    for config in (CONFIGS["gpt-oss-20b"], _with(CONFIGS["gpt-oss-20b"], layer_types="absent")):
        assert [kind.window for kind in _read(config).layers] == [128, 0] * 12


def test_llama4_chunks_and_interleaving():
    """Three of four layers see a chunk, every second layer is MoE with step 2; norms on heads have no weights."""
    architecture = _read(CONFIGS["llama-4-maverick"])
    assert [kind.window for kind in architecture.layers[:5]] == [8192, 8192, 8192, 0, 8192]
    assert [kind.ffn for kind in architecture.layers[:4]] == ["dense", "moe", "dense", "moe"]
    text = CONFIGS["llama-4-maverick"]["text_config"]
    assert count(_read({**text, "use_qk_norm": True})) == count(_read(text))


def test_minimax_mtp_has_names_of_its_own():
    """num_mtp_modules counts only where use_mtp is set."""
    config = CONFIGS["minimax-m2"]
    assert _read(config).num_nextn_predict_layers == 3
    assert _read(_with(config, use_mtp=False)).num_nextn_predict_layers == 0


def test_ernie_moe_range():
    """MoE layers run from the start index to the end index at the interval; -1 is the last layer."""
    config = _with(CONFIGS["ernie-4.5-21b"], num_hidden_layers=8, moe_layer_start_index=2, moe_layer_end_index=6)
    assert [kind.ffn for kind in _read(config).layers] == ["dense"] * 2 + ["moe"] * 5 + ["dense"]
    stepped = _with(config, moe_layer_interval=2, moe_layer_end_index=-1)
    assert [i for i, kind in enumerate(_read(stepped).layers) if kind.ffn == "moe"] == [3, 5, 7]


def test_phimoe_biases_follow_the_config():
    """attention_bias and lm_head_bias each add what they name; LayerNorm keeps its biases."""
    config = CONFIGS["phi-3.5-moe"]
    full = count(_read(config)).total
    assert full - count(_read(_with(config, lm_head_bias=False))).total == 32064
    assert full - count(_read(_with(config, attention_bias=False))).total == 32 * (4096 + 2 * 1024 + 4096)
    assert count(_read(config)).components["norms"] == (2 * 32 + 1) * 2 * 4096


def test_unknown_family_is_refused_by_name():
    """A family that nobody registered is never guessed; the refusal names it and what is known."""
    with pytest.raises(
        InputError, match=r"architecture\.model_type: the family 'mixtrall'.*'mixtral'.*known: bailing_moe"
    ):
        architecture_fields(_with(LLAMA, model_type="mixtrall"), "architecture")


@pytest.mark.parametrize("family", [None, 3, ["llama"], {}])
def test_odd_model_types_are_refused(family):
    """A model_type that is no string is an input error, not a crash."""
    with pytest.raises(InputError, match="model_type"):
        architecture_fields(_with(LLAMA, model_type=family), "architecture")


@pytest.mark.parametrize(
    ("name", "field", "named"),
    [
        ("llama-3-8b", "hidden_size", "hidden_size"),
        ("llama-3-8b", "vocab_size", "vocab_size"),
        ("llama-3-8b", "intermediate_size", "intermediate_size"),
        ("mixtral-8x7b", "num_local_experts", "num_local_experts"),
        ("qwen2-57b-a14b", "shared_expert_intermediate_size", "shared_expert_intermediate_size"),
        ("qwen3-30b-a3b", "moe_intermediate_size", "moe_intermediate_size"),
        ("deepseek-v3", "kv_lora_rank", "kv_lora_rank"),
        ("deepseek-v3", "n_routed_experts", "n_routed_experts"),
        ("dbrx", "ffn_config", "ffn_config"),
        ("ernie-4.5-21b", "moe_k", "moe_k"),
        ("minimax-m2", "num_experts_per_tok", "num_experts_per_tok"),
    ],
)
def test_missing_fields_are_named(name, field, named):
    """The refusal of an incomplete config starts with the field that is missing."""
    with pytest.raises(InputError, match=rf"^architecture\.{named}: "):
        architecture_fields(_with(CONFIGS[name], **{field: "absent"}), "architecture")


def test_fields_of_inner_parts_are_named_with_their_path():
    """A refusal in a nested part carries the path of that part."""
    outer = copy.deepcopy(CONFIGS["llama-4-maverick"])
    del outer["text_config"]["hidden_size"]
    with pytest.raises(InputError, match=r"^architecture\.text_config\.hidden_size: "):
        architecture_fields(outer, "architecture")
    inner = copy.deepcopy(CONFIGS["dbrx"])
    del inner["ffn_config"]["moe_top_k"]
    with pytest.raises(InputError, match=r"^architecture\.ffn_config\.moe_top_k: "):
        architecture_fields(inner, "architecture")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "4096"},
        {"num_hidden_layers": True},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 0},
        {"vocab_size": 1.5},
        {"tie_word_embeddings": "no"},
        {"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"]},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
        | {"decoder_sparse_step": 0},
    ],
)
def test_values_of_the_wrong_kind_are_refused(changes):
    """Strings for numbers, absurd layer counts and lists of the wrong length are one sentence each."""
    field = list(changes)[-1]
    with pytest.raises(InputError, match=rf"^architecture\.{field}: "):
        architecture_fields(_with(LLAMA, **changes), "architecture")


def test_hugging_face_configs_are_recognised():
    """A mapping is a config when it names its family or holds a text part."""
    assert is_huggingface({"model_type": "llama"})
    assert is_huggingface({"text_config": {}})
    assert not is_huggingface({"hidden_size": 1})


def test_config_can_be_a_base(tmp_path):
    """`base:` may point at a config.json folder; fields beside it override what the config says."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["deepseek-v3"]))
    given = {"base": str(tmp_path), "num_hidden_layers": 4, "first_k_dense_replace": 0}
    architecture = load_architecture(given)
    assert [kind.ffn for kind in architecture.layers] == ["moe"] * 4
    assert architecture.hidden_size == 7168


def test_head_dim_defaults_to_hidden_over_heads():
    """Configs without head_dim (or with null) divide the hidden size by the heads."""
    assert _read(_with(LLAMA, head_dim=None)).head_dim == 128
