"""Gated delta nets in place of attention (Qwen3-Next, Qwen3.5): sizes, rules, memory, time, reading and writing."""

from pathlib import Path
from typing import Any

import pytest

from launch_cases import solution
from moeopt import launch
from moeopt.accounting.memory.activations import kept_tensors
from moeopt.accounting.time import delta_net
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.flops import sequence_flops
from moeopt.accounting.time.terms import time_terms
from moeopt.accounting.time.tokens import tokens
from moeopt.errors import InputError
from moeopt.evaluation import evaluate
from moeopt.layout import Choices, Layout
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.loading import load_architecture, load_problem
from moeopt.readers.megatron.script import read_arguments
from moeopt.writers.megatron.architecture import architecture_groups
from moeopt.writers.shell import words
from time_cases import MEASURED, degrees, problem

NEXT = "qwen3-next-80b-a3b"
NET = LayerKind("moe", mixer="delta_net")


@pytest.mark.parametrize(("cluster", "sequences", "length", "heads", "measured"), MEASURED["delta_rule"]["rows"])
def test_the_delta_rule_takes_what_its_kernels_do(
    cluster: str, sequences: int, length: int, heads: int, measured: int
) -> None:
    """Forward kernels on six GPUs, 32 and 64 heads, one to eight sequences: bytes and one scan, within 22 %
    (one point of GB300; the others within 17)."""
    asked = problem({"base": NEXT, "linear_num_value_heads": heads}, cluster, sequence_length=length)
    given = degrees(micro_batch_size=sequences)
    forward, backward = delta_net.rule_ns(asked, given, tokens(asked, given, Choices()), rates(asked))
    assert forward == pytest.approx(measured, rel=0.22)
    assert 2 * forward < backward < 2.5 * forward


def test_the_recurrence_is_counted_as_megatron_does() -> None:
    """training.py:1201-1232: linears, convolution and four products of a value width squared a head, six times; the
    attention of every fourth layer has its output gate in the projection."""
    asked = problem(NEXT, "h100-sxm", sequence_length=8192)
    a = asked.architecture
    net = 2048 * (2 * 2048 + 2 * 4096 + 2 * 32) + 4 * (2 * 2048 + 4096) + 32 * 128**2 * 4 + 2048 * 4096
    attention = 2048 * (4096 + 4096 + 2 * 512) + 4096 * 2048
    ffn = 3 * 2048 * (10 * 512 + 512)
    weights = 36 * net + 12 * attention + 48 * ffn + 2048 * a.vocab_size
    assert sequence_flops(asked) == 8192 * (6 * weights + 12 * 6 * 4096 * 8192)


def test_context_parallelism_shares_heads_and_exchanges_tokens() -> None:
    """A rank of cp 4 has a quarter of the heads of every token: it keeps a quarter, the scan is as long as before, and
    two all-to-alls join each pass."""
    asked = problem(NEXT, "h100-sxm", sequence_length=8192)
    one, four = degrees(), degrees(cp=4)
    kept = [
        {item.name: item.bytes for item in kept_tensors(asked, NET, given, Choices(sequence_parallel=False))}
        for given in (one, four)
    ]
    assert {name: size / 4 for name, size in kept[0].items()} == kept[1]
    scan = 8192 * delta_net.SCAN_NS
    alone, shared = (
        delta_net.rule_ns(asked, given, tokens(asked, given, Choices()), rates(asked))[0] for given in (one, four)
    )
    assert shared - scan == pytest.approx((alone - scan) / 4, abs=1)
    exchanges = [
        delta_net.exchange_ns(asked, given, tokens(asked, given, Choices()), rates(asked)) for given in (one, four)
    ]
    assert exchanges[0] == 0 < exchanges[1]


def test_a_delta_net_costs_the_same_a_token_whatever_the_sequence() -> None:
    """Attention grows with the square of the sequence, the delta rule with the sequence: at 128K tokens a layer of the
    one takes many times as long as a layer of the other."""
    for length, low, high in ((4096, 0.5, 2.0), (131072, 5.0, 50.0)):
        asked = problem(NEXT, "h100-sxm", sequence_length=length, global_batch_size=256)
        share = time_terms(asked, degrees(), Choices()).forward_parts["attention"]
        assert low < share[LayerKind("moe")] / share[NET] < high


