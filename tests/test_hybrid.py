"""Hybrids of Mamba-2 layers, attention, dense blocks and experts (Nemotron-H, Nemotron 3 Nano)."""

import json
from pathlib import Path
from typing import Any

import pytest

from enumeration import exhaustive_best
from launch_cases import solution
from moeopt import launch
from moeopt.accounting.memory.activations import kept_tensors
from moeopt.accounting.memory.terms import memory_terms
from moeopt.accounting.parameters import count
from moeopt.accounting.time import mamba
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.flops import sequence_flops
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.errors import InputError
from moeopt.layout import Choices, Recompute
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.loading import load_architecture, load_problem
from moeopt.readers.megatron.script import read_arguments, read_script
from moeopt.search import solve
from time_cases import degrees, problem

NANO, SUPER, DENSE = "nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b", "nemotron-h-8b"
MAMBA, ATTENTION = LayerKind("none", mixer="mamba"), LayerKind("none")
MLP, EXPERTS = LayerKind("dense", mixer="none"), LayerKind("moe", mixer="none")


def test_a_layer_is_one_block() -> None:
    """A symbol is a layer; what it lacks costs nothing: no kind has another's parameters, tensors or time."""
    assert load_architecture(NANO).layers_of_kind == {MAMBA: 23, EXPERTS: 23, ATTENTION: 6}
    assert load_architecture(DENSE).layers_of_kind == {MAMBA: 24, MLP: 24, ATTENTION: 4}
    assert [str(kind) for kind in (MAMBA, ATTENTION, MLP, EXPERTS)] == ["mamba", "attention", "dense", "moe"]
    layers = {layer.kind: layer.components for layer in count(load_architecture(NANO)).layers}
    assert layers[ATTENTION]["routed_experts"] == layers[MAMBA]["routed_experts"] == layers[EXPERTS]["attention"] == 0
    asked = problem(NANO, "h100-sxm", sequence_length=8192)
    parts = time_terms(asked, degrees(ep=8), Choices()).forward_parts
    assert parts["attention"][EXPERTS] == 0 < parts["attention"][MAMBA]
    assert parts["ep_comm"][MAMBA] == parts["ep_comm"][ATTENTION] == 0 < parts["ep_comm"][EXPERTS]


def test_what_a_mamba_layer_keeps() -> None:
    """Nano, one GPU a layer: 55,972 bytes a token (twice 2 h, its projection and three outputs, and statistics), as
    read in Megatron's mixer and mamba-ssm's functions."""
    asked = problem(NANO, "h100-sxm", sequence_length=8192)
    kept = kept_tensors(asked, MAMBA, degrees(), Choices(sequence_parallel=False))
    each = 2 * (2 * 2688 + 10304 + 3 * 4096) + 4 * (1 + 8)
    assert sum(item.bytes for item in kept) == 8192 * each
    assert each == 55972


def test_context_parallelism_shares_heads_and_copies_groups() -> None:
    """A rank of cp 2 scans half of the heads of every token: its tensors are half, and six all-to-alls join each pass.
    At cp 16 it scans one of the 8 groups, which two ranks have."""
    asked = problem(NANO, "h100-sxm", sequence_length=8192)

    def kept(c: int) -> dict[str, Any]:
        items = kept_tensors(asked, MAMBA, degrees(cp=c), Choices(sequence_parallel=False))
        return {item.name: item.bytes for item in items}

    assert {name: size / 2 for name, size in kept(1).items() if "statistics" not in name} == {
        name: size for name, size in kept(2).items() if "statistics" not in name
    }
    groups = "B and C before the convolution"
    assert kept(16)[groups] == kept(8)[groups] == kept(1)[groups] // 8
    times = [
        mamba.exchange_ns(asked, given, tokens(asked, given, Choices()), rates(asked))
        for given in (degrees(), degrees(cp=2))
    ]
    assert times[0] == 0 < times[1]


def test_a_mamba_layer_costs_the_same_a_token_whatever_the_sequence() -> None:
    """Attention grows with the square of the sequence, the scan with the sequence: at 128K tokens attention's core
    takes many times as long."""
    for length, low, high in ((8192, 0.3, 4.0), (131072, 5.0, 60.0)):
        asked = problem(NANO, "h100-sxm", sequence_length=length, global_batch_size=256)
        share = time_terms(asked, degrees(), Choices()).forward_parts["attention"]
        assert low < share[ATTENTION] / share[MAMBA] < high


