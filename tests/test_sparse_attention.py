"""Sparse attention (DeepSeek-V3.2, GLM-5): sizes, rules, memory, time, search, reading and writing."""

from pathlib import Path
from typing import Any

import pytest

from launch_cases import solution
from moeopt import launch
from moeopt.accounting.memory.activations import kept_tensors
from moeopt.accounting.time import sparse_attention
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.flops import sequence_flops
from moeopt.accounting.time.tokens import tokens
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Choices, Layout, Recompute
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.loading import load_architecture, load_problem
from moeopt.readers.megatron.script import read_arguments
from moeopt.search import solve
from moeopt.writers.megatron.architecture import architecture_groups
from moeopt.writers.shell import words
from time_cases import MEASURED, degrees, problem

GLM, DEEPSEEK = "glm-5", "deepseek-v3.2"
MOE = LayerKind("moe")


@pytest.mark.parametrize(("cluster", "sequences", "length", "measured"), MEASURED["sparse_attention"]["rows"])
def test_the_core_takes_what_its_kernel_does(cluster: str, sequences: int, length: int, measured: int) -> None:
    """Forward kernels on six GPUs, 8K and 16K queries: the time of the keys that a causal query has, of which the
    kernels measured read 2,048 for every query, within 20 %."""
    asked, given = problem(GLM, cluster, sequence_length=length), degrees(micro_batch_size=sequences)
    read = length * 2048
    causal = 2048 * length - 2048**2 // 2
    forward, _ = sparse_attention.core_ns(asked, given, rates(asked))
    assert forward == pytest.approx(measured * causal / read, rel=0.2)


@pytest.mark.parametrize(("heads", "keys", "measured"), MEASURED["sparse_attention_backward"]["rows"])
def test_the_backward_kernel_takes_what_was_measured(heads: int, keys: int, measured: int) -> None:
    """B200, 4,096 queries with so many keys each: FLOP over the rate, without the copies around the kernel, within 15 %
    (heads there are 512 wide, ours 576 for keys)."""
    asked = problem(GLM, "b200", sequence_length=4096)
    rate = asked.cluster.peak_flops.bf16 * rates(asked).efficiency.sparse_attention.backward
    assert 2 * 4096 * keys * heads * 5 * 512 / rate * 1e9 == pytest.approx(measured, rel=0.15)


def test_scores_leave_the_kernel_where_megatron_says() -> None:
    """Above 1 GiB of scores (16,384 tokens a sequence), and with context parallelism, index scores are products in
    fp32, head by head: many times slower a pair."""

    def each(length: int, **given: int) -> float:
        asked = problem(GLM, "h100-sxm", sequence_length=length)
        scores = sparse_attention.index_scores_ns(asked, degrees(**given), rates(asked))
        return scores * given.get("cp", 1) / length**2

    assert each(16384) == pytest.approx(each(8192), rel=0.01)
    assert each(16385) > 10 * each(16384)
    assert each(8192, cp=2) > 10 * each(8192)
    assert each(16384, micro_batch_size=2) > 10 * each(8192, micro_batch_size=2)


def test_the_indexer_is_whole_on_every_tensor_parallel_rank() -> None:
    """tp 4 leaves a rank a quarter of the heads and all of the indexer: its products and gradients stay, its inputs are
    gathered, and attention's own tensors are a quarter."""
    asked = problem(DEEPSEEK, "h100-sxm", sequence_length=4096)
    kept = [
        {item.name: item.bytes for item in kept_tensors(asked, MOE, degrees(tp=t), Choices(sequence_parallel=True))}
        for t in (1, 2)
    ]
    for name in ("chosen keys", "gradient of the index queries", "gradient of the index keys", "index key norm input"):
        assert kept[0][name] == kept[1][name] > 0
    for name in ("query", "absorbed query", "latent output", "attention output", "attention input (normed)"):
        assert kept[0][name] == 2 * kept[1][name] > 0
    assert kept[0]["indexer input"] == 0
    assert kept[1]["indexer input"] == 2 * 4096 * 7168
    one, two = (
        sparse_attention.index_projections(asked.architecture, tokens(asked, degrees(tp=t), Choices())) for t in (1, 2)
    )
    assert one == two


