"""Bad input is one sentence on stderr that names the field, the value and the equation; exit code 2, nothing else."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

from example_answer import ARCHITECTURE
from moeopt.__main__ import run
from moeopt.claims import NAMES as CLAIMS
from moeopt.cli import COMMANDS
from moeopt.frontier.goals import GOALS
from moeopt.layout import Layout
from moeopt.problem.cluster import Cluster
from moeopt.problem.problem import Limits, Problem
from moeopt.problem.synonyms import SYNONYMS
from moeopt.problem.targets import TARGETS
from moeopt.problem.workload import Workload
from moeopt.writers.write import FRAMEWORKS, LAUNCHERS

TINY = yaml.safe_dump(ARCHITECTURE)


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs the command line in an empty folder with a small architecture, and returns its one sentence."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)

    def refused(*arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        code = run(list(arguments))
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), (code, out, err)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert sorted(Path().rglob("*")) == before, "something was left behind"
        return err.removeprefix("error: ").rstrip("\n")

    return refused


def problem_file(**changes) -> str:
    """A good problem file with some fields changed (None removes one)."""
    fields = {"architecture": dict(ARCHITECTURE), "cluster": "h100-sxm", "gpus": 512, **changes}
    text = yaml.safe_dump({name: value for name, value in fields.items() if value is not None})
    Path("problem.yaml").write_text(text)
    return "problem.yaml"


def with_architecture(**changes) -> str:
    """A problem file whose architecture has some fields changed (None removes one)."""
    fields = {**ARCHITECTURE, **changes}
    return problem_file(architecture={name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize("given", ["0", "-8", "1.5", "eight", "nan", "inf", "", "1e999", "9..3", "512GB"])
def test_gpus_must_be_a_positive_whole_number(refused, given):
    """The field and the value are named, whatever was written."""
    sentence = refused("solve", "--architecture", "tiny.yaml", "--gpus", given)
    assert sentence.startswith("gpus")
    assert given == "9..3" or repr(given) in sentence


@pytest.mark.parametrize("given", [0, -8, 1.5, "eight", True, [512], float("nan"), {"min": 8, "max": 4}, {"min": 8}])
def test_gpus_of_a_file_must_be_a_positive_whole_number(refused, given):
    """A problem file's count is read as strictly as an option's."""
    assert refused("solve", problem_file(gpus=given)).startswith("gpus")


def test_gpus_are_needed_without_a_problem_file(refused):
    """There is no default GPU count to be surprised by."""
    assert refused("solve", "--architecture", "tiny.yaml") == (
        "gpus: not given; say how many with --gpus N, or name a problem file"
    )


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("solve", "--gpus", "8", "--architecture", "deepseek-v33"), "'deepseek-v3'"),
        (("solve", "--gpus", "8", "--cluster", "h100-sx"), "'h100-sxm'"),
        (("params", "qwen3-30b-a3"), "'qwen3-30b-a3b'"),
        (("presets", "clusters", "gb200-nvl7"), "'gb200-nvl72'"),
        (("presets", "architecture"), "'architectures'"),
        (("solv", "--gpus", "8"), "'solve'"),
        (("solve", "--gpu", "8"), "'--gpus'"),
        (("solve", "--gpus", "8", "--format", "jsn"), "'json'"),
        (("evaluate", "--gpus", "8", "--layout", "tp=1", "--claim", "parms=30B"), "'params'"),
        (("evaluate", "--gpus", "8", "--layout", "tpp=1"), "'tp'"),
        (("solve", "--gpus", "8", "--architecture", "tiny.yaml", "--fix", "microbatch_size=1"), "'micro_batch_size'"),
        (("solve", "--gpus", "8", "--architecture", "tiny.yaml", "--limit", "edpp<=1"), "'edp'"),
        (("solve", "--gpus", "8", "--architecture", "deepseek-ai/DeepSeek-V3"), "'deepseek-v3'"),
        (("solve", "--gpus", "8", "--architecture", "Qwen3_235B_A22B"), "'qwen3-235b-a22b'"),
        (("solve", "--gpus", "8", "--cluster", "H100"), "'h100-sxm'"),
        (("solve", "--gpus", "8", "--cluster", "a100-40gb"), "'a100-80g'"),
        (("solve", "--model", "deepseek-v3"), "'--architecture'"),
        (("solve", "--seq-length", "8192"), "'--sequence-length'"),
        (("solve", "--gbs", "1024"), "'--global-batch-size'"),
        (("solve", "--nodes", "8"), "'--gpus' (of all nodes together)"),
        (("solve", "--tp", "8"), "'--fix tp=…'"),
        (("solve", "--expert-model-parallel-size", "8"), "'--fix ep=…'"),
        (("evaluate", "--mbs", "1"), "'--layout micro_batch_size=…'"),
        (("solve", "--memory", "70GB"), "\"--limit 'peak_memory<=76GiB'\""),
        (("solve", "--timeout", "60"), "'--time-limit'"),
        (("solve", "--gpus", "8", "--architecture", "tiny.yaml", "--limit", "memory<=70GB"), "'peak_memory'"),
        (("solve", "--gpus", "8", "--architecture", "tiny.yaml", "--fix", "zero=1"), "'distributed_optimizer'"),
        (("evaluate", "--gpus", "8", "--layout", "tp=1,mbs=1"), "'micro_batch_size'"),
        (("pareto", "--gpus", "8", "--objectives", "time,memory"), "'step_time'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(refused, arguments, nearest):
    """Presets, commands, options, claims and degrees suggest what is close, or what it is called here."""
    assert f"did you mean {nearest}?" in refused(*arguments)


def test_every_synonym_is_of_a_name_that_there_is():
    """What the table of synonyms sends people to is an option, a field, a decision, a limit or a claim."""
    options = {
        parameter.opts[-1].lstrip("-").replace("-", "_")
        for name in COMMANDS
        for parameter in getattr(import_module(f"moeopt.cli.{name}"), name).params
        if isinstance(parameter, click.Option)
    }
    kinds = (Problem, Workload, Cluster, Layout, Limits)
    known = options.union(TARGETS, GOALS, CLAIMS, FRAMEWORKS, LAUNCHERS, *(kind.model_fields for kind in kinds))
    assert {own for names in SYNONYMS.values() for own in names} <= known
    assert not set(SYNONYMS) & set(Layout.model_fields), "a decision's own name stands for itself"


def test_a_name_of_something_else_is_not_guessed_by_its_letters(refused):
    """`dtype` is the precision, which is no decision of a layout: `tp` has letters of it and nothing else."""
    assert "did you mean" not in refused("solve", problem_file(), "--fix", "dtype=bf16")


def test_options_before_the_command_are_told_where_they_stand(refused):
    """`moeopt --gpus 8` is answered with a line that works."""
    assert (
        refused("--gpus", "8") == "--gpus: no such option; options stand behind a command, like moeopt solve --gpus 512"
    )


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("512", "; GPUs are given with --gpus 512"),
        ("DeepSeek-V3", "; a preset is given with --architecture deepseek-v3"),
        ("h200", "; a preset is given with --cluster h200"),
        ("xyzzy/nothing.yaml", ""),
    ],
)
def test_a_word_that_is_no_problem_file_is_told_its_option(refused, word, hint):
    """A preset or a number in the place of the file."""
    assert refused("solve", word) == f"problem: no file is called {word!r}{hint}"


def test_a_file_of_something_else_is_told_its_option(refused):
    """An architecture, a cluster or a Hugging Face config in the place of the problem file."""
    Path("hf").mkdir()
    Path("hf/config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4096}))
    Path("ours.yaml").write_text("base: h100-sxm\ngpus_per_node: 4\n")
    assert refused("solve", "hf").endswith("; a folder with a config.json is given with --architecture hf")
    assert refused("solve", "hf/config.json").endswith("give it with --architecture hf/config.json")
    assert refused("solve", "tiny.yaml").endswith("give it with --architecture tiny.yaml")
    assert refused("solve", "ours.yaml").endswith("give it with --cluster ours.yaml")


def test_8_bit_parameters_need_8_bit_training(refused):
    """Neither bf16 nor fp16 has parameters of 8 bits to gather."""
    assert refused("solve", problem_file(workload={"fp8_param_gather": True})) == (
        "workload: fp8_param_gather: precision bf16 has no 8-bit parameters; it takes fp8"
    )


def test_a_batch_in_the_place_of_a_workload_field_is_told_where_it_stands(refused):
    """`gbs` beside `gpus` belongs into the workload."""
    assert refused("solve", problem_file(gbs=8)) == (
        "problem.gbs: no such field; did you mean 'workload.global_batch_size'?"
    )


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("broken.yaml", "architecture: tiny\ngpus: [8\ncluster: x\n", 3),
        ("broken.json", '{"architecture": "tiny",\n "gpus": }', 2),
        ("twice.yaml", "gpus: 8\ncluster: h100-sxm\ngpus: 9\n", 3),
        ("tab.yaml", "gpus: 8\n\tcluster: a\n", 2),
        ("object.yaml", "gpus: 8\ncluster: !!python/object/apply:os.system ['true']\n", 2),
        ("own-tag.yaml", "gpus: !mine 8\n", 1),
        ("itself.yaml", "gpus: &a [*a]\n", 1),
        ("binary.yaml", "gpus: 8\ncluster: \udcff\n", 2),
    ],
)
def test_a_broken_file_is_named_with_its_line(refused, name, text, line):
    """Broken YAML or JSON, duplicate keys, object tags and self-reference: file and line are in the sentence."""
    Path(name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for command in (("solve", name), ("evaluate", "--gpus", "8", "--layout", name)):
        assert f"{name}, line {line}: " in refused(*command)


def test_aliases_that_multiply_are_refused_before_they_do(refused):
    """A "billion laughs" file of ten lines unfolds to 10**9 values; merge keys multiply the same way."""
    lists = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    merges = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)]
    for lines in (lists, merges):
        Path("laughs.yaml").write_text("\n".join(lines))
        assert "aliases unfold to more than" in refused("solve", "laughs.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000])
def test_deep_nesting_is_refused(refused, text):
    """Nesting beyond any use ends in a sentence, not in a stack overflow."""
    Path("deep.yaml").write_text(text)
    Path("deep.json").write_text(text)
    assert "deep.yaml" in refused("solve", "deep.yaml")
    assert "deep.json" in refused("solve", "deep.json")


def test_a_huge_file_is_refused_unread(refused):
    """Two gigabytes (sparse) are refused after the first megabyte, wherever a file is read."""
    with Path("huge.yaml").open("wb") as stream:
        stream.truncate(2 * 2**30)
    for command in (
        ("solve", "huge.yaml"),
        ("params", "huge.yaml"),
        ("solve", "--gpus", "8", "--cluster", "huge.yaml"),
        ("evaluate", "--gpus", "8", "--layout", "huge.yaml"),
    ):
        assert "huge.yaml is larger than" in refused(*command)


@pytest.mark.parametrize("name", ["folder", "empty.yaml", "list.yaml", "word.yaml", "absent.yaml", "numbers.yaml"])
def test_a_file_that_holds_no_mapping_is_refused(refused, name):
    """Folders, empty files, lists, words, missing files and keys that are no names."""
    Path("folder").mkdir()
    Path("empty.yaml").write_text("")
    Path("list.yaml").write_text("- 1\n")
    Path("word.yaml").write_text("hello\n")
    Path("numbers.yaml").write_text("1: 2\n")
    assert refused("solve", name).startswith("problem")
    assert name in refused("params", name) or name == "numbers.yaml"
    assert refused("evaluate", "--gpus", "8", "--layout", name).startswith("layout")


@pytest.mark.parametrize("number", ["9" * 5000, "2024-13-45"])
def test_values_that_python_cannot_hold_are_refused(refused, number):
    """Digits beyond Python's limit and dates in month 13 are the file's fault, not a crash."""
    Path("value.yaml").write_text(f"gpus: {number}\n")
    assert "value.yaml" in refused("solve", "value.yaml")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_numbers_that_are_none_are_refused(refused, word):
    """JSON has no NaN, though Python's reader would take it."""
    Path("nan.json").write_text(f'{{"gpus": {word}}}')
    assert f"{word} is not a number" in refused("solve", "nan.json")