def test_only_full_recompute_reaches_a_mamba_layer() -> None:
    """No module of selective recompute drops or repeats anything of it; layernorm reaches layers with experts alone."""
    asked = problem(NANO, "h100-sxm", sequence_length=8192)
    every = Choices(recompute=Recompute(modules=("core_attn", "layernorm", "mlp", "moe", "moe_act", "shared_experts")))

    def size(kind: LayerKind, choices: Choices) -> int:
        return sum(item.bytes for item in kept_tensors(asked, kind, degrees(ep=8), choices))

    assert size(MAMBA, every) == size(MAMBA, Choices())
    repeated = time_terms(asked, degrees(ep=8), Choices()).recompute_ns
    assert all(prices[MAMBA] == 0 for prices in repeated.values())
    assert repeated["layernorm"][ATTENTION] == 0 < repeated["layernorm"][EXPERTS]
    assert size(EXPERTS, every) < size(EXPERTS, Choices())


def test_flops_are_those_of_the_layers() -> None:
    """Linears, 7 FLOP a channel and state of a scan, causal attention, chosen experts: six times a weight and token."""
    asked = problem(NANO, "h100-sxm", sequence_length=8192)
    scan = 2688 * (10304 + 4096) + 7 * 4096 * 128 // 2
    attention = 2688 * (4096 + 2 * 256) + 4096 * 2688
    experts = 2 * 2688 * (6 * 1856 + 3712)
    weights = 23 * scan + 6 * attention + 23 * experts + 2688 * 131072
    assert sequence_flops(asked) == 8192 * (6 * weights + 6 * 6 * 4096 * 8192)


def test_narrower_experts_see_the_latent_width() -> None:
    """Super's experts and dispatch take 1,024 of 4,096: rows, all-to-all and weights are a quarter of those of experts
    of the hidden size; router and shared experts stay, and two projections join, whole on every rank."""
    latent, plain = (load_architecture({"base": SUPER, "moe_latent_size": size}) for size in (1024, 0))
    layers = [next(layer for layer in count(each).layers if layer.kind == EXPERTS) for each in (latent, plain)]
    projections = 2 * 4096 * 1024
    assert layers[0].components["routed_experts"] == layers[1].components["routed_experts"] // 4 + projections
    assert layers[0].components["shared_experts"] == layers[1].components["shared_experts"]
    problems = [problem({"base": SUPER, "moe_latent_size": size}, "h100-sxm") for size in (1024, 0)]
    given = degrees(ep=8)
    kept = [{item.name: item.bytes for item in kept_tensors(each, EXPERTS, given, Choices())} for each in problems]
    assert 4 * kept[0]["routed fc1 input (sorted)"] == kept[1]["routed fc1 input (sorted)"]
    assert kept[0]["combined latent (fc2_latent_proj input)"] == 2 * 4096 * 1024
    times = [time_terms(each, given, Choices()).forward_parts["ep_comm"][EXPERTS] for each in problems]
    assert times[0] < times[1] / 2
    assert sequence_flops(problems[0]) < sequence_flops(problems[1])


def test_a_search_places_single_blocks() -> None:
    """A proven optimum over stages of unlike layers, without what hybrids exclude."""
    asked = load_problem(
        {
            "architecture": {"base": NANO, "num_hidden_layers": 13},
            "cluster": "h100-sxm",
            "gpus": 16,
            "workload": {"sequence_length": 8192, "global_batch_size": 128},
            "fix": {"pp": 2},
            "free": ["overlap"],
        }
    )
    answer = solve(asked)
    assert answer["status"] == "optimal"
    assert not answer["layout"]["overlap"]["ep_all_to_all"]


def test_a_pattern_goes_to_megatron_and_back(tmp_path: Path) -> None:
    """Stages and virtual stages are the bars of the pattern: what is written is read as the same layers and layout, and
    starts the program that builds hybrids."""
    layout = {"pp": 2, "vpp": 2, "ep": 8, "etp": 1, "pipeline_layout": "Et*13|t*15|t*11|t*13L"}
    answer = solution(layout, 64, NANO, {"base": "h100-sxm", "memory": "1TB"}, sequence_length=8192)
    launch(answer, tmp_path / "run", framework="megatron-lm")
    text = (tmp_path / "run" / "train.sh").read_text(encoding="utf-8")
    assert "pretrain_hybrid.py" in text
    assert "mamba-ssm" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "--num-layers" not in text
    fused = "--use-fused-weighted-squared-relu"
    assert fused in text
    assert fused in {each["name"] for each in read_script(text.replace(fused, ""), "train.sh").warnings}
    reading = read_script(text, "train.sh")
    expected = load_architecture(NANO)
    for field in (
        "hybrid_pattern",
        "num_hidden_layers",
        "squared_relu",
        "gated",
        "position_embedding",
        "mamba_num_heads",
        "mamba_head_dim",
        "mamba_num_groups",
        "mamba_state_dim",
    ):
        assert reading.architecture[field] == getattr(expected, field)
    assert reading.layout["pipeline_layout"] == answer["layout"]["pipeline_layout"]
    assert (reading.layout["pp"], reading.layout["vpp"]) == (2, 2)