def test_megatron_refuses_what_the_rules_refuse() -> None:
    """Heads that tp * cp does not divide, an MTP module that would copy a delta net, an output gate with MLA: the rules
    name them (each was put to Megatron-LM d98e8a6, which refuses them too)."""
    asked = load_problem({"architecture": NEXT, "cluster": "h100-sxm", "gpus": 64})
    answer = evaluate(asked, Layout(tp=8, cp=4, ep=32, etp=1))
    broken = {rule["rule"]: rule["equation"] for rule in answer["rules"] if not rule["holds"]}
    assert broken["linear_heads_by_tp_cp"].startswith("linear_num_key_heads 16 % (tp 8 * cp 4) = 16")
    pattern = [*([1, 1, 1, 0] * 11), 1, 1, 1, 1]
    changed = {"base": NEXT, "linear_attention_pattern": pattern, "num_nextn_predict_layers": 1}
    asked = load_problem({"architecture": changed, "cluster": "h100-sxm", "gpus": 64})
    answer = evaluate(asked, Layout(ep=32, etp=1))
    assert "mtp_without_delta_net" in {rule["rule"] for rule in answer["rules"] if not rule["holds"]}


PATTERNS = ([1, 1, 1, 0] * 2, [0, 1] * 4, [1, 0, 0, 1, 1, 1, 0, 1], [1] * 8)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_patterns_go_to_megatron_and_back(pattern: list[int]) -> None:
    """Every pattern of layers is what Megatron's arguments say again; regular ones are an integer."""
    changed = {"base": NEXT, "num_hidden_layers": 8, "linear_attention_pattern": pattern}
    asked = load_problem({"architecture": changed, "cluster": "h100-sxm", "gpus": 8})
    arguments = words(architecture_groups(asked, "megatron-lm"))
    frequency = arguments[arguments.index("--linear-attention-freq") + 1]
    assert (frequency == "4") == (pattern == PATTERNS[0])
    read = read_arguments(arguments, "arguments").architecture
    assert read["linear_attention_pattern"] == pattern
    for name in ("attention_output_gate", "zero_centered_norm", "linear_num_value_heads", "linear_conv_kernel_dim"):
        assert read[name] == getattr(asked.architecture, name)


@pytest.mark.parametrize("framework", ["megatron-lm", "megatron-bridge"])
def test_a_launch_says_what_must_be_installed(framework: str, tmp_path: Path) -> None:
    """Megatron builds a gated delta net with flash-linear-attention only: the launch's README says so, for it alone."""
    for architecture, needs in ((NEXT, True), ("qwen3-30b-a3b", False)):
        answer = solution({"ep": 16, "etp": 1}, architecture=architecture, cluster="b200")
        folder = tmp_path / architecture
        launch(answer, folder, framework=framework)
        assert ("flash-linear-attention" in (folder / "README.md").read_text(encoding="utf-8")) == needs


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"linear_num_key_heads": 0}, "linear_attention_pattern has a 1 and needs linear_num_key_heads above 0"),
    ({"linear_num_key_heads": 5}, "linear_num_value_heads 32 is not a multiple of linear_num_key_heads 5"),
    ({"linear_attention_pattern": [1, 0]}, "linear_attention_pattern has 2 entries and num_hidden_layers is 48"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_sizes_that_make_no_delta_net_are_refused(changes: dict[str, Any], sentence: str) -> None:
    """A delta net without heads, or with value heads that its key heads do not divide, is refused by its field."""
    with pytest.raises(InputError, match=sentence):
        load_architecture({"base": NEXT, **changes})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--experimental-attention-variant", "kda"], "'kda' is not priced"),
        (["--experimental-attention-variant", "gdn"], "--linear-attention-freq: absent"),
        (["--experimental-attention-variant", "gdn", "--linear-attention-freq", "0"], "0 is below 1"),
        (["--experimental-attention-variant", "gdn", "--linear-attention-freq", "([1]*3)"], "one 0 or 1 for each"),
    ],
)
def test_arguments_that_make_no_delta_net_are_refused(arguments: list[str], sentence: str) -> None:
    """An unknown kind, a missing or impossible pattern: one sentence names the argument."""
    needed = ["--num-layers", "4", "--hidden-size", "64", "--num-attention-heads", "4", "--vocab-size", "100"]
    with pytest.raises(InputError, match=sentence):
        read_arguments([*needed, *arguments], "arguments")