def test_an_unknown_key_is_named(refused):
    """In the problem and inside each of its parts."""
    assert refused("solve", problem_file(gpu=512)) == "problem.gpu: no such field; did you mean 'gpus'?"
    assert refused("solve", with_architecture(hidden_sizes=3)) == (
        "architecture.hidden_sizes: no such field; did you mean 'hidden_size'?"
    )
    assert "workload.batch: no such field" in refused("solve", problem_file(workload={"batch": 3}))
    assert "limits.tp.maximum: no such field" in refused("solve", problem_file(limits={"tp": {"maximum": 3}}))


@pytest.mark.parametrize("field", ["architecture", "cluster", "gpus"])
def test_a_missing_field_of_a_problem_is_named(refused, field):
    """Required fields of the problem."""
    assert refused("solve", problem_file(**{field: None})) == f"problem.{field}: this field is required and is missing"


def test_a_missing_field_of_an_architecture_is_named(refused):
    """Required fields of a part."""
    assert refused("solve", with_architecture(vocab_size=None)) == (
        "architecture.vocab_size: this field is required and is missing"
    )


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1024", float("nan"), True])
def test_a_dimension_must_be_a_positive_integer(refused, field, value):
    """Zero, negative, fractional, quoted and NaN dimensions: the sentence names the field."""
    assert refused("solve", with_architecture(**{field: value})).startswith("architecture")