@pytest.mark.parametrize("framework", ["torchtitan", "deepspeed"])
def test_other_frameworks_refuse_it_by_its_field(framework: str, tmp_path: Path) -> None:
    """They name the field that they cannot express."""
    answer = solution({"tp": 2}, 64, DENSE, {"base": "h100-sxm", "memory": "1TB"})
    with pytest.raises(InputError, match="hybrid_pattern"):
        launch(answer, tmp_path / "run", framework=framework)


MODULES = {"num_nextn_predict_layers": 2, "mtp_hybrid_pattern": "*E"}


def test_an_mtp_module_is_the_layers_of_its_pattern() -> None:
    """A module has two norms, a projection, the layers of its pattern and a norm; one that serves every depth counts
    once, and a stage holds its bytes once but keeps, and computes, every depth of it."""
    plain, apart = load_architecture(SUPER), load_architecture({"base": SUPER, **MODULES})
    shared = load_architecture({"base": SUPER, **MODULES, "mtp_use_repeated_layer": True})
    layers = {layer.kind: layer.total for layer in count(plain).layers}
    module = 3 * plain.hidden_size + 2 * plain.hidden_size**2 + layers[ATTENTION] + layers[EXPERTS]
    assert (count(shared).mtp, count(apart).mtp) == (module, 2 * module)
    assert count(shared).total == count(apart).total == count(plain).total
    at, chosen = degrees(tp=2, ep=64), Choices()
    asked = [
        problem({"base": SUPER, **MODULES, **more}, "gb200-nvl72") for more in ({}, {"mtp_use_repeated_layer": True})
    ]
    memory = [memory_terms(each, at, chosen) for each in asked]
    assert memory[0].dense_elements["mtp"] == 2 * memory[1].dense_elements["mtp"]
    assert memory[0].expert_elements["mtp"] == 2 * memory[1].expert_elements["mtp"]
    assert memory[0].kept_bytes["mtp"] == memory[1].kept_bytes["mtp"]
    times = [time_terms(each, at, chosen).forward_ns for each in asked]
    assert times[0] == times[1]
    assert times[0]["mtp"] > times[0][ATTENTION] + times[0][EXPERTS]


@pytest.mark.parametrize("objective", ["step_time", "peak_memory"])
def test_a_search_keeps_the_modules_of_a_hybrid_with_the_loss(objective: str) -> None:
    """On a pipeline the optimum has them in the last stage, as every layout that enumeration lists."""
    small = {
        **{"base": NANO, "num_hidden_layers": 6, "hybrid_pattern": "ME*MEM", "hidden_size": 512, "num_experts": 8},
        **{
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 256,
            "num_attention_heads": 8,
            "vocab_size": 8192,
        },
        **{"mamba_num_heads": 16, "num_nextn_predict_layers": 2, "mtp_hybrid_pattern": "*E"},
    }
    asked = load_problem(
        {
            "architecture": small,
            "cluster": "h100-sxm",
            "gpus": 8,
            "workload": {"sequence_length": 2048, "global_batch_size": 32},
            "fix": {"pp": 4, "recompute": "none", "dispatcher": "alltoall"},
            "limits": {"micro_batch_size": {"max": 1}, "cp": {"max": 1}, "vpp": {"max": 1}},
            "objective": objective,
        }
    )
    answer = solve(asked, workers=1)
    best = exhaustive_best(asked)
    assert answer["status"] == "optimal"
    assert best is not None
    assert answer["objective"]["value"] == best[0]
    assert answer["layout"]["pipeline_layout"].endswith("mmL")


def test_modules_come_from_a_config() -> None:
    """Hugging Face's pattern of a module is read; one serves every depth unless the config says otherwise."""
    hub = json.loads((Path(__file__).parent / "data" / "hub_configs.json").read_text())["configs"]
    config = {**hub[SUPER], "num_nextn_predict_layers": 2, "mtp_hybrid_override_pattern": "*E"}
    read = load_architecture(config)
    assert (read.mtp_hybrid_pattern, read.mtp_use_repeated_layer, read.mtp_copies) == ("*E", True, 1)
    assert load_architecture({**config, "mtp_use_repeated_layer": False}).mtp_copies == 2


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({}, "*E"),
        ({"mtp_hybrid_override_pattern": "*M"}, "*M"),
        ({"mtp_layers_block_type": ["mamba", "moe"]}, "ME"),
        ({"mtp_layers_block_type": ["linear_attention"], "mtp_hybrid_override_pattern": "*M"}, "M"),
        ({"mtp_layers_block_type": ["full_attention", "moe"], "mtp_hybrid_override_pattern": "*M"}, "*M"),
    ],
)
def test_modules_are_those_that_transformers_reads(changes: dict[str, Any], pattern: str) -> None:
    """A list of words comes before a pattern unless it says the default, attention and experts, which is taken where
    neither is written (NemotronHConfig of transformers 5)."""
    hub = json.loads((Path(__file__).parent / "data" / "hub_configs.json").read_text())["configs"]
    read = load_architecture({**hub[SUPER], "num_nextn_predict_layers": 1, **changes})
    assert read.mtp_hybrid_pattern == pattern


