"""Programs around Megatron-LM with defaults or files of their own: ms-swift and FlagScale."""

from pathlib import Path

import pytest

from moeopt.errors import InputError
from moeopt.readers import Reading, read

SWIFT = "NPROC_PER_NODE=8 NNODES=2 megatron {} --model Qwen/Qwen3-30B-A3B-Base --expert_model_parallel_size 8 {}\n"
EXPERIMENT = """
defaults: [_self_, {train: small}]
experiment:
  task: {type: train, backend: megatron}
  runner: {hostfile: null}
  envs: {CUDA_VISIBLE_DEVICES: "0,1,2,3"}
"""
TRAINING = """
system:
  tensor_model_parallel_size: 2
  sequence_parallel: true
  overlap_grad_reduce: false
  precision: {bf16: true}
  logging: {log_dir: x, log_interval: 1}
model:
  num_layers: 4
  hidden_size: 256
  num_attention_heads: 4
  seq_length: 512
  micro_batch_size: 1
  global_batch_size: 8
  optimizer: {lr_scheduler: {lr: 3.0e-3}}
  recompute_modules: [core_attn, mlp]
  recompute_granularity: selective
data:
  tokenizer: {vocab_size: 1000}
  data_path: ${experiment.data}
"""


def _swift(folder: Path, arguments: str = "", command: str = "sft") -> Reading:
    path = folder / "run.sh"
    path.write_text(SWIFT.format(command, arguments))
    return read(path)


def test_swift_has_its_own_defaults(tmp_path: Path) -> None:
    """What a script leaves out has ms-swift's default, and none of Megatron's warnings about its own; GPUs come from
    the environment that torchrun is given."""
    found = _swift(tmp_path)
    assert (found.format, found.preset, found.gpus) == ("ms-swift launch script", "qwen3-30b-a3b", 16)
    assert found.workload["precision"] == "bf16"
    assert found.workload["global_batch_size"] == 16
    assert not found.workload["mtp"]
    layout = found.layout
    assert (layout["dispatcher"], layout["etp"], layout["distributed_optimizer"]) == ("alltoall", 1, True)
    assert layout["recompute"] == {"granularity": "selective", "modules": ["core_attn"]}
    assert [each["name"] for each in found.warnings] == []


def test_swift_keeps_what_a_script_says(tmp_path: Path) -> None:
    """Arguments win over defaults; `none` recomputes nothing; that sequence parallelism needs tensor parallelism is
    said."""
    text = "--recompute_granularity none --moe_token_dispatcher_type flex --moe_enable_deepep true "
    text += "--sequence_parallel true --global_batch_size 64 --use_distributed_optimizer false"
    found = _swift(tmp_path, text)
    assert found.layout["recompute"]["granularity"] == "none"
    assert found.layout["dispatcher"] == "deepep"
    assert any("switched off by ms-swift" in note for note in found.notes)
    assert not found.layout["distributed_optimizer"]
    assert found.workload["global_batch_size"] == 64


def test_the_split_of_a_named_architecture_is_read(tmp_path: Path) -> None:
    """Where the dimensions come by name, so does the number of layers that a split of stages needs."""
    found = _swift(tmp_path, "--pipeline_model_parallel_size 2 --decoder_last_pipeline_num_layers 23")
    assert found.layout["pipeline_layout"] == "Et*25|t*23L"


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("sft", "--tuner_type lora", "--tuner_type: lora trains adapters alone, which is not priced (full is)"),
        ("sft", "--freeze_llm true", "--freeze_llm: a run that trains a part of its parameters is not priced"),
        ("export", "", "megatron export trains nothing; only training is priced"),
    ],
)
def test_swift_runs_that_are_not_priced(tmp_path: Path, command: str, arguments: str, sentence: str) -> None:
    """Adapters and frozen parts are refused, not read as training of everything; so is what trains nothing."""
    with pytest.raises(InputError) as error:
        _swift(tmp_path, arguments, command)
    assert str(error.value).endswith(sentence)


def test_swift_rlhf_holds_more(tmp_path: Path) -> None:
    """A reference model is not counted, and the answer says so."""
    assert _swift(tmp_path, command="rlhf").warnings[0]["name"] == "megatron rlhf"


def test_flagscale_experiment(tmp_path: Path) -> None:
    """An experiment is read through the training configuration that it names: groups are flattened, switches that are
    off are left out, one node has the GPUs that are visible."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "small.yaml").write_text(TRAINING)
    path = tmp_path / "train.yaml"
    path.write_text(EXPERIMENT)
    found = read(path)
    assert (found.format, found.gpus, found.gpus_per_node) == ("FlagScale YAML", 4, 4)
    assert (found.architecture["num_hidden_layers"], found.architecture["vocab_size"]) == (4, 1000)
    assert found.layout["tp"] == 2
    assert found.layout["recompute"]["modules"] == ["core_attn", "mlp"]
    assert not found.layout["overlap"]["grad_reduce"]
    assert "precision.bf16" in {each["name"] for each in found.understood}
    assert "train/small.yaml, which the experiment names, is read" in found.notes
    alone = read(tmp_path / "train" / "small.yaml")
    assert (alone.layout, alone.gpus) == (found.layout, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (EXPERIMENT, "defaults: train/small.yaml does not lie by the file"),
        (EXPERIMENT.replace("{train: small}", "other"), "names no training configuration (train: NAME)"),
        (EXPERIMENT.replace("type: train", "type: serve"), "is not read (known: type train, backend megatron)"),
        (EXPERIMENT.replace("hostfile: null", "nproc_per_node: many"), "nproc_per_node: 'many' is not a whole number"),
    ],
)
def test_flagscale_files_that_cannot_be_read(tmp_path: Path, text: str, sentence: str) -> None:
    """One sentence names what is missing or not read."""
    path = tmp_path / "train.yaml"
    path.write_text(text)
    if "many" in text:
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "small.yaml").write_text(TRAINING)
    with pytest.raises(InputError) as error:
        read(path)
    assert sentence in str(error.value)