def test_heads_must_be_a_multiple_of_the_key_value_heads(refused):
    """The equation is in the sentence."""
    assert "16 % 3 = 1" in refused("solve", with_architecture(num_key_value_heads=3))


def test_a_token_cannot_visit_more_experts_than_there_are(refused):
    """Top-k above the number of experts."""
    sentence = refused("solve", with_architecture(num_experts_per_tok=65))
    assert "num_experts_per_tok 65 is above num_experts 64" in sentence


@pytest.mark.parametrize(
    "value", ["80 bananas", "-80GiB", "eighty", float("nan"), float("inf"), 0, "0GB", True, None, [80]]
)
def test_memory_must_be_a_size(refused, value):
    """What is not a positive number of bytes is refused with the field's name."""
    sentence = refused("solve", problem_file(cluster={"base": "h100-sxm", "memory": value}))
    assert sentence.startswith("cluster.memory: ")


def test_memory_of_a_limit_must_be_a_size(refused):
    """On the command line as in the file."""
    assert "80 bananas" in refused("solve", problem_file(limits={"peak_memory": "80 bananas"}))
    assert "80 bananas" in refused("solve", problem_file(), "--limit", "peak_memory<=80 bananas")
    assert refused("solve", problem_file(), "--limit", "peak_memory<=0").startswith("limits.peak_memory: 0")