def test_few_heads_are_padded_to_64() -> None:
    """Outputs stay views of 64 heads: tp 8 keeps no less of them than tp 2 of 128, and its core takes as long."""
    asked = problem(DEEPSEEK, "h100-sxm", sequence_length=4096)
    outputs, times = [], []
    for t in (2, 8):
        kept = kept_tensors(asked, MOE, degrees(tp=t), Choices())
        outputs.append(next(item.bytes for item in kept if item.name == "latent output"))
        times.append(sparse_attention.core_ns(asked, degrees(tp=t), rates(asked)))
    assert outputs[0] == outputs[1] == 2 * 4096 * 64 * 512
    assert times[0] == times[1]


def test_recompute_drops_what_each_module_makes() -> None:
    """core_attn brings back the indexer and the latent output, mla_up_proj the absorbed query: each frees its own."""
    asked = problem(GLM, "h100-sxm", sequence_length=4096)

    def size(*modules: str) -> int:
        choices = Choices(recompute=Recompute(modules=modules))
        return sum(item.bytes for item in kept_tensors(asked, MOE, degrees(), choices))

    core, up = size() - size("core_attn"), size() - size("mla_up_proj")
    assert core >= 2 * 4096 * 64 * 512
    assert up == 2 * 4096 * (64 * 256 + 64 * 576 + 576)
    assert size() - size("core_attn", "mla_up_proj") == core + up


def test_utilisation_counts_it_as_megatron_does() -> None:
    """Megatron-LM counts the full attention that sparse attention stands in for: as without an indexer."""
    plain = {"base": GLM, "index_topk": None, "index_n_heads": 0, "index_head_dim": 0}
    assert sequence_flops(problem(GLM, "h100-sxm")) == sequence_flops(problem(plain, "h100-sxm"))