def test_layers_are_listed_in_words_too() -> None:
    """Layers by words, under either name, are those of the pattern; other names of a field are read; biases count."""
    hub = json.loads((Path(__file__).parent / "data" / "hub_configs.json").read_text())["configs"][NANO]
    plain, words = load_architecture(hub), {"M": "mamba", "*": "full_attention", "E": "moe"}
    layers = [words[symbol] for symbol in hub["hybrid_override_pattern"]]
    renamed = {**hub, "mamba_n_groups": hub["n_groups"], "num_local_experts": hub["n_routed_experts"]}
    for name in ("n_groups", "n_routed_experts", "hybrid_override_pattern"):
        del renamed[name]
    for name in ("layers_block_type", "layer_types"):
        assert load_architecture({**renamed, name: layers}) == plain
    biased = load_architecture({**hub, "attention_bias": True})
    each = plain.num_attention_heads + 2 * plain.num_key_value_heads
    more = hub["hybrid_override_pattern"].count("*") * (each * 128 + plain.hidden_size)
    assert count(biased).total - count(plain).total == more


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mlp_hidden_act": "silu"}, "mlp_hidden_act: 'silu' is refused"),
        ({"use_conv_bias": False}, "use_conv_bias: false is refused"),
        ({"mamba_proj_bias": True}, "mamba_proj_bias: true is refused"),
        ({"mamba_d_conv": 3}, "conv_kernel"),
        ({"layers_block_type": ["mamba", "gru"]}, "layers_block_type: entry 1, 'gru'"),
        ({"hybrid_override_pattern": 5}, "hybrid_override_pattern: 5 is no pattern"),
    ],
)
def test_configs_that_megatron_cannot_build_are_refused(changes: dict[str, Any], sentence: str) -> None:
    """What would change the count, or is no layer, is named."""
    hub = json.loads((Path(__file__).parent / "data" / "hub_configs.json").read_text())["configs"]
    with pytest.raises(InputError, match=sentence):
        load_architecture({**hub[NANO], **changes})


NEEDED = ["--hidden-size", "64", "--num-attention-heads", "4", "--vocab-size", "100"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--hybrid-layer-pattern", "M*/*/M"], "MTP modules that differ are refused"),
        (["--hybrid-layer-pattern", "M*/*/*", "--mtp-num-layers", "1"], "1 contradicts the 2 modules"),
        (["--hybrid-layer-pattern", "M|*|-", "--pipeline-model-parallel-size", "2"], r"3 segments % pp 2 = 1"),
        (["--num-layers", "4", "--hybrid-attention-ratio", "0.5"], "write --hybrid-layer-pattern"),
    ],
)
def test_arguments_that_are_not_priced_are_refused(arguments: list[str], sentence: str) -> None:
    """MTP modules that differ or are miscounted, bars that the stages do not divide, what Megatron removed."""
    with pytest.raises(InputError, match=sentence):
        read_arguments([*NEEDED, *arguments], "arguments")


def test_defaults_of_the_mixer_are_megatrons() -> None:
    """Heads fill twice the hidden size, 8 groups, states of 128 (transformer_config.py:1259-1270)."""
    read = read_arguments([*NEEDED, "--hybrid-layer-pattern", "M*"], "arguments").architecture
    sizes = {name: read[name] for name in read if name.startswith("mamba")}
    assert sizes == {"mamba_head_dim": 64, "mamba_num_groups": 8, "mamba_state_dim": 128, "mamba_num_heads": 2}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hybrid_pattern": "ME"}, "hybrid_pattern has 2 symbols and num_hidden_layers is 52"),
    ({"num_hidden_layers": 2, "hybrid_pattern": "MX"}, "hybrid_pattern: 'X' is none of"),
    ({"mamba_state_dim": 0}, "hybrid_pattern has an M and needs mamba_state_dim above 0"),
    ({"mamba_num_heads": 12}, "mamba_num_heads 12 is not a multiple of mamba_num_groups 8"),
    ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers of a hybrid needs mtp_hybrid_pattern"),
    ({"num_nextn_predict_layers": 1, "mtp_hybrid_pattern": "*-"}, "'-' is no layer of hybrid_pattern"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_patterns_that_make_no_hybrid_are_refused(changes: dict[str, Any], sentence: str) -> None:
    """A pattern of another length, an unknown symbol, a mixer without states, and what a hybrid cannot have."""
    with pytest.raises(InputError, match=sentence):
        load_architecture({"base": NANO, **changes})