def test_a_memory_without_its_unit_is_not_read_as_bytes(refused):
    """`memory: 80` and `peak_memory<=70` mean gigabytes; no GPU has 80 bytes."""
    sentence = refused("solve", problem_file(cluster={"base": "h100-sxm", "memory": 80}))
    assert sentence.startswith("cluster.memory: 80 is 80 bytes; write it with its unit, like 80GiB")
    meant = "limits.peak_memory: {} is 70 bytes; write it with its unit, like 80GiB or 80GB"
    assert refused("solve", problem_file(limits={"peak_memory": 70})).endswith(meant.format(70))
    assert refused("solve", problem_file(), "--limit", "peak_memory<=70").endswith(meant.format("'70'"))


def test_every_missing_field_is_named_at_once(refused):
    """A cluster of one's own that says only its GPU and memory."""
    lacking = refused("solve", problem_file(cluster={"gpu": "own", "memory": "48GB"}))
    names = ("memory_bandwidth_bytes_per_s", "peak_flops", "nvlink_bandwidth_bytes_per_s", "network_latency_ns")
    assert all(name in lacking for name in names)


@pytest.mark.parametrize("field", ["optimizer", "overlap"])
def test_a_group_of_decisions_is_asked_for_by_its_fields(refused, field):
    """One word in the place of a mapping: the sentence names the fields and no class of the program."""
    sentence = refused("solve", problem_file(), "--fix", f"{field}=adam")
    assert sentence.startswith(f"fix.{field}: expected a mapping of fields (")
    assert "instance of" not in sentence


@pytest.mark.parametrize("bandwidth", ["400Gb/s", "400Gbps", "50GB", "fast", "50 GB/h"])
def test_a_bandwidth_is_bytes_a_second(refused, bandwidth):
    """A unit of bits, or without its second, is never taken for bytes a second."""
    cluster = {"base": "h100-sxm", "network_bandwidth_bytes_per_s": bandwidth}
    sentence = refused("solve", problem_file(cluster=cluster))
    assert sentence.startswith("cluster.network_bandwidth_bytes_per_s: ")
    assert "50GB/s" in sentence