def test_a_search_keeps_to_what_its_kernels_take() -> None:
    """The optimum has no graphs of attention, no delayed weight gradients, and heads that FlashMLA takes."""
    asked = load_problem(
        {
            "architecture": {"base": GLM, "num_hidden_layers": 16},
            "cluster": "b200",
            "gpus": 64,
            "workload": {"global_batch_size": 256},
            "free": ["cuda_graphs", "overlap"],
        }
    )
    answer = solve(asked)
    assert answer["status"] == "optimal"
    assert answer["layout"]["cuda_graphs"] in ("none", "router")
    assert not answer["layout"]["overlap"]["delay_wgrad"]
    assert 128 % (64 // answer["layout"]["tp"]) == 0


def test_modules_that_a_stage_alone_would_build_otherwise_are_refused() -> None:
    """On a stage without decoder layers Megatron builds plain attention into MTP modules (gpt_builders.py:59-67): such
    a layout breaks a rule, and a search over stages wants them off."""
    changed = {"base": GLM, "num_hidden_layers": 8, "num_nextn_predict_layers": 1}
    asked = load_problem({"architecture": changed, "cluster": "h100-sxm", "gpus": 32})
    for text, holds in (("Et*4|t*4mL", True), ("Et*4|t*4|m|L", False)):
        pp = text.count("|") + 1
        answer = evaluate(asked, Layout(pp=pp, ep=8, etp=1, pipeline_layout=text))
        rule = next(rule for rule in answer["rules"] if rule["rule"] == "pipeline_mtp_kind")
        assert rule["holds"] == holds
        assert "plain attention is built" in rule["equation"] or holds
    with pytest.raises(InputError, match="attention is sparse, and plain on a stage without decoder layers"):
        solve(asked)


@pytest.mark.parametrize("name", [GLM, DEEPSEEK])
def test_arguments_go_to_megatron_and_back(name: str) -> None:
    """What is written is read again: the indexer's sizes, its rotary embedding and its rotation."""
    asked = load_problem({"architecture": name, "cluster": "h100-sxm", "gpus": 64})
    read = read_arguments(words(architecture_groups(asked, "megatron-lm")), "arguments").architecture
    for field in (
        "index_topk",
        "index_n_heads",
        "index_head_dim",
        "indexer_rope_interleave",
        "indexer_rotate_activation",
    ):
        assert read[field] == getattr(asked.architecture, field)


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_a_launch_says_what_must_be_installed(framework: str, tmp_path: Path) -> None:
    """The kernels of sparse attention, and the Hadamard transform where its indexer rotates."""
    for name, rotated in ((GLM, False), (DEEPSEEK, True)):
        layout = {"pp": 8, "ep": 16, "etp": 1, "vpp": 1, "pipeline_layout": None}
        layers = {GLM: "Et*10|(t*10|)*6t*8L", DEEPSEEK: "Et*8|(t*8|)*6t*5L"}[name]
        answer = solution({**layout, "pipeline_layout": layers}, 512, name, {"base": "h100-sxm", "memory": "4TB"})
        folder = tmp_path / name
        launch(answer, folder, framework=framework)
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "flash_mla" in text
        assert ("fast-hadamard-transform" in text) == rotated


NEEDED = ["--num-layers", "4", "--hidden-size", "64", "--num-attention-heads", "4", "--vocab-size", "100"]
LATENT = ["--multi-latent-attention", "--q-lora-rank", "64", "--kv-lora-rank", "512", "--qk-layernorm"]
INDEXER = ["--dsa-indexer-topk", "16", "--dsa-indexer-n-heads", "4", "--dsa-indexer-head-dim", "64"]
LOSS = ["--dsa-indexer-loss-coeff", "0.001", "--dsa-indexer-use-sparse-loss"]
CUDNN = ["--dsa-kernel-backend", "cudnn"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (INDEXER[2:], "--dsa-indexer-topk: absent"),
        (INDEXER, "--dsa-kernel-backend: 'none' is not priced"),
        ([*INDEXER, "--dsa-kernel-backend", "tilelang"], "'tilelang' is not priced"),
        ([*INDEXER, *CUDNN, "--dsa-indexer-topk-freq", "4"], "--dsa-indexer-topk-freq: layers that share"),
        ([*INDEXER, *CUDNN, *LOSS[:2]], "--dsa-indexer-use-sparse-loss: absent"),
    ],
)
def test_arguments_that_are_not_priced_are_refused(arguments: list[str], sentence: str) -> None:
    """Missing sizes, other kernels, shared choices of keys, a loss over all keys: one sentence names the argument."""
    variant = ["--experimental-attention-variant", "dsa"]
    with pytest.raises(InputError, match=sentence):
        read_arguments([*NEEDED, *LATENT, *variant, *arguments], "arguments")


def test_an_indexer_that_never_learns_is_warned_of() -> None:
    """Without a coefficient Megatron computes no loss: the reading says so and prices it all the same."""
    variant = ["--experimental-attention-variant", "dsa"]
    reading = read_arguments([*NEEDED, *LATENT, *variant, *INDEXER, *CUDNN], "arguments")
    assert any("never learns" in str(warning) for warning in reading.warnings)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"index_n_heads": 0}, "index_topk needs index_n_heads above 0"),
    ({"q_lora_rank": None}, "index_topk needs q_lora_rank above 0"),
    ({"index_head_dim": 32}, "index_head_dim 32 is below its rotated part, qk_rope_head_dim 64"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_sizes_that_make_no_indexer_are_refused(changes: dict[str, Any], sentence: str) -> None:
    """An indexer without heads, without the query latent that it reads, or narrower than its rotary part."""
    with pytest.raises(InputError, match=sentence):
        load_architecture({"base": GLM, **changes})


@pytest.mark.parametrize(
    "shared", [{"index_topk_freq": 4}, {"indexer_types": ["full", "shared"]}, {"index_topk_pattern": "FS"}]
)
def test_layers_that_share_a_choice_of_keys_are_refused(shared: dict[str, Any]) -> None:
    """GLM-5.2's layers without an indexer of their own have other sizes, and stages may not part them."""
    config = {
        "model_type": "glm_moe_dsa",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "intermediate_size": 32,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        **shared,
    }
    with pytest.raises(InputError, match=r"indexer_types: .*share the keys another layer chose are not counted"):
        load_architecture(config)