@pytest.mark.parametrize(
    ("option", "given", "either"),
    [
        ("--sequence-length", "32k", ("32,000", "32,768")),
        ("--global-batch-size", "2K", ("2,000", "2,048")),
        ("--global-batch-size", "1024..4K", ("4,000", "4,096")),
        ("--gpus", "1K", ("1,000", "1,024")),
    ],
)
def test_a_thousand_that_may_be_1024_is_not_guessed(refused, option, given, either):
    """Sequence lengths, batches and GPUs come in powers of two, and K is said for both: the sentence names both."""
    sentence = refused("solve", problem_file(), option, given)
    assert all(number in sentence for number in either)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0, -1])
def test_rates_must_be_finite_and_positive(refused, rate):
    """NaN reaches no formula."""
    cluster = {"base": "h100-sxm", "network_bandwidth_bytes_per_s": rate}
    assert refused("solve", problem_file(cluster=cluster)).startswith("cluster.network_bandwidth_bytes_per_s: ")


@pytest.mark.parametrize("batch", ["0", "-1", "1.5", "many"])
def test_a_batch_must_be_a_positive_whole_number(refused, batch):
    """Global batch and sequence length."""
    assert refused("solve", problem_file(), "--global-batch-size", batch)
    assert refused("solve", problem_file(), "--sequence-length", batch)


def test_a_batch_that_no_dp_divides_is_answered_with_the_equation(refused):
    """509 is prime and above every tp, cp and pp of this architecture, so dp is 509, which does not divide 2,048."""
    sentence = refused("solve", problem_file(gpus=509))
    assert sentence.startswith("global_batch_size: 2048 ")
    assert "2048 % (1 * 509) = 12" in sentence
    assert "2036 or 2545" in sentence


def test_the_batch_that_is_proposed_suits_the_largest_dp(refused):
    """On 1,000 GPUs dp 5 would do too, with 200 GPUs a replica: what is proposed leaves every dp up to 1,000."""
    sentence = refused("solve", "--gpus", "1000")
    assert sentence.endswith("2048 % (1 * 1000) = 48; a batch of 2000 or 3000 would do, with dp 1000")


def test_a_fixed_micro_batch_counts_in_the_batch_equation(refused):
    """With micro_batch_size 3 no dp helps a batch of 2,048; with 2 some do (and the check lets it pass)."""
    assert "2048 % (3 * " in refused("solve", problem_file(fix={"micro_batch_size": 3}))


@pytest.mark.parametrize(
    ("fix", "equation"),
    [
        ("tp=7", "tp 7 does not divide gpus 512: 512 % 7 = 1"),
        ("tp=32", "num_attention_heads 16 % tp 32 = 16"),
        ("ep=128", "num_experts 64 % ep 128 = 64"),
        ("tp=16,pp=64", "tp 16 * pp 64 = 1024 does not divide gpus 512"),
        ("tp=8,cp=1,dp=4,pp=4", "tp 8 * cp 1 * dp 4 * pp 4 = 128 != gpus 512"),
        ("etp=8,ep=48,pp=4", "512 % 1536 = 512"),
        ("tp=0", "fix.tp: 0"),
        ("tp=-8", "fix.tp: -8"),
        ("tp=1.5", "fix.tp: 1.5"),
        ("tp=eight", "fix.tp: 'eight'"),
        ("tp=.nan", "fix.tp: nan"),
        ("tp=8,tp=4", "fix.tp: given twice"),
        ("dispatcher=pigeon", "fix.dispatcher: 'pigeon'"),
        ("recompute=attention", "fix.recompute.modules"),
        ("pipeline_layout='Ettx'", "pipeline_layout: 'x' is outside the grammar"),
        ("tp", "'tp' is not of the form name=value"),
        ("=8", "'=8' is not of the form name=value"),
        ("pipeline_layout='Et", "is not closed"),
    ],
)
def test_a_decision_that_no_layout_has_is_refused_with_its_equation(refused, fix, equation):
    """--fix of an impossible degree, value or name."""
    assert equation in refused("solve", problem_file(), "--fix", fix)


def test_fixed_degrees_of_a_file_are_checked_as_well(refused):
    """`fix` in the problem file."""
    assert "num_attention_heads 16 % tp 32 = 16" in refused("solve", problem_file(fix={"tp": 32}))
    assert refused("solve", problem_file(fix={"tpp": 3})).startswith("fix.tpp: a layout has no such decision")


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("tp<=4", "fix.tp: 8 contradicts limits.tp.max 4: 8 > 4"),
        ("tp>8", "fix.tp: 8 contradicts limits.tp.min 9: 8 < 9"),
        ("tp<8", "fix.tp: 8 contradicts limits.tp.max 7: 8 > 7"),
        ("tp=4", "fix.tp: 8 contradicts limits.tp.max 4: 8 > 4"),
        ("ep", "limit: 'ep' is not of the form ep<=64, tp>=2 or peak_memory<=76GiB"),
        ("ep<=many", "limit.ep: 'many' is not a whole number"),
        ("ep<=0", "problem.limits.ep.max: 0 is refused: input should be greater than 0"),
        ("peak_memory>=1GiB", "limit.peak_memory: >= is not possible, only <="),
    ],
)
def test_contradicting_or_unreadable_limits(refused, limit, sentence):
    """--limit against --fix, and limits that are none."""
    assert refused("solve", problem_file(), "--fix", "tp=8", "--limit", limit) == sentence


def test_a_layout_whose_dp_contradicts_the_gpus(refused):
    """Without claims, a contradicting dp is bad input and the sentence holds the equation."""
    sentence = refused("evaluate", problem_file(), "--layout", "tp=8,pp=4,ep=16,dp=4")
    assert sentence == "dp: 4 given, but 512 / (tp 8 * cp 1 * pp 4) = 16"


@pytest.mark.parametrize(
    "layout", ["tp=0", "tp=-1", "tp=x", "recompute=full,recompute.modules=[mlp]", "overlap=yes", "tp"]
)
def test_a_layout_that_is_none(refused, layout):
    """Values and names that no layout can have."""
    assert refused("evaluate", problem_file(), "--layout", layout).startswith("layout")


def test_evaluate_needs_a_layout(refused):
    """No layout, no answer."""
    assert refused("evaluate", problem_file()).startswith("layout: not given")


@pytest.mark.parametrize("claim", ["gpus", "gpus=", "=4", "gpus=many", "params=30 bananas", "memory=30 bananas"])
def test_a_claim_that_is_none(refused, claim):
    """Claims are NAME=VALUE with a readable value."""
    layout = "tp=8,pp=4,ep=16"
    assert refused("evaluate", problem_file(), "--layout", layout, "--claim", claim).startswith("claim")


@pytest.mark.parametrize("output", ["absent/answer.json", "folder", "file/answer.json", "", "x" * 300, "there.json"])
def test_an_output_that_cannot_be_written_is_found_first(refused, output):
    """Found before the problem is even read: the problem file does not exist. What exists is kept without --force."""
    Path("folder").mkdir()
    Path("file").write_text("")
    Path("there.json").write_text("precious")
    assert refused("solve", "absent.yaml", "-o", output).startswith("output: ")
    assert Path("there.json").read_text() == "precious"


def test_a_failed_command_leaves_no_output_file(refused):
    """No partial file where the input is bad."""
    refused("solve", "absent.yaml", "-o", "answer.json")
    assert not Path("answer.json").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--time-limit", "0"),
        ("--time-limit", "-1"),
        ("--time-limit", "soon"),
        ("--time-limit", "nan"),
        ("--workers", "0"),
        ("--workers", "two"),
        ("--top", "0"),
        ("--top", "1.5"),
        ("--seed", "-1"),
        ("--seed", "x"),
        ("--objective", "speed"),
        ("--precision", "fp12"),
        ("--optimizer", "sgd"),
    ],
)
def test_options_of_a_search_are_checked(refused, option, value):
    """Each names itself."""
    name = option.removeprefix("--")
    assert name in refused("solve", problem_file(), option, value)


def test_bases_that_stand_on_each_other_forever(refused):
    """A file whose `base` is itself."""
    Path("loop.yaml").write_text("base: loop.yaml\nhidden_size: 8\n")
    assert "bases stand on each other" in refused("params", "loop.yaml")


def test_a_preset_name_with_odd_letters(refused):
    """A NUL byte or a name longer than a file system's is an unknown name."""
    Path("odd.yaml").write_text(json.dumps({"architecture": "a\0b", "cluster": "h100-sxm", "gpus": 8}))
    assert refused("solve", "odd.yaml").startswith("architecture: no preset")
    assert refused("params", "x" * 5000).startswith("architecture: no preset")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence():
    """The console script as a process: no traceback, also not while Python shuts down."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "moeopt", "presets", "clusters"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.returncode == 2
    assert done.stderr == "error: output: standard output cannot be written: No space left on device\n"
